//! What happens to one request: checked, admitted, read, handed to the worker, answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Response, StatusCode};
use tokio::sync::SemaphorePermit;

use super::Http;
use super::admission::Admitted;
use super::answer::{self, Problem};
use super::body::{self, Unread};
use super::request::Request;
use super::server::{App, Path};
use crate::error::DeadlinePassed;
use crate::job::Meta;
use crate::source::{Delivery, Phase, RouteInfo};
use crate::verdict::Verdict;

/// The header with which a caller asks for an answer sooner, in seconds.
pub(super) const TIMEOUT: &str = "x-request-timeout";
/// How long after the deadline the job's own answer to that is waited for.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long after the deadline the job's lease ends: the job's own deadline always comes first.
const LEASE_BEYOND: Duration = Duration::from_secs(4);

/// Answers a `POST` to a pipeline.
pub(super) async fn ask(app: Arc<App>, path: Arc<Path>, request: HttpRequest) -> Response<Body> {
    let arrived = Instant::now();
    let asked = Asked { app: &app, path: &path, arrived };
    let (head, body) = request.into_parts();
    let response = match asked.admit(&head.headers) {
        Ok(place) => asked.answer(&head.headers, body, place).await,
        Err(problem) => {
            body::discard(&head.headers, body).await;
            Err(problem)
        }
    };
    let response = response.unwrap_or_else(Problem::into_response);
    app.meter.answered(response.status());
    response
}

struct Asked<'a> {
    app: &'a App,
    path: &'a Path,
    arrived: Instant,
}

/// What a request has once it is let in.
struct Place<'a> {
    admitted: Admitted,
    deadline: Instant,
    _bytes: SemaphorePermit<'a>,
}

impl Asked<'_> {
    /// Lets it in, to be answered by the deadline, as far as its headers tell.
    fn admit(&self, headers: &HeaderMap) -> Result<Place<'_>, Problem> {
        self.may_ask(headers)?;
        self.is_ready()?;
        self.takes(headers)?;
        let deadline = self.arrived + self.patience(headers)?;
        let outlook = self.route().outlook().ok_or_else(starting)?;
        let door = &self.app.doors[self.path.route];
        let busy = |late| Problem::busy("too busy: this would not be answered in time", late);
        let admitted = door.enter(outlook, deadline).map_err(busy)?;
        Ok(Place { admitted, deadline, _bytes: self.hold_bytes(headers)? })
    }

    async fn answer(&self, headers: &HeaderMap, body: Body, place: Place<'_>) -> Result<Response<Body>, Problem> {
        let deadline = place.deadline;
        let payload = body::read(body, self.app.settings.body).await.map_err(|why| self.unread(why))?;
        let until = tokio::time::Instant::from_std(deadline + LEASE_BEYOND);
        let (receipt, mut caller) = Request::new(until);
        let delivery = Delivery {
            id: self.app.next_id(),
            attempt: 1,
            payload,
            until,
            meta: self.meta(headers, deadline),
            receipt,
        };
        // It takes as many as were admitted; a worker that has ended takes none.
        self.app.to_worker.try_send(delivery).map_err(|_| stopping())?;
        let verdict = caller.verdict(tokio::time::Instant::from_std(deadline + LAST_WORD)).await;
        let Some(verdict) = verdict else {
            return Err(match Instant::now() < deadline {
                true => stopping(),
                false => Problem::new(StatusCode::GATEWAY_TIMEOUT, "no answer came before the deadline"),
            });
        };
        if teaches(&verdict) {
            place.admitted.ended();
        }
        let mut response = answer::of(&verdict, self.route().gives);
        answer::tell_times(&mut response, self.arrived.elapsed(), &caller.timings().get());
        Ok(response)
    }

    fn route(&self) -> &RouteInfo {
        &self.app.vitals.routes()[self.path.route]
    }

    fn may_ask(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.app.settings.keys.allow(headers) {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a key is needed: send `Authorization: Bearer KEY` or `X-Api-Key: KEY`",
            )),
        }
    }

    fn is_ready(&self) -> Result<(), Problem> {
        match self.app.vitals.phase() {
            Phase::Starting => Err(starting()),
            Phase::Ready => Ok(()),
            Phase::Draining | Phase::Ended => Err(stopping()),
        }
    }

    /// Whether the body is of a kind and size that can be taken, as far as the headers say.
    fn takes(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|its| its.as_bytes() != b"identity") {
            let detail = format!("the encoding {encoding:?} is not known; gzip, deflate, br and zstd are");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        if length(headers).is_some_and(|length| length > self.app.settings.body) {
            return Err(self.unread(Unread::TooLarge));
        }
        let (Some(takes), Some(given)) = (self.route().takes, headers.get(CONTENT_TYPE)) else {
            return Ok(());
        };
        let given = given.to_str().unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == takes || (takes == "application/json" && essence.ends_with("+json")) {
            return Ok(());
        }
        let detail = format!("the content type is `{given}`, but {} takes {takes}", self.path.path);
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
    }

    /// Makes room for the body.
    fn hold_bytes(&self, headers: &HeaderMap) -> Result<SemaphorePermit<'_>, Problem> {
        let settings = &self.app.settings;
        let bytes = length(headers).unwrap_or(settings.body).min(settings.held);
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let busy = |_| Problem::busy("too busy: too many bytes are waiting", Duration::from_secs(1));
        self.app.bytes.try_acquire_many(kib).map_err(busy)
    }

    /// How long after its arrival the request must be answered.
    fn patience(&self, headers: &HeaderMap) -> Result<Duration, Problem> {
        let longest = self.app.settings.deadline;
        let Some(text) = headers.get(TIMEOUT) else {
            return Ok(longest);
        };
        let seconds = text.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
        let asked = seconds.filter(|s| *s > 0.0 && s.is_finite());
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("{TIMEOUT} is {text:?}, but should be seconds"));
        Ok(Duration::try_from_secs_f64(asked.ok_or_else(wrong)?).unwrap_or(longest).min(longest))
    }

    fn meta(&self, headers: &HeaderMap, deadline: Instant) -> Meta {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut meta = Meta {
            deadline: Some(deadline.into()),
            route: self.path.name.clone(),
            content_type: text("content-type"),
            trace: text("traceparent"),
            ..Meta::default()
        };
        if self.path.told {
            meta.labels.insert(Http::PATH.to_owned(), self.path.path.clone());
        }
        meta
    }

    fn unread(&self, why: Unread) -> Problem {
        match why {
            Unread::TooLarge => {
                let detail = format!("the body is larger than {} bytes", self.app.settings.body);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
            Unread::TooSlow => Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
            Unread::Broken(why) => Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {why}")),
        }
    }
}

/// How long the body is, if it is told and is not packed.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a job's time says how long jobs take. One whose deadline passed took at least as long: were it left out,
/// only those that were quick would count, and the forecast would stay as wrong as it was.
fn teaches(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Done(_) => true,
        Verdict::Reject { why } => why.find::<DeadlinePassed>().is_some(),
        Verdict::Retry { .. } => false,
    }
}

fn starting() -> Problem {
    Problem::busy("the worker is starting", Duration::from_secs(5))
}

fn stopping() -> Problem {
    Problem::busy("the worker is stopping; another will answer", Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Fault};

    #[test]
    fn who_was_late_teaches_as_well_as_who_was_done() {
        assert!(teaches(&Verdict::Done("1".into())));
        assert!(teaches(&Verdict::Reject { why: Error::new(Fault::Invalid, DeadlinePassed) }));
        assert!(!teaches(&Verdict::Reject { why: Error::invalid("no number") }), "it was not even run");
        assert!(!teaches(&Verdict::give_back()));
    }
}
