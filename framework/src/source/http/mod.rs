//! Jobs that people wait for: an HTTP server whose requests are jobs, to stand behind a container gateway.
//!
//! A request is refused at once where it could not be answered in time, is dropped as soon as its caller has gone, and
//! is answered by its deadline whatever happens. The server has a thread of its own, so that no load of the stages
//! can delay a probe. It speaks HTTP/1.1 without TLS, which a gateway ends.

mod admission;
mod answer;
mod ask;
mod body;
mod health;
mod keys;
#[cfg(feature = "openapi")]
mod openapi;
mod request;
mod server;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tracing::{info, warn};

use super::{Delivery, Hold, Phase, Source, Vitals};
use crate::config::HttpConfig;
use crate::error::{Classify, Context, Error, Result};
use keys::Keys;
use server::Server;

/// Requests that are admitted and not yet answered, at most, unless set.
const WAITING: usize = 4096;
/// What their bodies hold together, at most, in bytes, unless set.
const HELD: usize = 256 << 20;

/// A server whose requests are jobs. Each of the worker's pipelines answers `POST /NAME`, the first one `POST /`.
///
/// | request | answer |
/// |---|---|
/// | `POST` to a pipeline's path | the result, or a problem document (RFC 9457) |
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
        let settings = Settings { deadline, body, waiting: WAITING, held: HELD, keys: Keys::new(keys), port };
        Ok(Http {
            settings,
            listener: None,
            paths: Vec::new(),
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

    /// Answers `POST path` by the pipeline with the route `name` (the first pipeline's is empty), instead of at
    /// `/name`. Several paths may lead to one pipeline, whose codec finds the path in the job's label
    /// [`PATH`](Http::PATH).
    pub fn path(mut self, path: impl Into<String>, name: impl Into<String>) -> Self {
        self.paths.push((path.into(), name.into()));
        self
    }

    /// The label of a job that holds the path it was posted to.
    pub const PATH: &'static str = "http.path";

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

    /// Callers must send one of these keys, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. Several, so that one
    /// can replace another.
    pub fn keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.keys = Keys::new(keys.into_iter().map(Into::into).collect());
        self
    }

    fn listen(&mut self) -> Result<TcpListener> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind(self.settings.port)?,
        };
        listener.set_nonblocking(true).context("making the socket ready")?;
        Ok(listener)
    }

    /// Path and pipeline, by the index of its route.
    fn routes(&self, vitals: &Vitals) -> Result<Vec<(String, usize)>> {
        let routes = vitals.routes();
        let named = |name: &str| {
            let found = routes.iter().position(|route| route.name == name);
            found
                .ok_or_else(|| Error::invalid(format_args!("a path leads to `{name}`, but no pipeline has that route")))
        };
        let mut paths = Vec::new();
        for (path, name) in &self.paths {
            if !path.starts_with('/') || path.contains(['{', '}', '?', '#']) {
                return Err(Error::invalid(format_args!("`{path}` is no path; one looks like `/embed`")));
            }
            paths.push((path.clone(), named(name)?));
        }
        for (index, route) in routes.iter().enumerate() {
            if !paths.iter().any(|(_, its)| *its == index) {
                paths.push((format!("/{}", route.name.trim_start_matches('/')), index));
            }
        }
        Ok(paths)
    }
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
        let paths = self.routes(worker)?;
        let listener = self.listen()?;
        let address = listener.local_addr().context("asking for the socket's address")?;
        if self.settings.keys.is_empty() && !address.ip().is_loopback() {
            warn!(%address, "everybody who reaches this address may ask; set FOREBAY_HTTP_KEYS to change that");
        }
        // Admission bounds it; the channel never refuses what was admitted.
        let (to_worker, jobs) = channel(self.settings.waiting);
        #[cfg(feature = "openapi")]
        let document = self.description.document(worker.routes(), &paths, &self.settings)?;
        let server = Server::new(worker.clone(), self.settings.clone(), paths, to_worker);
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
