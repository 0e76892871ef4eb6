//! A worker: pipelines fed by sources under limits, until the sources end or the process is told to stop.
//!
//! One thread of its own, the control thread, receives, keeps leases, settles and drains; neither stages nor models
//! ever run on it, so that no load can delay a lease.

pub(crate) mod control;
mod fit;
#[cfg(feature = "http")]
mod form;
mod intake;
mod job;
pub(crate) mod leases;
mod report;
mod stop;
mod supervise;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, info, warn};

use crate::config::{self, Config};
use crate::error::{Context, Error, Fault, Result};
use crate::job::{Job, Priority};
use crate::pipeline::{Pipeline, Starter, apply_options};
use crate::source::vitals::Pulse;
use crate::source::{AnySource, Phase, RouteInfo, Source};
use crate::witness::Witness;
use control::{Control, End};
use fit::Fit;
#[cfg(feature = "http")]
pub use form::{Form, Part};
use job::{AnyRoute, Media, Route, Routes};
pub use report::Report;
use stop::Stop;

/// The exit code after a fault of the node: the platform should start the worker elsewhere.
pub const EXIT_NODE_FAULT: u8 = 70;
/// The exit code of a worker that was stopped before the one job that it was started for had ended
/// ([`Single`](crate::source::single::Single)): it has to be started again. The number is `EX_TEMPFAIL` of `sysexits.h`.
pub const EXIT_UNFINISHED: u8 = 75;

/// How long a worker that cannot start waits before it tries again.
const START_AGAIN: Duration = Duration::from_secs(30);

/// The longest grace.
const LONGEST_GRACE: Duration = Duration::from_secs(86_400);

/// How long a worker at its end waits for its threads: one that hangs in user code cannot be stopped.
const JOIN_WITHIN: Duration = Duration::from_secs(2);

/// How long a supervisor tells a crash to one source's store.
const TELL_WITHIN: Duration = Duration::from_secs(30);

/// How long a worker at its end waits for sources that still have something to say.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// Pipelines and the sources that feed them.
///
/// ```
/// use forebay::{Pipeline, Worker, source::memory::Memory};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let queue = Memory::new();
/// queue.push("first", r#"[1, 2, 3]"#);
/// queue.close();
///
/// let pipeline = Pipeline::new().cpu("sum", 1, |_, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// let report = Worker::new(pipeline).source(queue.clone()).run_once().await?;
/// assert_eq!((report.done, report.rejected), (1, 0));
/// # Ok::<(), forebay::Error>(()) }).unwrap();
/// ```
pub struct Worker {
    routes: Vec<(String, Box<dyn AnyRoute>)>,
    /// Each with the highest priority that its jobs may have.
    sources: Vec<(Priority, Box<dyn AnySource>)>,
    settings: Vec<Setting>,
    fit: Fit,
}

/// Something that code sets, after the environment was read.
type Setting = Box<dyn FnOnce(&mut Config) + Send>;

impl Worker {
    /// A worker for a pipeline whose jobs come and go as JSON.
    pub fn new<In, Out>(pipeline: Pipeline<In, Out>) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
    {
        Worker::first(Route::new(pipeline, Media::JSON, from_json, to_json))
    }

    /// A worker for a pipeline whose jobs come and go as bytes.
    pub fn bytes(pipeline: Pipeline<Bytes, Bytes>) -> Self {
        Worker::with_codec(pipeline, |_, payload| Ok(payload), |_, output| Ok(output))
    }

    /// A worker for a pipeline whose jobs come as forms (`multipart/form-data`), such as files with fields beside them,
    /// and go as JSON. Requires the feature `http`.
    #[cfg(feature = "http")]
    pub fn form<Out: Serialize + Send + 'static>(pipeline: Pipeline<Form, Out>) -> Self {
        Worker::first(Route::new(pipeline, Media::FORM, form::decode, to_json))
    }

    /// A worker for any pipeline: `decode` makes its input of a payload, `encode` a result of its output. What
    /// `decode` fails with should be [`Invalid`](Fault::Invalid).
    pub fn with_codec<In, Out>(
        pipeline: Pipeline<In, Out>,
        decode: impl Fn(&Job, Bytes) -> Result<In> + Send + Sync + 'static,
        encode: impl Fn(&Job, Out) -> Result<Bytes> + Send + Sync + 'static,
    ) -> Self
    where
        In: Send + 'static,
        Out: Send + 'static,
    {
        Worker::first(Route::new(pipeline, Media::BYTES, decode, encode))
    }

    fn first(route: impl AnyRoute + 'static) -> Self {
        let routes: Vec<(String, Box<dyn AnyRoute>)> = vec![(String::new(), Box::new(route))];
        Worker { routes, sources: Vec::new(), settings: Vec::new(), fit: Fit::default() }
    }

    /// Another pipeline beside the first, for jobs whose [`route`](crate::Meta::route) is `name`. All pipelines of a
    /// worker share its devices' threads.
    pub fn route<In, Out>(self, name: impl Into<String>, pipeline: Pipeline<In, Out>) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
    {
        self.another(name.into(), Route::new(pipeline, Media::JSON, from_json, to_json))
    }

    /// Like [`route`](Worker::route), for a pipeline whose jobs come as [`form`](Worker::form) says. Requires the feature
    /// `http`.
    #[cfg(feature = "http")]
    pub fn route_form<Out: Serialize + Send + 'static>(
        self,
        name: impl Into<String>,
        pipeline: Pipeline<Form, Out>,
    ) -> Self {
        self.another(name.into(), Route::new(pipeline, Media::FORM, form::decode, to_json))
    }

    /// Like [`route`](Worker::route), for a pipeline whose jobs come and go as [`with_codec`](Worker::with_codec) says.
    pub fn route_with_codec<In, Out>(
        self,
        name: impl Into<String>,
        pipeline: Pipeline<In, Out>,
        decode: impl Fn(&Job, Bytes) -> Result<In> + Send + Sync + 'static,
        encode: impl Fn(&Job, Out) -> Result<Bytes> + Send + Sync + 'static,
    ) -> Self
    where
        In: Send + 'static,
        Out: Send + 'static,
    {
        self.another(name.into(), Route::new(pipeline, Media::BYTES, decode, encode))
    }

    fn another(mut self, name: String, route: impl AnyRoute + 'static) -> Self {
        self.routes.push((name, Box::new(route)));
        self
    }

    /// Feeds the worker from a source. Several may feed it at once.
    pub fn source(self, source: impl Source) -> Self {
        self.source_at(Priority::High, source)
    }

    /// Feeds the worker from a source whose jobs have at most this priority: with a queue at [`Priority::Low`] the
    /// worker does what requests leave of its time.
    ///
    /// Whatever is free is offered to higher sources first, and a quarter of [`in_flight`](Worker::in_flight) is kept
    /// for them, so that a request finds room in a worker that is full of other work; at least one job of each lower
    /// source is at work all the same. Where jobs wait for a stage, a lower one lets pass what comes up to its
    /// [budget](Priority::budget) later.
    pub fn source_at(mut self, highest: Priority, source: impl Source) -> Self {
        self.sources.push((highest, Box::new(source)));
        self
    }

    /// At most so many jobs received and not yet settled. Default: as many as the stages have places.
    pub fn in_flight(self, jobs: usize) -> Self {
        self.set(move |config| config.in_flight = Some(jobs.max(1)))
    }

    /// How long a drain waits for jobs before it gives them back, at most a day. Default 30 s.
    pub fn grace(self, grace: Duration) -> Self {
        self.set(move |config| config.grace = grace.min(LONGEST_GRACE))
    }

    /// How often a job may fail before it is rejected. Default 5.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.set(move |config| config.max_attempts = attempts.max(1))
    }

    /// What the models of one device may keep on it together, in bytes, as far as they say what they keep
    /// ([`Batching::memory`](crate::Batching::memory), [`Stepping::memory`](crate::Stepping::memory)). At least 1; default:
    /// no bound. `FOREBAY_DEVICE_MEMORY` comes before it.
    ///
    /// Models are loaded in the order in which the pipelines describe them, and all stay that have room. Each of the others
    /// is loaded and warmed up once before them, so that a broken one shows at the start, and then again when it has work
    /// and its turn comes: for it go those that ran longest ago, have no batch in hand, and have no work or have used the
    /// device for four times as long as their loading and its own took. One that takes none of its work for now
    /// ([`Admit::Later`](crate::Admit::Later)) is loaded again only after eight times its load time, at least 1 s, or when
    /// something new comes. A worker does not start with a model that would not fit alone.
    pub fn device_memory(self, bytes: u64) -> Self {
        self.set(move |config| config.device_memory = Some(bytes.max(1)))
    }

    /// What this worker wants of its node. It is measured before the models are loaded, and no job is taken on a node
    /// that is unfit: see [`node`](crate::node). Requires the feature `node`.
    #[cfg(feature = "node")]
    pub fn fit(mut self, fitness: crate::node::Fitness) -> Self {
        self.fit = Fit::new(fitness);
        self
    }

    fn set(mut self, setting: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.settings.push(Box::new(setting));
        self
    }

    /// Runs until the sources end, or SIGTERM or SIGINT, and answers with the process's exit code: what a container's
    /// `main` returns.
    ///
    /// 0 after a drain or the sources' end; [`EXIT_NODE_FAULT`] only for faults of this node, since platforms shun
    /// a node whose container fails, and for a node that is unfit (feature `node`); [`EXIT_UNFINISHED`] where a source
    /// has [work left](crate::source::Source::unfinished) that nobody else does. A wrong setting, or a model that cannot
    /// load, keeps the process up, not ready and saying so, and is tried again every 30 s.
    ///
    /// With a source that tells crashes from losses ([`Committed`](crate::source::committed::Committed)), as the first
    /// process of a container or with `FOREBAY_SUPERVISE=1`, the program is started again as a child that does the
    /// work, and this process watches over it: it passes signals on, writes a crash down, and ends with the child's
    /// exit code. Whatever `main` does before it calls `run` is then done in both.
    pub async fn run(mut self) -> ExitCode {
        let tells = self.sources.iter_mut().any(|(_, source)| source.crashes().is_some());
        // What cannot be read is said with the other settings.
        if tells && config::supervises().unwrap_or(false) {
            match self.supervise().await {
                Ok(code) => return code,
                Err(why) => error!(error = %why, "the worker runs without a supervisor"),
            }
        }
        if config::supervisor().is_some() {
            supervise::stop_with_parent();
        }
        let mut stop = match Stop::listen().await {
            Ok(stop) => stop,
            Err(why) => {
                error!(error = %why, code = EXIT_NODE_FAULT, "worker ends: this node is unfit");
                return ExitCode::from(EXIT_NODE_FAULT);
            }
        };
        let left: Vec<_> = self.sources.iter().filter_map(|(_, source)| source.unfinished()).collect();
        let ends = || if left.iter().any(|left| left()) { EXIT_UNFINISHED } else { 0 };
        match self.run_until(&mut stop).await {
            Ok(report) => {
                let code = ends();
                info!(%report, code, "worker ends");
                ExitCode::from(code)
            }
            Err(why) if why.fault() == Fault::Fatal => {
                error!(error = %why, code = EXIT_NODE_FAULT, "worker ends: this node is unfit");
                ExitCode::from(EXIT_NODE_FAULT)
            }
            Err(why) => {
                error!(error = %why, "not ready: waiting to be stopped");
                stop.told(1).await;
                ExitCode::from(ends())
            }
        }
    }

    /// Has a child do the work; an error means that there is none.
    async fn supervise(&mut self) -> Result<ExitCode> {
        let ended = supervise::run_child().await?;
        // Whatever stages hold is the child's to use.
        self.routes.clear();
        if let Some(cause) = ended.crash {
            error!(pid = ended.pid, cause, "the worker crashed");
            let pid = ended.pid;
            let note = move || Witness::at(&config::witness())?.note(pid, &cause);
            let noted = tokio::task::spawn_blocking(note).await.context("noting a crash").flatten();
            match noted {
                Ok(true) => self.tell_crashes().await,
                Ok(false) => {}
                Err(why) => warn!(error = %why, "the crash could not be noted; it counts as a loss"),
            }
        }
        Ok(ExitCode::from(ended.code))
    }

    async fn tell_crashes(&mut self) {
        for (_, source) in &mut self.sources {
            let name = source.name();
            let Some(telling) = source.crashes() else {
                continue;
            };
            let late = |_| Err(Error::transient("the store took too long"));
            if let Err(why) = tokio::time::timeout(TELL_WITHIN, telling).await.unwrap_or_else(late) {
                warn!(source = name, error = %why, "the crash could not be told; the next process on this disk will");
            }
        }
    }

    async fn run_until(&mut self, stop: &mut Stop) -> Result<Report> {
        let config = self.config()?;
        let pulse = self.start_sources()?;
        fit::watch_cards();
        if !self.fit.admits(stop, false).await? {
            return Ok(Report::default());
        }
        loop {
            let started = tokio::select! {
                started = self.start(&config, &pulse) => started,
                () = stop.told(1) => return Ok(Report::default()),
            };
            match started {
                Ok(started) => return self.serve(started, pulse, &config, false, stop.clone()).await,
                Err(why) if why.fault() == Fault::Fatal => return Err(why),
                Err(why) => {
                    error!(error = %why, retry_s = START_AGAIN.as_secs(), "not ready: the worker cannot start");
                    if stop.told_within(START_AGAIN).await {
                        return Ok(Report::default());
                    }
                }
            }
        }
    }

    /// Runs until the sources end, or SIGTERM or SIGINT, for programs that do one round of work. If the future is
    /// dropped, the worker drains by itself.
    ///
    /// # Errors
    /// Whatever keeps it from starting or receiving: nothing is tried again. That a node is unfit is said after one
    /// measurement, and what follows is the program's to do.
    pub async fn run_once(mut self) -> Result<Report> {
        let mut stop = Stop::listen().await?;
        let config = self.config()?;
        let pulse = self.start_sources()?;
        fit::watch_cards();
        if !self.fit.admits(&mut stop, true).await? {
            return Ok(Report::default());
        }
        let started = tokio::select! {
            started = self.start(&config, &pulse) => started?,
            () = stop.told(1) => return Ok(Report::default()),
        };
        self.serve(started, pulse, &config, true, stop).await
    }

    fn config(&mut self) -> Result<Config> {
        let mut config = Config::default();
        self.settings.drain(..).for_each(|set| set(&mut config));
        let config = config.with_env()?;
        for (_, route) in &mut self.routes {
            route.set_budget(config.memory);
        }
        let stages = self.routes.iter_mut().flat_map(|(_, route)| route.stages());
        apply_options(&mut stages.collect::<Vec<_>>(), &config.stages)?;
        Ok(config)
    }

    /// Starts the sources, which may have to say that the worker is not ready yet.
    fn start_sources(&mut self) -> Result<Pulse> {
        if self.sources.is_empty() {
            return Err(Error::invalid("the worker has no source; add one with Worker::source"));
        }
        let route = |(name, route): &(String, Box<dyn AnyRoute>)| {
            let Media { takes, gives } = route.media();
            RouteInfo::new(name.clone(), takes, gives)
        };
        let pulse = Pulse::new(self.routes.iter().map(route).collect());
        for (_, source) in &mut self.sources {
            source.start(pulse.vitals()).with_context(|| format!("starting the source {}", source.name()))?;
        }
        Ok(pulse)
    }

    async fn start(&mut self, config: &Config, pulse: &Pulse) -> Result<Started> {
        let mut starter = Starter::new();
        starter.device_memory = config.device_memory;
        let (mut routes, mut outlooks) = (Routes::new(), Vec::new());
        for (name, route) in &self.routes {
            info!(route = name, pipeline = %route.describe(), "starting");
            let handle = route.build(&mut starter)?;
            outlooks.push(handle.outlook());
            routes.add(name.clone(), handle)?;
        }
        let pools = starter.finish().await?;
        for (route, outlook) in pulse.vitals().routes().iter().zip(outlooks) {
            route.set_outlook(outlook);
        }
        let places = self.routes.iter().map(|(_, route)| route.places()).fold(0, usize::saturating_add);
        Ok(Started { routes, pools, in_flight: config.in_flight.unwrap_or(places) })
    }

    async fn serve(
        &mut self,
        started: Started,
        pulse: Pulse,
        config: &Config,
        once: bool,
        mut stop: Stop,
    ) -> Result<Report> {
        let Started { routes, pools, in_flight } = started;
        let sources = std::mem::take(&mut self.sources);
        let jobs = tokio::runtime::Handle::current();
        let pulse = Arc::new(pulse);
        let control = Control::new(sources, routes, jobs, in_flight, config, once, pulse.clone());
        info!(in_flight, "ready");
        pulse.set(Phase::Ready);
        let (ask, askable) = stop.clone().askable();
        let mut working = pin!(on_own_thread(control, askable));
        let (end, unfit) = tokio::select! {
            end = &mut working => (end?, None),
            why = self.fit.watched() => {
                warn!(error = %why, "draining, to leave this node");
                ask.send_replace(true);
                (working.await?, Some(why))
            }
        };
        release(pulse).await;
        join(pools).await;
        if let Some(why) = &unfit {
            self.fit.leave(why, &mut stop).await;
        }
        match unfit.or(end.failure) {
            Some(why) => Err(why),
            None => Ok(end.report),
        }
    }
}

/// Lets sources say what they have to say, such as their last answers.
async fn release(pulse: Arc<Pulse>) {
    // The control thread has ended, so this is the last.
    let Some(pulse) = Arc::into_inner(pulse) else {
        return;
    };
    if tokio::time::timeout(RELEASE_WITHIN, pulse.end()).await.is_err() {
        warn!("a source did not end in time; it is left behind");
    }
}

/// Waits for the pools' threads, on a thread of its own: one that hangs is left behind with it.
async fn join(pools: crate::pipeline::Pools) {
    let (sender, joined) = tokio::sync::oneshot::channel();
    let work = move || {
        pools.join();
        // Nobody may be waiting any more.
        let _ = sender.send(());
    };
    let started = std::thread::Builder::new().name("forebay-join".to_owned()).spawn(work);
    if started.is_err() || tokio::time::timeout(JOIN_WITHIN, joined).await.is_err() {
        warn!("some threads did not end; they are left behind");
    }
}

/// Everything that a start made.
struct Started {
    routes: Routes,
    pools: crate::pipeline::Pools,
    in_flight: usize,
}

/// Runs the control loop on a thread and runtime of its own: what is polled there opens its connections there.
async fn on_own_thread(control: Control, stop: Stop) -> Result<End> {
    let (mut sender, ended) = tokio::sync::oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let end = runtime.context("starting the control thread's runtime").map(|runtime| {
            let end = runtime.block_on(control.run(stop, sender.closed()));
            // What an adapter left running must not hold up the end.
            runtime.shutdown_background();
            end
        });
        // The worker that waits for it may have been dropped.
        let _ = sender.send(end);
    };
    std::thread::Builder::new()
        .name("forebay-control".to_owned())
        .spawn(work)
        .context("starting the control thread")?;
    ended.await.map_err(|_| Error::fatal("the control thread has ended"))?
}

fn from_json<In: DeserializeOwned>(_: &Job, payload: Bytes) -> Result<In> {
    serde_json::from_slice(&payload).map_err(|why| name_field::<In>(&payload, why).context("reading the job's JSON"))
}

/// The same error with the field that it is about. Read again for that, since it slows down reading.
fn name_field<In: DeserializeOwned>(payload: &[u8], why: serde_json::Error) -> Error {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let field = serde_path_to_error::deserialize::<_, In>(&mut json).err().map(|why| why.path().to_string());
    let error = Error::new(Fault::Invalid, why);
    match field.filter(|field| field != ".") {
        Some(field) => error.context(format_args!("`{field}`")),
        None => error,
    }
}

fn to_json<Out: Serialize>(_: &Job, output: Out) -> Result<Bytes> {
    Ok(serde_json::to_vec(&output).context("writing the result's JSON")?.into())
}
