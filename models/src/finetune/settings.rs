//! What a training is asked for: [`Settings`], as they come in a job, and [`Task`], settings with their pairs.
//!
//! Owns the defaults, the bounds, and the rate of every step. It promises that a task that passes [`Task::check`] can be
//! trained, and that the check allocates nothing but its error. It does not train.

use forebay::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Pairs;
use crate::bounds::{real, whole};

/// Epochs that a training may have.
const EPOCHS_MAX: u64 = 10_000;
/// Pairs of a batch: all of them are compared with all.
const BATCH_MAX: u64 = 4096;
/// Pairs that are held out at most: all of them are compared with all.
const HELD_OUT_MAX: usize = 2000;

/// How to train. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often every pair is trained on, from 1 to 10,000. Default: 10.
    pub epochs: u64,
    /// Pairs of a step, from 2 to 4096. The positives of the others are a pair's negatives. What fills no batch is left
    /// out of that epoch; where all pairs together do not, they are the batch. Default: 64.
    pub batch: u64,
    /// The highest learning rate, from 1e-9 to 1. Default: 0.001.
    pub rate: f64,
    /// The share of all steps, at most 0.9, in which the rate rises evenly to its highest. In the others it falls evenly
    /// to zero. Default: 0.1.
    pub warmup: f64,
    /// Weight decay, from 0 to 100: how strongly the layer is drawn to the identity, that is, to the embedder as it was.
    /// Default: 0.01.
    pub decay: f64,
    /// How long AdamW remembers the gradient's mean, from 0 to less than 1. Default: 0.9.
    pub beta1: f64,
    /// How long AdamW remembers the gradient's square, from 0 to less than 1. Default: 0.999.
    pub beta2: f64,
    /// What AdamW adds to the square's root, from 1e-12 to 1. Default: 1e-8.
    pub epsilon: f64,
    /// Longer gradients are cut to this length (Pascanu, Mikolov and Bengio 2013), from 1e-6 to 1e6; `null` for never.
    /// Default: 1.
    pub clip: Option<f64>,
    /// What cosines are divided by in the loss, from 0.001 to 10. Default: 0.05.
    pub temperature: f64,
    /// The share of pairs, at most 0.5, that is not trained on but searched for before and after; 2000 pairs at most. They
    /// are drawn by the seed. Whole pairs are drawn, so a text may stand on both sides. Default: 0.1.
    pub held_out: f64,
    /// Of all random numbers. Default: 0.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 64,
            rate: 1e-3,
            warmup: 0.1,
            decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip: Some(1.0),
            temperature: 0.05,
            held_out: 0.1,
            seed: 0,
        }
    }
}

/// A training: what on, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// How.
    pub settings: Settings,
    /// What on.
    pub pairs: Pairs,
}

impl Settings {
    /// Whether this can be trained by.
    ///
    /// # Errors
    /// `Invalid`, with the field, what it may be, and what it is.
    pub fn check(&self) -> Result<()> {
        whole("epochs", self.epochs, 1, EPOCHS_MAX)?;
        whole("batch", self.batch, 2, BATCH_MAX)?;
        real("rate", self.rate, 1e-9, 1.0)?;
        real("warmup", self.warmup, 0.0, 0.9)?;
        real("decay", self.decay, 0.0, 100.0)?;
        // The largest number below 1 that is near enough to it for any training.
        real("beta1", self.beta1, 0.0, 0.999_999_9)?;
        real("beta2", self.beta2, 0.0, 0.999_999_9)?;
        real("epsilon", self.epsilon, 1e-12, 1.0)?;
        if self.rate * self.decay >= 1.0 {
            return Err(Error::invalid(format!(
                "a rate of {} times a decay of {} has to be below 1, or each step would overshoot",
                self.rate, self.decay
            )));
        }
        self.clip.map_or(Ok(()), |clip| real("clip", clip, 1e-6, 1e6))?;
        real("temperature", self.temperature, 1e-3, 10.0)?;
        real("held_out", self.held_out, 0.0, 0.5)
    }

    /// The learning rate of a step, the first being 0, of so many.
    pub(super) fn rate_at(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps(total);
        let left = (total - step) as f64 / (total - warmup).max(1) as f64;
        let risen = (step + 1) as f64 / warmup.max(1) as f64;
        self.rate * left.min(risen).min(1.0)
    }

    fn warmup_steps(&self, total: u64) -> u64 {
        (self.warmup * total as f64) as u64
    }

    /// How many of so many pairs are held out.
    pub(super) fn held_out(&self, pairs: usize) -> usize {
        ((self.held_out * pairs as f64) as usize).min(HELD_OUT_MAX)
    }
}

impl Task {
    /// Whether this can be trained.
    ///
    /// # Errors
    /// `Invalid`, with what to change.
    pub fn check(&self) -> Result<()> {
        self.settings.check()?;
        let (pairs, held_out) = (self.pairs.len(), self.settings.held_out(self.pairs.len()));
        match pairs - held_out {
            0 | 1 => Err(Error::invalid(format!(
                "{pairs} pairs of which {held_out} are held out leave none to tell apart: two at least are needed"
            ))),
            _ => Ok(()),
        }
    }
}
