//! How a job's end becomes an HTTP response: results, problem documents (RFC 9457), `Retry-After`, `Server-Timing`.

use std::fmt::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use serde::Serialize;

use crate::error::{DeadlinePassed, Error, Fault};
use crate::job::Timing;
use crate::verdict::Verdict;

pub(super) const PROBLEM: &str = "application/problem+json";
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// An answer that is not a result.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
}

/// A problem document (RFC 9457).
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema), schemars(rename = "Problem"))]
pub(super) struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// In seconds. Events have no header to say it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into(), retry_after: None }
    }

    /// Come back in so long.
    pub(super) fn busy(detail: impl Into<String>, retry_after: Duration) -> Self {
        Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.into(), retry_after: Some(retry_after) }
    }

    /// As JSON.
    pub(super) fn document(&self) -> String {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            retry_after: self.retry_after(),
        };
        // Strings and a number: it cannot fail.
        serde_json::to_string(&document).unwrap_or_default()
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.document()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn retry_after(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs_f64().ceil().max(1.0) as u64)
    }
}

/// The response to a job that has ended.
pub(super) fn of(verdict: &Verdict, media: &'static str) -> Response<Body> {
    outcome(verdict).map_or_else(Problem::into_response, |result| done(result, media))
}

/// What its caller is told of a job that has ended.
pub(super) fn outcome(verdict: &Verdict) -> Result<Bytes, Problem> {
    Err(match verdict {
        Verdict::Done(result) => return Ok(result.clone()),
        Verdict::Retry { why: None, after } => {
            Problem::busy("the worker is stopping and gave the job back; try again", *after)
        }
        Verdict::Retry { why: Some(why), after } => of_error(why, *after),
        Verdict::Reject { why } => of_error(why, Duration::ZERO),
    })
}

pub(super) fn done(result: Bytes, media: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(result));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn of_error(why: &Error, after: Duration) -> Problem {
    if why.find::<DeadlinePassed>().is_some() {
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, why.to_string());
    }
    match why.fault() {
        Fault::Invalid => Problem::new(invalid(why), why.to_string()),
        Fault::Transient => Problem::busy(why.to_string(), after),
        Fault::Failed => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string()),
        Fault::Fatal => Problem::busy("this worker has failed; another may do it", after),
    }
}

/// What is not even JSON, or a form, is 400; what is, and is wrong, is 422.
fn invalid(why: &Error) -> StatusCode {
    let no_json = why.find::<serde_json::Error>().is_some_and(|json| json.is_syntax() || json.is_eof());
    match no_json || why.find::<multer::Error>().is_some() {
        true => StatusCode::BAD_REQUEST,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Says where the time went, as `Server-Timing`.
pub(super) fn tell_times(response: &mut Response<Body>, total: Duration, stages: &[Timing]) {
    // A stage whose name is no header text is not told.
    if let Ok(value) = HeaderValue::from_str(&times(total, stages)) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
}

/// Where the time went, as in `Server-Timing` (W3C): in all, and each stage's waiting and working, in milliseconds.
pub(super) fn times(total: Duration, stages: &[Timing]) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!("total;dur={:.1}", ms(total));
    for Timing { stage, waited, worked } in stages {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {stage}-wait;dur={:.1}, {stage};dur={:.1}", ms(*waited), ms(*worked));
    }
    text
}
