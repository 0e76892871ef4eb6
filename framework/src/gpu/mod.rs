//! The device side of a pipeline: one thread per device runs every model on it, batching across jobs.
//!
//! [`Gpu`] is what a pipeline's stage holds: it hands a job's items over and awaits their outputs. The
//! [`Batcher`](batcher) decides what runs together, an [`Engine`](engine) runs one model, and the
//! [`thread`] takes turns between the engines of its device.

pub(crate) mod batcher;
pub(crate) mod batching;
pub(crate) mod collator;
pub(crate) mod engine;
pub(crate) mod inbox;
pub(crate) mod linger;
pub(crate) mod outlook;
pub(crate) mod thread;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Span;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::model::Model;
use crate::pool::places::Place;
use crate::pool::replies::Replies;
use inbox::Inbox;

/// The way into one model's queue.
pub(crate) struct Gpu<M: Model> {
    pub(crate) name: &'static str,
    pub(crate) inbox: Arc<ModelInbox<M>>,
}

/// A job's items on their way to the device thread.
pub(crate) struct Call<I, O> {
    pub(crate) items: Vec<Option<I>>,
    pub(crate) waiter: Waiter<O>,
}

pub(crate) type ModelInbox<M> = Inbox<Call<<M as Model>::Input, <M as Model>::Output>>;

/// Answers on their way to those who wait.
pub(crate) type Answers<O> = Replies<(Result<Vec<O>>, Place)>;

/// Who waits for the outputs. The place comes back with the answer, or is freed if nobody takes it.
pub(crate) struct Waiter<O> {
    pub(crate) job: Job,
    pub(crate) place: Place,
    pub(crate) reply: oneshot::Sender<(Result<Vec<O>>, Place)>,
    /// When it asked for a place, and when its items were handed over.
    pub(crate) asked: Instant,
    pub(crate) queued: Instant,
    pub(crate) span: Span,
}

impl<O> Waiter<O> {
    pub(crate) fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    pub(crate) fn answer(self, outputs: Result<Vec<O>>, replies: &Answers<O>)
    where
        O: Send + 'static,
    {
        replies.send(self.reply, (outputs, self.place));
    }
}

impl<M: Model> Gpu<M> {
    /// Has the items run, in whatever batches, and gathers their outputs in the same order. No items, no wait.
    pub(crate) async fn run(
        &self,
        job: &Job,
        items: Vec<Option<M::Input>>,
        place: Place,
        asked: Instant,
        span: Span,
    ) -> Result<(Vec<M::Output>, Place)> {
        if items.is_empty() {
            return Ok((Vec::new(), place));
        }
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { job: job.clone(), place, reply, asked, queued: Instant::now(), span };
        self.inbox.push(Call { items, waiter })?;
        let (outputs, place) = answer.await.map_err(|_| self.ended())?;
        Ok((outputs?, place))
    }

    fn ended(&self) -> Error {
        let stage = self.name;
        self.inbox
            .closed()
            .unwrap_or_else(|| Error::fatal(format_args!("the device thread of stage `{stage}` has ended")))
    }
}
