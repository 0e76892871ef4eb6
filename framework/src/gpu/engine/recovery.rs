//! What becomes of a batch that has failed, and of its model.
//!
//! A batch for which the device had no memory is halved, again and again if it must; any other is run once more item by
//! item, so that one bad item fails alone. A panic makes the model anew, and what it had on the device runs again. What
//! no item can be blamed for (a wrong number of outputs, a model that panics on its warm-up or on two items in a row,
//! each alone) is fatal, and ends the process after every lease was given back.

use std::time::Instant;

use tracing::{debug, warn};

use super::{ModelEngine, drop_fenced};
use crate::error::{Error, Fault, OutOfMemory, Result};
use crate::gpu::batcher::{Batch, Origin};
use crate::model::Model;
use crate::pool::panic::Failure;

/// After two batches found no memory beside each other, so many run without another beside them.
pub(super) const ALONE: usize = 64;

impl<M: Model> ModelEngine<M> {
    /// After a batch failed that may have `shared` the device with another of this model.
    pub(super) fn recover(&mut self, batch: Batch<M::Input>, failure: Failure, shared: bool) -> Result<()> {
        let panicked = matches!(failure, Failure::Panic(_));
        let why = self.survive(failure)?;
        let out_of_memory = why.find::<OutOfMemory>().is_some();
        if out_of_memory && shared {
            // That there is none for two says nothing of one.
            debug!(stage = self.plan.name, items = batch.inputs.len(), error = %why, "no memory for two batches at once");
            self.ceilings.ran_out();
            self.alone_for = ALONE;
            self.again.push_front(batch);
            return Ok(());
        }
        if out_of_memory && batch.inputs.len() > 1 {
            self.ran_out(batch, &why);
            return Ok(());
        }
        // What is behind it on the device comes back first.
        while let Some(flight) = self.flights.pop_front() {
            self.land(flight)?;
        }
        match batch.origins[..] {
            // It was alone, and has had its run.
            [origin] => self.blame(origin, why, panicked),
            _ => self.run_alone(&batch, &why)?,
        }
        self.check_model()
    }

    /// A batch has passed.
    pub(super) fn passed(&mut self, inputs: &[M::Input]) {
        self.alone_for = self.alone_for.saturating_sub(1);
        if self.batcher.passed(inputs) {
            self.ceilings.show(self.batcher.lowest_ceiling());
        }
    }

    fn ran_out(&mut self, batch: Batch<M::Input>, why: &Error) {
        self.batcher.ran_out(&batch.inputs);
        self.ceilings.ran_out();
        self.ceilings.show(self.batcher.lowest_ceiling());
        warn!(stage = self.plan.name, items = batch.inputs.len(), error = %why, "no memory for the batch, running its halves");
        self.halve(batch);
    }

    /// Has the halves run in the next turns.
    pub(super) fn halve(&mut self, batch: Batch<M::Input>) {
        let [first, second] = batch.halves();
        self.again.push_front(second);
        self.again.push_front(first);
    }

    /// The model is spoilt, and with it what it has begun: that runs again.
    pub(super) fn lose_model(&mut self) {
        let mut begun = Vec::new();
        while let Some(flight) = self.flights.pop_back() {
            let (batch, rest) = flight.split();
            self.again.push_front(batch);
            begun.push(rest);
        }
        // Of a model that has panicked, what it leaves behind may panic too.
        if let Err(why) = drop_fenced(Some((begun, self.model.take())), self.plan.name) {
            warn!(stage = self.plan.name, error = %why, "a model panicked as it was dropped");
        }
    }

    /// Each item once more, alone, so that each gets the answer that is its own.
    fn run_alone(&mut self, batch: &Batch<M::Input>, why: &Error) -> Result<()> {
        warn!(stage = self.plan.name, items = batch.inputs.len(), error = %why, "batch failed, running its items alone");
        for (input, &origin) in batch.inputs.iter().zip(&batch.origins) {
            // The rest of a job that has failed is not run: many bad items of one job are one job's fault.
            if !self.batcher.wants(origin) {
                continue;
            }
            let alone = std::slice::from_ref(input);
            match self.outputs(alone, |model| model.infer(alone)) {
                Ok(outputs) => self.answer(Instant::now(), outputs.into_iter().map(|output| (origin, output))),
                Err(failure) => {
                    let panicked = matches!(failure, Failure::Panic(_));
                    let why = self.survive(failure)?;
                    self.blame(origin, why, panicked);
                }
            }
        }
        Ok(())
    }

    /// Fails the item that failed alone.
    fn blame(&mut self, origin: Origin, why: Error, panicked: bool) {
        let Some(waiter) = self.batcher.fail(origin) else {
            return;
        };
        let job = &waiter.caller.job;
        let again = job.attempt() > 1 && self.guilty.iter().any(|id| id == job.id());
        if panicked && !again {
            self.guilty.push(job.id().to_owned());
        }
        waiter.fail(why, &self.plan.answers);
    }

    /// The error of a failure that is not fatal; after a panic there is a new model.
    pub(super) fn survive(&mut self, failure: Failure) -> Result<Error> {
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
