//! Jobs whose callers do not wait: put on a queue, worked on by whichever worker takes them, their states and results
//! kept in a store that all replicas share.
//!
//! A job outlives the worker that accepted it, since it is on the queue before its caller is answered. It ends once:
//! its end is an object that can only be created, so that of two workers, or of a worker and a caller who cancels, the
//! first one stands. What is left to be told by a webhook is on the queue too, and so outlives its worker as well. A
//! job may be *run* twice, after a worker was lost; it never *ends* twice.

mod envelope;
mod records;
mod registry;
mod ticket;
mod webhooks;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use super::folder::Folder;
use super::{Delivery, Phase, Queue, Source, Unfinished, Vitals, give_back};
use crate::error::{Context, Fault, Result};
use crate::store::{self, Store};
use crate::verdict::Verdict;
use crate::webhook::Webhook;
pub(crate) use envelope::Header;
use records::Records;
pub(crate) use records::{Asked, Status};
use registry::Opened;
pub(crate) use registry::{Registry, Submitted};
use ticket::Ticket;

/// How long ended jobs are kept by default.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How often they are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// What is settled or told at once, beside the jobs.
const CHORES: usize = 64;
/// When a job that could not be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// A source of deferred jobs, on top of a queue's source `S`.
///
/// With [`Http::deferred`](super::http::Http::deferred) callers put jobs on it by `Prefer: respond-async`.
///
/// ```no_run
/// use forebay::source::{deferred::Deferred, http::Http};
/// use forebay::{Pipeline, Worker};
///
/// # async fn serve() -> forebay::Result<std::process::ExitCode> {
/// let pipeline = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
/// let later = Deferred::folder("/data/jobs")?;
/// let http = Http::from_env()?.deferred(&later);
/// Ok(Worker::new(pipeline).source(http).source(later).run().await)
/// # }
/// ```
pub struct Deferred<S = Folder> {
    queue: S,
    registry: Arc<Registry>,
    /// The media type of each pipeline's results.
    gives: BTreeMap<String, &'static str>,
    /// Taken off the queue, and not looked at yet.
    taken: VecDeque<Delivery>,
    /// Looked at, and not given out yet.
    ready: VecDeque<Delivery>,
    /// Webhooks being sent, and ends being told to the queue.
    chores: JoinSet<()>,
    ended: bool,
}

impl Deferred<Folder> {
    /// Queue and store in one folder, which is made if it is missing; any number of workers may share it. Blocks
    /// briefly.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let inbox = path.join("queue");
        std::fs::create_dir_all(&inbox).with_context(|| format!("the folder for jobs, `{}`", path.display()))?;
        let folder = Folder::open(&inbox, path.join("claims"))?.consuming();
        let queue = folder.queue();
        Ok(Deferred::new(folder, queue, store::Folder::open(path)?))
    }
}

impl<S: Source> Deferred<S> {
    /// Jobs that `queue` is given and `source` delivers, with states and results in `store`, which must keep
    /// [conditional puts](crate::store::Conditional) atomic.
    pub fn new(source: S, queue: impl Queue, store: impl Store) -> Self {
        let records = Records::new(Arc::new(store));
        Deferred {
            queue: source,
            registry: Arc::new(Registry { queue: Arc::new(queue), records, webhook: None, keep: KEEP }),
            gives: BTreeMap::new(),
            taken: VecDeque::new(),
            ready: VecDeque::new(),
            chores: JoinSet::new(),
            ended: false,
        }
    }

    /// Tells jobs' ends to the URLs that their callers name. To be set before [`Http::deferred`] sees it.
    ///
    /// [`Http::deferred`]: super::http::Http::deferred
    pub fn webhook(self, webhook: Webhook) -> Self {
        self.set(|registry| registry.webhook = Some(webhook))
    }

    /// How long states and results are kept after a job's end; 24 hours unless set.
    pub fn keep(self, time: Duration) -> Self {
        self.set(|registry| registry.keep = time)
    }

    fn set(mut self, change: impl FnOnce(&mut Registry)) -> Self {
        // Settings come first, while nobody else has it.
        match Arc::get_mut(&mut self.registry) {
            Some(registry) => change(registry),
            None => warn!("a setting of deferred jobs came after their use, and is ignored"),
        }
        self
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.clone()
    }

    /// Looks at what was taken off the queue: jobs are made ready, all else becomes a chore.
    async fn look(&mut self) {
        // Read first and moved then: when this is dropped half-way, nothing has left `taken`.
        let opened = join_all(self.taken.iter().map(|delivery| self.registry.open(delivery))).await;
        for (delivery, opened) in self.taken.drain(..).zip(opened) {
            let (registry, receipt, attempt) = (self.registry.clone(), delivery.receipt.clone(), delivery.attempt);
            match opened {
                Ok(Opened::Job(header, payload)) => {
                    let route = header.route.as_deref().unwrap_or_default();
                    let gives = self.gives.get(route).copied().unwrap_or("application/octet-stream");
                    self.ready.push_back(Ticket::deliver(registry, delivery, header, payload, gives));
                }
                Ok(Opened::Ended(id)) => drop(self.chores.spawn(async move {
                    if let Err(why) = registry.close(&id, &*receipt).await {
                        warn!(job = id, error = %why, "an end could not be told to the queue; it will be tried again");
                    }
                })),
                Ok(Opened::Webhook(id)) => drop(self.chores.spawn(async move {
                    if let Err(why) = webhooks::send(&registry, &id, &*receipt).await {
                        warn!(job = id, error = %why, "a webhook could not be seen to; it will be tried again");
                    }
                })),
                Err(why) => {
                    warn!(job = delivery.id, attempt, error = %why, "what came off the queue cannot be worked on");
                    let verdict = match why.fault() {
                        Fault::Invalid => Verdict::Reject { why },
                        _ => Verdict::Retry { after: READ_AGAIN, why: Some(why) },
                    };
                    // If it cannot be told, its lease will run out.
                    self.chores.spawn(async move { drop(receipt.settle(&verdict).await) });
                }
            }
        }
    }
}

impl<S: Source> Source for Deferred<S> {
    fn name(&self) -> &'static str {
        "deferred"
    }

    fn start(&mut self, worker: &Vitals) -> Result<()> {
        self.gives = worker.routes().iter().map(|route| (route.name.clone(), route.gives)).collect();
        let (registry, vitals) = (self.registry.clone(), worker.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = vitals.reaches(Phase::Draining) => {}
                () = sweep(&registry) => {}
            }
        });
        self.queue.start(worker)
    }

    fn unfinished(&self) -> Option<Unfinished> {
        self.queue.unfinished()
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        while self.ready.is_empty() {
            while self.chores.try_join_next().is_some() {}
            while self.chores.len() >= CHORES {
                self.chores.join_next().await;
            }
            if self.taken.is_empty() {
                if self.ended {
                    while self.chores.join_next().await.is_some() {}
                    return Ok(Vec::new());
                }
                let taken = self.queue.receive(max.min(CHORES)).await?;
                self.ended = taken.is_empty();
                self.taken.extend(taken);
            }
            self.look().await;
        }
        let count = max.min(self.ready.len());
        Ok(self.ready.drain(..count).collect())
    }

    async fn close(&mut self) {
        let left: Vec<_> = self.taken.drain(..).chain(self.ready.drain(..)).collect();
        give_back(left).await;
        self.queue.close().await;
        while self.chores.join_next().await.is_some() {}
    }
}

impl<S> Drop for Deferred<S> {
    /// Gives back what was taken and not given out.
    fn drop(&mut self) {
        let left: Vec<_> = self.taken.drain(..).chain(self.ready.drain(..)).collect();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(give_back(left));
    }
}

/// Removes what was kept long enough, from time to time.
async fn sweep(registry: &Registry) {
    loop {
        sleep(SWEEP_EVERY).await;
        if let Err(why) = registry.records.sweep(registry.keep).await {
            warn!(error = %why, "old jobs could not be removed; it will be tried again");
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
