//! A conversation: a WebSocket whose every message is one input of a pipeline, a job of its own.
//!
//! Inputs are worked on one after another, and what their jobs tell goes back in order, while further inputs come in.
//! A caller who sends faster than that is not read from. One who leaves calls off what is at work. A message that is
//! refused gets an `error` event, and the conversation goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_io_timeout::TimeoutReader;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as Broken, Message, Utf8Bytes};
use tracing::debug;

use super::Http;
use super::answer::Problem;
use super::ask::Asked;
use super::body::Unread;
use super::meter::{Meter, Metered};
use super::outbox::{End, Said};
use super::server::{App, Path};
use super::stream::{Events, is_json, is_text};
use crate::source::Phase;

/// Inputs of one connection that were read and wait for those before them.
const WAITING: usize = 64;
/// A ping is sent every so many times that a stream says it lives; and after so many times without a word the peer is
/// taken for gone.
const PING: u32 = 2;
const SILENCE: u32 = 5;
/// How long the peer may take to say that it closes too.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long hyper may take to hand the connection over.
const UPGRADE_WITHIN: Duration = Duration::from_secs(20);
/// A message of up to so many times the largest body is read, so that it can be refused and the conversation go on.
const READ_OVER: usize = 2;
/// Small, since there may be many connections.
const BUFFER: usize = 16 * 1024;

type Socket = WebSocketStream<Pin<Box<TimeoutReader<Metered<TokioIo<Upgraded>>>>>>;
/// Why a conversation ends, to be told the peer; `None` where it has gone.
type Farewell = Option<(CloseCode, &'static str)>;

/// One connection.
struct Conversation {
    app: Arc<App>,
    path: Arc<Path>,
    /// Of the request that it began with.
    headers: HeaderMap,
    patience: Duration,
    id: String,
    meter: Meter,
}

/// A message that was read, or why it is refused; told in its turn.
struct Input {
    arrived: Instant,
    read: Result<(Bytes, OwnedSemaphorePermit), Problem>,
}

/// Answers a `GET` that asks for a WebSocket.
pub(super) async fn converse(app: Arc<App>, path: Arc<Path>, request: HttpRequest) -> Response<Body> {
    let meter = &app.meter;
    upgrade(app.clone(), path, request).unwrap_or_else(|problem| {
        meter.answered(problem.status);
        let mut response = problem.into_response();
        if response.status() == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    })
}

fn upgrade(app: Arc<App>, path: Arc<Path>, mut request: HttpRequest) -> Result<Response<Body>, Problem> {
    let asked = Asked { app: app.clone(), path: path.clone(), arrived: Instant::now() };
    asked.may_ask(request.headers())?;
    asked.is_ready()?;
    let patience = asked.patience(request.headers())?;
    let no_upgrade = |why| Problem::new(StatusCode::UPGRADE_REQUIRED, format!("this is for WebSockets: {why}"));
    let response = create_response_with_body(&request, Body::empty).map_err(no_upgrade)?;
    let too_many = |_| Problem::busy("too busy: too many connections", Duration::from_secs(1));
    let place = app.connections.clone().try_acquire_owned().map_err(too_many)?;
    let upgrading = hyper::upgrade::on(&mut request);
    let headers = std::mem::take(request.headers_mut());
    let (id, meter) = (app.next_id(), Meter::new(app.bytes.clone()));
    let conversation = Conversation { app, path, headers, patience, id, meter };
    tokio::spawn(async move {
        match timeout(UPGRADE_WITHIN, upgrading).await {
            Ok(Ok(upgraded)) => conversation.hold(upgraded).await,
            _ => debug!("a connection ended before it was a WebSocket"),
        }
        drop(place);
    });
    Ok(response)
}

impl Conversation {
    async fn hold(self, upgraded: Upgraded) {
        let largest = Some(self.app.settings.body.saturating_mul(READ_OVER));
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(largest)
            .max_frame_size(largest);
        let mut io = TimeoutReader::new(self.meter.over(TokioIo::new(upgraded)));
        io.set_timeout(Some(self.app.settings.keep_alive * SILENCE));
        let (mut sink, mut stream) = Socket::from_raw_socket(Box::pin(io), Role::Server, Some(config)).await.split();
        let (to_work, inputs) = channel(WAITING);
        let farewell = tokio::select! {
            farewell = self.read(&mut stream, to_work) => farewell,
            farewell = self.work(&mut sink, inputs) => farewell,
        };
        let close = async {
            if let Some((code, reason)) = farewell {
                // A peer that has gone needs no goodbye.
                let _ = sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
            }
            while let Some(Ok(_)) = stream.next().await {}
        };
        let _ = timeout(CLOSE_WITHIN, close).await;
    }

    /// Reads inputs until the peer closes or has gone. What comes during a drain is not taken.
    async fn read(&self, stream: &mut SplitStream<Socket>, to_work: Sender<Input>) -> Farewell {
        let mut to_work = Some(to_work);
        let draining = self.app.vitals.reaches(Phase::Draining);
        tokio::pin!(draining);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut draining, if to_work.is_some() => {
                    to_work = None;
                    continue;
                }
                message = stream.next() => message,
            };
            let payload = match message {
                Some(Ok(Message::Text(text))) => text.into(),
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Ok(_)) => continue,
                Some(Err(why)) => return farewell_to(&why),
            };
            self.meter.start_anew();
            if let Some(to_work) = &to_work {
                let input = Input { arrived: Instant::now(), read: self.take(payload) };
                // The receiver lives as long as this future.
                let _ = to_work.send(input).await;
            }
        }
    }

    fn take(&self, payload: Bytes) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let asked = self.asked(Instant::now());
        if payload.len() > self.app.settings.body {
            return Err(asked.unread(Unread::TooLarge));
        }
        let held = asked.hold_bytes(payload.len())?;
        Ok((payload, held))
    }

    /// Works on one input after another, and tells what comes of it.
    async fn work(&self, sink: &mut SplitSink<Socket, Message>, mut inputs: Receiver<Input>) -> Farewell {
        let every = self.app.settings.keep_alive * PING;
        let mut ping = interval_at(tokio::time::Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_work: Option<Events> = None;
        loop {
            let said = tokio::select! {
                said = next(&mut at_work) => said,
                input = inputs.recv(), if at_work.is_none() => match input.map(|input| self.begin(input)) {
                    Some(Ok(events)) => {
                        at_work = Some(events);
                        continue;
                    }
                    Some(Err(problem)) => {
                        self.app.meter.answered(problem.status);
                        Said::Ended(End { outcome: Err(problem), times: String::new() })
                    }
                    None => return Some((CloseCode::Away, "the worker is stopping")),
                },
                _ = ping.tick() => {
                    sink.send(Message::Ping(Bytes::new())).await.ok()?;
                    continue;
                }
            };
            match said {
                Said::CutOff => return Some((CloseCode::Policy, "too slow to read")),
                Said::Ended(_) => at_work = None,
                _ => {}
            }
            sink.send(message(said, self.gives())).await.ok()?;
        }
    }

    /// Hands an input to the worker.
    fn begin(&self, input: Input) -> Result<Events, Problem> {
        let (payload, bytes) = input.read?;
        let asked = self.asked(input.arrived);
        asked.is_ready()?;
        let place = asked.enter(self.patience, bytes)?;
        let mut meta = asked.meta(&self.headers);
        meta.content_type = None;
        meta.labels.insert(Http::SESSION.to_owned(), self.id.clone());
        let outbox = Arc::default();
        let accepted = asked.hand_over(payload, meta, place, Some(Arc::clone(&outbox)))?;
        Ok(Events::of(accepted, outbox))
    }

    fn asked(&self, arrived: Instant) -> Asked {
        Asked { app: self.app.clone(), path: self.path.clone(), arrived }
    }

    fn gives(&self) -> &'static str {
        self.app.vitals.routes()[self.path.route].gives
    }
}

async fn next(at_work: &mut Option<Events>) -> Said {
    match at_work {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// What the peer is told of what it sent, if it is still there.
fn farewell_to(why: &Broken) -> Farewell {
    debug!(error = %why, "conversation ended");
    match why {
        Broken::Capacity(_) => Some((CloseCode::Size, "the message is too large")),
        Broken::Utf8(_) => Some((CloseCode::Invalid, "the text is not UTF-8")),
        Broken::Protocol(_) => Some((CloseCode::Protocol, "the protocol was not kept")),
        Broken::Io(why) if why.kind() == std::io::ErrorKind::QuotaExceeded => {
            Some((CloseCode::Again, "too busy: too many bytes are waiting"))
        }
        _ => None,
    }
}

fn message(said: Said, gives: &str) -> Message {
    match said {
        Said::Partial(bytes) | Said::Ended(End { outcome: Ok(bytes), .. }) if !is_text(gives) => Message::Binary(bytes),
        Said::Progress(done) => event("progress", &done.to_string()),
        // A piece of JSON need not be JSON.
        Said::Partial(piece) => event("partial", &quoted(&piece)),
        Said::Ended(End { outcome: Ok(result), .. }) => match is_json(gives) {
            true => event("result", &String::from_utf8_lossy(&result)),
            false => event("result", &quoted(&result)),
        },
        Said::Ended(End { outcome: Err(problem), .. }) => event("error", &problem.document()),
        Said::CutOff => Message::Close(None),
    }
}

fn event(name: &str, data: &str) -> Message {
    Message::Text(Utf8Bytes::from(format!("{{\"event\":\"{name}\",\"data\":{data}}}")))
}

fn quoted(text: &Bytes) -> String {
    // A string cannot fail.
    serde_json::to_string(&String::from_utf8_lossy(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_as_events_and_bytes_as_they_are() {
        let ended = |outcome| Said::Ended(End { outcome, times: String::new() });
        let text = |said, gives| message(said, gives).into_text().unwrap().to_string();
        let json = "application/json";
        assert_eq!(text(Said::Progress(0.5), json), r#"{"event":"progress","data":0.5}"#);
        assert_eq!(text(Said::Partial("12".into()), json), r#"{"event":"partial","data":"12"}"#);
        assert_eq!(text(ended(Ok("[12]".into())), json), r#"{"event":"result","data":[12]}"#);
        assert_eq!(text(ended(Ok("a\"b".into())), "text/plain"), r#"{"event":"result","data":"a\"b"}"#);
        let bytes = "application/octet-stream";
        assert_eq!(message(Said::Partial("12".into()), bytes), Message::Binary("12".into()));
        assert_eq!(message(ended(Ok("34".into())), bytes), Message::Binary("34".into()));
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no");
        let told: serde_json::Value = serde_json::from_str(&text(ended(Err(problem)), bytes)).unwrap();
        assert_eq!((&told["event"], &told["data"]["status"]), (&"error".into(), &422.into()));
    }
}
