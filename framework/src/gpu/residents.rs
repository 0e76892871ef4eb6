//! The models of one device, of which some may not be there: loads them, drops them for one another, tells the meters.
//!
//! Who goes and who comes is [`Memory`]'s to say. All are loaded and warmed up at the start, even where they cannot
//! stay, so that one that is broken shows before the worker takes its first job, and none has an unknown load time. That
//! costs its load time once.

use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::batcher::Next;
use super::engine::Engine;
use super::memory::Memory;
use crate::error::{Error, Fault, Result};
use crate::telemetry::ModelMeter;

/// A model on its way to its device thread, where [`make`](Newcomer::make) makes its engine.
pub(crate) struct Newcomer {
    pub(crate) stage: &'static str,
    /// What it keeps on the device.
    pub(crate) bytes: u64,
    pub(crate) make: Box<dyn FnOnce() -> Result<Box<dyn Engine>> + Send>,
}

pub(crate) struct Residents {
    models: Vec<Resident>,
    pub(super) memory: Memory,
}

struct Resident {
    stage: &'static str,
    bytes: u64,
    engine: Box<dyn Engine>,
    meter: ModelMeter,
}

impl Residents {
    /// Loads all models and warms them up; those for which the budget has no room are dropped again.
    pub(crate) fn load(newcomers: Vec<Newcomer>, device: usize, budget: Option<u64>) -> Result<Self> {
        let memory = Memory::new(budget, newcomers.iter().map(|newcomer| newcomer.bytes));
        let resident = |newcomer: Newcomer| {
            let Newcomer { stage, bytes, make } = newcomer;
            Ok(Resident { stage, bytes, engine: make()?, meter: ModelMeter::new(stage, device) })
        };
        let models = newcomers.into_iter().map(resident).collect::<Result<Vec<_>>>()?;
        let mut residents = Residents { models, memory };
        for (index, stays) in residents.memory.at_start() {
            residents.bring(index)?;
            if !stays {
                residents.drop_model(index)?;
                info!(
                    stage = residents.models[index].stage,
                    "no room for this model now; it is loaded when it has work"
                );
            }
        }
        Ok(residents)
    }

    pub(crate) fn shares(&self) -> Vec<u32> {
        self.models.iter().map(|model| model.engine.share()).collect()
    }

    /// Takes in what has come, for each model.
    pub(crate) fn receive(&mut self) -> Result<()> {
        self.models.iter_mut().try_for_each(|model| model.engine.receive())
    }

    pub(crate) fn nexts(&mut self, now: Instant) -> Vec<Next> {
        self.models.iter_mut().map(|model| model.engine.next(now)).collect()
    }

    pub(crate) fn in_hand(&self, index: usize) -> bool {
        self.models[index].engine.in_hand()
    }

    /// Who has a batch on the device that was launched ahead.
    pub(crate) fn launched(&self) -> Option<usize> {
        self.models.iter().position(|model| model.engine.is_launched())
    }

    pub(crate) fn run(&mut self, index: usize, ahead: bool) -> Result<Duration> {
        let took = self.models[index].engine.run(ahead)?;
        self.memory.ran(index, took);
        Ok(took)
    }

    /// Loads a model that has work, in the place of others. That it fails is fatal, as after a panic.
    pub(crate) fn exchange(&mut self, instead: &[usize], index: usize) -> Result<()> {
        for &other in instead {
            self.drop_model(other)?;
            self.models[other].meter.evicted();
            debug!(stage = self.models[other].stage, goes_for = self.models[index].stage, "model dropped");
        }
        self.bring(index).map_err(|why| why.with_fault(Fault::Fatal))
    }

    pub(crate) fn close(&mut self, why: &Error) {
        self.models.iter_mut().for_each(|model| model.engine.close(why));
    }

    fn bring(&mut self, index: usize) -> Result<()> {
        let Resident { stage, bytes, engine, meter } = &mut self.models[index];
        let begun = Instant::now();
        engine.load()?;
        let took = begun.elapsed();
        self.memory.loaded(index, took);
        meter.loaded(*bytes, took);
        debug!(stage, bytes, seconds = took.as_secs_f64(), "model loaded");
        Ok(())
    }

    fn drop_model(&mut self, index: usize) -> Result<()> {
        let Resident { engine, meter, .. } = &mut self.models[index];
        engine.unload()?;
        self.memory.gone(index);
        meter.gone();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
