//! From a description to running pools: threads started, models loaded and warm.
//!
//! Several pipelines may start together, and then share one thread per device. What has started is stopped again
//! when it is dropped; [`Pools::join`] waits for its threads as well.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::runtime::Handle;

use super::outlook::Outlook;
use super::{Arrival, Budget, Handover, Kind, Pipeline, Rest, Stage, Step};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::engine::Plan;
use crate::gpu::inbox::Inbox;
use crate::gpu::memory;
use crate::gpu::residents::Newcomer;
use crate::gpu::steps::{self, GpuOfSteps};
use crate::gpu::thread::{self, Device};
use crate::job::Job;
use crate::model::Model;
use crate::pool::panic::panicked;
use crate::pool::replies::Replies;
use crate::stepper::Stepper;
use crate::telemetry::StageMeter;

/// What is gathered while pipelines are built: their pools, and the devices with the models they will load.
pub(crate) struct Starter {
    /// Every stage's name, and which it is in the order of the descriptions.
    names: HashMap<&'static str, usize>,
    devices: BTreeMap<usize, Device>,
    closers: Vec<Box<dyn FnOnce() + Send + Sync>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) budget: Budget,
    /// Bytes that the models of one device may keep on it together.
    pub(crate) device_memory: Option<u64>,
    /// Of the pipeline that is being built.
    pub(crate) outlook: Outlook,
    /// Where the jobs will run.
    pub(crate) runtime: Handle,
    /// Where stages of threads tell that a job is at the end of a run of them.
    pub(crate) arrivals: Replies<Arrival>,
}

impl Starter {
    /// To be called on the runtime where the jobs will run.
    pub(crate) fn new() -> Self {
        let runtime = Handle::current();
        Starter {
            arrivals: Replies::start(&runtime),
            names: HashMap::new(),
            devices: BTreeMap::new(),
            closers: Vec::new(),
            threads: Vec::new(),
            budget: Budget::new(None),
            device_memory: None,
            outlook: Outlook::default(),
            runtime,
        }
    }

    /// Names are metric labels, spans and thread names, so each may be had once.
    pub(crate) fn claim(&mut self, name: &'static str) -> Result<()> {
        let order = self.names.len();
        if self.names.insert(name, order).is_none() {
            return Ok(());
        }
        Err(Error::invalid(format_args!("two stages are named `{name}`; a stage's name must be its own")))
    }

    pub(crate) fn close_later(&mut self, close: impl FnOnce() + Send + Sync + 'static) {
        self.closers.push(Box::new(close));
    }

    /// The way to a model that the stage's device will load.
    pub(crate) fn gpu<M: Model>(
        &mut self,
        stage: &Stage,
        meter: StageMeter,
        load: Arc<impl Fn() -> Result<M> + Send + Sync + 'static>,
    ) -> Result<Gpu<M::Input, M::Output>> {
        let Kind::Gpu { batching, .. } = &stage.kind else {
            return Err(Error::fatal("a device stage was described as another kind"));
        };
        let number = batching.device;
        let device = self.devices.entry(number).or_insert_with(|| Device::new(number));
        let inbox = Arc::new(Inbox::new(stage.places(), meter.clone(), device.waker.clone()));
        let plan = Plan {
            name: stage.name,
            batching: batching.clone(),
            load,
            inbox: inbox.clone(),
            forecast: self.outlook.add_device(batching.items),
            meter,
            answers: Replies::start(&self.runtime),
        };
        let make = Box::new(move || plan.engine());
        device.models.push(Newcomer { stage: stage.name, bytes: batching.memory, make });
        Ok(Gpu { inbox })
    }

    /// The way to a stepper that the stage's device will load.
    pub(crate) fn steps<S: Stepper>(
        &mut self,
        stage: &Stage,
        meter: StageMeter,
        load: Arc<impl Fn() -> Result<S> + Send + Sync + 'static>,
    ) -> Result<GpuOfSteps<S>> {
        let Kind::Steps { stepping } = &stage.kind else {
            return Err(Error::fatal("a stage of steps was described as another kind"));
        };
        let number = stepping.device;
        let device = self.devices.entry(number).or_insert_with(|| Device::new(number));
        // Whoever comes has a seat already, so nobody waits here for a place.
        let inbox = Arc::new(Inbox::new(stage.places(), meter.clone(), device.waker.clone()));
        self.outlook.add_pool(meter.pace(), stage.places());
        let plan = steps::Plan {
            name: stage.name,
            jobs: stepping.jobs,
            share: stepping.share,
            load,
            inbox: inbox.clone(),
            meter,
            answers: Replies::start(&self.runtime),
        };
        let make = Box::new(move || plan.engine());
        device.models.push(Newcomer { stage: stage.name, bytes: stepping.memory, make });
        Ok(Gpu { inbox })
    }

    /// Tells a device what its models may keep, and puts them in the order in which they are described.
    fn budget_of(&self, device: &mut Device) -> Result<()> {
        device.budget = self.device_memory;
        device.models.sort_by_key(|model| self.names.get(model.stage));
        let check = |model: &Newcomer| memory::check(model.stage, model.bytes, device.number, device.budget);
        device.models.iter().try_for_each(check)
    }

    /// Starts the device threads and waits until their models are warm.
    pub(crate) async fn finish(mut self) -> Result<Pools> {
        let mut devices = std::mem::take(&mut self.devices);
        devices.values_mut().try_for_each(|device| self.budget_of(device))?;
        let mut pools = Pools {
            closers: std::mem::take(&mut self.closers),
            devices: Vec::new(),
            threads: std::mem::take(&mut self.threads),
        };
        let mut loading = Vec::new();
        for device in devices.into_values() {
            let (running, ready) = device.start()?;
            pools.devices.push(running);
            loading.push(ready);
        }
        for ready in loading {
            let ended = |_| Error::fatal("a device thread ended while it loaded its models");
            ready.await.map_err(ended)??;
        }
        Ok(pools)
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.closers.drain(..).for_each(|close| close());
    }
}

/// All threads of the pipelines that started together. Dropped, it tells them to end and does not wait.
pub(crate) struct Pools {
    closers: Vec<Box<dyn FnOnce() + Send + Sync>>,
    devices: Vec<thread::Running>,
    threads: Vec<JoinHandle<()>>,
}

impl Pools {
    /// Tells the threads to end and waits for them. Blocks; a thread stuck in user code blocks it for ever.
    pub(crate) fn join(mut self) {
        let mut threads = std::mem::take(&mut self.threads);
        threads.extend(self.devices.iter_mut().filter_map(|device| device.thread.take()));
        drop(self);
        for thread in threads {
            // A panic of the framework's own has been printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.closers.drain(..).for_each(|close| close());
        self.devices.clear();
    }
}

/// A pipeline that runs, for calling it without a worker. Dropped, it stops.
pub struct Running<In, Out> {
    walker: Walker<In, Out>,
    pools: Option<Pools>,
}

/// Walks jobs through one pipeline.
pub(crate) struct Walker<In, Out> {
    stages: Arc<dyn Rest<In>>,
    pub(crate) budget: Budget,
    pub(crate) outlook: Outlook,
    out: PhantomData<fn() -> Out>,
}

impl<In: Send + 'static, Out: Send + 'static> Walker<In, Out> {
    pub(crate) fn build(starter: &mut Starter, pipeline: &Pipeline<In, Out>) -> Result<Self> {
        starter.outlook = Outlook::default();
        let stages = pipeline.build(starter)?;
        let (budget, outlook) = (starter.budget.clone(), starter.outlook.clone());
        Ok(Walker { stages, budget, outlook, out: PhantomData })
    }

    /// Walks a job that comes with `bytes` bytes from start to end. A panic of user code is the job's failure.
    pub(crate) async fn walk(&self, job: &Job, input: In, bytes: usize) -> Result<Out> {
        let _held = self.budget.enter(job, bytes).await;
        let walk = AssertUnwindSafe(self.stages_of(job, input)).catch_unwind();
        let unless_ended = CancelOnDrop(Some(job));
        let walked = walk.await;
        unless_ended.disarm();
        match walked {
            Ok(end) => match end?.downcast() {
                Ok(output) => Ok(*output),
                Err(_) => Err(Error::fatal("a job ended with another type than the pipeline's")),
            },
            Err(payload) => Err(panicked(&*payload).context(format_args!("stage `{}`", job.stage()))),
        }
    }

    async fn stages_of(&self, job: &Job, input: In) -> Result<Box<dyn Any + Send>> {
        let from = Handover { value: input, place: None, since: Instant::now() };
        let mut step = self.stages.run(job.clone(), from);
        loop {
            step = match step {
                Step::Stage(stage) => stage.await?,
                Step::Awaited(end) => end.of(job).await?,
                Step::End(output, _place) => return Ok(output),
            };
        }
    }
}

/// Tells a job's stages to stop if its walk is dropped before its end.
struct CancelOnDrop<'a>(Option<&'a Job>);

impl CancelOnDrop<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(job) = self.0 {
            job.cancel();
        }
    }
}

pub(super) async fn start<In: Send + 'static, Out: Send + 'static>(
    pipeline: &Pipeline<In, Out>,
) -> Result<Running<In, Out>> {
    let mut starter = Starter::new();
    let walker = Walker::build(&mut starter, pipeline)?;
    let pools = starter.finish().await?;
    Ok(Running { walker, pools: Some(pools) })
}

impl<In: Send + 'static, Out: Send + 'static> Running<In, Out> {
    /// Runs one job, named `call`, through the pipeline.
    ///
    /// # Errors
    /// What a stage said, with the stage's name before it.
    pub async fn call(&self, input: In) -> Result<Out> {
        self.call_as(&Job::new("call"), input).await
    }

    /// Runs one job through the pipeline under a job of the caller's own.
    pub async fn call_as(&self, job: &Job, input: In) -> Result<Out> {
        self.walker.walk(job, input, 0).await
    }

    /// When new work would be finished.
    pub fn outlook(&self) -> Outlook {
        self.walker.outlook.clone()
    }

    /// Bytes that the jobs inside hold, as far as [`Pipeline::sized`] says.
    pub fn held_bytes(&self) -> usize {
        self.walker.budget.held()
    }

    /// Ends the threads and waits for them; calls still inside get an error. Blocks: not from async code.
    pub fn stop(mut self) {
        if let Some(pools) = self.pools.take() {
            pools.join();
        }
    }
}
