//! The server itself: a thread with a runtime of its own, its connections and their limits.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, error, warn};

use super::admission::Admission;
use super::answer::Problem;
use super::ask::ask;
use super::once::Once;
use super::socket::converse;
use super::{Settings, body, health, later};
use crate::source::deferred::Registry;
use crate::source::{Delivery, Hold, Phase, Vitals};
use crate::telemetry::HttpMeter;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: u32 = 16_384;
/// How long a connection may take for the head of a request, or be idle before one.
const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// How long a caller may take none of its answer.
const WRITE_WITHIN: Duration = Duration::from_secs(25);
/// The largest head of a request.
const HEAD_BYTES: usize = 64 * 1024;
/// How long answers under way may take once the worker has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// The pause after accepting has failed, as when there are no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What requests share.
pub(super) struct App {
    pub(super) vitals: Vitals,
    pub(super) settings: Settings,
    pub(super) to_worker: Sender<Delivery>,
    /// What bodies may hold together, in KiB.
    pub(super) bytes: Arc<Semaphore>,
    /// The door of each route.
    pub(super) doors: Vec<Arc<Admission>>,
    pub(super) meter: HttpMeter,
    pub(super) deferred: Option<Arc<Registry>>,
    pub(super) once: Arc<Once>,
    /// A place for each connection.
    pub(super) connections: Arc<Semaphore>,
    /// Names jobs: of this process, and a number. An atomic, since requests name themselves.
    process: u64,
    jobs: AtomicU64,
}

/// A path that leads to a pipeline.
pub(super) struct Path {
    pub(super) path: String,
    /// The index of its route, and its name unless it is the first.
    pub(super) route: usize,
    pub(super) name: Option<String>,
    /// Whether the job is told its path.
    pub(super) told: bool,
}

pub(super) struct Server {
    app: Arc<App>,
    paths: Vec<Arc<Path>>,
    sockets: Vec<Arc<Path>>,
    #[cfg(feature = "openapi")]
    document: bytes::Bytes,
    hold: Hold,
}

impl App {
    pub(super) fn next_id(&self) -> String {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number}", self.process)
    }
}

impl Server {
    pub(super) fn new(
        vitals: Vitals,
        settings: Settings,
        paths: Vec<(String, usize)>,
        sockets: Vec<(String, usize)>,
        to_worker: Sender<Delivery>,
        deferred: Option<Arc<Registry>>,
    ) -> Self {
        let doors = vitals.routes().iter().map(|_| Admission::new(settings.waiting)).collect();
        let path = |(path, route): (String, usize)| {
            let name = &vitals.routes()[route].name;
            let told = name.trim_start_matches('/') != &path[1..];
            Arc::new(Path { path, route, name: (!name.is_empty()).then(|| name.clone()), told })
        };
        let paths = paths.into_iter().map(path).collect();
        let sockets = sockets.into_iter().map(path).collect();
        let hold = vitals.hold();
        // Nothing secret: only different from process to process.
        let process = RandomState::new().hash_one(std::process::id());
        let meter = HttpMeter::new();
        let bytes = Arc::new(Semaphore::new(settings.held.div_ceil(1024).clamp(1, u32::MAX as usize)));
        let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
        let (jobs, once) = (AtomicU64::new(0), Arc::default());
        let app = App { vitals, settings, to_worker, bytes, doors, meter, deferred, once, connections, process, jobs };
        Server {
            app: Arc::new(app),
            paths,
            sockets,
            #[cfg(feature = "openapi")]
            document: bytes::Bytes::new(),
            hold,
        }
    }

    /// Answers what it is with this document.
    #[cfg(feature = "openapi")]
    pub(super) fn described(self, document: bytes::Bytes) -> Self {
        Server { document, ..self }
    }

    /// Serves until the worker has ended.
    pub(super) fn run(self, listener: TcpListener) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve(listener)),
            Err(why) => error!(error = %why, "the HTTP server cannot start"),
        }
    }

    async fn serve(self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(why) => return error!(error = %why, "the HTTP server cannot listen"),
        };
        let service = TowerToHyperService::new(self.router());
        let connections = &self.app.connections;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES);
        let ended = self.app.vitals.reaches(Phase::Ended);
        tokio::pin!(ended);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, connections) => accepted,
                () = &mut ended => break,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    warn!(error = %why, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            // Small answers are not worth waiting for more.
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_WITHIN));
            let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone()).with_upgrades();
            let vitals = self.app.vitals.clone();
            tokio::spawn(async move {
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = vitals.reaches(Phase::Ended) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(why) = ended {
                    debug!(error = %why, "connection ended");
                }
                drop(place);
            });
        }
        drop(listener);
        // Once all places are free, all connections have ended, WebSockets too.
        if timeout(LAST_ANSWERS, connections.acquire_many(CONNECTIONS)).await.is_err() {
            warn!("some callers did not take their answers in time");
        }
        drop(self.hold);
    }

    fn router(&self) -> Router {
        let mut jobs = Router::new();
        for path in &self.paths {
            let (app, path) = (self.app.clone(), path.clone());
            let text = path.path.clone();
            let ask = move |request: HttpRequest| ask(app.clone(), path.clone(), request);
            jobs = jobs.route(&text, post(ask));
        }
        for path in &self.sockets {
            let (app, path) = (self.app.clone(), path.clone());
            let text = path.path.clone();
            let converse = move |request: HttpRequest| converse(app.clone(), path.clone(), request);
            jobs = jobs.route(&text, get(converse));
        }
        let probe = |state: fn(&App) -> Result<(), &'static str>| {
            let app = self.app.clone();
            get(async move || health::answer(state(&app), app.inside()))
        };
        #[cfg(feature = "openapi")]
        let jobs = {
            let document = self.document.clone();
            jobs.route(
                super::openapi::PATH,
                get(async move || ([(header::CONTENT_TYPE, "application/json")], document)),
            )
        };
        later::routes(jobs, &self.app)
            .route("/health/live", probe(|_| Ok(())))
            .route("/health/startup", probe(|app| health::startup(app.vitals.phase())))
            .route("/health/ready", probe(|app| app.ready()))
            .route("/metrics", self.metrics())
            .fallback(async |request: HttpRequest| refuse(request, StatusCode::NOT_FOUND).await)
            .method_not_allowed_fallback(async |request: HttpRequest| {
                refuse(request, StatusCode::METHOD_NOT_ALLOWED).await
            })
    }

    fn metrics(&self) -> axum::routing::MethodRouter {
        let app = self.app.clone();
        get(move |request: HttpRequest| {
            let allowed = app.settings.keys.allow(request.headers());
            async move {
                if !allowed {
                    return Problem::new(StatusCode::UNAUTHORIZED, "a key is needed").into_response();
                }
                match crate::telemetry::installed() {
                    Some(telemetry) => {
                        let text = telemetry.snapshot().prometheus();
                        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
                    }
                    None => Problem::new(StatusCode::NOT_FOUND, "telemetry::init was not called").into_response(),
                }
            }
        })
    }
}

impl App {
    fn inside(&self) -> usize {
        self.doors.iter().map(|door| door.inside()).sum()
    }

    fn ready(&self) -> Result<(), &'static str> {
        let has_room = |(door, route): (&Arc<Admission>, &crate::source::RouteInfo)| {
            route.outlook().is_some_and(|outlook| door.has_room(outlook, self.settings.deadline))
        };
        health::ready(self.vitals.phase(), self.doors.iter().zip(self.vitals.routes()).all(has_room))
    }
}

/// Whether the path is the server's own.
pub(super) fn is_reserved(path: &str) -> bool {
    let own = ["/health/live", "/health/startup", "/health/ready", "/metrics", "/openapi.json"];
    own.contains(&path) || path.starts_with("/jobs/")
}

/// Refuses a request that is for no path, or not for this one.
async fn refuse(request: HttpRequest, status: StatusCode) -> Response<Body> {
    let (head, body) = request.into_parts();
    body::discard(&head.headers, body).await;
    let detail = match status {
        StatusCode::NOT_FOUND => format!("there is nothing at {}", head.uri.path()),
        _ => format!("{} is not for {}", head.uri.path(), head.method),
    };
    Problem::new(status, detail).into_response()
}

async fn accept(
    listener: &tokio::net::TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = connections.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}
