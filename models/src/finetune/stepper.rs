//! Trainings as jobs: [`Tuner`] is a stepper whose states are [`Run`]s.
//!
//! Owns how long a step of the stepper takes, how many texts are embedded at once, and the names of the saved parts. What
//! a run gives does not depend on where its steps are cut, so that may go by the clock. It keeps nothing between two jobs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::Device;
use forebay::checkpoint::{Saved, Snapshot, Workplace};
use forebay::{Admit, Error, Model, Progress, Result, Stepper};

use super::training::{Frozen, Training};
use super::vectors::{FILE, Vectors};
use super::{Projection, Summary, Task};
use crate::words::{floats_of_bytes, floats_to_bytes, of_bytes, to_bytes};
use crate::{Embedder, Weights, classify};

/// How long a step of all states together takes, if no batch takes longer.
const STEP: Duration = Duration::from_millis(200);
/// Texts that are embedded at once. Always the same ones, since the last bits of a vector may depend on what else is in
/// its batch.
const TEXTS: usize = 64;
/// The least cosine between what the embedder gives and what it gave for the same text where the run was saved. Other
/// processors differ in the last digits, other models in all.
const SAME: f32 = 0.999;
/// What the trained layer's file is called.
const LAYER: &str = "projection.safetensors";

/// Trains a layer behind an embedder; a [`Stepper`] from a [`Task`] to [`Tuned`].
///
/// First all texts are embedded, then the steps of the optimiser follow. A saved run goes on bit for bit on any machine of
/// the same kind: on the CPU whatever the number of cores. On processors with other vector instructions or caches sums are
/// added in another order, and exponentials are those of the system's C library.
pub struct Tuner {
    embedder: Embedder,
    device: Device,
}

/// What a training gave, and where its file lies.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// Its figures.
    pub summary: Summary,
    /// The trained layer, as [`Projection::open`] reads it. The file goes with `place`.
    pub file: PathBuf,
    /// The folder that the file lies in.
    pub place: Workplace,
}

/// A training and where it is worked on.
pub struct Run {
    task: Task,
    vectors: Vectors,
    pub(super) training: Training,
    place: Workplace,
}

impl Tuner {
    /// Trains a layer behind the embedder of these weights, on this device.
    ///
    /// # Errors
    /// As [`Embedder::load`].
    pub fn load(weights: &Weights, device: &Device) -> Result<Self> {
        Ok(Self::new(Embedder::load(weights, device)?, device))
    }

    /// Trains a layer behind this embedder; the layer is on `device`.
    pub fn new(embedder: Embedder, device: &Device) -> Self {
        Self { embedder, device: device.clone() }
    }

    /// Embeds some more texts, or makes a step of the optimiser.
    pub(super) fn advance(&mut self, run: &mut Run) -> Result<()> {
        let (from, texts) = (run.vectors.len(), run.task.pairs.texts());
        if from == texts.len() {
            return run.training.advance(&run.vectors).map_err(classify);
        }
        let next = &texts[from..texts.len().min(from + TEXTS)];
        run.vectors.push(&self.embedder.infer(next)?)
    }

    /// Whether the saved vectors are those of this embedder.
    fn recognise(&mut self, task: &Task, vectors: &Vectors) -> Result<()> {
        let texts = task.pairs.texts();
        let len = vectors.len();
        if len != texts.len() && (len > texts.len() || !len.is_multiple_of(TEXTS)) {
            return Err(Error::failed(format!("{len} saved vectors are not those of {} texts", texts.len())));
        }
        let Some(was) = vectors.row(0) else { return Ok(()) };
        let is = self.embedder.infer(&texts[..1])?.concat();
        let cosine = was.iter().zip(&is).map(|(was, is)| was * is).sum::<f32>();
        if cosine >= SAME {
            return Ok(());
        }
        Err(Error::failed(format!(
            "the training was begun with another embedder: the first text's vectors have a cosine of {cosine}. Load the \
             same weights, or remove its state to begin anew"
        )))
    }
}

impl Run {
    fn done(&self) -> bool {
        self.training.done()
    }

    /// Embedding counts for half, since nobody knows how long the two take.
    fn fraction(&self) -> f64 {
        let embedded = self.vectors.len() as f64 / self.task.pairs.texts().len() as f64;
        (embedded + self.training.fraction()) / 2.0
    }
}

impl Stepper for Tuner {
    type Spec = Task;
    type State = Run;
    type Output = Tuned;

    const FORMAT: &'static str = "forebay finetune 1";

    fn begin(&mut self, task: &Task, place: &Workplace) -> Result<Run> {
        let training = Training::start(task, self.embedder.width(), &self.device).map_err(classify)?;
        for text in task.pairs.texts() {
            if let Admit::Never(why) = self.embedder.admit(text) {
                return Err(why);
            }
        }
        let vectors = Vectors::create(place.folder()?, self.embedder.width(), task.pairs.texts().len())?;
        Ok(Run { task: task.clone(), vectors, training, place: place.clone() })
    }

    fn step(&mut self, runs: &mut [&mut Run]) -> Result<Vec<Progress>> {
        let each = STEP / runs.len().max(1) as u32;
        let advance = |run: &mut &mut Run| {
            let start = Instant::now();
            while !run.done() {
                self.advance(run)?;
                if start.elapsed() >= each {
                    break;
                }
            }
            Ok(if run.done() { Progress::done() } else { Progress::of(run.fraction() as f32) })
        };
        runs.iter_mut().map(advance).collect()
    }

    fn finish(&mut self, run: Run) -> Result<Tuned> {
        let summary = run.training.summary(&run.vectors).map_err(classify)?;
        let file = run.place.folder()?.join(LAYER);
        Projection::write(run.training.delta(), &file).map_err(classify)?;
        Ok(Tuned { summary, file, place: run.place })
    }

    fn save(&mut self, run: &mut Run) -> Result<Snapshot> {
        let Frozen { delta, first, second, records } = run.training.freeze().map_err(classify)?;
        let bytes = |values: Vec<f32>| move || Ok(floats_to_bytes(&values));
        Ok(Snapshot::new()
            .later("delta", bytes(delta))
            .later("first", bytes(first))
            .later("second", bytes(second))
            .bytes("records", to_bytes(records))
            .grows(FILE))
    }

    fn restore(&mut self, task: &Task, place: &Workplace, saved: Saved) -> Result<Run> {
        let values = |name: &str| floats_of_bytes(name, &saved.bytes(name)?);
        let frozen = Frozen {
            delta: values("delta")?,
            first: values("first")?,
            second: values("second")?,
            records: of_bytes("records", &saved.bytes("records")?)?,
        };
        let training = Training::thaw(task, self.embedder.width(), &self.device, frozen).map_err(classify)?;
        let vectors = Vectors::open(place.folder()?, self.embedder.width(), task.pairs.texts().len())?;
        self.recognise(task, &vectors)?;
        Ok(Run { task: task.clone(), vectors, training, place: place.clone() })
    }
}
