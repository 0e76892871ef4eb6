//! One model on the device thread: takes its calls in, runs its batches, answers, and deals with their failures.
//!
//! A failed batch is run again item by item, once, so that one bad item fails alone. A panic makes the model anew.
//! What no item can be blamed for (a wrong number of outputs, a model that panics on its warm-up or on two items in
//! a row, each alone) is fatal, and ends the process after every lease was given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug_span, warn};

use super::batcher::{Batch, Batcher, Measure, Next, Origin, Request};
use super::batching::Batching;
use super::collator::{Collator, Prepared, collate};
use super::{Answers, Call, ModelInbox, Waiter};
use crate::error::{Error, Fault, Result};
use crate::job::Job;
use crate::model::{Admit, Collated, Model};
use crate::pipeline::outlook::Forecast;
use crate::pool::panic::{Failure, fence};
use crate::telemetry::{BatchMeter, StageMeter};

/// How long a model that is idle, and yet takes no more, is left before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// An engine as the device thread sees it, whatever its model.
pub(crate) trait Engine {
    /// Takes in what has come since. An error is fatal.
    fn receive(&mut self) -> Result<()>;
    /// What to do now that the device is free.
    fn next(&mut self, now: Instant) -> Next;
    /// Runs one batch and answers it; only with `ahead` may it have the next one in hand afterwards. How long the device
    /// worked; an error is fatal.
    fn run(&mut self, ahead: bool) -> Result<Duration>;
    /// It has begun something that would be lost with its model. Then [`next`](Engine::next) says [`Run`](Next::Run).
    fn in_hand(&self) -> bool;
    /// Loads the model, which is not there, and warms it up.
    fn load(&mut self) -> Result<()>;
    /// Drops the model, with nothing in hand. Whoever waits goes on waiting. An error is fatal.
    fn unload(&mut self) -> Result<()>;
    /// Its part of the device's time beside others.
    fn share(&self) -> u32;
    /// Refuses what comes and fails what waits.
    fn close(&mut self, why: &Error);
}

pub(crate) type Loader<M> = dyn Fn() -> Result<M> + Send + Sync;

/// What an engine is made of; it travels to the device thread, where [`Plan::engine`] makes the engine.
pub(crate) struct Plan<M: Model> {
    pub(crate) name: &'static str,
    pub(crate) batching: Batching,
    pub(crate) load: Arc<Loader<M>>,
    pub(crate) inbox: Arc<ModelInbox<M>>,
    pub(crate) forecast: Arc<Forecast>,
    pub(crate) meter: StageMeter,
    pub(crate) answers: Answers<M::Output>,
}

impl<M: Model> Plan<M> {
    /// The engine, without its model.
    pub(crate) fn engine(self) -> Result<Box<dyn Engine>> {
        let measure = Measure { weight: M::weight, key: M::key };
        let collator = M::COLLATES.then(|| Collator::start(self.name)).transpose()?;
        Ok(Box::new(ModelEngine {
            batcher: Batcher::new(self.batching.clone(), measure),
            batches: BatchMeter::new(self.name),
            model: None,
            collator,
            came: (0, 0),
            received: Vec::new(),
            held: Vec::new(),
            guilty: Vec::new(),
            plan: self,
        }))
    }

    fn fresh_model(&self) -> Result<M> {
        let warm = || {
            let mut model = (self.load)()?;
            model.warm_up()?;
            Ok(model)
        };
        fence(warm).map_err(|failure| {
            let name = self.name;
            failure.into_error().context(format_args!("loading the model of stage `{name}`"))
        })
    }
}

/// Drops a model to make room. If it panics, nobody knows what it still keeps, which is fatal.
pub(crate) fn drop_fenced<M>(model: Option<M>, stage: &str) -> Result<()> {
    let drop_it = || {
        drop(model);
        Ok(())
    };
    fence(drop_it).map_err(|failure| {
        let why = failure.into_error().with_fault(Fault::Fatal);
        why.context(format_args!("dropping the model of stage `{stage}`"))
    })
}

type ModelBatcher<M> = Batcher<<M as Model>::Input, <M as Model>::Output, Waiter<<M as Model>::Output>>;

type ModelCall<M> = Call<<M as Model>::Input, <M as Model>::Output>;
type ModelRequest<M> = Request<<M as Model>::Input, Waiter<<M as Model>::Output>>;

struct ModelEngine<M: Model> {
    plan: Plan<M>,
    /// `None` until it is loaded, while it is dropped for others, and after a panic until it is made anew.
    model: Option<M>,
    batcher: ModelBatcher<M>,
    collator: Option<Collator<M>>,
    batches: BatchMeter,
    /// Jobs and items that have come since the last batch.
    came: (usize, usize),
    received: Vec<(ModelCall<M>, Instant)>,
    /// Requests that the model would take later, or that wait for it to be loaded.
    held: Vec<ModelRequest<M>>,
    /// Jobs whose items panicked alone, since an item last passed.
    guilty: Vec<String>,
}

impl<M: Model> Engine for ModelEngine<M> {
    fn receive(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().try_for_each(|request| self.admit(request))?;
        let mut received = std::mem::take(&mut self.received);
        self.plan.inbox.drain(&mut received);
        received.drain(..).try_for_each(|(call, arrived)| {
            let request = call.into_request(arrived, self.plan.inbox.place());
            self.admit(request)
        })?;
        self.received = received;
        Ok(())
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.collator.as_ref().is_some_and(Collator::holds) {
            return Next::Run;
        }
        if self.model.is_none() {
            self.batcher.drop_gone(&Waiter::is_gone);
            // It is loaded before anything is worth waiting for.
            let idle = self.batcher.waiting() == 0 && self.held.is_empty();
            return if idle { Next::Empty } else { Next::Run };
        }
        match self.batcher.next(now) {
            Next::Empty if !self.held.is_empty() => Next::Ask(now + ASK_AGAIN),
            next => next,
        }
    }

    fn run(&mut self, ahead: bool) -> Result<Duration> {
        let Some((batch, collated)) = self.take_batch()? else {
            return Ok(Duration::ZERO);
        };
        if ahead {
            self.prepare_next()?;
        }
        let started = Instant::now();
        self.batcher.started(started, batch.inputs.len());
        let (jobs, items) = std::mem::take(&mut self.came);
        self.plan.forecast.batch_started(started, jobs, items);
        let span = debug_span!("batch", stage = self.plan.name, items = batch.inputs.len());
        if !span.is_disabled() {
            for waiter in self.batcher.replies(&batch.origins) {
                span.follows_from(&waiter.caller.span);
            }
        }
        let entered = span.enter();
        // Until every item has its answer, those that are run alone too.
        let jobs = self.batcher.replies(&batch.origins).map(|waiter| &waiter.caller.job);
        let _at_work: Vec<_> = jobs.filter_map(Job::at_work).collect();
        let outputs = self.infer(&batch.inputs, collated);
        let ended = Instant::now();
        let took = ended - started;
        self.batcher.ended(ended);
        self.plan.forecast.batch_ended(took);
        self.batches.ran(batch.inputs.len(), batch.fill, took);
        match outputs {
            Ok(outputs) => self.answer(ended, batch.origins.iter().copied().zip(outputs)),
            Err(why) => self.run_alone(&batch, why)?,
        }
        drop(entered);
        Ok(started.elapsed())
    }

    fn in_hand(&self) -> bool {
        self.collator.as_ref().is_some_and(Collator::holds)
    }

    fn load(&mut self) -> Result<()> {
        self.model = Some(self.plan.fresh_model()?);
        Ok(())
    }

    fn unload(&mut self) -> Result<()> {
        let model = self.model.take();
        drop_fenced(model, self.plan.name)
    }

    fn share(&self) -> u32 {
        self.plan.batching.share
    }

    fn close(&mut self, why: &Error) {
        self.plan.inbox.close(why.clone());
        let held = std::mem::take(&mut self.held);
        let waiters = held.into_iter().map(|request| request.reply);
        for waiter in waiters.chain(self.batcher.fail_all()) {
            waiter.fail(why.clone(), &self.plan.answers);
        }
    }
}

impl<M: Model> Drop for ModelEngine<M> {
    /// However the device thread ends, nobody may wait for it.
    fn drop(&mut self) {
        let name = self.plan.name;
        self.close(&Error::fatal(format_args!("the device thread of stage `{name}` has ended")));
    }
}

impl<M: Model> ModelEngine<M> {
    fn admit(&mut self, request: ModelRequest<M>) -> Result<()> {
        if request.reply.is_gone() {
            return Ok(());
        }
        if self.model.is_none() {
            self.held.push(request);
            return Ok(());
        }
        for item in request.items.iter().flatten() {
            let Some(model) = &mut self.model else {
                return Err(self.gone());
            };
            // Weight and key are asked for again, unfenced, when batches are cut: a panic would show here first.
            let asked = fence(|| {
                let _ = (M::weight(item), M::key(item));
                Ok(model.admit(item))
            });
            match asked {
                Ok(Admit::Now) => {}
                Ok(Admit::Later) => {
                    self.held.push(request);
                    return Ok(());
                }
                Ok(Admit::Never(why)) => {
                    request.reply.fail(why, &self.plan.answers);
                    return Ok(());
                }
                Err(failure) => {
                    if matches!(failure, Failure::Panic(_)) {
                        self.model = None;
                    }
                    let why = self.survive(failure)?;
                    request.reply.fail(why, &self.plan.answers);
                    return Ok(());
                }
            }
        }
        self.came.0 += 1;
        self.came.1 += request.items.len();
        self.batcher.push(request);
        Ok(())
    }

    /// The batch that was prepared while the last one ran, or else a new one.
    fn take_batch(&mut self) -> Result<Option<Prepared<M>>> {
        if let Some(collator) = &mut self.collator
            && collator.holds()
        {
            return collator.finish().map(Some);
        }
        let Some(batch) = self.batcher.cut(Instant::now(), Waiter::is_gone) else {
            return Ok(None);
        };
        let collated = match M::COLLATES {
            true => collate::<M>(&batch.inputs),
            false => Ok(Collated::nothing()),
        };
        Ok(Some((batch, collated)))
    }

    /// Has the next batch prepared meanwhile, if what waits fills one. A batch that is not full stays open to what
    /// comes while this one runs.
    fn prepare_next(&mut self) -> Result<()> {
        let Some(collator) = &mut self.collator else {
            return Ok(());
        };
        if !self.batcher.is_full() {
            return Ok(());
        }
        match self.batcher.cut(Instant::now(), Waiter::is_gone) {
            Some(batch) => collator.begin(batch),
            None => Ok(()),
        }
    }

    fn infer(&mut self, inputs: &[M::Input], collated: Result<Collated>) -> Result<Vec<M::Output>, Failure> {
        let collated = collated.map_err(Failure::Error)?;
        self.fenced(inputs, |model| model.infer_collated(inputs, collated))
    }

    /// Runs the model behind the fence and checks the number of outputs. After a panic the model is gone.
    fn fenced(
        &mut self,
        inputs: &[M::Input],
        run: impl FnOnce(&mut M) -> Result<Vec<M::Output>>,
    ) -> Result<Vec<M::Output>, Failure> {
        let name = self.plan.name;
        let Some(model) = &mut self.model else {
            return Err(Failure::Error(self.gone()));
        };
        match fence(|| run(model)) {
            Ok(outputs) if outputs.len() == inputs.len() => {
                self.guilty.clear();
                Ok(outputs)
            }
            Ok(outputs) => Err(Failure::Error(Error::fatal(format_args!(
                "the model of stage `{name}` gave {} outputs for {} inputs",
                outputs.len(),
                inputs.len()
            )))),
            Err(Failure::Panic(why)) => {
                self.model = None;
                Err(Failure::Panic(why))
            }
            Err(failure) => Err(failure),
        }
    }

    fn gone(&self) -> Error {
        Error::fatal(format_args!("the model of stage `{}` is gone", self.plan.name))
    }

    fn answer(&mut self, ended: Instant, outputs: impl Iterator<Item = (Origin, M::Output)>) {
        for (origin, output) in outputs {
            let Some(done) = self.batcher.complete(origin, output) else {
                continue;
            };
            let caller = &done.reply.caller;
            let waited = done.started.saturating_duration_since(caller.since);
            self.plan.meter.ran(&caller.job, waited, ended - done.started);
            done.reply.done(done.outputs, ended, &self.plan.answers);
        }
    }

    /// After a batch failed: each item once more, alone, so that each gets the answer that is its own. An item that
    /// was alone has had it.
    fn run_alone(&mut self, batch: &Batch<M::Input>, failure: Failure) -> Result<()> {
        if batch.inputs.len() == 1 {
            return self.blame(batch.origins[0], failure).and_then(|()| self.check_model());
        }
        let why = self.survive(failure)?;
        warn!(stage = self.plan.name, items = batch.inputs.len(), error = %why, "batch failed, running its items alone");
        for (input, &origin) in batch.inputs.iter().zip(&batch.origins) {
            // The rest of a job that has failed is not run: many bad items of one job are one job's fault.
            if !self.batcher.wants(origin) {
                continue;
            }
            let alone = std::slice::from_ref(input);
            match self.fenced(alone, |model| model.infer(alone)) {
                Ok(outputs) => self.answer(Instant::now(), outputs.into_iter().map(|output| (origin, output))),
                Err(failure) => self.blame(origin, failure)?,
            }
        }
        self.check_model()
    }

    /// Fails the item that failed alone.
    fn blame(&mut self, origin: Origin, failure: Failure) -> Result<()> {
        let panicked = matches!(failure, Failure::Panic(_));
        let why = self.survive(failure)?;
        if let Some(waiter) = self.batcher.fail(origin) {
            let job = &waiter.caller.job;
            let again = job.attempt() > 1 && self.guilty.iter().any(|id| id == job.id());
            if panicked && !again {
                self.guilty.push(job.id().to_owned());
            }
            waiter.fail(why, &self.plan.answers);
        }
        Ok(())
    }

    /// The error of a failure that is not fatal; after a panic there is a new model.
    fn survive(&mut self, failure: Failure) -> Result<Error> {
        match failure {
            Failure::Error(why) if why.fault() == Fault::Fatal => Err(why),
            Failure::Error(why) => Ok(why),
            Failure::Panic(why) => {
                warn!(stage = self.plan.name, error = %why, "model panicked, loading it again");
                let model = self.plan.fresh_model();
                self.model = Some(model.map_err(|again| again.with_fault(Fault::Fatal))?);
                Ok(why)
            }
        }
    }

    /// Items of two jobs that panicked alone, with none that passed between them: the model is to blame. One job that
    /// is delivered again and again is not two.
    fn check_model(&self) -> Result<()> {
        if self.guilty.len() < 2 {
            return Ok(());
        }
        let name = self.plan.name;
        Err(Error::fatal(format_args!(
            "the model of stage `{name}` panicked on {} jobs in a row, each alone and freshly loaded",
            self.guilty.len()
        )))
    }
}
