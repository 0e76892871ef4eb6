//! An answer that comes while the job runs: what it tells, as server-sent events.
//!
//! A task of the server waits for the job, whether its caller reads or not, so that its place is free once it has
//! ended. Whoever drops [`Events`] has left, and the job is called off.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::ask::Accepted;
use super::outbox::{End, Outbox, Said};

/// What server-sent events are.
pub(super) const MEDIA: &str = "text/event-stream";
/// Tells nginx, and gateways made of it, to pass on what comes as it comes.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What one job tells its caller.
pub(super) struct Events {
    outbox: Arc<Outbox>,
    job: AbortHandle,
}

impl Events {
    /// Of a job that was handed over with this outbox.
    pub(super) fn of(accepted: Accepted, outbox: Arc<Outbox>) -> Self {
        let told = outbox.clone();
        let job = tokio::spawn(async move { accepted.tell(&told).await }).abort_handle();
        Events { outbox, job }
    }

    /// What comes next; not to be asked for after the last. Cancel safe.
    pub(super) async fn next(&mut self) -> Said {
        self.outbox.next().await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.job.abort();
    }
}

/// Whether the caller asks for server-sent events.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(MEDIA)))
}

/// Answers with what comes; a comment says every so often that the connection lives.
pub(super) fn answer(events: Events, gives: &'static str, keep_alive: Duration) -> Response<Body> {
    let body = unfold(Some(events), move |events| async move {
        let mut events = events?;
        Some(match timeout(keep_alive, events.next()).await {
            Err(_) => (Ok(":\n\n".to_owned()), Some(events)),
            Ok(Said::CutOff) => (Err("the caller was too slow"), None),
            Ok(Said::Ended(end)) => (Ok(last(&end, gives)), None),
            Ok(Said::Progress(done)) => (Ok(event("progress", &done.to_string())), Some(events)),
            Ok(Said::Partial(piece)) => (Ok(event("partial", &text(&piece, gives))), Some(events)),
        })
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}

/// With a comment that says where the time went: there is no header any more to say it in.
fn last(end: &End, gives: &str) -> String {
    let event = match &end.outcome {
        Ok(result) => event("result", &text(result, gives)),
        Err(problem) => event("error", &problem.document()),
    };
    format!(": server-timing: {}\n{event}", end.times)
}

/// Each line of the data is a line of its own.
fn event(name: &str, data: &str) -> String {
    let mut event = format!("event: {name}\n");
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        event.extend(["data: ", line, "\n"]);
    }
    event.push('\n');
    event
}

fn text<'a>(bytes: &'a Bytes, gives: &str) -> Cow<'a, str> {
    match is_text(gives) {
        true => String::from_utf8_lossy(bytes),
        false => BASE64_STANDARD.encode(bytes).into(),
    }
}

/// Whether bytes of this media type can be told as text.
pub(super) fn is_text(media: &str) -> bool {
    media.starts_with("text/") || is_json(media)
}

pub(super) fn is_json(media: &str) -> bool {
    media == "application/json" || media.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_the_media_type_gets_events() {
        let wants = |text: &'static str| wanted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))]));
        assert!(wants("text/event-stream"));
        assert!(wants("application/json, Text/Event-Stream;q=0.9"));
        assert!(!wants("*/*"));
        assert!(!wants("text/event-streams"));
        assert!(!wanted(&HeaderMap::new()));
    }

    #[test]
    fn lines_of_text_are_lines_of_data_and_bytes_are_base64() {
        let partial = |piece: &'static str, gives| event("partial", &text(&piece.into(), gives));
        assert_eq!(partial("{\"a\":1}", "application/json"), "event: partial\ndata: {\"a\":1}\n\n");
        let lines = "event: partial\ndata: a\ndata: \ndata: b\ndata: c\ndata: \n\n";
        assert_eq!(partial("a\n\r\nb\rc\n", "text/plain"), lines);
        assert_eq!(partial("", "text/plain"), "event: partial\ndata: \n\n");
        assert_eq!(partial("a\n\0", "application/octet-stream"), "event: partial\ndata: YQoA\n\n");
    }
}
