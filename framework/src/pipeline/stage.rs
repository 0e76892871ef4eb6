//! The stages at work. A job is one task that goes from stage to stage; each is a bounded number of places with a
//! pool behind. Over a [run](super::reply) of stages of threads the task waits, and the threads hand the job on.
//!
//! Hand over hand: a job keeps its place in one stage until it holds a place in the next.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use smallvec::smallvec;
use tracing::{Instrument, Span, debug_span};

use super::reply::{Arrival, Awaited, Reply};
use super::{Budget, Stage, Starter};
use crate::error::{Error, Result};
use crate::gpu::{Caller, Gpu, Outputs, Wants};
use crate::job::Job;
use crate::model::Model;
use crate::pool::cpu::{Cpu, Work};
use crate::pool::panic::fence;
use crate::pool::places::{Place, Places};
use crate::pool::replies::Answer;
use crate::telemetry::StageMeter;

/// A pipeline from some stage on, for jobs that come to it as an `A`. Stages that go along with a job, until it comes back
/// from a device or from an async function, are this as an `Arc` of their own.
pub(crate) trait Rest<A>: Send + Sync {
    /// Takes one job into the first of its stages, from the job's task.
    fn run(&self, job: Job, from: Handover<A>) -> Step;

    /// Takes one job from the stage of threads before, while the job's task waits for `reply`. A stage of threads takes
    /// it, which has to say so here; at any other the run of such stages ends, and the job's task is to go on.
    fn go_on(&self, job: Job, from: Handover<A>, reply: Reply) -> Option<Arrival> {
        Some(reply.with(Ok(self.run(job, from))))
    }
}

pub(crate) type Next<B> = Arc<dyn Rest<B>>;

/// What comes next for a job.
pub(crate) enum Step {
    /// An async stage. Only one is alive at a time, so a job that waits costs the memory of one.
    Stage(BoxFuture<'static, Result<Step>>),
    /// Stages of threads, which have the job already.
    Awaited(Awaited),
    /// Its end, with what the pipeline gives for it, and its place until the task has that.
    End(Box<dyn Any + Send>, Option<Place>),
}

impl Step {
    /// Over a stage of threads, and those right behind it.
    fn over<A>(stage: &impl Rest<A>, job: Job, from: Handover<A>) -> Self {
        let (reply, end) = Reply::new();
        if let Some(arrival) = stage.go_on(job, from, reply) {
            arrival.hand_out();
        }
        Step::Awaited(end)
    }
}

/// What a job brings from one stage to the next.
pub(crate) struct Handover<A> {
    pub(crate) value: A,
    /// Its place in the stage that it comes from, kept until it has one in the next.
    pub(crate) place: Option<Place>,
    /// When that stage was done with it, and it began to wait for the next.
    pub(crate) since: Instant,
}

/// After the last stage.
pub(crate) struct End;

impl<A: Send + 'static> Rest<A> for End {
    fn run(&self, _: Job, from: Handover<A>) -> Step {
        Step::End(Box::new(from.value), from.place)
    }
}

/// What every stage does around its work: tells the meters, names itself in errors and spans.
#[derive(Clone)]
pub(crate) struct Label {
    pub(crate) name: &'static str,
    pub(crate) meter: StageMeter,
}

impl Label {
    pub(super) fn new(stage: &Stage) -> Self {
        Label { name: stage.name, meter: StageMeter::new(stage.name) }
    }

    pub(super) fn span(&self) -> Span {
        debug_span!("stage", name = self.name)
    }

    /// Of a job that is not in its own span here.
    pub(crate) fn span_within(&self, parent: &Span) -> Span {
        debug_span!(parent: parent, "stage", name = self.name)
    }

    pub(super) fn blame(&self, why: Error) -> Error {
        why.context(format_args!("stage `{}`", self.name))
    }

    pub(super) fn leave<B>(&self, result: Result<B>) -> Result<B> {
        let value = result.map_err(|why| self.blame(why))?;
        self.meter.left.increment(1);
        Ok(value)
    }

    /// Hands a job on that a stage of threads is done with; one whose task has gone is dropped.
    pub(crate) fn hand_on<B>(
        &self,
        job: Job,
        done: Result<Handover<B>>,
        next: &dyn Rest<B>,
        reply: Reply,
    ) -> Option<Arrival> {
        if reply.is_closed() {
            return None;
        }
        match self.leave(done) {
            Ok(from) => next.go_on(job, from, reply),
            Err(why) => Some(reply.with(Err(why))),
        }
    }
}

/// An async stage, which may end a job early with an `Early`.
pub(crate) struct Io<B, Early, F> {
    next: Next<B>,
    label: Label,
    places: Arc<Places>,
    f: Arc<F>,
    early: PhantomData<fn() -> Early>,
}

impl<B, Early, F> Io<B, Early, F> {
    pub(crate) fn new(starter: &mut Starter, stage: &Stage, next: Next<B>, f: Arc<F>) -> Arc<Self> {
        let places = Places::new(stage.places());
        starter.close_later({
            let places = places.clone();
            move || places.close()
        });
        let label = Label::new(stage);
        starter.outlook.add_pool(label.meter.pace(), stage.places());
        Arc::new(Io { next, label, places, f, early: PhantomData })
    }
}

impl<A, B, Early, F, Fut> Rest<A> for Arc<Io<B, Early, F>>
where
    A: Send + 'static,
    B: Send + 'static,
    Early: Send + 'static,
    F: Fn(Job, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ControlFlow<Early, B>>> + Send,
{
    fn run(&self, job: Job, from: Handover<A>) -> Step {
        let stage = self.clone();
        Step::Stage(Box::pin(async move {
            let label = &stage.label;
            let place = stage.places.enter(&job).await.map_err(|why| label.blame(why))?;
            drop(from.place);
            label.meter.enters(&job);
            let started = Instant::now();
            let result = (stage.f)(job.clone(), from.value).instrument(label.span()).await;
            let since = Instant::now();
            label.meter.ran(&job, started - from.since, since - started);
            Ok(match label.leave(result)? {
                ControlFlow::Continue(value) => stage.next.run(job, Handover { value, place: Some(place), since }),
                ControlFlow::Break(end) => Step::End(Box::new(end), Some(place)),
            })
        }))
    }
}

pub(crate) struct CpuStage<A, B> {
    pool: Cpu<A>,
    _next: Next<B>,
}

impl<A: Send + 'static, B: Send + 'static> CpuStage<A, B> {
    pub(crate) fn new<F>(starter: &mut Starter, stage: &Stage, next: Next<B>, f: Arc<F>) -> Result<Self>
    where
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let label = Label::new(stage);
        let super::Kind::Cpu { threads, .. } = stage.kind else {
            return Err(Error::fatal("a CPU stage was described as another kind"));
        };
        let pace = label.meter.pace();
        let work = Work { f, next: Arc::downgrade(&next), arrivals: starter.arrivals.clone() };
        let (pool, threads) = Cpu::start(label, threads.max(1), stage.places(), work)?;
        starter.outlook.add_pool(pace, threads.len());
        starter.close_later(pool.closer());
        starter.threads.extend(threads);
        Ok(CpuStage { pool, _next: next })
    }
}

impl<A: Send + 'static, B: Send + 'static> Rest<A> for CpuStage<A, B> {
    fn run(&self, job: Job, from: Handover<A>) -> Step {
        Step::over(self, job, from)
    }

    fn go_on(&self, job: Job, from: Handover<A>, reply: Reply) -> Option<Arrival> {
        self.pool.push(job, from, reply);
        None
    }
}

/// A device stage in which a job is one item.
pub(crate) struct GpuOne<M: Model> {
    next: Next<M::Output>,
    label: Label,
    gpu: Gpu<M::Input, M::Output>,
}

impl<M: Model> GpuOne<M> {
    pub(crate) fn new(
        starter: &mut Starter,
        stage: &Stage,
        next: Next<M::Output>,
        load: Arc<impl Fn() -> Result<M> + Send + Sync + 'static>,
    ) -> Result<Arc<Self>> {
        let label = Label::new(stage);
        let gpu = starter.gpu(stage, label.meter.clone(), load)?;
        Ok(Arc::new(GpuOne { next, label, gpu }))
    }
}

impl<M: Model> Rest<M::Input> for Arc<GpuOne<M>> {
    fn run(&self, job: Job, from: Handover<M::Input>) -> Step {
        Step::over(self, job, from)
    }

    fn go_on(&self, job: Job, from: Handover<M::Input>, reply: Reply) -> Option<Arrival> {
        let Handover { value, place, since } = from;
        let span = self.label.span_within(reply.span());
        let wants = Box::new(One { stage: self.clone(), reply });
        self.gpu.push(Caller { job, wants, since, span }, smallvec![Some(value)], place);
        None
    }
}

/// Wants the output of a job's one item.
struct One<M: Model> {
    stage: Arc<GpuOne<M>>,
    reply: Reply,
}

impl<M: Model> Wants<M::Output> for One<M> {
    fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }

    fn take(self: Box<Self>, job: Job, outputs: Outputs<M::Output>) {
        let One { stage, reply } = *self;
        let done = outputs.and_then(|Handover { value: outputs, place, since }| {
            let none = || Error::fatal("one item went in, and none came out");
            let value = outputs.into_iter().next().ok_or_else(none)?;
            Ok(Handover { value, place, since })
        });
        if let Some(arrival) = stage.label.hand_on(job, done, &*stage.next, reply) {
            arrival.hand_out();
        }
    }
}

/// A device stage in which a job is any number of items, beside an `R` that passes it by.
pub(crate) struct GpuEach<M: Model, R> {
    next: Next<(R, Vec<M::Output>)>,
    label: Label,
    gpu: Gpu<M::Input, M::Output>,
}

impl<M: Model, R> GpuEach<M, R> {
    pub(crate) fn new(
        starter: &mut Starter,
        stage: &Stage,
        next: Next<(R, Vec<M::Output>)>,
        load: Arc<impl Fn() -> Result<M> + Send + Sync + 'static>,
    ) -> Result<Arc<Self>> {
        let label = Label::new(stage);
        let gpu = starter.gpu(stage, label.meter.clone(), load)?;
        Ok(Arc::new(GpuEach { next, label, gpu }))
    }
}

impl<M, R> Rest<(R, Vec<M::Input>)> for Arc<GpuEach<M, R>>
where
    M: Model,
    R: Send + 'static,
{
    fn run(&self, job: Job, from: Handover<(R, Vec<M::Input>)>) -> Step {
        Step::over(self, job, from)
    }

    fn go_on(&self, job: Job, from: Handover<(R, Vec<M::Input>)>, reply: Reply) -> Option<Arrival> {
        let Handover { value: (rest, items), place, since } = from;
        if items.is_empty() {
            self.label.meter.enters(&job);
            let none = Handover { value: (rest, Vec::new()), place, since };
            return self.label.hand_on(job, Ok(none), &*self.next, reply);
        }
        let items = items.into_iter().map(Some).collect();
        let span = self.label.span_within(reply.span());
        let wants = Box::new(Each { stage: self.clone(), rest, reply });
        self.gpu.push(Caller { job, wants, since, span }, items, place);
        None
    }
}

/// Wants the outputs of a job's items, to put them beside the rest of the job.
struct Each<M: Model, R> {
    stage: Arc<GpuEach<M, R>>,
    rest: R,
    reply: Reply,
}

impl<M: Model, R: Send + 'static> Wants<M::Output> for Each<M, R> {
    fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }

    fn take(self: Box<Self>, job: Job, outputs: Outputs<M::Output>) {
        let Each { stage, rest, reply } = *self;
        let done = outputs.map(|Handover { value: outputs, place, since }| Handover {
            value: (rest, outputs.into_vec()),
            place,
            since,
        });
        if let Some(arrival) = stage.label.hand_on(job, done, &*stage.next, reply) {
            arrival.hand_out();
        }
    }
}

/// Counts what a job holds after the stage before.
pub(crate) struct Sized<A, F> {
    next: Next<A>,
    budget: Budget,
    bytes: Arc<F>,
}

impl<A, F> Sized<A, F> {
    pub(crate) fn new(starter: &Starter, next: Next<A>, bytes: Arc<F>) -> Self {
        Sized { next, budget: starter.budget.clone(), bytes }
    }
}

impl<A, F> Rest<A> for Sized<A, F>
where
    A: Send + 'static,
    F: Fn(&A) -> usize + Send + Sync,
{
    fn run(&self, job: Job, from: Handover<A>) -> Step {
        self.budget.resize(&job, (self.bytes)(&from.value));
        self.next.run(job, from)
    }

    fn go_on(&self, job: Job, from: Handover<A>, reply: Reply) -> Option<Arrival> {
        // Outside of the job's task nobody else catches a panic.
        let resized = fence(|| {
            self.budget.resize(&job, (self.bytes)(&from.value));
            Ok(())
        });
        match resized {
            Ok(()) => self.next.go_on(job, from, reply),
            Err(failure) => {
                let why = failure.into_error().context(format_args!("stage `{}`", job.stage()));
                Some(reply.with(Err(why)))
            }
        }
    }
}
