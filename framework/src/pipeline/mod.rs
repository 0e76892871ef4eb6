//! The description of a pipeline: which stages a job walks through, from what it starts as to what it has become.
//!
//! A description is pure: it opens nothing and starts nothing. [`Pipeline::start`] starts its threads and loads its
//! models. Its two type parameters are both the user's own; everything between is erased stage by stage.

mod budget;
mod options;
pub(crate) mod outlook;
mod reply;
mod stage;
mod start;
mod steps;

use std::any::{TypeId, type_name};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::batching::Batching;
use crate::gpu::stepping::Stepping;
use crate::job::Job;
use crate::model::Model;
use crate::stepper::Stepper;

pub(crate) use budget::Budget;
pub(crate) use options::apply as apply_options;
pub(crate) use reply::{Arrival, Reply, called_off, dropped};
pub(crate) use stage::{End, Handover, Label, Next, Rest, Step};
pub use start::Running;
pub(crate) use start::{Pools, Starter, Walker};

/// A pipeline that turns an `In` into an `Out`, stage by stage.
///
/// ```
/// use forebay::{Batching, Job, Pipeline, Result};
/// # use forebay::Model;
/// # struct Vowels;
/// # impl Model for Vowels {
/// #     type Input = String;
/// #     type Output = usize;
/// #     fn infer(&mut self, texts: &[String]) -> Result<Vec<usize>> {
/// #         Ok(texts.iter().map(|t| t.chars().filter(|c| "aeiou".contains(*c)).count()).collect())
/// #     }
/// # }
/// async fn fetch(_job: Job, name: String) -> Result<String> {
///     Ok(format!("a text about {name}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let pipeline = Pipeline::new()
///     .io("fetch", 16, fetch)
///     .cpu("words", 2, |_, text: String| Ok(((), text.split(' ').map(str::to_owned).collect())))
///     .gpu_each("vowels", Batching::items(32), || Ok(Vowels))
///     .cpu("sum", 1, |_, (_, counts): ((), Vec<usize>)| Ok(counts.iter().sum::<usize>()));
/// assert_eq!(pipeline.to_string(), "fetch[io 16] -> words[cpu 2] -> vowels[gpu each 32 items] -> sum[cpu 1]");
///
/// let running = pipeline.start().await?;
/// assert_eq!(running.call("fish".to_owned()).await?, 6);
/// # Ok::<(), forebay::Error>(()) }).unwrap();
/// ```
pub struct Pipeline<In, Out> {
    pub(crate) stages: Vec<Stage>,
    /// Types of the results with which stages may end a job early; they must all be the pipeline's own.
    ends: Vec<(&'static str, TypeId, &'static str)>,
    /// Puts the stages in front of what comes after them.
    build: Arc<BuildFn<In, Out>>,
    pub(crate) budget: Option<usize>,
}

type BuildFn<In, Out> = dyn Fn(&mut Starter, &[Stage], Arc<dyn Rest<Out>>) -> Result<Arc<dyn Rest<In>>> + Send + Sync;

/// Places in front of a CPU stage, unless set. Waking a thread or a task takes tens of microseconds; with fewer places
/// a stage of very short jobs stands still between wake-ups (`before.places=33` in the bench `hop` shows it).
const CPU_PLACES: usize = 128;

/// One stage's name and size.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Io { limit: usize },
    Cpu { threads: usize, places: Option<usize> },
    Gpu { batching: Batching, each: bool },
    Steps { stepping: Stepping },
}

impl Stage {
    /// How many jobs may be in it or wait in front of it.
    pub(crate) fn places(&self) -> usize {
        match &self.kind {
            Kind::Io { limit } => *limit,
            Kind::Cpu { threads, places } => places.unwrap_or(threads + (2 * threads).max(CPU_PLACES)),
            Kind::Gpu { batching, .. } => batching.place_count(),
            Kind::Steps { stepping } => stepping.jobs,
        }
    }
}

impl<In: Send + 'static> Pipeline<In, In> {
    /// A pipeline without stages, to which they are added.
    #[allow(clippy::new_without_default, reason = "an empty pipeline is a beginning, not a default")]
    pub fn new() -> Self {
        Pipeline { stages: Vec::new(), ends: Vec::new(), build: Arc::new(|_, _, rest| Ok(rest)), budget: None }
    }
}

impl<In: Send + 'static, A: Send + 'static> Pipeline<In, A> {
    /// An async stage: up to `limit` jobs at once are in `f`, on the runtime that started the pipeline.
    ///
    /// A job that is cancelled is dropped at its next `await`.
    pub fn io<B, F, Fut>(self, name: &'static str, limit: usize, f: F) -> Pipeline<In, B>
    where
        B: Send + 'static,
        F: Fn(Job, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<B>> + Send + 'static,
    {
        self.io_or_end(name, limit, move |job, value| {
            let work = f(job, value);
            async move { Ok(ControlFlow::<Infallible, B>::Continue(work.await?)) }
        })
    }

    /// An async stage that may end a job early, such as a look into a cache: `Break(result)` is what the whole
    /// pipeline gives for the job, `Continue(value)` goes on to the next stage.
    ///
    /// `End` must be what the pipeline ends with; starting it says so if it is not.
    pub fn gate<B, End, F, Fut>(self, name: &'static str, limit: usize, f: F) -> Pipeline<In, B>
    where
        B: Send + 'static,
        End: Send + 'static,
        F: Fn(Job, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ControlFlow<End, B>>> + Send + 'static,
    {
        let mut pipeline = self.io_or_end(name, limit, f);
        let end = (name, TypeId::of::<End>(), type_name::<End>());
        pipeline.ends.push(end);
        pipeline
    }

    /// A CPU stage: `threads` threads of its own run `f`.
    pub fn cpu<B, F>(self, name: &'static str, threads: usize, f: F) -> Pipeline<In, B>
    where
        B: Send + 'static,
        F: Fn(&Job, A) -> Result<B> + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let kind = Kind::Cpu { threads: threads.max(1), places: None };
        self.then(name, kind, move |starter, stage, next| {
            Ok(Arc::new(stage::CpuStage::new(starter, stage, next, f.clone())?))
        })
    }

    /// A device stage: each job is one item, batched with other jobs' items. `load` runs on the device thread: at
    /// the start, again after a panic, and after the model was dropped for others ([`Batching::memory`]).
    pub fn gpu<M, L>(self, name: &'static str, batching: Batching, load: L) -> Pipeline<In, M::Output>
    where
        M: Model<Input = A>,
        L: Fn() -> Result<M> + Send + Sync + 'static,
    {
        let load = Arc::new(load);
        let kind = Kind::Gpu { batching, each: false };
        self.then(name, kind, move |starter, stage, next| {
            Ok(Arc::new(stage::GpuOne::<M>::new(starter, stage, next, load.clone())?))
        })
    }

    /// A device stage that works in steps: each job is a state, and up to so many jobs' states are advanced together,
    /// until each is done. `load` runs on the device thread, when that of [`gpu`](Pipeline::gpu) does.
    pub fn gpu_steps<S, L>(self, name: &'static str, stepping: Stepping, load: L) -> Pipeline<In, S::Output>
    where
        S: Stepper<Spec = A>,
        L: Fn() -> Result<S> + Send + Sync + 'static,
    {
        let load = Arc::new(load);
        let saving = stepping.saving.clone();
        self.then(name, Kind::Steps { stepping }, move |starter, stage, next| {
            Ok(Arc::new(steps::GpuSteps::<S>::new(starter, stage, next, load.clone(), saving.clone())?))
        })
    }

    /// Says how many bytes the value that has come out of the stage before holds, so that the pipeline's
    /// [`budget`](Pipeline::budget) can count it. It replaces what the job was counted with before. Whoever is done with the
    /// stage before asks, which may be one thread for all jobs: to look at a length is fine, to walk through it is not.
    pub fn sized(self, bytes: impl Fn(&A) -> usize + Send + Sync + 'static) -> Self {
        let bytes = Arc::new(bytes);
        let build = self.build;
        Pipeline {
            build: Arc::new(move |starter, stages, next| {
                let sized = stage::Sized::new(starter, next, bytes.clone());
                build(starter, stages, Arc::new(sized))
            }),
            stages: self.stages,
            ends: self.ends,
            budget: self.budget,
        }
    }

    /// Bounds what the jobs inside hold together, in bytes: the payload that a job came with, then what
    /// [`sized`](Pipeline::sized) says of its stages' values.
    ///
    /// A new job waits at the door while what is held and the largest that a job has lately grown to do not fit;
    /// inside nobody waits for bytes, so there is no deadlock, and one job alone always gets in.
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// Changes the size of stages by name, as in `fetch.limit=32 embed.items=16`: from a setting, without a new
    /// build. Options: `limit` (io), `threads` and `places` (cpu), `items`, `weight` and `places` (gpu), `jobs` (gpu steps).
    pub fn configure(mut self, options: &str) -> Result<Self> {
        apply_options(&mut self.stages.iter_mut().collect::<Vec<_>>(), options)?;
        Ok(self)
    }

    /// Loads and warms up the models and starts the threads. Answers when the pipeline is ready for its first job.
    ///
    /// # Errors
    /// Two stages of one name, a stage that ends jobs with another type than the pipeline's, or what a model's
    /// loader said; in each case everything that had started is stopped again.
    pub async fn start(&self) -> Result<Running<In, A>> {
        start::start(self).await
    }

    pub(crate) fn build(&self, starter: &mut Starter) -> Result<Arc<dyn Rest<In>>> {
        for (stage, id, name) in &self.ends {
            if *id != TypeId::of::<A>() {
                return Err(Error::invalid(format_args!(
                    "stage `{stage}` ends jobs with a `{name}`, but the pipeline ends with a `{}`",
                    type_name::<A>()
                )));
            }
        }
        self.stages.iter().try_for_each(|stage| starter.claim(stage.name))?;
        starter.budget = Budget::new(self.budget);
        (self.build)(starter, &self.stages, Arc::new(End))
    }

    /// How many jobs the stages can hold together.
    pub(crate) fn places(&self) -> usize {
        self.stages.iter().map(Stage::places).fold(0, usize::saturating_add).max(1)
    }

    fn io_or_end<B, Early, F, Fut>(self, name: &'static str, limit: usize, f: F) -> Pipeline<In, B>
    where
        B: Send + 'static,
        Early: Send + 'static,
        F: Fn(Job, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ControlFlow<Early, B>>> + Send + 'static,
    {
        let f = Arc::new(f);
        self.then(name, Kind::Io { limit: limit.max(1) }, move |starter, stage, next| {
            Ok(Arc::new(stage::Io::new(starter, stage, next, f.clone())))
        })
    }

    fn then<B: Send + 'static>(
        self,
        name: &'static str,
        kind: Kind,
        make: impl Fn(&mut Starter, &Stage, Arc<dyn Rest<B>>) -> Result<Arc<dyn Rest<A>>> + Send + Sync + 'static,
    ) -> Pipeline<In, B> {
        let index = self.stages.len();
        let build = self.build;
        let mut stages = self.stages;
        stages.push(Stage { name, kind });
        Pipeline {
            stages,
            ends: self.ends,
            budget: self.budget,
            build: Arc::new(move |starter, stages, next| {
                let rest = make(starter, &stages[index], next)?;
                build(starter, stages, rest)
            }),
        }
    }
}

impl<In: Send + 'static, R: Send + 'static, I: Send + 'static> Pipeline<In, (R, Vec<I>)> {
    /// A device stage that scatters and gathers: each job's items are batched with other jobs' items, and come back
    /// together in their order, beside the rest of the job. No items are legal.
    pub fn gpu_each<M, L>(self, name: &'static str, batching: Batching, load: L) -> Pipeline<In, (R, Vec<M::Output>)>
    where
        M: Model<Input = I>,
        L: Fn() -> Result<M> + Send + Sync + 'static,
    {
        let load = Arc::new(load);
        let kind = Kind::Gpu { batching, each: true };
        self.then(name, kind, move |starter, stage, next| {
            Ok(Arc::new(stage::GpuEach::<M, R>::new(starter, stage, next, load.clone())?))
        })
    }
}

impl<In, Out> fmt::Display for Pipeline<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let arrow = if index > 0 { " -> " } else { "" };
            write!(f, "{arrow}{stage}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Io { limit } => write!(f, "{}[io {limit}]", self.name),
            Kind::Cpu { threads, .. } => write!(f, "{}[cpu {threads}]", self.name),
            Kind::Gpu { batching, each } => {
                let each = if *each { "each " } else { "" };
                write!(f, "{}[gpu {each}{batching}]", self.name)
            }
            Kind::Steps { stepping } => write!(f, "{}[gpu steps of {stepping}]", self.name),
        }
    }
}

impl<In, Out> fmt::Debug for Pipeline<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({self})")
    }
}
