//! A training under way: the layer, the optimiser's memory, and the figures that come of it.
//!
//! Owns what changes from step to step once the texts are embedded, and [`Frozen`], the parts that it is made of. A
//! training made of the parts of another goes on bit for bit as that one, on the CPU. It knows nothing of jobs.

use candle_core::{DType, Device, Tensor, Var};
use forebay::{Error, Result};
use serde::{Deserialize, Serialize};

use super::accuracy::accuracy;
use super::adamw::{AdamW, length};
use super::loss::{contrastive, mask};
use super::order::{Order, split};
use super::pairs::fingerprint;
use super::vectors::Vectors;
use super::{Settings, Task};

/// How long the layer's difference from the identity may be.
const LONGEST: f64 = 1e9;

/// What a training gave, in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Pairs that were trained on.
    pub pairs: usize,
    /// Pairs that were held out.
    pub held_out: usize,
    /// Different texts in all pairs.
    pub texts: usize,
    /// Steps of the optimiser.
    pub steps: u64,
    /// The mean loss of each epoch, the first first.
    pub losses: Vec<f64>,
    /// Of the held-out pairs, the share whose positive a search with the anchor found first, from 0 to 1, by the embedder
    /// as it was. Nothing where none were held out.
    pub accuracy_before: Option<f64>,
    /// The same with the trained layer.
    pub accuracy_after: Option<f64>,
}

/// A training under way.
pub(super) struct Training {
    settings: Settings,
    /// Of the settings, and of the pairs.
    fingerprints: [u64; 2],
    texts: usize,
    trained: Vec<(u32, u32)>,
    held_out: Vec<(u32, u32)>,
    order: Order,
    /// The layer, less the identity.
    delta: Var,
    adamw: AdamW,
    /// Of the epochs that are over.
    losses: Vec<f64>,
    /// Of the steps of this epoch.
    sum: f64,
    before: Option<f64>,
}

/// All that a training is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frozen {
    pub(super) delta: Vec<f32>,
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
    /// Fingerprints, the step and the figures.
    pub(super) records: Vec<u64>,
}

impl Training {
    /// A training at its start.
    ///
    /// # Errors
    /// `Invalid` if the task is refused by [`Task::check`], before anything is allocated.
    pub(super) fn start(task: &Task, width: usize, device: &Device) -> Result<Self> {
        task.check()?;
        let Task { settings, pairs } = task;
        let (trained, held_out) = split(pairs.numbered(), settings);
        let delta = Var::zeros((width, width), DType::F32, device)?;
        Ok(Self {
            settings: settings.clone(),
            fingerprints: [fingerprint(serde_json::to_vec(settings)?), pairs.fingerprint()],
            texts: pairs.texts().len(),
            order: Order::new(trained.len(), settings),
            trained,
            held_out,
            adamw: AdamW::new(&delta)?,
            delta,
            losses: Vec::new(),
            sum: 0.0,
            before: None,
        })
    }

    fn total(&self) -> u64 {
        self.settings.epochs * self.order.steps()
    }

    /// Whether all steps are made.
    pub(super) fn done(&self) -> bool {
        self.adamw.step >= self.total()
    }

    /// How much of it was done, from 0 to 1.
    pub(super) fn fraction(&self) -> f64 {
        self.adamw.step as f64 / self.total() as f64
    }

    /// The layer, less the identity.
    pub(super) fn delta(&self) -> &Tensor {
        &self.delta
    }

    /// Makes a step of the optimiser, if one is left.
    ///
    /// # Errors
    /// `Invalid` where the loss is not a number any more: the settings lead nowhere.
    pub(super) fn advance(&mut self, vectors: &Vectors) -> Result<()> {
        if self.done() {
            return Ok(());
        }
        let (step, device) = (self.adamw.step, self.delta.device().clone());
        if step == 0 {
            self.before = accuracy(&self.held_out, vectors, &self.delta)?;
        }
        let batch: Vec<(u32, u32)> = self.order.batch(step).iter().map(|place| self.trained[*place]).collect();
        let texts = batch.iter().map(|pair| pair.0).chain(batch.iter().map(|pair| pair.1));
        let (texts, mask) = (vectors.rows(texts, &device)?, mask(&batch, &device)?);
        let loss = contrastive(&texts, &mask, &self.delta, self.settings.temperature)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let gradients = loss.backward()?;
        let gradient = gradients.get(&self.delta).ok_or_else(|| Error::failed("the loss has no gradient"))?;
        let length = length(gradient)?;
        if !(value.is_finite() && length.is_finite()) {
            return Err(Error::invalid(format!(
                "at step {step} the loss is {value}, its gradient {length} long: a rate of {} may be too high",
                self.settings.rate
            )));
        }
        let gradient = match self.settings.clip {
            Some(longest) if length > longest => (gradient * (longest / length))?,
            _ => gradient.clone(),
        };
        let rate = self.settings.rate_at(step, self.total());
        let updated = self.adamw.update(&self.delta.as_detached_tensor(), &gradient, rate, &self.settings)?;
        // Beyond this, squares of what the layer makes of a vector might not be numbers any more, and its loss no warning.
        let reach = super::adamw::length(&updated)?;
        if reach.is_nan() || reach > LONGEST {
            return Err(Error::invalid(format!(
                "after step {step} the layer has grown beyond all bounds: a rate of {} may be too high",
                self.settings.rate
            )));
        }
        self.delta.set(&updated)?;
        self.sum += value;
        if self.adamw.step.is_multiple_of(self.order.steps()) {
            self.losses.push(self.sum / self.order.steps() as f64);
            self.sum = 0.0;
        }
        Ok(())
    }

    /// What came of it.
    pub(super) fn summary(&self, vectors: &Vectors) -> Result<Summary> {
        Ok(Summary {
            pairs: self.trained.len(),
            held_out: self.held_out.len(),
            texts: self.texts,
            steps: self.adamw.step,
            losses: self.losses.clone(),
            accuracy_before: self.before,
            accuracy_after: accuracy(&self.held_out, vectors, &self.delta)?,
        })
    }

    /// Copies what the training is made of to host memory.
    pub(super) fn freeze(&self) -> Result<Frozen> {
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let [settings, pairs] = self.fingerprints;
        // No accuracy is below zero, so that says that there is none.
        let before = self.before.unwrap_or(-1.0);
        let head = [settings, pairs, self.adamw.step, before.to_bits(), self.sum.to_bits()];
        let losses = self.losses.iter().map(|loss| loss.to_bits());
        Ok(Frozen {
            delta: values(&self.delta)?,
            first: values(&self.adamw.first)?,
            second: values(&self.adamw.second)?,
            records: head.into_iter().chain(losses).collect(),
        })
    }

    /// Goes on with a training.
    ///
    /// # Errors
    /// `Failed` if the parts are not those of this task's training.
    pub(super) fn thaw(task: &Task, width: usize, device: &Device, frozen: Frozen) -> Result<Self> {
        let mut training = Self::start(task, width, device)?;
        let Frozen { delta, first, second, records } = frozen;
        let [settings, pairs, step, before, sum, losses @ ..] = &*records else {
            return Err(Error::failed("the saved records of the training are too short"));
        };
        for (what, was, is) in
            [("settings", settings, training.fingerprints[0]), ("pairs", pairs, training.fingerprints[1])]
        {
            if *was != is {
                return Err(Error::failed(format!(
                    "the training was begun with other {what}: ask for the same, or remove its state to begin anew"
                )));
            }
        }
        if losses.len() as u64 != step / training.order.steps() {
            return Err(Error::failed(format!("{} saved losses do not fit {step} steps", losses.len())));
        }
        let tensor = |values: Vec<f32>| match values.len() == width * width {
            true => Ok(Tensor::from_vec(values, (width, width), device)?),
            false => Err(Error::failed(format!("{} saved weights do not fit a width of {width}", values.len()))),
        };
        training.delta.set(&tensor(delta)?)?;
        training.adamw = AdamW { first: tensor(first)?, second: tensor(second)?, step: *step };
        let before = f64::from_bits(*before);
        training.before = (before >= 0.0).then_some(before);
        training.sum = f64::from_bits(*sum);
        training.losses = losses.iter().copied().map(f64::from_bits).collect();
        Ok(training)
    }
}
