//! The device side of a pipeline: one thread per device runs every model on it, batching across jobs.
//!
//! [`Gpu`] is what a pipeline's stage holds: it hands a job's items over, for somebody who [wants](Wants) their outputs.
//! The [`Batcher`](batcher) decides what runs together, an [`Engine`](engine) runs one model, and the
//! [`thread`] takes turns between the engines of its device.

pub(crate) mod batcher;
pub(crate) mod batching;
pub(crate) mod ceiling;
pub(crate) mod collator;
pub(crate) mod engine;
pub(crate) mod inbox;
pub(crate) mod linger;
pub(crate) mod memory;
pub(crate) mod residents;
pub(crate) mod speed;
pub(crate) mod stepping;
pub(crate) mod steps;
pub(crate) mod thread;

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tracing::Span;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::model::Model;
use crate::pipeline::{Handover, called_off, dropped};
use crate::pool::places::{Place, Task};
use crate::pool::replies::{Answer, Replies};
use batcher::Request;
use inbox::Inbox;

/// The way into one model's queue.
pub(crate) struct Gpu<I, O> {
    pub(crate) inbox: Arc<Inbox<Call<I, O>>>,
}

/// What belongs to one job: most often one, and then it needs no memory of its own.
pub(crate) type Items<T> = SmallVec<[T; 1]>;

/// A job's items on their way to the device thread.
pub(crate) struct Call<I, O> {
    items: Items<Option<I>>,
    caller: Caller<O>,
}

impl<I, O> Call<I, O> {
    pub(crate) fn into_request(self, arrived: Instant, place: Place) -> Request<I, Waiter<O>> {
        let Call { items, caller } = self;
        let priority = caller.job.meta().priority;
        let deadline = caller.job.deadline().map(|deadline| deadline.into_std());
        Request { items, arrived, priority, deadline, reply: Waiter { caller, place } }
    }
}

impl<I: Send, O: Send> Task for Call<I, O> {
    fn job(&self) -> &Job {
        &self.caller.job
    }

    fn refuse(self, why: Error) {
        self.caller.wants.take(self.caller.job, Err(why));
    }
}

pub(crate) type ModelInbox<M> = Inbox<Call<<M as Model>::Input, <M as Model>::Output>>;

/// What comes of a job's items.
pub(crate) type Outputs<O> = Result<Handover<Items<O>>>;

/// Takes what comes of a job's items.
pub(crate) trait Wants<O>: Send {
    /// Nobody waits for it any more.
    fn is_closed(&self) -> bool;
    /// Not on the device thread, unless the stage is closed or the runtime is ending.
    fn take(self: Box<Self>, job: Job, outputs: Outputs<O>);
}

impl<O: Send> Wants<O> for oneshot::Sender<Outputs<O>> {
    fn is_closed(&self) -> bool {
        oneshot::Sender::is_closed(self)
    }

    fn take(self: Box<Self>, _: Job, outputs: Outputs<O>) {
        // A caller that has gone meanwhile needs no answer.
        let _ = self.send(outputs);
    }
}

/// Outputs on their way to who wants them.
pub(crate) struct Answered<O>(Caller<O>, Outputs<O>);

pub(crate) type Answers<O> = Replies<Answered<O>>;

impl<O: Send + 'static> Answer for Answered<O> {
    fn hand_out(self) {
        let Answered(caller, outputs) = self;
        caller.wants.take(caller.job, outputs);
    }
}

/// A job, and who wants the outputs.
pub(crate) struct Caller<O> {
    pub(crate) job: Job,
    pub(crate) wants: Box<dyn Wants<O>>,
    /// Since when the job has waited for the stage.
    pub(crate) since: Instant,
    pub(crate) span: Span,
}

/// Who wants the outputs, with a place in the stage. It goes back with the answer, or is freed if nobody takes it.
pub(crate) struct Waiter<O> {
    pub(crate) caller: Caller<O>,
    place: Place,
}

impl<O> Waiter<O> {
    /// Nobody waits for the outputs any more, or will soon not: a job is called off before its task is.
    pub(crate) fn is_gone(&self) -> bool {
        self.caller.wants.is_closed() || self.caller.job.is_cancelled()
    }

    /// Nobody waits for the outputs any more.
    pub(crate) fn is_alone(&self) -> bool {
        self.caller.wants.is_closed()
    }

    /// Hands out the outputs, complete `since` then.
    pub(crate) fn done(self, outputs: Items<O>, since: Instant, answers: &Answers<O>)
    where
        O: Send + 'static,
    {
        answers.send(Answered(self.caller, Ok(Handover { value: outputs, place: Some(self.place), since })));
    }

    /// Nobody waits any more: what the user gave with the job is dropped, and not on the device thread.
    pub(crate) fn let_go(self, answers: &Answers<O>)
    where
        O: Send + 'static,
    {
        self.fail(called_off(), answers);
    }

    pub(crate) fn fail(self, why: Error, answers: &Answers<O>)
    where
        O: Send + 'static,
    {
        answers.send(Answered(self.caller, Err(why)));
    }
}

impl<I: Send, O: Send + 'static> Gpu<I, O> {
    /// Has the items run, of which there is at least one, in whatever batches, when the job has a place here and has
    /// given up its place `before`. The outputs come in the same order.
    pub(crate) fn push(&self, caller: Caller<O>, items: Items<Option<I>>, before: Option<Place>) {
        self.inbox.push(Call { items, caller }, before);
    }

    /// The same, for whoever waits for the outputs.
    pub(crate) fn run(
        &self,
        job: &Job,
        items: Items<Option<I>>,
        before: Option<Place>,
        since: Instant,
        span: Span,
    ) -> impl Future<Output = Outputs<O>> {
        let (reply, answer) = oneshot::channel();
        self.push(Caller { job: job.clone(), wants: Box::new(reply), since, span }, items, before);
        async move { answer.await.unwrap_or_else(|_| Err(dropped(job))) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use crate::error::{Fault, Result};
    use crate::{Batching, Job, Model, Pipeline};

    /// Waits for a word before each batch.
    struct Told(Arc<Mutex<mpsc::Receiver<()>>>);

    impl Model for Told {
        type Input = u32;
        type Output = u32;

        fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
            let _ = self.0.lock().unwrap().recv();
            Ok(inputs.to_vec())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_a_job_was_called_off_is_no_fault_of_the_device() {
        let (tell, told) = mpsc::channel();
        let told = Arc::new(Mutex::new(told));
        let pipeline = Pipeline::new().gpu("told", Batching::items(1), move || Ok(Told(told.clone())));
        let running = Arc::new(pipeline.start().await.unwrap());
        let call = |job: &Job| {
            let (running, job) = (running.clone(), job.clone());
            tokio::spawn(async move { running.call_as(&job, 1).await })
        };
        let (first, second) = (Job::new("first"), Job::new("second"));
        let first_call = call(&first);
        while first.stage() != "told" {
            tokio::task::yield_now().await;
        }
        let second_call = call(&second);
        while second.stage() != "told" {
            tokio::task::yield_now().await;
        }
        second.cancel();
        tell.send(()).unwrap();
        assert_eq!(first_call.await.unwrap().unwrap(), 1);
        let fault = second_call.await.unwrap().map_err(|why| why.fault());
        assert_eq!(fault, Err(Fault::Transient));
        tell.send(()).unwrap();
        assert_eq!(running.call(7).await.unwrap(), 7, "the device goes on");
    }
}
