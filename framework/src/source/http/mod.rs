//! Jobs that people wait for: an HTTP server whose requests are jobs, to stand behind a container gateway.
//!
//! A request is refused at once where it could not be answered in time, is dropped as soon as its caller has gone, and
//! is answered by its deadline whatever happens. The server has a thread of its own, so that no load of the stages
//! can delay a probe. It speaks HTTP/1.1 without TLS, which a gateway ends.
//!
//! # Events
//! A caller who posts with `Accept: text/event-stream` is told what the job [emits](crate::Job::emit) as it comes. A
//! refusal is an answer as ever; once the job has begun, there are these events, and then the answer ends:
//!
//! | event | data |
//! |---|---|
//! | `progress` | how much is done, from 0 to 1; one that was not read yet is replaced by a newer one |
//! | `partial` | a piece of the result |
//! | at the end, `result` | the result |
//! | or `error` | the problem document, with the `status` that the answer would have had |
//!
//! Pieces and results of a pipeline whose results are not text are in base64. Comments keep the connection alive, and
//! one before the last event is the `Server-Timing`. A caller who lets more than 1,024 pieces or 4 MiB of them wait is
//! cut off, and the job called off.
//!
//! ```no_run
//! use forebay::source::http::Http;
//! use forebay::{Event, Pipeline, Worker};
//!
//! # async fn serve() -> forebay::Result<std::process::ExitCode> {
//! // curl -N localhost:8080 -H 'accept: text/event-stream' -H 'content-type: application/json' -d '["a", "b"]'
//! let spell = Pipeline::new().cpu("spell", 1, |job, words: Vec<String>| {
//!     for word in &words {
//!         job.emit(Event::Partial(word.to_uppercase().into()));
//!     }
//!     Ok(words.len())
//! });
//! Ok(Worker::new(spell).source(Http::from_env()?).run().await)
//! # }
//! ```
//!
//! # WebSockets
//! On a connection to a path of [`Http::socket`] every message, text or binary, is an input. For each of them, in
//! order, the caller gets what its job emits and then its result or error, while further messages are read:
//!
//! | pipeline's results | messages to the caller |
//! |---|---|
//! | JSON or text | texts like `{"event": "partial", "data": "..."}`, with the events from above; a piece is a string, a JSON result the value itself |
//! | bytes | pieces and results as binary messages; progress and errors as such texts |
//!
//! What is refused, as too large or because the worker is busy, is an `error` event, and the conversation goes on; a
//! message of more than twice the largest body ends it. A deadline counts from when its message was read;
//! `X-Request-Timeout` holds for every message. At most 64 messages that were read wait for their turn; then nothing
//! is read until one has had it. Keys are asked for as headers of the request that opens the connection, which
//! browsers cannot send. Peers are pinged, and taken for gone when nothing came from them for 75 s. A drain answers
//! what was read before it, then closes with 1001; what the caller sent later was not taken.
//!
//! ```no_run
//! use forebay::source::http::Http;
//! use forebay::{Pipeline, Worker};
//!
//! # async fn serve() -> forebay::Result<std::process::ExitCode> {
//! let shout = Pipeline::new().cpu("shout", 1, |job, text: String| {
//!     let session = job.meta().labels.get(Http::SESSION);
//!     Ok(format!("{} ({session:?})", text.to_uppercase()))
//! });
//! Ok(Worker::new(shout).source(Http::from_env()?.socket("/shout", "")).run().await)
//! # }
//! ```

mod admission;
mod answer;
mod ask;
mod body;
mod check;
mod health;
mod keys;
mod later;
mod meter;
mod once;
#[cfg(feature = "openapi")]
mod openapi;
mod outbox;
mod packing;
mod request;
mod server;
mod socket;
mod stream;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tracing::{info, warn};

use super::deferred::{Deferred, Registry};
use super::{Delivery, Hold, Phase, Source, Vitals};
use crate::config::HttpConfig;
use crate::error::{Classify, Context, Error, Result};
use keys::Keys;
use server::Server;

/// Requests that are admitted and not yet answered, at most, unless set.
const WAITING: usize = 4096;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// What their bodies hold together, at most, in bytes, unless set.
const HELD: usize = 256 << 20;
/// How often a stream says that it lives, unless set.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A server whose requests are jobs. Each of the worker's pipelines answers `POST /NAME`, the first one `POST /`.
///
/// | request | answer |
/// |---|---|
/// | `POST` to a pipeline's path | the result, or a problem document (RFC 9457) |
/// | the same, with `Accept: text/event-stream` | [what comes as it comes](self#events) |
/// | `GET` of a [`socket`](Http::socket) | [a conversation](self#websockets) |
/// | `GET /health/startup`, `/health/live`, `/health/ready` | 200 or 503 |
/// | `GET /openapi.json` (feature `openapi`) | what the service takes and gives; no key is asked for |
/// | `GET /metrics` | what [`telemetry::init`](crate::telemetry::init) has recorded, for Prometheus |
///
/// Errors of a job become a status by their [`Fault`](crate::Fault): `Invalid` 400 or 422, `Transient` 503 with
/// `Retry-After`, `Failed` 500, `Fatal` 503. Past its deadline a request gets 504.
///
/// ```no_run
/// use forebay::source::http::Http;
/// use forebay::{Pipeline, Worker};
///
/// # async fn serve() -> forebay::Result<std::process::ExitCode> {
/// let pipeline = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
/// Ok(Worker::new(pipeline).source(Http::from_env()?).run().await)
/// # }
/// ```
pub struct Http {
    settings: Settings,
    listener: Option<TcpListener>,
    paths: Vec<(String, String)>,
    sockets: Vec<(String, String)>,
    deferred: Option<Arc<Registry>>,
    #[cfg(feature = "openapi")]
    description: openapi::Description,
    running: Option<Running>,
}

/// What the server needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    deadline: Duration,
    body: usize,
    waiting: usize,
    held: usize,
    keep_alive: Duration,
    keys: Keys,
    port: u16,
}

struct Running {
    vitals: Vitals,
    jobs: Receiver<Delivery>,
    _hold: Hold,
}

impl Http {
    /// A server with the settings of the environment: `PORT` (8080), `FOREBAY_HTTP_DEADLINE` (95 seconds),
    /// `FOREBAY_HTTP_BODY` (10485760 bytes) and `FOREBAY_HTTP_KEYS` (none, so that everybody may ask).
    ///
    /// # Errors
    /// A setting that is not what it should be.
    pub fn from_env() -> Result<Self> {
        let HttpConfig { port, deadline, body, keys } = HttpConfig::from_env()?;
        let settings = Settings {
            deadline,
            body,
            waiting: WAITING,
            held: HELD,
            keep_alive: KEEP_ALIVE,
            keys: Keys::new(keys),
            port,
        };
        Ok(Http {
            settings,
            listener: None,
            paths: Vec::new(),
            sockets: Vec::new(),
            deferred: None,
            #[cfg(feature = "openapi")]
            description: openapi::Description::default(),
            running: None,
        })
    }

    /// A server on a socket that listens already.
    ///
    /// # Errors
    /// As of [`from_env`](Http::from_env).
    pub fn on(listener: TcpListener) -> Result<Self> {
        Ok(Http { listener: Some(listener), ..Http::from_env()? })
    }

    /// What the health check of a container runs: asks the server at `PORT` of this machine, that of another process,
    /// whether its worker has started (`GET /health/startup`). An image needs no other program for it. A worker that
    /// is busy or drains has started: nobody should replace it for that.
    ///
    /// Ends with 0 if it has. Otherwise, or without an answer within 3 s, it ends with 1 and says why on standard error,
    /// which container engines keep.
    ///
    /// ```no_run
    /// use forebay::source::http::Http;
    /// # async fn serve() -> std::process::ExitCode { todo!() }
    ///
    /// #[tokio::main]
    /// async fn main() -> std::process::ExitCode {
    ///     if std::env::args().nth(1).as_deref() == Some("health") {
    ///         return Http::check().await;
    ///     }
    ///     serve().await
    /// }
    /// ```
    pub async fn check() -> ExitCode {
        let started = match HttpConfig::from_env() {
            Ok(config) => check::started(config.port).await,
            Err(why) => Err(why),
        };
        match started {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("not healthy: {why}");
                ExitCode::FAILURE
            }
        }
    }

    /// Answers `POST path` by the pipeline with the route `name` (the first pipeline's is empty), instead of at
    /// `/name`. Several paths may lead to one pipeline, whose codec finds the path in the job's label
    /// [`PATH`](Http::PATH).
    pub fn path(mut self, path: impl Into<String>, name: impl Into<String>) -> Self {
        self.paths.push((path.into(), name.into()));
        self
    }

    /// The label of a job that holds the path it was posted to.
    pub const PATH: &'static str = "http.path";

    /// Offers WebSockets at `path`, beside what is posted to it, to the pipeline with the route `name`. Every message
    /// is an input of the pipeline and a job of its own, batched with everybody else's. See [the
    /// module](self#websockets) for what the caller gets.
    ///
    /// Jobs of one connection run one after another and have the same label [`SESSION`](Http::SESSION), so that a
    /// stage may keep what it knows of a conversation.
    pub fn socket(mut self, path: impl Into<String>, name: impl Into<String>) -> Self {
        self.sockets.push((path.into(), name.into()));
        self
    }

    /// The label of a job that came over a WebSocket: an id of the connection, which no other has.
    pub const SESSION: &'static str = "http.session";

    /// How long after its arrival a request is answered at the latest, 95 s unless set. A caller may ask for less with
    /// the header `X-Request-Timeout`, in seconds. SaladCloud's gateway gives up after 100 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// The largest body, in bytes, as sent and as decompressed; 10 MiB unless set.
    pub fn body(mut self, bytes: usize) -> Self {
        self.settings.body = bytes;
        self
    }

    /// The most requests that are admitted and not yet answered; 4,096 unless set.
    pub fn waiting(mut self, requests: usize) -> Self {
        self.settings.waiting = requests.max(1);
        self
    }

    /// How many bytes the bodies of requests that are not yet answered may hold together, 256 MiB unless set; a body
    /// whose length is not told counts as the largest that is allowed. One body always gets in.
    pub fn held(mut self, bytes: usize) -> Self {
        self.settings.held = bytes;
        self
    }

    /// How often a comment is sent among events when there is nothing else, 15 s unless set. The peer of a WebSocket
    /// is pinged half as often, and taken for gone after five times as long. SaladCloud's gateway cuts what is idle for
    /// 100 s.
    pub fn keep_alive(mut self, every: Duration) -> Self {
        self.settings.keep_alive = every.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        self
    }

    /// Callers must send one of these keys, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. Several, so that one
    /// can replace another.
    pub fn keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.keys = Keys::new(keys.into_iter().map(Into::into).collect());
        self
    }

    /// Lets callers hand in jobs that take longer than a gateway waits. The worker, or another that shares the queue,
    /// takes them from `deferred`, which has to be its source too.
    ///
    /// | request | answer |
    /// |---|---|
    /// | `POST` to a pipeline's path with `Prefer: respond-async` (RFC 7240) | 202, the job's address in `Location`; once the job is on the queue |
    /// | `GET /jobs/ID` | its `state` (`queued`, `running`, `done`, `failed`, `cancelled`), progress and result |
    /// | `GET /jobs/ID/result` | the result by itself |
    /// | `DELETE /jobs/ID` | cancels it, unless it has ended |
    ///
    /// With the header `X-Webhook-Url` the end is told to that URL
    /// ([`Deferred::webhook`](super::deferred::Deferred::webhook)). With `Idempotency-Key` the same request makes one
    /// job, however often it comes; another request under the key gets 422.
    pub fn deferred<S: Source>(mut self, deferred: &Deferred<S>) -> Self {
        self.deferred = Some(deferred.registry());
        self
    }

    fn listen(&mut self) -> Result<TcpListener> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind(self.settings.port)?,
        };
        listener.set_nonblocking(true).context("making the socket ready")?;
        // A second call only changes how many may wait to be accepted: the standard library's 128 are soon too few.
        socket2::SockRef::from(&listener).listen(BACKLOG).context("making the socket ready")?;
        Ok(listener)
    }

    /// Path and pipeline, by the index of its route.
    fn routes(&self, vitals: &Vitals) -> Result<Vec<(String, usize)>> {
        let mut paths = find(&self.paths, vitals)?;
        for (index, route) in vitals.routes().iter().enumerate() {
            if !paths.iter().any(|(_, its)| *its == index) {
                paths.push((format!("/{}", route.name.trim_start_matches('/')), index));
            }
        }
        Ok(paths)
    }
}

/// Which pipelines the paths lead to.
fn find(given: &[(String, String)], vitals: &Vitals) -> Result<Vec<(String, usize)>> {
    let routes = vitals.routes();
    let named = |name: &str| {
        let found = routes.iter().position(|route| route.name == name);
        found.ok_or_else(|| Error::invalid(format_args!("a path leads to `{name}`, but no pipeline has that route")))
    };
    let mut paths = Vec::new();
    for (path, name) in given {
        if !path.starts_with('/') || path.contains(['{', '}', '?', '#']) {
            return Err(Error::invalid(format_args!("`{path}` is no path; one looks like `/embed`")));
        }
        if paths.iter().any(|(its, _)| its == path) || server::is_reserved(path) {
            return Err(Error::invalid(format_args!("the path `{path}` is taken")));
        }
        paths.push((path.clone(), named(name)?));
    }
    Ok(paths)
}

/// On all addresses of IPv6, which takes IPv4 too; gateways ask for IPv6. On IPv4 alone where there is no IPv6.
fn bind(port: u16) -> Result<TcpListener> {
    let all = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    TcpListener::bind(&all[..]).or_invalid().with_context(|| format!("listening on port {port}"))
}

impl Source for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn start(&mut self, worker: &Vitals) -> Result<()> {
        let (paths, sockets) = (self.routes(worker)?, find(&self.sockets, worker)?);
        let listener = self.listen()?;
        let address = listener.local_addr().context("asking for the socket's address")?;
        if self.settings.keys.is_empty() && !address.ip().is_loopback() {
            warn!(%address, "everybody who reaches this address may ask; set FOREBAY_HTTP_KEYS to change that");
        }
        // Admission bounds it; the channel never refuses what was admitted.
        let (to_worker, jobs) = channel(self.settings.waiting);
        #[cfg(feature = "openapi")]
        let document = {
            let deferred = self.deferred.as_deref();
            self.description.document(worker.routes(), &paths, &self.settings, deferred)?
        };
        let deferred = self.deferred.clone();
        let server = Server::new(worker.clone(), self.settings.clone(), paths, sockets, to_worker, deferred);
        #[cfg(feature = "openapi")]
        let server = server.described(document);
        std::thread::Builder::new()
            .name("forebay-http".to_owned())
            .spawn(move || server.run(listener))
            .context("starting the thread of the HTTP server")?;
        info!(%address, "listening");
        self.running = Some(Running { vitals: worker.clone(), jobs, _hold: worker.hold() });
        Ok(())
    }

    fn accepts_ahead(&self) -> bool {
        true
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let Some(running) = &mut self.running else {
            return Err(Error::fatal("the HTTP source was not started"));
        };
        let Running { vitals, jobs, .. } = running;
        let mut deliveries = Vec::new();
        tokio::select! {
            // What was admitted comes first, even while the worker drains.
            biased;
            _ = jobs.recv_many(&mut deliveries, max) => {}
            () = vitals.reaches(Phase::Draining) => {
                jobs.close();
                // What came at this very moment.
                jobs.recv_many(&mut deliveries, max).await;
            }
        }
        if deliveries.is_empty() && vitals.phase() < Phase::Draining {
            return Err(Error::fatal("the thread of the HTTP server has ended"));
        }
        Ok(deliveries)
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
