//! What stage code may ask of the job it works on, and what it may tell the job's caller meanwhile.
//!
//! [`Job`] is a cheap handle: clone it freely into async stages. It knows nothing of the broker that delivered the
//! job, and holding it does not keep the lease.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::source::{Receipt, Watch};

/// How soon a job wants its turn. Where jobs wait, a job's turn is its arrival plus its class's budget, so that work
/// of a lower class waits longer but is never starved. What comes first is less: `High < Normal < Low`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it: no budget.
    High,
    /// The default: behind high work that arrived up to 200 ms later.
    #[default]
    Normal,
    /// Whenever there is room: behind other work that arrived up to 5 s later.
    Low,
}

impl Priority {
    /// How much later than on its arrival the job's turn comes.
    pub fn budget(self) -> Duration {
        match self {
            Priority::High => Duration::ZERO,
            Priority::Normal => Duration::from_millis(200),
            Priority::Low => Duration::from_secs(5),
        }
    }
}

/// What came with a job beside its payload. Every field may be missing.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// When the work itself must be done, whatever the lease says. Past it the job is rejected.
    pub deadline: Option<Instant>,
    /// How soon the job wants its turn.
    pub priority: Priority,
    /// Which of the worker's pipelines it is for; the first where there is none.
    pub route: Option<String>,
    /// The payload's media type.
    pub content_type: Option<String>,
    /// The caller's trace, as a W3C `traceparent`.
    pub trace: Option<String>,
    /// Anything else that came with it.
    pub labels: BTreeMap<String, String>,
}

impl Meta {
    /// The label that says on which queue the job's end is wanted, by a name that [`Committed::results_named`] has given
    /// to one.
    ///
    /// [`Committed::results_named`]: crate::source::committed::Committed::results_named
    pub const OUTPUT: &'static str = "forebay.output";
    /// The label that holds a URL which wants to hear of the job's end. `Committed::webhooks` sends it there.
    pub const WEBHOOK: &'static str = "forebay.webhook";
}

/// A partial result, told to the job's caller before the job is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// How much is done, from 0 to 1. A newer one replaces an older one that was not read yet.
    Progress(f32),
    /// A piece of the result. Never dropped: a caller too slow to read its pieces is cut off instead.
    Partial(Bytes),
}

/// A job as its stages see it.
#[derive(Clone)]
pub struct Job(Arc<Inner>);

struct Inner {
    id: Cow<'static, str>,
    attempt: u32,
    meta: Meta,
    received: Instant,
    receipt: Option<Arc<dyn Receipt>>,
    cancelled: AtomicBool,
    /// Until when it may change anything, where that ends: the control thread tells, and whoever writes asks.
    writes_until: Mutex<Option<Instant>>,
    keeps_progress: AtomicBool,
    /// The last delivery that is known to have got the job further.
    progressed: AtomicU32,
    stage: Mutex<&'static str>,
    bytes: AtomicUsize,
    timings: Option<Arc<Timings>>,
    watch: Option<Arc<dyn Watch>>,
}

/// How long each stage made a job wait, and worked on it, in the order in which they were done. A mutex, because
/// stages' threads write it and the source reads it.
#[derive(Debug, Default)]
pub struct Timings(Mutex<Vec<Timing>>);

/// A job's time at one stage.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The stage.
    pub stage: &'static str,
    /// From the end of the stage before until this one worked on it.
    pub waited: Duration,
    /// How long it worked; for a device stage, the time of the job's batches.
    pub worked: Duration,
}

impl Timings {
    /// What was told so far.
    pub fn get(&self) -> Vec<Timing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Job {
    /// A job that no source delivered, such as a call of [`Running::call`](crate::Running::call).
    pub fn new(id: impl Into<Cow<'static, str>>) -> Self {
        Job::delivered(id.into(), 1, Meta::default(), None)
    }

    pub(crate) fn delivered(
        id: Cow<'static, str>,
        attempt: u32,
        meta: Meta,
        receipt: Option<Arc<dyn Receipt>>,
    ) -> Self {
        let timings = receipt.as_ref().and_then(|receipt| receipt.timings());
        let watch = receipt.as_ref().and_then(|receipt| receipt.watch());
        Job(Arc::new(Inner {
            id,
            attempt,
            meta,
            received: Instant::now(),
            receipt,
            cancelled: AtomicBool::new(false),
            writes_until: Mutex::new(None),
            keeps_progress: AtomicBool::new(false),
            progressed: AtomicU32::new(0),
            stage: Mutex::new("start"),
            bytes: AtomicUsize::new(0),
            timings,
            watch,
        }))
    }

    /// The job's name, as its source gave it.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Which delivery this is; the first is 1. Sources that do not count say 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// How often it was tried from where it is now: deliveries that got it further do not count as failures of it.
    pub(crate) fn tries(&self) -> u32 {
        let progressed = self.0.progressed.load(Ordering::Relaxed);
        self.0.attempt.saturating_sub(progressed.saturating_sub(1)).max(1)
    }

    /// That delivery has got the job further.
    pub(crate) fn progressed(&self, attempt: u32) {
        self.0.progressed.fetch_max(attempt, Ordering::Relaxed);
    }

    /// What came with the job beside its payload.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// When the work must be done, where that is known.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.meta.deadline
    }

    /// When the worker received it.
    pub fn received(&self) -> Instant {
        self.0.received
    }

    /// When its turn is where jobs wait for a stage: its priority's budget after it was received, or at its deadline if
    /// that is sooner.
    pub(crate) fn turn(&self) -> Instant {
        let turn = self.0.received + self.0.meta.priority.budget();
        self.0.meta.deadline.map_or(turn, |deadline| deadline.min(turn))
    }

    /// Whether to stop: the lease is lost, the caller has gone, or the worker is draining and out of time. Async
    /// stages need not ask, they are dropped; long loops in CPU stages should.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Says that what the job has done is kept where its next delivery finds it, such as in a checkpoint.
    ///
    /// A job that takes longer than its source lets anybody hold it (11 h 45 min with SQS) is then handed over and not
    /// rejected: [`is_cancelled`](Job::is_cancelled) becomes true, the job has up to a minute to write down how far it is
    /// and to end, with an error, and the next worker gets it at once.
    pub fn keeps_progress(&self) {
        self.0.keeps_progress.store(true, Ordering::Relaxed);
    }

    /// Whether the job is this worker's to the best of its knowledge: its lease is neither lost nor about to end. To be
    /// asked before anything is changed that its next worker relies on.
    pub(crate) fn may_write(&self) -> bool {
        let until = *self.0.writes_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() < until)
    }

    pub(crate) fn may_write_until(&self, until: Instant) {
        *self.0.writes_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// What it does from here on is kept nowhere.
    pub(crate) fn keeps_no_progress(&self) {
        self.0.keeps_progress.store(false, Ordering::Relaxed);
    }

    pub(crate) fn can_be_handed_over(&self) -> bool {
        self.0.keeps_progress.load(Ordering::Relaxed)
    }

    /// Tells the caller something before the job is done. Never blocks; a source whose callers cannot listen
    /// ignores it.
    pub fn emit(&self, event: Event) {
        if let Some(receipt) = &self.0.receipt {
            receipt.emit(event);
        }
    }

    /// The stage that the job is in, or last entered.
    pub fn stage(&self) -> &'static str {
        *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, stage: &'static str) {
        *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    pub(crate) fn timed(&self, stage: &'static str, waited: Duration, worked: Duration) {
        if let Some(timings) = &self.0.timings {
            let mut timings = timings.0.lock().unwrap_or_else(PoisonError::into_inner);
            timings.push(Timing { stage, waited, worked });
        }
    }

    /// To be held by a thread while it works on the job, if anybody is to know.
    pub(crate) fn at_work(&self) -> Option<AtWork> {
        let watch = self.0.watch.clone()?;
        watch.works();
        Some(AtWork(watch))
    }

    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Bytes that the job holds now, as far as the pipeline was told.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bytes(&self, bytes: usize) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// A thread works on a job; dropped, it does not any more.
pub(crate) struct AtWork(Arc<dyn Watch>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.rests();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.0.id)
            .field("attempt", &self.0.attempt)
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::source::Extended;
    use crate::{Batching, Error, Model, Pipeline, Result, Verdict};

    /// Writes down what it is told, and what stages do.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<&'static str>>>);

    impl Notes {
        fn note(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }

        /// A device's thread answers before it turns to others.
        async fn are(&self, expected: &[&'static str]) {
            let begun = Instant::now();
            while self.0.lock().unwrap().len() < expected.len() {
                assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", self.0.lock().unwrap());
                tokio::task::yield_now().await;
            }
            assert_eq!(std::mem::take(&mut *self.0.lock().unwrap()), expected);
        }
    }

    impl Watch for Notes {
        fn works(&self) {
            self.note("works");
        }

        fn rests(&self) {
            self.note("rests");
        }
    }

    impl Receipt for Notes {
        fn extend(&self, _: Duration) -> BoxFuture<'_, Result<Extended>> {
            Box::pin(async { Ok(Extended::Lost) })
        }

        fn settle<'a>(&'a self, _: &'a Verdict) -> BoxFuture<'a, Result<()>> {
            Box::pin(async { Ok(()) })
        }

        fn watch(&self) -> Option<Arc<dyn Watch>> {
            Some(Arc::new(self.clone()))
        }
    }

    struct Picky(Notes);

    impl Model for Picky {
        type Input = u32;
        type Output = u32;

        fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
            self.0.note("infer");
            match inputs {
                [1] => Ok(vec![1]),
                _ => Err(Error::failed("only one, and only 1")),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_watches_a_job_knows_of_it_before_and_after_each_thread() {
        let notes = Notes::default();
        let job = |notes: &Notes| Job::delivered("job".into(), 1, Meta::default(), Some(Arc::new(notes.clone())));
        let in_cpu = notes.clone();
        let pipeline = Pipeline::new().cpu("cpu", 1, move |_, items: Vec<u32>| {
            in_cpu.note("cpu");
            assert!(items.len() < 3, "it panics");
            Ok(((), items))
        });
        let model = notes.clone();
        let running =
            pipeline.gpu_each("gpu", Batching::items(4), move || Ok(Picky(model.clone()))).start().await.unwrap();

        running.call_as(&job(&notes), vec![1]).await.unwrap();
        notes.are(&["works", "cpu", "rests", "works", "infer", "rests"]).await;
        // A batch that failed is run again item by item, and the job is at work all the while.
        running.call_as(&job(&notes), vec![1, 2]).await.unwrap_err();
        // Of each item in the batch.
        let on_the_device = ["works", "works", "infer", "infer", "infer", "rests", "rests"];
        notes.are(&["works", "cpu", "rests"].into_iter().chain(on_the_device).collect::<Vec<_>>()).await;
        running.call_as(&job(&notes), vec![1, 2, 3]).await.unwrap_err();
        notes.are(&["works", "cpu", "rests"]).await;
        // One that nobody watches.
        running.call(vec![1]).await.unwrap();
        notes.are(&["cpu", "infer"]).await;
    }
}
