//! Where jobs come from: the traits that an adapter implements, and the contract in words.
//!
//! | source | lease | attempts counted | settles a lost lease |
//! |---|---|---|---|
//! | [`Memory`](memory::Memory) | real expiry | yes | refused |
//! | [`Folder`](folder::Folder) | a claim file's age | yes | refused |
//! | `Sqs` (feature `sqs`) | a visibility timeout, 11 h 45 min in all | yes, those given back too | refused where the queue can tell, else without effect |
//! | [`Committed`](committed::Committed) | its source's | its source's | refused; the first end stands |
//! | `Deferred` (feature `http`) | its queue's | its queue's | told once: the first end stands |
//! | `Http` (feature `http`) | until the caller's deadline, or until it has gone | no: the caller tries again | ignored: nobody waits |
//!
//! An adapter's conformance is checked by `forebay::testing::source`, which the memory source passes first.

#[cfg(feature = "webhook")]
pub(crate) mod attempt;
pub mod committed;
#[cfg(feature = "http")]
pub mod deferred;
pub(crate) mod ends;
pub mod folder;
#[cfg(feature = "http")]
pub mod http;
#[cfg(any(feature = "sqs", feature = "fleet"))]
pub(crate) mod limit;
pub mod memory;
pub(crate) mod notice;
pub mod single;
#[cfg(feature = "sqs")]
pub mod sqs;
pub(crate) mod told;
pub(crate) mod vitals;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::error::Result;
use crate::job::{Event, Meta, Timings};
use crate::verdict::Verdict;
pub use vitals::{Hold, Phase, RouteInfo, Vitals};

/// One job as it was received.
pub struct Delivery {
    /// The job's name: the same each time it is delivered.
    pub id: String,
    /// Which delivery this is, 1 for the first. A source that cannot count says 1, and jobs of it are never given up.
    pub attempt: u32,
    /// The job's input as it came.
    pub payload: Bytes,
    /// When the lease ends unless it is extended, counted from before the receive was asked for.
    pub until: Instant,
    /// What came with it.
    pub meta: Meta,
    /// How to keep it and how to say how it ended.
    pub receipt: Arc<dyn Receipt>,
}

/// Where jobs come from. The worker polls it on a thread of its own, on which neither stages nor models run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of jobs",
    note = "a source has `fn name(&self)` and `async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>>`"
)]
pub trait Source: Send + 'static {
    /// What metrics and logs call it.
    fn name(&self) -> &'static str;

    /// Waits until there are jobs and gives at most `max` of them, at least 1. An empty answer means that the source
    /// is at its end and will never give another.
    ///
    /// **Cancel safe**: when the future is dropped, no delivery is lost or given twice. A drain drops it.
    ///
    /// # Errors
    /// An error is told in the log and the source is asked again after a pause that grows; if the fault is
    /// [`Invalid`](crate::Fault::Invalid), as for a wrong setting, the worker is not ready meanwhile.
    fn receive(&mut self, max: usize) -> impl Future<Output = Result<Vec<Delivery>>> + Send;

    /// Called once, before the worker loads its models.
    ///
    /// # Errors
    /// Whatever keeps the source from working at all, such as an address in use: the worker does not start.
    fn start(&mut self, _worker: &Vitals) -> Result<()> {
        Ok(())
    }

    /// Whether the source has accepted jobs before it hands them over. Then a drain goes on receiving from it, and it
    /// must come to its end soon after the worker [drains](Phase::Draining).
    fn accepts_ahead(&self) -> bool {
        false
    }

    /// For a source that tells crashes from losses: writes down the crashes of this worker's processes that have died
    /// on this machine. It is called in a process that does nothing else, and may be called again after an error.
    fn crashes(&mut self) -> Option<BoxFuture<'_, Result<()>>> {
        None
    }

    /// For a source of work that nobody else does: tells, once the worker has ended, whether there is some left. The
    /// process then ends with [`EXIT_UNFINISHED`](crate::EXIT_UNFINISHED). A source around another one passes it on.
    fn unfinished(&self) -> Option<Unfinished> {
        None
    }

    /// Called once, when nothing will be received any more: gives back at once what was taken and not handed over. A
    /// drain waits for it for some seconds. A source around another one passes it on.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A queue that jobs can be put on, for a source that takes them off it; or results, for whoever wants them.
pub trait Queue: Send + Sync + 'static {
    /// Puts a job on the queue: durably, once it is answered. Where a job of that id waits or is at work, nothing
    /// changes.
    ///
    /// # Errors
    /// Whatever kept it from being put there. It may be there all the same.
    fn push<'a>(&'a self, id: &'a str, payload: Bytes) -> BoxFuture<'a, Result<()>>;
}

/// A delivery's way back to its source. Called on the worker's own thread only, but for [`emit`](Receipt::emit).
pub trait Receipt: Send + Sync + 'static {
    /// Asks for the lease to end no sooner than `by` from now.
    ///
    /// It is never called while an earlier call is under way, and never once settling has begun.
    ///
    /// # Errors
    /// Whatever kept the answer from coming; the call is tried again while the lease lasts.
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>>;

    /// Tells the source how the job ended. After an error it is called again with the same verdict, while the lease
    /// lasts; after success never. A job whose lease was lost is never settled.
    ///
    /// # Errors
    /// [`Invalid`](crate::Fault::Invalid) where the lease is not ours any more, and nothing was changed: it is not
    /// called again. Any other error is tried again.
    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>>;

    /// Another worker has taken the job over, as far as its saved states tell: it is not settled, and nothing more is asked
    /// or told about it.
    fn overtaken(&self) {}

    /// The worker has taken the job on. With `call_off` the source can end it at once, and need not wait to be asked
    /// for an extension.
    fn begun(&self, _call_off: &CallOff) {}

    /// Where the job's times are to be told, for sources that pass them on.
    fn timings(&self) -> Option<Arc<Timings>> {
        None
    }

    /// Hands a partial result on. Must not block; ignored unless the source has somebody to tell.
    fn emit(&self, _event: Event) {}

    /// Who is to know when threads work on the job, for sources that keep account of who was at work when a process
    /// died.
    fn watch(&self) -> Option<Arc<dyn Watch>> {
        None
    }
}

/// Is told when threads work on a job: those of CPU stages, and a device's while the job has items in its batch. Called
/// on those threads, so it must be quick.
pub trait Watch: Send + Sync + 'static {
    /// A thread begins to work on the job, before anything is done for it.
    fn works(&self);
    /// The thread has ended its work on it.
    fn rests(&self);
}

/// How long before a lease's end, of so long a lease, nothing is done for it any more: somebody else may have it soon.
pub(crate) fn margin(length: Duration) -> Duration {
    (length / 10).min(Duration::from_secs(2))
}

/// The way to call one job off.
#[derive(Clone)]
pub struct CallOff {
    pub(crate) lease: u64,
    // Unbounded, but each job is called off once.
    pub(crate) to_worker: UnboundedSender<u64>,
}

impl CallOff {
    /// The job is dropped and nothing is settled. After the job's end it does nothing.
    pub fn now(&self) {
        // A worker that has ended has no jobs.
        let _ = self.to_worker.send(self.lease);
    }
}

/// A source's answer to whether a lease goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extended {
    /// It goes on until then, counted from before the call.
    Until(Instant),
    /// It goes on once more and never again, since the source lets nobody hold a job for longer. It is not asked to be
    /// extended again. A job still at work at `stop` is handed over if its
    /// [progress is kept](crate::Job::keeps_progress), and else stopped and rejected, with the time until then to say so.
    Last {
        /// When the lease ends, counted from before the call.
        until: Instant,
        /// When the job has to stop: before `until`.
        stop: Instant,
    },
    /// It was lost: somebody else may have the job. It is dropped and nothing is settled.
    Lost,
    /// The job was called off. It is dropped and nothing is settled.
    Cancelled,
}

/// Gives back what was taken and not handed over. What cannot be told runs out with its lease.
pub(crate) async fn give_back(deliveries: impl IntoIterator<Item = Delivery>) {
    let verdict = Verdict::give_back();
    let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
    join_all(receipts.iter().map(|receipt| receipt.settle(&verdict))).await;
}

/// Whether a source has work left; asked after the source itself has gone.
pub type Unfinished = Box<dyn Fn() -> bool + Send + Sync>;

/// A [`Source`] behind a pointer.
pub(crate) trait AnySource: Send {
    fn name(&self) -> &'static str;
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;
    fn start(&mut self, worker: &Vitals) -> Result<()>;
    fn accepts_ahead(&self) -> bool;
    fn close(&mut self) -> BoxFuture<'_, ()>;
    fn crashes(&mut self) -> Option<BoxFuture<'_, Result<()>>>;
    fn unfinished(&self) -> Option<Unfinished>;
}

impl<S: Source> AnySource for S {
    fn name(&self) -> &'static str {
        Source::name(self)
    }

    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(Source::receive(self, max))
    }

    fn start(&mut self, worker: &Vitals) -> Result<()> {
        Source::start(self, worker)
    }

    fn accepts_ahead(&self) -> bool {
        Source::accepts_ahead(self)
    }

    fn crashes(&mut self) -> Option<BoxFuture<'_, Result<()>>> {
        Source::crashes(self)
    }

    fn unfinished(&self) -> Option<Unfinished> {
        Source::unfinished(self)
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(Source::close(self))
    }
}
