//! One turn of a model on its device: a batch is cut, prepared and begun, and what comes back is answered.
//!
//! A model that [launches](Model::LAUNCHES) has its next batch launched before the outputs of the one before are fetched,
//! if what waits fills it: one ahead, never more. Outputs are fetched in the order of the launches. Other models have no
//! launch: their batches begin and end in one call. What becomes of failures is not decided here.

use std::time::{Duration, Instant};

use tracing::{Span, debug_span};

use super::ModelEngine;
use crate::error::{Error, Result};
use crate::gpu::Waiter;
use crate::gpu::batcher::{Batch, Origin};
use crate::gpu::collator::{Collator, Prepared, collate};
use crate::job::{AtWork, Job};
use crate::model::{Collated, Launched, Model};
use crate::pool::panic::{Failure, fence};

/// How long the next batch's preparation is waited for at least, however soon the one on the device should be done.
const LEAST_WAIT: Duration = Duration::from_millis(2);

/// A batch from when it is begun until its outputs are there.
pub(super) struct Flight<M: Model> {
    pub(super) batch: Batch<M::Input>,
    begun: Begun,
    /// Since when nothing was before it on the device.
    started: Instant,
    /// Another batch of this model was on the device with it.
    shared: bool,
    span: Span,
    /// Until every item has its answer, those that are run alone too.
    at_work: Vec<AtWork>,
}

impl<M: Model> Flight<M> {
    /// The batch, and what its model has begun with it.
    pub(super) fn split(self) -> (Batch<M::Input>, impl Sized) {
        (self.batch, (self.begun, self.at_work))
    }
}

enum Begun {
    /// By a model that does not launch: it runs when its outputs are fetched.
    Prepared(Result<Collated>),
    Launched(Launched),
}

impl<M: Model> ModelEngine<M> {
    /// Begins a batch, unless one was launched ahead; launches the next one ahead, if it may; answers the first.
    pub(super) fn take_turn(&mut self, ahead: bool) -> Result<()> {
        if self.flights.is_empty() {
            self.begin_batch(ahead)?;
        }
        if ahead && self.may_launch_ahead() {
            self.begin_batch(ahead)?;
        }
        match self.flights.pop_front() {
            Some(flight) => self.land(flight),
            None => Ok(()),
        }
    }

    /// How long the device was busy since this was last asked: at least one batch of this model was on it. That is from
    /// when one is begun with none before it, to the end of the turn in which the last one is answered; the runs that its
    /// failure asks for at once belong to it. No moment is told twice, however many batches share it.
    pub(super) fn lap(&mut self) -> Duration {
        let Some(since) = self.busy_since.take() else {
            return Duration::ZERO;
        };
        let now = Instant::now();
        if !self.flights.is_empty() {
            self.busy_since = Some(now);
        }
        now - since
    }

    /// A batch that is not full stays open to what comes while the one before runs. Halves are not launched ahead: they
    /// are there because memory is short.
    fn may_launch_ahead(&self) -> bool {
        let full = || self.batcher.is_full() || self.collator.as_ref().is_some_and(Collator::holds);
        M::LAUNCHES && self.flights.len() == 1 && self.alone_for == 0 && self.again.is_empty() && full()
    }

    fn begin_batch(&mut self, ahead: bool) -> Result<()> {
        if self.flights.is_empty() {
            // What was on the device when its model was lost is not there since.
            self.busy_since = None;
        }
        let Some((batch, collated)) = self.take_batch()? else {
            return Ok(());
        };
        if ahead {
            self.prepare_next()?;
        }
        let now = Instant::now();
        self.busy_since.get_or_insert(now);
        let span = self.span_of(&batch);
        let jobs = self.batcher.replies(&batch.origins).map(|waiter| &waiter.caller.job);
        let at_work: Vec<_> = jobs.filter_map(Job::at_work).collect();
        let shared = !self.flights.is_empty();
        let begun = span.in_scope(|| self.begin(&batch.inputs, collated));
        let begun = match begun {
            Ok(begun) => begun,
            Err(failure) => return span.in_scope(|| self.recover(batch, failure, shared)),
        };
        self.flights.iter_mut().for_each(|before| before.shared = true);
        self.flights.push_back(Flight { batch, begun, started: now, shared, span, at_work });
        if !shared {
            self.started(now);
        }
        Ok(())
    }

    fn begin(&mut self, inputs: &[M::Input], collated: Result<Collated>) -> Result<Begun, Failure> {
        if !M::LAUNCHES {
            return Ok(Begun::Prepared(collated));
        }
        let collated = collated.map_err(Failure::Error)?;
        self.fenced(|model| model.launch(inputs, collated)).map(Begun::Launched)
    }

    /// The first of those that were begun has nothing before it on the device any more.
    fn started(&mut self, now: Instant) {
        let Some(flight) = self.flights.front_mut() else {
            return;
        };
        flight.started = now;
        self.batcher.started(now, flight.batch.inputs.len());
        let (jobs, items) = std::mem::take(&mut self.came);
        self.plan.forecast.batch_started(now, jobs, items);
    }

    /// Fetches a batch's outputs and answers it.
    pub(super) fn land(&mut self, flight: Flight<M>) -> Result<()> {
        let Flight { batch, begun, started, shared, span, at_work: _at_work } = flight;
        let _entered = span.enter();
        let outputs = self.fetch(&batch.inputs, begun);
        let ended = Instant::now();
        let took = ended - started;
        self.batcher.ended(ended);
        self.teach(&batch.inputs, outputs.is_ok(), took);
        self.batches.ran(batch.inputs.len(), batch.fill, took);
        self.started(ended);
        match outputs {
            Ok(outputs) => {
                self.passed(&batch.inputs);
                self.answer(ended, batch.origins.into_iter().zip(outputs));
                Ok(())
            }
            Err(failure) => self.recover(batch, failure, shared),
        }
    }

    /// Tells the forecast what this batch says of those to come.
    fn teach(&self, inputs: &[M::Input], passed: bool, took: Duration) {
        let forecast = &self.plan.forecast;
        if !passed {
            return forecast.batch_failed();
        }
        forecast.batch_ended(took);
        if let Some(items) = self.batcher.held_when_full(inputs) {
            forecast.full_batch(items);
        }
    }

    fn fetch(&mut self, inputs: &[M::Input], begun: Begun) -> Result<Vec<M::Output>, Failure> {
        match begun {
            Begun::Launched(launched) => self.outputs(inputs, |model| model.finish(inputs, launched)),
            Begun::Prepared(collated) => {
                let collated = collated.map_err(Failure::Error)?;
                self.outputs(inputs, |model| model.infer_collated(inputs, collated))
            }
        }
    }

    /// The outputs that `run` gives for the inputs, if their number is right.
    pub(super) fn outputs(
        &mut self,
        inputs: &[M::Input],
        run: impl FnOnce(&mut M) -> Result<Vec<M::Output>>,
    ) -> Result<Vec<M::Output>, Failure> {
        let outputs = self.fenced(run)?;
        if outputs.len() == inputs.len() {
            self.guilty.clear();
            return Ok(outputs);
        }
        Err(Failure::Error(Error::fatal(format_args!(
            "the model of stage `{}` gave {} outputs for {} inputs",
            self.plan.name,
            outputs.len(),
            inputs.len()
        ))))
    }

    /// Runs the model behind the fence. After a panic the model is gone.
    pub(super) fn fenced<T>(&mut self, run: impl FnOnce(&mut M) -> Result<T>) -> Result<T, Failure> {
        let Some(model) = &mut self.model else {
            let name = self.plan.name;
            return Err(Failure::Error(Error::fatal(format_args!("the model of stage `{name}` is gone"))));
        };
        let result = fence(|| run(model));
        if matches!(result, Err(Failure::Panic(_))) {
            self.lose_model();
        }
        result
    }

    pub(super) fn answer(&mut self, ended: Instant, outputs: impl Iterator<Item = (Origin, M::Output)>) {
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

    /// A batch that is to run again; or the one that was prepared while the last one ran, if it is; or else a new one.
    fn take_batch(&mut self) -> Result<Option<Prepared<M>>> {
        if self.again.is_empty()
            && let Some(collator) = &mut self.collator
            && collator.holds()
        {
            // Behind a batch on the device it is waited for until that should be done, and its outputs want to be fetched.
            let prepared = match self.flights.is_empty() {
                true => Some(collator.finish()?),
                false => collator.finish_within(self.plan.forecast.busy_for(Instant::now()).max(LEAST_WAIT))?,
            };
            let Some(prepared) = prepared else {
                return Ok(None);
            };
            if self.batcher.allows(&prepared.0.inputs) {
                return Ok(Some(prepared));
            }
            // It was cut before its ceiling was found.
            self.halve(prepared.0);
        }
        let Some(batch) = self.cut() else {
            return Ok(None);
        };
        let collated = match M::COLLATES {
            true => collate::<M>(&batch.inputs),
            false => Ok(Collated::nothing()),
        };
        Ok(Some((batch, collated)))
    }

    fn cut(&mut self) -> Option<Batch<M::Input>> {
        while let Some(batch) = self.again.pop_front() {
            // It may have waited for as long as a model takes to load.
            batch.origins.iter().for_each(|&origin| self.batcher.drop_if(origin, Waiter::is_gone));
            match self.batcher.still_wanted(batch) {
                Some(batch) if self.batcher.allows(&batch.inputs) => return Some(batch),
                Some(batch) => self.halve(batch),
                None => {}
            }
        }
        let batch = self.batcher.cut(Instant::now(), Waiter::is_gone);
        self.let_go();
        batch
    }

    /// Has those whom the batcher gave up dropped by the task that answers: that may be slow, and may panic.
    pub(super) fn let_go(&mut self) {
        self.batcher.gone().into_iter().for_each(|waiter| waiter.let_go(&self.plan.answers));
    }

    /// Has the next batch prepared meanwhile, if what waits fills one. A batch that is not full stays open to what
    /// comes while this one runs.
    fn prepare_next(&mut self) -> Result<()> {
        let Some(collator) = &mut self.collator else {
            return Ok(());
        };
        if collator.holds() || !self.batcher.is_full() {
            return Ok(());
        }
        let batch = self.batcher.cut(Instant::now(), Waiter::is_gone);
        let begun = batch.map_or(Ok(()), |batch| collator.begin(batch));
        self.let_go();
        begun
    }

    fn span_of(&self, batch: &Batch<M::Input>) -> Span {
        let span = debug_span!("batch", stage = self.plan.name, items = batch.inputs.len());
        if !span.is_disabled() {
            for waiter in self.batcher.replies(&batch.origins) {
                span.follows_from(&waiter.caller.span);
            }
        }
        span
    }
}
