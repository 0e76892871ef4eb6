//! The named threads of a CPU stage.
//!
//! Plain threads, because they can be counted, named and left behind by a drain; a runtime's blocking pool cannot.
//! They end when the pool is closed. A panic in user code fails the job and leaves the thread alive.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Span;

use super::panic::fence;
use super::places::{Place, Task};
use super::queue::Queue;
use super::replies::Replies;
use crate::error::{Context, Error, Result};
use crate::job::Job;
use crate::pipeline::Handover;
use crate::telemetry::StageMeter;

pub(crate) struct Cpu<A, B> {
    queue: Arc<Queue<Call<A, B>>>,
    name: &'static str,
}

struct Call<A, B> {
    job: Job,
    input: A,
    reply: oneshot::Sender<Result<Handover<B>>>,
    /// Since when the job has waited for this stage.
    since: Instant,
    span: Span,
}

impl<A: Send, B: Send> Task for Call<A, B> {
    fn job(&self) -> &Job {
        &self.job
    }
}

impl<A: Send + 'static, B: Send + 'static> Cpu<A, B> {
    /// Starts `threads` threads that run `f`, with `places` places for jobs.
    pub(crate) fn start<F>(
        name: &'static str,
        threads: usize,
        places: usize,
        meter: StageMeter,
        replies: Replies<Result<Handover<B>>>,
        f: Arc<F>,
    ) -> Result<(Self, Vec<thread::JoinHandle<()>>)>
    where
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let queue = Arc::new(Queue::new(places, meter.clone()));
        let pool = Cpu { queue: queue.clone(), name };
        let spawn = |_| {
            let (queue, meter, replies, f) = (queue.clone(), meter.clone(), replies.clone(), f.clone());
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || serve(&queue, &meter, &replies, &*f))
                .with_context(|| format!("starting a thread of stage `{name}`"))
        };
        let threads = (0..threads).map(spawn).collect::<Result<Vec<_>>>()?;
        Ok((pool, threads))
    }

    /// Has `f` run on one of the threads, when the job has a place here and has given up its place `before`.
    pub(crate) fn run(
        &self,
        job: &Job,
        input: A,
        before: Option<Place>,
        since: Instant,
        span: Span,
    ) -> impl Future<Output = Result<Handover<B>>> + use<A, B> {
        let name = self.name;
        let (reply, answer) = oneshot::channel();
        // A closed queue drops the task, and the answer tells.
        self.queue.push(Call { job: job.clone(), input, reply, since, span }, before);
        async move { answer.await.map_err(|_| Error::transient(format_args!("stage `{name}` is closed")))? }
    }

    /// Lets the threads end and fails what is queued.
    pub(crate) fn closer(&self) -> impl FnOnce() + Send + Sync + 'static {
        let queue = self.queue.clone();
        move || queue.close()
    }
}

fn serve<A: Send + 'static, B: Send + 'static>(
    queue: &Arc<Queue<Call<A, B>>>,
    meter: &StageMeter,
    replies: &Replies<Result<Handover<B>>>,
    f: &impl Fn(&Job, A) -> Result<B>,
) {
    while let Some((call, place)) = queue.pop() {
        if call.reply.is_closed() || call.job.is_cancelled() {
            continue;
        }
        let Call { job, input, reply, since, span } = call;
        let started = Instant::now();
        let output = {
            let _entered = span.entered();
            let _at_work = job.at_work();
            fence(|| f(&job, input)).map_err(|failure| failure.into_error())
        };
        let ended = Instant::now();
        meter.ran(&job, started - since, ended - started);
        replies.send(reply, output.map(|value| Handover { value, place: Some(place), since: ended }));
    }
}
