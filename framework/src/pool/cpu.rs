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
use super::places::Place;
use super::queue::Queue;
use super::replies::Replies;
use crate::error::{Context, Error, Result};
use crate::job::Job;
use crate::telemetry::StageMeter;

pub(crate) struct Cpu<A, B> {
    queue: Arc<Queue<Task<A, B>>>,
    name: &'static str,
}

struct Task<A, B> {
    job: Job,
    input: A,
    place: Place,
    reply: oneshot::Sender<(Result<B>, Place)>,
    /// When it asked for a place.
    asked: Instant,
    span: Span,
}

impl<A: Send + 'static, B: Send + 'static> Cpu<A, B> {
    /// Starts `threads` threads that run `f`.
    pub(crate) fn start<F>(
        name: &'static str,
        threads: usize,
        meter: StageMeter,
        replies: Replies<(Result<B>, Place)>,
        f: Arc<F>,
    ) -> Result<(Self, Vec<thread::JoinHandle<()>>)>
    where
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let queue = Arc::new(Queue::new());
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

    /// Runs `f` on one of the threads. The place travels along, and is freed there if the caller goes away.
    pub(crate) async fn run(
        &self,
        job: &Job,
        input: A,
        place: Place,
        asked: Instant,
        span: Span,
    ) -> Result<(B, Place)> {
        let (reply, answer) = oneshot::channel();
        let task = Task { job: job.clone(), input, place, reply, asked, span };
        let closed = || Error::transient(format_args!("stage `{}` is closed", self.name));
        self.queue.push(task).map_err(|_| closed())?;
        let (output, place) = answer.await.map_err(|_| closed())?;
        Ok((output?, place))
    }

    /// Lets the threads end and fails what is queued.
    pub(crate) fn closer(&self) -> impl FnOnce() + Send + Sync + 'static {
        let queue = self.queue.clone();
        move || queue.close()
    }
}

fn serve<A, B: Send + 'static>(
    queue: &Queue<Task<A, B>>,
    meter: &StageMeter,
    replies: &Replies<(Result<B>, Place)>,
    f: &impl Fn(&Job, A) -> Result<B>,
) {
    while let Some(task) = queue.pop() {
        if task.reply.is_closed() {
            continue;
        }
        let Task { job, input, place, reply, asked, span } = task;
        let started = Instant::now();
        meter.waited(started - asked);
        let output = {
            let _entered = span.entered();
            fence(|| f(&job, input)).map_err(|failure| failure.into_error())
        };
        meter.ran(started.elapsed());
        replies.send(reply, (output, place));
    }
}
