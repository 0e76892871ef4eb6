//! Jobs whose callers do not wait (`Prefer: respond-async`, RFC 7240): taken in, asked after, cancelled.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as InPath, Request as HttpRequest};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use axum::routing::get;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::Http;
use super::answer::Problem;
use super::ask::{Asked, length, stopping};
use super::body;
use super::once;
use super::server::App;
use crate::error::{Error, Fault};
use crate::source::Phase;
use crate::source::deferred::{self, Header, Registry, Status, Submitted};
use crate::source::ends::{Failure, State, nonce, now};
use crate::source::told::Told;

pub(super) const PREFER: &str = "prefer";
pub(super) const WEBHOOK_URL: &str = "x-webhook-url";
/// The address of a job, and that of its result.
pub(super) const JOB: &str = "/jobs/{id}";
pub(super) const RESULT: &str = "/jobs/{id}/result";
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// The largest result that is part of a job's status, in bytes.
const INLINE: usize = 256 << 10;

/// Whether the caller would rather not wait.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let names = preferences.flat_map(|list| list.split(',')).filter_map(|one| one.split([';', '=']).next());
    names.into_iter().any(|name| name.trim().eq_ignore_ascii_case("respond-async"))
}

impl Asked {
    /// Takes a job in, to be done by whichever worker takes it off the queue.
    pub(super) async fn defer(
        &self,
        registry: &Registry,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, Problem> {
        let (_bytes, webhook) = match self.may_defer(registry, headers) {
            Ok(may) => may,
            Err(problem) => {
                body::discard(headers, body).await;
                return Err(problem);
            }
        };
        let payload = self.read(headers, body).await?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut job = Header {
            id: self.job_id(headers)?,
            route: self.path.name.clone(),
            content_type: text("content-type"),
            trace: text("traceparent"),
            ..Header::default()
        };
        if self.path.told {
            job.labels.insert(Http::PATH.to_owned(), self.path.path.clone());
        }
        let content_type = job.content_type.as_deref().unwrap_or_default();
        let url = webhook.as_deref().unwrap_or_default();
        let fingerprint = hex(&once::hash([content_type.as_bytes(), url.as_bytes(), &payload]));
        let asked = deferred::Asked { created: now(), fingerprint, webhook };
        let id = job.id.clone();
        match registry.submit(job, &asked, &payload).await.map_err(unknown)? {
            Submitted::New | Submitted::Known => {}
            Submitted::Differs => return Err(once::differs()),
        }
        let status = registry.status(&id).await.map_err(unknown)?.ok_or_else(|| missing(&id))?;
        let mut response = told(StatusCode::ACCEPTED, &document(registry, &id, status).await?);
        let address = HeaderValue::from_str(&address(&id)).map_err(|why| unknown(Error::failed(why)))?;
        response.headers_mut().insert(LOCATION, address);
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
        Ok(response)
    }

    fn may_defer(
        &self,
        registry: &Registry,
        headers: &HeaderMap,
    ) -> Result<(OwnedSemaphorePermit, Option<String>), Problem> {
        self.may_ask(headers)?;
        // Before the worker is ready it can take jobs in all the same.
        if self.app.vitals.phase() >= Phase::Draining {
            return Err(stopping());
        }
        self.takes(headers)?;
        let url = headers.get(WEBHOOK_URL).map(|url| url.to_str().map(str::to_owned));
        let url = url.transpose().map_err(|_| wrong(format!("{WEBHOOK_URL} is no URL")))?;
        if let Some(url) = &url {
            registry.check_webhook(url).map_err(|why| wrong(format!("{WEBHOOK_URL}: {why}")))?;
        }
        let bytes = length(headers).unwrap_or(self.app.settings.body);
        Ok((self.hold_bytes(bytes)?, url))
    }

    /// A name that nobody can guess; the same for the same idempotency key of the same caller.
    fn job_id(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let key = once::key(headers, &self.path.path)?;
        Ok(key.map_or_else(nonce, |key| hex(&key[..16])))
    }
}

/// Adds what is asked of jobs by their address.
pub(super) fn routes(router: Router, app: &Arc<App>) -> Router {
    let Some(registry) = app.deferred.clone() else {
        return router;
    };
    let (app, results) = (app.clone(), (app.clone(), registry.clone()));
    let job = async move |InPath(id): InPath<String>, request: HttpRequest| {
        let cancels = request.method() == Method::DELETE;
        let response = match app.settings.keys.allow(request.headers()) {
            true => status(&registry, &id, cancels).await,
            false => Err(Problem::new(StatusCode::UNAUTHORIZED, "a key is needed")),
        };
        response.unwrap_or_else(Problem::into_response)
    };
    let result = async move |InPath(id): InPath<String>, request: HttpRequest| {
        let (app, registry) = results;
        let response = match app.settings.keys.allow(request.headers()) {
            true => result(&registry, &id).await,
            false => Err(Problem::new(StatusCode::UNAUTHORIZED, "a key is needed")),
        };
        response.unwrap_or_else(Problem::into_response)
    };
    router.route(JOB, get(job.clone()).delete(job)).route(RESULT, get(result))
}

async fn status(registry: &Registry, id: &str, cancels: bool) -> Result<Response<Body>, Problem> {
    let find = async || registry.status(known(id)?).await.map_err(unknown)?.ok_or_else(|| missing(id));
    let mut status = find().await?;
    if cancels {
        registry.cancel(id).await.map_err(unknown)?;
        status = find().await?;
    }
    Ok(told(StatusCode::OK, &document(registry, id, status).await?))
}

async fn result(registry: &Registry, id: &str) -> Result<Response<Body>, Problem> {
    let status = registry.status(known(id)?).await.map_err(unknown)?.ok_or_else(|| missing(id))?;
    let state = status.state();
    let output = status.end.and_then(|end| end.result);
    let Some(output) = output else {
        let detail = format!("the job has no result: it is {}", name(state));
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let result = registry.records.result(id, &output).await.map_err(unknown)?.ok_or_else(|| missing(id))?;
    let mut response = Response::new(Body::from(result));
    let content_type = HeaderValue::from_str(&output.content_type).map_err(|why| unknown(Error::failed(why)))?;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// All that a caller may know of a job.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema), schemars(rename = "Job"))]
pub(super) struct Document {
    id: String,
    state: State,
    /// When it was taken in (RFC 3339).
    created: String,
    /// Which attempt is at work, or was the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<Told>,
    /// When it ended (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    /// The media type of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// The size of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_url: Option<String>,
    /// The result itself, where it is JSON and no larger than 256 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

async fn document(registry: &Registry, id: &str, status: Status) -> Result<Document, Problem> {
    let state = status.state();
    let (ended, error, output) = match status.end {
        Some(end) => (Some(end.ended), end.error, end.result),
        None => (None, None, None),
    };
    let mut result = None;
    if let Some(output) = output.as_ref().filter(|its| its.bytes <= INLINE && its.content_type == "application/json") {
        let json = registry.records.result(id, output).await.map_err(unknown)?;
        result = json.and_then(|json| serde_json::from_slice(&json).ok());
    }
    let progress = match output {
        Some(_) => Some(1.0),
        None => status.work.map(|work| work.progress),
    };
    Ok(Document {
        id: id.to_owned(),
        state,
        created: status.asked.created,
        attempt: status.work.map(|work| work.attempt),
        progress,
        webhook: status.told,
        ended,
        error,
        bytes: output.as_ref().map(|output| output.bytes),
        result_url: output.as_ref().map(|_| format!("{}/result", address(id))),
        content_type: output.map(|output| output.content_type),
        result,
    })
}

fn told(status: StatusCode, document: &Document) -> Response<Body> {
    // Text and numbers: it cannot fail.
    let mut response = Response::new(Body::from(serde_json::to_vec(document).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn address(id: &str) -> String {
    format!("/jobs/{id}")
}

fn name(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

/// An id that may be one of ours.
fn known(id: &str) -> Result<&str, Problem> {
    let ours = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if ours { Ok(id) } else { Err(missing(id)) }
}

fn missing(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no job `{id}`, or it is long over"))
}

fn wrong(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// The queue or the store failed: the same request may be made again.
fn unknown(why: Error) -> Problem {
    tracing::warn!(error = %why, "the queue or the store of deferred jobs failed");
    match why.fault() {
        Fault::Invalid => wrong(why.to_string()),
        _ => Problem::busy("the queue or the store did not answer", std::time::Duration::from_secs(5)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_so_does_not_wait() {
        let wanted = |values: &[&str]| {
            let one = |value: &&str| (HeaderName::from_static(PREFER), HeaderValue::from_str(value).unwrap());
            is_wanted(&HeaderMap::from_iter(values.iter().map(one)))
        };
        assert!(wanted(&["respond-async"]));
        assert!(wanted(&["handling=lenient, Respond-Async ; wait=10"]));
        assert!(wanted(&["handling=lenient", "respond-async"]));
        assert!(!wanted(&[]));
        assert!(!wanted(&["respond-asynchronously", "wait=respond-async"]));
    }
}
