//! What happens to one request: checked, admitted, read, handed to the worker, answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Http;
use super::admission::Admitted;
use super::answer::{self, Problem};
use super::body::{self, Unread};
use super::later;
use super::once::{self, Turn};
use super::outbox::{End, Outbox};
use super::packing::Packing;
use super::request::{Caller, Request};
use super::server::{App, Path};
use super::stream::{self, Events};
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
    let asked = Asked { app: app.clone(), path, arrived };
    let (head, body) = request.into_parts();
    let response = match &app.deferred {
        Some(registry) if later::is_wanted(&head.headers) => asked.defer(registry, &head.headers, body).await,
        _ if stream::wanted(&head.headers) => match asked.stream(&head.headers, body).await {
            // It is counted when it ends.
            Ok(response) => return response,
            Err(problem) => Err(problem),
        },
        _ => asked.answer(&head.headers, body).await,
    };
    let response = response.unwrap_or_else(Problem::into_response);
    app.meter.answered(response.status());
    response
}

pub(super) struct Asked {
    pub(super) app: Arc<App>,
    pub(super) path: Arc<Path>,
    pub(super) arrived: Instant,
}

/// What a request has once it is let in.
pub(super) struct Place {
    admitted: Admitted,
    deadline: Instant,
    _bytes: OwnedSemaphorePermit,
}

/// A request that the worker has, with what it holds until its end. Dropped before, it is called off.
pub(super) struct Accepted {
    app: Arc<App>,
    arrived: Instant,
    pub(super) gives: &'static str,
    place: Place,
    caller: Caller,
}

impl Asked {
    /// Lets it in, to be answered by the deadline, as far as its headers tell.
    fn admit(&self, headers: &HeaderMap) -> Result<Place, Problem> {
        self.may_ask(headers)?;
        self.is_ready()?;
        self.takes(headers)?;
        let patience = self.patience(headers)?;
        self.enter(patience, self.hold_bytes(length(headers).unwrap_or(self.app.settings.body))?)
    }

    /// Lets it in, to be answered in time.
    pub(super) fn enter(&self, patience: Duration, bytes: OwnedSemaphorePermit) -> Result<Place, Problem> {
        let deadline = self.arrived + patience;
        let outlook = self.route().outlook().ok_or_else(starting)?;
        let door = &self.app.doors[self.path.route];
        let busy = |late| Problem::busy("too busy: this would not be answered in time", late);
        let admitted = door.enter(outlook, deadline).map_err(busy)?;
        Ok(Place { admitted, deadline, _bytes: bytes })
    }

    /// Lets it in and reads it.
    async fn take_in(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, Place), Problem> {
        let place = match self.admit(headers) {
            Ok(place) => place,
            Err(problem) => {
                body::discard(headers, body).await;
                return Err(problem);
            }
        };
        let payload = self.read(headers, body).await?;
        Ok((payload, place))
    }

    /// Reads the body, unpacked.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let limit = self.app.settings.body;
        let read = match packing(headers)? {
            None => body::read(body, limit).await,
            Some(packing) => body::read(packing.unpack(body, limit), limit).await,
        };
        read.map_err(|why| self.unread(why))
    }

    /// Answers once the job has ended.
    async fn answer(self, headers: &HeaderMap, body: Body) -> Result<Response<Body>, Problem> {
        let (payload, place) = self.take_in(headers, body).await?;
        let mut turn = None;
        if let Some(key) = once::key(headers, &self.path.path)? {
            let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
            match self.app.once.begin(key, once::hash([content_type, &payload]), Instant::now())? {
                once::Request::First(first) => turn = Some(first),
                once::Request::Known(result) => return Ok(answer::done(result, self.route().gives)),
            }
        }
        let meta = self.meta(headers);
        self.hand_over(payload, meta, place, None)?.answer(turn).await
    }

    /// Answers at once, and goes on as the job does.
    async fn stream(self, headers: &HeaderMap, body: Body) -> Result<Response<Body>, Problem> {
        let (payload, place) = self.take_in(headers, body).await?;
        let (outbox, keep_alive) = (Arc::<Outbox>::default(), self.app.settings.keep_alive);
        let meta = self.meta(headers);
        let accepted = self.hand_over(payload, meta, place, Some(outbox.clone()))?;
        let gives = accepted.gives;
        Ok(stream::answer(Events::of(accepted, outbox), gives, keep_alive))
    }

    /// Hands it to the worker; what the job tells goes into the outbox.
    pub(super) fn hand_over(
        self,
        payload: Bytes,
        meta: Meta,
        place: Place,
        outbox: Option<Arc<Outbox>>,
    ) -> Result<Accepted, Problem> {
        let gives = self.route().gives;
        let meta = Meta { deadline: Some(place.deadline.into()), ..meta };
        let until = tokio::time::Instant::from_std(place.deadline + LEASE_BEYOND);
        let (receipt, caller) = Request::new(until, outbox);
        let delivery = Delivery { id: self.app.next_id(), attempt: 1, payload, until, meta, receipt };
        // It takes as many as were admitted; a worker that has ended takes none.
        self.app.to_worker.try_send(delivery).map_err(|_| stopping())?;
        Ok(Accepted { app: self.app, arrived: self.arrived, gives, place, caller })
    }

    pub(super) fn route(&self) -> &RouteInfo {
        &self.app.vitals.routes()[self.path.route]
    }

    pub(super) fn may_ask(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.app.settings.keys.allow(headers) {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a key is needed: send `Authorization: Bearer KEY` or `X-Api-Key: KEY`",
            )),
        }
    }

    pub(super) fn is_ready(&self) -> Result<(), Problem> {
        match self.app.vitals.phase() {
            Phase::Starting => Err(starting()),
            Phase::Ready => Ok(()),
            Phase::Draining | Phase::Ended => Err(stopping()),
        }
    }

    /// Whether the body is of a kind and size that can be taken, as far as the headers say.
    pub(super) fn takes(&self, headers: &HeaderMap) -> Result<(), Problem> {
        packing(headers)?;
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

    /// Makes room for a body.
    pub(super) fn hold_bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = u32::try_from(bytes.min(self.app.settings.held).div_ceil(1024)).unwrap_or(u32::MAX);
        let busy = |_| Problem::busy("too busy: too many bytes are waiting", Duration::from_secs(1));
        self.app.bytes.clone().try_acquire_many_owned(kib).map_err(busy)
    }

    /// How long after its arrival the request must be answered.
    pub(super) fn patience(&self, headers: &HeaderMap) -> Result<Duration, Problem> {
        let longest = self.app.settings.deadline;
        let Some(text) = headers.get(TIMEOUT) else {
            return Ok(longest);
        };
        let seconds = text.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
        let asked = seconds.filter(|s| *s > 0.0 && s.is_finite());
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("{TIMEOUT} is {text:?}, but should be seconds"));
        Ok(Duration::try_from_secs_f64(asked.ok_or_else(wrong)?).unwrap_or(longest).min(longest))
    }

    pub(super) fn meta(&self, headers: &HeaderMap) -> Meta {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut meta = Meta {
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

    pub(super) fn unread(&self, why: Unread) -> Problem {
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

impl Accepted {
    async fn answer(mut self, turn: Option<Turn>) -> Result<Response<Body>, Problem> {
        let verdict = self.verdict().await?;
        if let (Some(turn), Verdict::Done(result)) = (turn, &verdict) {
            turn.answered(result.clone(), Instant::now());
        }
        let mut response = answer::of(&verdict, self.gives);
        answer::tell_times(&mut response, self.arrived.elapsed(), &self.caller.timings().get());
        Ok(response)
    }

    /// Tells the end into the outbox, when it comes.
    pub(super) async fn tell(mut self, outbox: &Outbox) {
        let outcome = self.verdict().await.and_then(|verdict| answer::outcome(&verdict));
        let status = outcome.as_ref().map_or_else(|problem| problem.status, |_| StatusCode::OK);
        let times = answer::times(self.arrived.elapsed(), &self.caller.timings().get());
        if outbox.end(End { outcome, times }) {
            self.app.meter.answered(status);
        }
    }

    async fn verdict(&mut self) -> Result<Verdict, Problem> {
        let Place { admitted, deadline, .. } = &self.place;
        let verdict = self.caller.verdict(tokio::time::Instant::from_std(*deadline + LAST_WORD)).await;
        let Some(verdict) = verdict else {
            return Err(match Instant::now() < *deadline {
                true => stopping(),
                false => Problem::new(StatusCode::GATEWAY_TIMEOUT, "no answer came before the deadline"),
            });
        };
        if teaches(&verdict) {
            admitted.ended();
        }
        Ok(verdict)
    }
}

/// How long the body is, if it is told and is not packed.
pub(super) fn length(headers: &HeaderMap) -> Option<usize> {
    match Packing::of(headers) {
        Ok(None) => headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Problem> {
    Packing::of(headers).map_err(|unknown| {
        let detail = format!("the encoding {unknown:?} is not known; gzip, deflate, br and zstd are");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    })
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

pub(super) fn stopping() -> Problem {
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
