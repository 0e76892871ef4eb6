//! One committed result of each job, on top of any source that delivers at least once.
//!
//! That a source took a verdict proves little: a job may come again after it was done, and two workers may have it at
//! once. What proves it is its end, an object in a store that can only be created: the first stands, and whoever comes
//! later finds it, settles the job with it and does not run it. The end is written before the source is told. It also
//! tells crashes from losses: a job that was there when a worker crashed is run alone, and one that crashes its
//! workers again and again is rejected; a worker that was lost counts against nobody.
//!
//! What became of a job can be told elsewhere too: on queues for results, by name, and to URLs. That is done between the
//! end and the word to the source, so that a worker lost at any point leaves a message that comes again; then the end is
//! found and told, and the job is not run.

mod errand;
mod look;
mod outlets;
mod records;
mod telling;
#[cfg(test)]
#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod ticket;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{RwLock, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::ends::Ends;
use super::{Delivery, Phase, Queue, Receipt, Source, Unfinished, Vitals, give_back};
use crate::config;
use crate::error::{Context, Error, Result};
use crate::store::Store;
use crate::verdict::Verdict;
#[cfg(feature = "webhook")]
use crate::webhook::Webhook;
use crate::witness::marker::Marker;
use crate::witness::{Witness, crash};
use look::{Looked, look};
use outlets::Outlets;
pub use records::Records;

pub use crate::witness::crash::Crash;

/// Deliveries that are looked at, and jobs that are settled unrun, each at once.
const AT_ONCE: usize = 256;
/// How long a job that is not to be run is settled for, with its end told to whoever is to know of it.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// How long the crashes of earlier processes are told for, before jobs are received.
const TELL_WITHIN: Duration = Duration::from_secs(30);

/// A source whose jobs each end in one committed result, which is kept in a store.
///
/// A job's id is its name in the store: a job of an id that has ended is not run again, whatever its payload, until
/// [`Records::forget`] has removed what is known of it. Results stay in the store; [`Records::outcome`] reads them. A
/// worker that is lost before it writes the end leaves a result that no end names; that goes with the others.
///
/// It keeps account on the local disk, under `FOREBAY_WITNESS`, of the jobs that are at work, and so tells crashes
/// from losses. Jobs that were in a crashed process run alone among the jobs of this source, since one of them may
/// have been the cause; after crashes on three different workers (or in six processes where there are fewer workers),
/// alone at least once, a job is rejected.
///
/// Results are in the store, and where you like elsewhere too: [`results_to`](Committed::results_to) a queue,
/// [`results_named`](Committed::results_named) for jobs that say so, and `webhooks` (feature `webhook`) for jobs that
/// name a URL.
///
/// ```no_run
/// use forebay::source::{committed::Committed, folder::Folder};
/// use forebay::{Pipeline, Worker, store};
///
/// # async fn serve() -> forebay::Result<std::process::ExitCode> {
/// let pipeline = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
/// let queue = Folder::open("/data/queue", "/data/claims")?.consuming();
/// let results = Folder::open("/data/told", "/data/told-claims")?.queue();
/// let source = Committed::new(queue, store::Folder::open("/data/results")?).results_to(results);
/// Ok(Worker::new(pipeline).source(source).run().await)
/// # }
/// ```
pub struct Committed<S> {
    inner: S,
    shared: Arc<Shared>,
    /// Never told anything: its end tells looks that nobody waits for them.
    alive: Option<watch::Sender<()>>,
    /// Tells the crashes of earlier processes.
    telling: Option<JoinHandle<()>>,
    /// Deliveries on their way to being jobs.
    looks: JoinSet<Looked>,
    /// Looked at, and not given out yet.
    ready: VecDeque<Delivery>,
    /// Jobs being settled that are not to be run.
    chores: JoinSet<()>,
    /// Why a look failed: told by the next receive, so that the worker pauses.
    failed: Option<Error>,
    ended: bool,
}

/// What the source's tasks and receipts share.
pub(crate) struct Shared {
    ends: Ends,
    outlets: Outlets,
    /// The media type of each pipeline's results; known once the worker starts.
    gives: OnceLock<BTreeMap<String, &'static str>>,
    /// Where jobs run; known once the worker starts.
    jobs: OnceLock<Handle>,
    /// Of this process, once the worker starts, if it can be written.
    marker: OnceLock<Arc<Marker>>,
    /// Jobs hold it together, a suspect alone.
    gate: Arc<RwLock<()>>,
    alive: watch::Receiver<()>,
}

impl Shared {
    fn gives(&self, route: Option<&str>) -> &'static str {
        let gives = self.gives.get().and_then(|gives| gives.get(route.unwrap_or_default()));
        gives.copied().unwrap_or("application/octet-stream")
    }
}

impl<S: Source> Committed<S> {
    /// Jobs of `source`, with their ends and results in `store`. Where the store cannot keep
    /// [conditional puts](crate::store::Conditional) atomic, two workers that end a job at the same moment may each
    /// tell a result of its own; the log says so at the start.
    pub fn new(source: S, store: impl Store) -> Self {
        let (sender, alive) = watch::channel(());
        let shared = Shared {
            ends: Ends::new(Arc::new(store)),
            outlets: Outlets::default(),
            gives: OnceLock::new(),
            jobs: OnceLock::new(),
            marker: OnceLock::new(),
            gate: Arc::default(),
            alive,
        };
        Committed {
            inner: source,
            shared: Arc::new(shared),
            alive: Some(sender),
            telling: None,
            looks: JoinSet::new(),
            ready: VecDeque::new(),
            chores: JoinSet::new(),
            failed: None,
            ended: false,
        }
    }

    /// Puts the end of every job on `queue` too, once it is in the store and before the source is told: a document in
    /// JSON as `{"type": "job.done", "timestamp": "...", "data": {"id": "...", "state": "done", ...}}`, under the job's
    /// id. In `data` is the result itself, as `result` (JSON) or `base64` (anything else) up to 64 KiB; a larger one is
    /// in the store under `key`. Of a rejected job (`job.failed`) there is `error` instead, with `fault` and `detail`.
    ///
    /// At least once: where the queue does not take it, the source's message is put back, with pauses that grow to 5 min
    /// and for as long as the source delivers it; whoever gets it again finds the end, tells it and does not run the
    /// job. The queue has to take any job's id; a folder's takes names of
    /// files.
    pub fn results_to(self, queue: impl Queue) -> Self {
        self.set(|outlets| outlets.queue = Some(Arc::new(queue)))
    }

    /// Puts the ends of jobs there instead that want their output to go to `name`, as the label
    /// [`Meta::OUTPUT`](crate::Meta::OUTPUT) says; may be called for several names. Once there is a queue for results,
    /// a job that names an unknown one is rejected and not run.
    pub fn results_named(self, name: impl Into<String>, queue: impl Queue) -> Self {
        self.set(|outlets| drop(outlets.named.insert(name.into(), Arc::new(queue))))
    }

    /// Tells jobs' ends to the URLs that they name with the label [`Meta::WEBHOOK`](crate::Meta::WEBHOOK): the document
    /// of [`results_to`](Committed::results_to), signed.
    ///
    /// One attempt for each delivery of the source's message, which is put back for the pause of
    /// [`pause`](crate::webhook::pause) where it fails, or for what the receiver asks, at most 11 h at once. So the
    /// source has to count many deliveries before it gives a message up, and keep it for four days; a FIFO queue holds
    /// up the message's group as long. It is given up after [`ATTEMPTS`](crate::webhook::ATTEMPTS), or at once where
    /// the receiver wants no more (410) or the guard refuses the URL; the log says so. An attempt takes 20 s at most, and
    /// as long the job keeps its place in the worker.
    ///
    /// ```no_run
    /// # use forebay::source::{committed::Committed, folder::Folder};
    /// # use forebay::{store, webhook::Webhook};
    /// # fn source() -> forebay::Result<Committed<Folder>> {
    /// let queue = Folder::open("/data/queue", "/data/claims")?.consuming();
    /// let source = Committed::new(queue, store::Folder::open("/data/results")?).webhooks(Webhook::from_env()?);
    /// # Ok(source) }
    /// ```
    #[cfg(feature = "webhook")]
    pub fn webhooks(self, webhook: Webhook) -> Self {
        let clock = Arc::new(super::attempt::seconds);
        self.set(|outlets| outlets.sender = Some(outlets::Sender { webhook, clock }))
    }

    fn set(mut self, change: impl FnOnce(&mut Outlets)) -> Self {
        // Settings come first, while no delivery shares it.
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => change(&mut shared.outlets),
            None => warn!("where results go was said after jobs were received, and is ignored"),
        }
        self
    }

    /// Leaves a marker from now on, and tells of those that others have left.
    fn begin_witness(&mut self, worker: &Vitals) -> Result<()> {
        let witness = Witness::at(&config::witness())?;
        let marker = Arc::new(witness.mark(config::supervisor())?);
        let shared = self.shared.clone();
        let (drains, vitals) = (Arc::downgrade(&marker), worker.clone());
        tokio::spawn(async move {
            vitals.reaches(Phase::Draining).await;
            if let Some(marker) = drains.upgrade() {
                marker.drains();
            }
        });
        // Set once: a source is started once.
        let _ = self.shared.marker.set(marker);
        self.telling = Some(tokio::spawn(async move {
            let told = timeout(TELL_WITHIN, tell(&shared.ends, witness)).await;
            if let Err(why) = told.unwrap_or_else(|_| Err(Error::transient("the store took too long"))) {
                warn!(error = %why, "crashes could not be told; the next process on this disk will try again");
            }
        }));
        Ok(())
    }

    /// Looks at what came. Each look is a task, so that a dropped receive loses none.
    fn look_at(&mut self, deliveries: Vec<Delivery>) {
        self.ended = deliveries.is_empty();
        for delivery in deliveries {
            self.looks.spawn(look(self.shared.clone(), delivery));
        }
    }

    fn place(&mut self, looked: Looked) {
        match looked {
            Looked::Job(delivery) => self.ready.push_back(*delivery),
            Looked::Over { id, receipt, verdict } => {
                if let Verdict::Retry { why: Some(why), .. } = &verdict {
                    self.failed = Some(why.clone());
                }
                self.chores.spawn(settle(id, receipt, verdict));
            }
            Looked::Lost => {}
        }
    }

    /// What is ready, but for what was not asked for in time.
    fn give(&mut self, max: usize) -> Vec<Delivery> {
        let now = Instant::now();
        self.ready.retain(|delivery| delivery.until > now);
        let count = max.min(self.ready.len());
        self.ready.drain(..count).collect()
    }
}

/// Writes down in the store what died processes left on this disk.
async fn tell(ends: &Ends, witness: Witness) -> Result<()> {
    let dead = spawn_blocking(move || witness.dead()).await.context("reading markers")??;
    for dead in dead {
        let mut crashes = Vec::new();
        for (id, crash) in dead.crashes() {
            // What has ended is not run again.
            if ends.ended(&id).await?.is_none() {
                crashes.push((id, crash));
            }
        }
        if let Some((_, crash)) = crashes.first() {
            let (jobs, cause) = (crashes.len(), crash.cause.as_str());
            warn!(process = crash.process, cause, jobs, "a process crashed; its jobs are suspects");
        }
        crash::tell(ends, crashes).await?;
        spawn_blocking(move || dead.bury()).await.context("removing a marker")??;
    }
    Ok(())
}

/// Settles a job that is not to be run. If it cannot be told, its lease will run out, and the job come again.
async fn settle(id: String, receipt: Arc<dyn Receipt>, verdict: Verdict) {
    let late = |_| Err(Error::transient("the source did not answer in time"));
    let told = timeout(SETTLE_WITHIN, receipt.settle(&verdict)).await.unwrap_or_else(late);
    match told {
        Ok(()) => debug!(job = id, verdict = verdict.as_str(), "settled without running"),
        Err(why) => {
            warn!(job = id, error = %why, "a job that is not to be run could not be settled; it will come again")
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Source> Source for Committed<S> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn start(&mut self, worker: &Vitals) -> Result<()> {
        let gives = worker.routes().iter().map(|route| (route.name.clone(), route.gives)).collect();
        // Each is set once: a source is started once.
        let _ = (self.shared.gives.set(gives), self.shared.jobs.set(Handle::current()));
        if !self.shared.ends.is_atomic() {
            let source = self.inner.name();
            warn!(
                source,
                "this store has no conditional puts: a worker that lost its lease may tell a result of its own"
            );
        }
        if let Err(why) = self.begin_witness(worker) {
            warn!(error = %why, "crashes are not told from losses: set FOREBAY_WITNESS to a folder that can be written");
        }
        self.inner.start(worker)
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        if let Some(telling) = &mut self.telling {
            // It panics only as a bug of its own, and has told what it could.
            let _ = telling.await;
            self.telling = None;
        }
        loop {
            while self.chores.try_join_next().is_some() {}
            while let Some(looked) = self.looks.try_join_next() {
                self.place(looked.context("looking at a delivery")?);
            }
            let given = self.give(max);
            if !given.is_empty() {
                return Ok(given);
            }
            if let Some(why) = self.failed.take() {
                return Err(why.context("cannot see whether jobs have ended"));
            }
            if self.ended && self.looks.is_empty() {
                while self.chores.join_next().await.is_some() {}
                return Ok(Vec::new());
            }
            if self.chores.len() >= AT_ONCE {
                self.chores.join_next().await;
                continue;
            }
            let room = max.min(AT_ONCE).saturating_sub(self.looks.len());
            // While a suspect waits or runs, whatever came would only wait too.
            let is_open = self.shared.gate.try_read().is_ok();
            let gate = self.shared.gate.clone();
            tokio::select! {
                Some(looked) = self.looks.join_next() => self.place(looked.context("looking at a delivery")?),
                _ = gate.read(), if !is_open && !self.ended => {}
                received = self.inner.receive(room), if is_open && room > 0 && !self.ended => self.look_at(received?),
            }
        }
    }

    fn accepts_ahead(&self) -> bool {
        self.inner.accepts_ahead()
    }

    fn unfinished(&self) -> Option<Unfinished> {
        self.inner.unfinished()
    }

    fn crashes(&mut self) -> Option<BoxFuture<'_, Result<()>>> {
        Some(Box::pin(async {
            let witness = Witness::at(&config::witness())?;
            tell(&self.shared.ends, witness).await
        }))
    }

    async fn close(&mut self) {
        // Looks that wait for their turn give up.
        self.alive = None;
        give_back(self.ready.drain(..)).await;
        self.inner.close().await;
        give_up(&mut self.looks).await;
        while self.chores.join_next().await.is_some() {}
    }
}

/// Settles what was being looked at and is not wanted any more.
async fn give_up(looks: &mut JoinSet<Looked>) {
    while let Some(looked) = looks.join_next().await {
        match looked {
            Ok(Looked::Job(delivery)) => give_back([*delivery]).await,
            Ok(Looked::Over { id, receipt, verdict }) => settle(id, receipt, verdict).await,
            Ok(Looked::Lost) | Err(_) => {}
        }
    }
}

impl<S> Drop for Committed<S> {
    /// Gives back what was taken and not given out.
    fn drop(&mut self) {
        let (mut looks, ready) = (std::mem::take(&mut self.looks), std::mem::take(&mut self.ready));
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            give_back(ready).await;
            give_up(&mut looks).await;
        });
    }
}
