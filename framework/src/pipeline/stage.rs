//! The stages at work. A job is one task that goes from stage to stage; each is a bounded number of places with a
//! pool behind.
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

use super::{Budget, Stage, Starter};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::job::Job;
use crate::model::Model;
use crate::pool::cpu::Cpu;
use crate::pool::places::{Place, Places};
use crate::pool::replies::Replies;
use crate::telemetry::StageMeter;

/// A pipeline from some stage on, for jobs that come to it as an `A`.
pub(crate) trait Rest<A>: Send + Sync {
    /// Takes one job into the first of its stages.
    fn run<'a>(&'a self, job: &'a Job, from: Handover<A>) -> Step<'a>;
}

/// What comes next for a job.
pub(crate) enum Step<'a> {
    /// A stage, and what comes after it. Only one is alive at a time, so a job that waits costs the memory of one.
    Stage(BoxFuture<'a, Result<Step<'a>>>),
    /// Its end, with what the pipeline gives for it.
    End(Box<dyn Any + Send>),
}

/// What a job brings from one stage to the next.
pub(crate) struct Handover<A> {
    pub(crate) value: A,
    /// Its place in the stage that it comes from, kept until it has one in the next.
    pub(crate) place: Option<Place>,
    /// When that stage was done with it, and it began to wait for the next.
    pub(crate) since: Instant,
}

pub(super) type Next<B> = Arc<dyn Rest<B>>;

/// After the last stage.
pub(crate) struct End;

impl<A: Send + 'static> Rest<A> for End {
    fn run<'a>(&'a self, _: &'a Job, from: Handover<A>) -> Step<'a> {
        Step::End(Box::new(from.value))
    }
}

/// What every stage does around its work: tells the meters, names itself in errors and spans.
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) meter: StageMeter,
}

impl Label {
    pub(super) fn new(stage: &Stage) -> Self {
        Label { name: stage.name, meter: StageMeter::new(stage.name) }
    }

    pub(super) fn span(&self) -> Span {
        debug_span!("stage", name = self.name)
    }

    pub(super) fn blame(&self, why: Error) -> Error {
        why.context(format_args!("stage `{}`", self.name))
    }

    pub(super) fn leave<B>(&self, result: Result<B>) -> Result<B> {
        let value = result.map_err(|why| self.blame(why))?;
        self.meter.left.increment(1);
        Ok(value)
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
    pub(crate) fn new(starter: &mut Starter, stage: &Stage, next: Next<B>, f: Arc<F>) -> Self {
        let places = Places::new(stage.places());
        starter.close_later({
            let places = places.clone();
            move || places.close()
        });
        let label = Label::new(stage);
        starter.outlook.add_pool(label.meter.pace(), stage.places());
        Io { next, label, places, f, early: PhantomData }
    }
}

impl<A, B, Early, F, Fut> Rest<A> for Io<B, Early, F>
where
    A: Send + 'static,
    B: Send + 'static,
    Early: Send + 'static,
    F: Fn(Job, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<ControlFlow<Early, B>>> + Send,
{
    fn run<'a>(&'a self, job: &'a Job, from: Handover<A>) -> Step<'a> {
        Step::Stage(Box::pin(async move {
            let place = self.places.enter(job).await.map_err(|why| self.label.blame(why))?;
            drop(from.place);
            self.label.meter.enters(job);
            let started = Instant::now();
            let result = (self.f)(job.clone(), from.value).instrument(self.label.span()).await;
            let since = Instant::now();
            self.label.meter.ran(job, started - from.since, since - started);
            Ok(match self.label.leave(result)? {
                ControlFlow::Continue(value) => self.next.run(job, Handover { value, place: Some(place), since }),
                ControlFlow::Break(end) => Step::End(Box::new(end)),
            })
        }))
    }
}

pub(crate) struct CpuStage<A, B> {
    next: Next<B>,
    label: Label,
    pool: Cpu<A, B>,
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
        let (pool, threads) = Cpu::start(
            stage.name,
            threads.max(1),
            stage.places(),
            label.meter.clone(),
            Replies::start(&starter.runtime),
            f,
        )?;
        starter.outlook.add_pool(label.meter.pace(), threads.len());
        starter.close_later(pool.closer());
        starter.threads.extend(threads);
        Ok(CpuStage { next, label, pool })
    }
}

impl<A, B> Rest<A> for CpuStage<A, B>
where
    A: Send + 'static,
    B: Send + 'static,
{
    fn run<'a>(&'a self, job: &'a Job, from: Handover<A>) -> Step<'a> {
        Step::Stage(Box::pin(async move {
            let result = self.pool.run(job, from.value, from.place, from.since, self.label.span()).await;
            Ok(self.next.run(job, self.label.leave(result)?))
        }))
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
    ) -> Result<Self> {
        let label = Label::new(stage);
        let gpu = starter.gpu(stage, label.meter.clone(), load)?;
        Ok(GpuOne { next, label, gpu })
    }
}

impl<M: Model> Rest<M::Input> for GpuOne<M> {
    fn run<'a>(&'a self, job: &'a Job, from: Handover<M::Input>) -> Step<'a> {
        Step::Stage(Box::pin(async move {
            let items = smallvec![Some(from.value)];
            let result = self.gpu.run(job, items, from.place, from.since, self.label.span()).await;
            let Handover { value: outputs, place, since } = self.label.leave(result)?;
            let output = outputs.into_iter().next();
            let value = output.ok_or_else(|| self.label.blame(Error::fatal("one item went in, and none came out")))?;
            Ok(self.next.run(job, Handover { value, place, since }))
        }))
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
    ) -> Result<Self> {
        let label = Label::new(stage);
        let gpu = starter.gpu(stage, label.meter.clone(), load)?;
        Ok(GpuEach { next, label, gpu })
    }
}

impl<M, R> Rest<(R, Vec<M::Input>)> for GpuEach<M, R>
where
    M: Model,
    R: Send + 'static,
{
    fn run<'a>(&'a self, job: &'a Job, from: Handover<(R, Vec<M::Input>)>) -> Step<'a> {
        Step::Stage(Box::pin(async move {
            let (rest, items) = from.value;
            if items.is_empty() {
                self.label.meter.enters(job);
                let none = self.label.leave(Ok((rest, Vec::new())))?;
                return Ok(self.next.run(job, Handover { value: none, place: from.place, since: from.since }));
            }
            let items = items.into_iter().map(Some).collect();
            let result = self.gpu.run(job, items, from.place, from.since, self.label.span()).await;
            let Handover { value: outputs, place, since } = self.label.leave(result)?;
            Ok(self.next.run(job, Handover { value: (rest, outputs.into_vec()), place, since }))
        }))
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
    fn run<'a>(&'a self, job: &'a Job, from: Handover<A>) -> Step<'a> {
        self.budget.resize(job, (self.bytes)(&from.value));
        self.next.run(job, from)
    }
}
