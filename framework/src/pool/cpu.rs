//! The named threads of a CPU stage.
//!
//! Plain threads, because they can be counted, named and left behind by a drain; a runtime's blocking pool cannot. The one
//! that has worked on a job hands it on. They end when the pool is closed. A panic in user code fails the job and leaves
//! the thread alive.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use tracing::Span;

use super::panic::{fence, fence_drop};
use super::places::{Place, Task};
use super::queue::Queue;
use super::replies::{Answer, Replies};
use crate::error::{Context, Error, Result};
use crate::job::Job;
use crate::pipeline::{Arrival, Handover, Label, Reply, Rest};

pub(crate) struct Cpu<A> {
    queue: Arc<Queue<Call<A>>>,
    label: Label,
}

/// What the threads do with a job.
pub(crate) struct Work<B, F> {
    pub(crate) f: Arc<F>,
    /// Whoever has the pipeline has the stages: a thread that hangs keeps none of them alive.
    pub(crate) next: Weak<dyn Rest<B>>,
    pub(crate) arrivals: Replies<Arrival>,
}

struct Call<A> {
    job: Job,
    input: A,
    reply: Reply,
    /// Since when the job has waited for this stage.
    since: Instant,
    span: Span,
}

impl<A: Send> Task for Call<A> {
    fn job(&self) -> &Job {
        &self.job
    }

    fn refuse(self, why: Error) {
        self.reply.with(Err(why)).hand_out();
    }
}

impl<A: Send + 'static> Cpu<A> {
    /// Starts `threads` threads, with `places` places for jobs.
    pub(crate) fn start<B, F>(
        label: Label,
        threads: usize,
        places: usize,
        work: Work<B, F>,
    ) -> Result<(Self, Vec<thread::JoinHandle<()>>)>
    where
        B: Send + 'static,
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let name = label.name;
        let queue = Arc::new(Queue::new(places, label.meter.clone()));
        let work = Arc::new(work);
        let spawn = |_| {
            let (queue, label, work) = (queue.clone(), label.clone(), work.clone());
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || serve(&queue, &label, &work))
                .with_context(|| format!("starting a thread of stage `{name}`"))
        };
        let threads = (0..threads).map(spawn).collect::<Result<Vec<_>>>()?;
        Ok((Cpu { queue, label }, threads))
    }

    /// Has one of the threads work on the job, when it has a place here and has given up the one before.
    pub(crate) fn push(&self, job: Job, from: Handover<A>, reply: Reply) {
        let Handover { value: input, place, since } = from;
        let span = self.label.span_within(reply.span());
        self.queue.push(Call { job, input, reply, since, span }, place);
    }

    /// Lets the threads end and fails what is queued.
    pub(crate) fn closer(&self) -> impl FnOnce() + Send + Sync + 'static {
        let (queue, name) = (self.queue.clone(), self.label.name);
        move || queue.close(Error::transient(format_args!("stage `{name}` is closed")))
    }
}

fn serve<A, B, F>(queue: &Arc<Queue<Call<A>>>, label: &Label, work: &Work<B, F>)
where
    A: Send + 'static,
    B: Send + 'static,
    F: Fn(&Job, A) -> Result<B>,
{
    while let Some((call, place)) = queue.pop() {
        // Of a job whose task has gone, what the user gave may panic as it is dropped.
        fence_drop(|| work.on(call, place, label));
    }
}

impl<B: Send + 'static, F> Work<B, F> {
    fn on<A>(&self, call: Call<A>, place: Place, label: &Label)
    where
        F: Fn(&Job, A) -> Result<B>,
    {
        let Call { job, input, reply, since, span } = call;
        if reply.is_closed() || job.is_cancelled() {
            return;
        }
        let started = Instant::now();
        let output = {
            let _entered = span.entered();
            let _at_work = job.at_work();
            fence(|| (self.f)(&job, input)).map_err(|failure| failure.into_error())
        };
        let ended = Instant::now();
        label.meter.ran(&job, started - since, ended - started);
        let Some(next) = self.next.upgrade() else {
            return;
        };
        let done = output.map(|value| Handover { value, place: Some(place), since: ended });
        if let Some(arrival) = label.hand_on(job, done, &*next, reply) {
            self.arrivals.send(arrival);
        }
    }
}
