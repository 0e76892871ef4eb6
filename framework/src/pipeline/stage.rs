//! The stages at work. A job is one task that walks through them; each is a bounded number of places with a pool
//! behind, and the whole chain is a future of the job's own.
//!
//! Hand over hand: a job keeps its place in one stage until it holds a place in the next.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
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

/// A pipeline up to some stage.
pub(crate) trait Chain<In, Out>: Send + Sync {
    /// Walks one job through it. What comes out still holds its place in the last stage.
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, Out>;
}

pub(crate) type Walk<'a, Out> = BoxFuture<'a, Result<(Out, Option<Place>), Stop>>;

/// Why a job does not reach the end of its pipeline.
pub(crate) enum Stop {
    Error(Error),
    /// A stage ended it early, with what the pipeline would have given.
    Ended(Box<dyn Any + Send>),
}

type Before<In, A> = Arc<dyn Chain<In, A>>;

/// The start of every chain.
pub(crate) struct Begin;

impl<In: Send + 'static> Chain<In, In> for Begin {
    fn run<'a>(&'a self, _: &'a Job, input: In) -> Walk<'a, In> {
        Box::pin(std::future::ready(Ok((input, None))))
    }
}

/// What every stage does around its work: takes a place, tells the job and the meters, names itself in errors.
pub(crate) struct Entry {
    name: &'static str,
    places: Places,
    meter: StageMeter,
}

impl Entry {
    fn new(starter: &mut Starter, stage: &Stage) -> Self {
        let places = Places::new(stage.places());
        starter.close_later({
            let places = places.clone();
            move || places.close()
        });
        Entry { name: stage.name, places, meter: StageMeter::new(stage.name) }
    }

    /// Takes a place here, and only then gives up the one before.
    async fn enter(&self, job: &Job, before: Option<Place>) -> Result<Place, Stop> {
        let place = self.places.enter().await.map_err(|why| self.blame(why))?;
        drop(before);
        job.enter(self.name);
        self.meter.entered.increment(1);
        Ok(place)
    }

    fn span(&self) -> Span {
        debug_span!("stage", name = self.name)
    }

    fn blame(&self, why: Error) -> Stop {
        Stop::Error(why.context(format_args!("stage `{}`", self.name)))
    }

    fn leave<B>(&self, result: Result<(B, Place)>) -> Result<(B, Option<Place>), Stop> {
        let (value, place) = result.map_err(|why| self.blame(why))?;
        self.meter.left.increment(1);
        Ok((value, Some(place)))
    }
}

pub(crate) struct Io<In, A, F> {
    before: Before<In, A>,
    entry: Entry,
    f: Arc<F>,
}

impl<In, A, F> Io<In, A, F> {
    pub(crate) fn new(starter: &mut Starter, stage: &Stage, before: Before<In, A>, f: Arc<F>) -> Self {
        let entry = Entry::new(starter, stage);
        Io { before, entry, f }
    }
}

impl<In, A, B, F, Fut> Chain<In, B> for Io<In, A, F>
where
    In: Send + 'static,
    A: Send + 'static,
    B: Send + 'static,
    F: Fn(Job, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<B>> + Send,
{
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, B> {
        Box::pin(async move {
            let (value, held) = self.before.run(job, input).await?;
            let asked = Instant::now();
            let place = self.entry.enter(job, held).await?;
            let started = Instant::now();
            self.entry.meter.waited(started - asked);
            let span = self.entry.span();
            let result = (self.f)(job.clone(), value).instrument(span).await;
            self.entry.meter.ran(started.elapsed());
            self.entry.leave(result.map(|value| (value, place)))
        })
    }
}

pub(crate) struct Gate<In, A, F, End> {
    before: Before<In, A>,
    entry: Entry,
    f: Arc<F>,
    end: PhantomData<fn() -> End>,
}

impl<In, A, F, End> Gate<In, A, F, End> {
    pub(crate) fn new(starter: &mut Starter, stage: &Stage, before: Before<In, A>, f: Arc<F>) -> Self {
        let entry = Entry::new(starter, stage);
        let end = PhantomData;
        Gate { before, entry, f, end }
    }
}

impl<In, A, B, End, F, Fut> Chain<In, B> for Gate<In, A, F, End>
where
    In: Send + 'static,
    A: Send + 'static,
    B: Send + 'static,
    End: Send + 'static,
    F: Fn(Job, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<ControlFlow<End, B>>> + Send,
{
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, B> {
        Box::pin(async move {
            let (value, held) = self.before.run(job, input).await?;
            let asked = Instant::now();
            let place = self.entry.enter(job, held).await?;
            let started = Instant::now();
            self.entry.meter.waited(started - asked);
            let span = self.entry.span();
            let result = (self.f)(job.clone(), value).instrument(span).await;
            self.entry.meter.ran(started.elapsed());
            match self.entry.leave(result.map(|flow| (flow, place)))? {
                (ControlFlow::Continue(value), place) => Ok((value, place)),
                (ControlFlow::Break(end), _) => Err(Stop::Ended(Box::new(end))),
            }
        })
    }
}

pub(crate) struct CpuStage<In, A, B> {
    before: Before<In, A>,
    entry: Entry,
    pool: Cpu<A, B>,
}

impl<In, A: Send + 'static, B: Send + 'static> CpuStage<In, A, B> {
    pub(crate) fn new<F>(starter: &mut Starter, stage: &Stage, before: Before<In, A>, f: Arc<F>) -> Result<Self>
    where
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let entry = Entry::new(starter, stage);
        let super::Kind::Cpu { threads, .. } = stage.kind else {
            return Err(Error::fatal("a CPU stage was described as another kind"));
        };
        let (pool, threads) =
            Cpu::start(stage.name, threads.max(1), entry.meter.clone(), Replies::start(&starter.runtime), f)?;
        starter.close_later(pool.closer());
        starter.threads.extend(threads);
        Ok(CpuStage { before, entry, pool })
    }
}

impl<In, A, B> Chain<In, B> for CpuStage<In, A, B>
where
    In: Send + 'static,
    A: Send + 'static,
    B: Send + 'static,
{
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, B> {
        Box::pin(async move {
            let (value, held) = self.before.run(job, input).await?;
            let asked = Instant::now();
            let place = self.entry.enter(job, held).await?;
            let span = self.entry.span();
            let result = self.pool.run(job, value, place, asked, span).await;
            self.entry.leave(result)
        })
    }
}

/// A device stage in which a job is one item.
pub(crate) struct GpuOne<M: Model, In> {
    before: Before<In, M::Input>,
    entry: Entry,
    gpu: Gpu<M>,
}

impl<M: Model, In> GpuOne<M, In> {
    pub(crate) fn new(
        starter: &mut Starter,
        stage: &Stage,
        before: Before<In, M::Input>,
        load: Arc<impl Fn() -> Result<M> + Send + Sync + 'static>,
    ) -> Result<Self> {
        let entry = Entry::new(starter, stage);
        let gpu = starter.gpu(stage, entry.meter.clone(), load)?;
        Ok(GpuOne { before, entry, gpu })
    }
}

impl<M: Model, In: Send + 'static> Chain<In, M::Output> for GpuOne<M, In> {
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, M::Output> {
        Box::pin(async move {
            let (item, held) = self.before.run(job, input).await?;
            let asked = Instant::now();
            let place = self.entry.enter(job, held).await?;
            let span = self.entry.span();
            let items = vec![Some(item)];
            let result = self.gpu.run(job, items, place, asked, span).await;
            let (outputs, place) = self.entry.leave(result)?;
            let output = outputs
                .into_iter()
                .next()
                .ok_or_else(|| self.entry.blame(Error::fatal("one item went in, and none came out")))?;
            Ok((output, place))
        })
    }
}

/// A device stage in which a job is any number of items.
pub(crate) struct GpuEach<M: Model, Input> {
    before: Input,
    entry: Entry,
    gpu: Gpu<M>,
}

impl<M: Model, Input> GpuEach<M, Input> {
    pub(crate) fn new(
        starter: &mut Starter,
        stage: &Stage,
        before: Input,
        load: Arc<impl Fn() -> Result<M> + Send + Sync + 'static>,
    ) -> Result<Self> {
        let entry = Entry::new(starter, stage);
        let gpu = starter.gpu(stage, entry.meter.clone(), load)?;
        Ok(GpuEach { before, entry, gpu })
    }
}

impl<M, In, Rest> Chain<In, (Rest, Vec<M::Output>)> for GpuEach<M, Before<In, (Rest, Vec<M::Input>)>>
where
    M: Model,
    In: Send + 'static,
    Rest: Send + 'static,
{
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, (Rest, Vec<M::Output>)> {
        Box::pin(async move {
            let ((rest, items), held) = self.before.run(job, input).await?;
            let asked = Instant::now();
            let place = self.entry.enter(job, held).await?;
            let span = self.entry.span();
            let items = items.into_iter().map(Some).collect();
            let result = self.gpu.run(job, items, place, asked, span).await;
            let (outputs, place) = self.entry.leave(result)?;
            Ok(((rest, outputs), place))
        })
    }
}

/// Counts what a job holds after the stage before.
pub(crate) struct Sized<In, A, F> {
    before: Before<In, A>,
    budget: Budget,
    bytes: Arc<F>,
}

impl<In, A, F> Sized<In, A, F> {
    pub(crate) fn new(starter: &Starter, before: Before<In, A>, bytes: Arc<F>) -> Self {
        Sized { before, budget: starter.budget.clone(), bytes }
    }
}

impl<In, A, F> Chain<In, A> for Sized<In, A, F>
where
    In: Send + 'static,
    A: Send + 'static,
    F: Fn(&A) -> usize + Send + Sync,
{
    fn run<'a>(&'a self, job: &'a Job, input: In) -> Walk<'a, A> {
        Box::pin(async move {
            let (value, held) = self.before.run(job, input).await?;
            self.budget.resize(job, (self.bytes)(&value));
            Ok((value, held))
        })
    }
}
