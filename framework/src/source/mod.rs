//! Where jobs come from: the traits that an adapter implements, and the contract in words.
//!
//! | source | lease | attempts counted | settles a lost lease |
//! |---|---|---|---|
//! | [`Memory`](memory::Memory) | real expiry | yes | refused |
//! | [`Folder`](folder::Folder) | a claim file's age | yes | refused |
//!
//! An adapter's conformance is checked by `forebay::testing::source`, which the memory source passes first.

pub mod folder;
pub mod memory;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::error::Result;
pub use crate::gpu::outlook::Outlook;
use crate::job::{Event, Meta};
use crate::verdict::Verdict;

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

    /// Told once, before the first receive: how to ask when new work would be finished.
    fn outlook(&mut self, _outlook: Outlook) {}
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

    /// Hands a partial result on. Must not block; ignored unless the source has somebody to tell.
    fn emit(&self, _event: Event) {}
}

/// A source's answer to whether a lease goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extended {
    /// It goes on until then, counted from before the call.
    Until(Instant),
    /// It was lost: somebody else may have the job. It is dropped and nothing is settled.
    Lost,
    /// The job was called off. It is dropped and nothing is settled.
    Cancelled,
}

/// A [`Source`] behind a pointer.
pub(crate) trait AnySource: Send {
    fn name(&self) -> &'static str;
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;
    fn outlook(&mut self, outlook: Outlook);
}

impl<S: Source> AnySource for S {
    fn name(&self) -> &'static str {
        Source::name(self)
    }

    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(Source::receive(self, max))
    }

    fn outlook(&mut self, outlook: Outlook) {
        Source::outlook(self, outlook);
    }
}
