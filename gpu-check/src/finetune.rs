//! The command `finetune`: a training on the device gives the layer that it gives on the CPU.
//!
//! Owns the tolerances. The embedder in front of it computes in half precision on a card, so losses may differ by two in
//! a hundred, and what the trained layer makes of a vector by 1e-2 as 1 - cosine.

use std::path::Path;

use candle_core::Device;
use fastrand::Rng;
use forebay::checkpoint::Workplace;
use forebay::{Context, Error, Job, Model, Result, Stepper};
use forebay_models::finetune::{Pair, Pairs, Projection, Settings, Summary, Task, Tuner};
use forebay_models::{DeviceChoice, Embedder, Tokens, Weights};

use crate::inputs;
use crate::parity::worst;
use crate::report::Report;

const PAIRS: usize = 96;

/// Trains the same layer on both.
pub fn check(model: &Path) -> Result<Report> {
    let weights = Weights::dir(model)?;
    let device = DeviceChoice::from_env()?.open()?;
    let vocabulary = inputs::vocabulary(&weights)?;
    let task = task(&Tokens::open(&weights)?, vocabulary)?;
    let (ours, moved) = train(&weights, &device, &task)?;
    let (theirs, expected) = train(&weights, &Device::Cpu, &task)?;

    let mut report = Report::new("finetune");
    report.figure("steps", ours.steps);
    report.figure("losses", ours.losses.clone());
    let far = ours.losses.iter().zip(&theirs.losses).map(|(a, b)| ((a - b) / b).abs());
    let far = far.fold(0.0, |far: f64, next| if next.is_nan() || next > far { next } else { far });
    report.below("losses of all epochs, device against CPU, relative", far, 0.02);
    let inputs = inputs::ids(&mut Rng::with_seed(5), vocabulary, &[8; 16]);
    let vectors = Embedder::load(&weights, &Device::Cpu)?.infer(&inputs)?;
    let apply = |layer: &Projection| vectors.iter().map(|vector| layer.apply(vector)).collect::<Result<Vec<_>>>();
    report.below("what the layers make of vectors: 1 - cosine", worst(&apply(&moved)?, &apply(&expected)?), 1e-2);
    let fell = ours.losses.last() < ours.losses.first();
    report.check("the loss falls", fell, fell, "the last epoch's below the first's");
    Ok(report)
}

/// Pairs of texts that share most of their words.
fn task(tokens: &Tokens, vocabulary: usize) -> Result<Task> {
    let mut random = Rng::with_seed(3);
    let pairs: Vec<Pair> = (0..PAIRS)
        .map(|_| {
            let shared = inputs::text(&mut random, vocabulary, 12);
            let mut longer = || format!("{shared} {}", inputs::text(&mut random, vocabulary, 6));
            Pair { anchor: longer(), positive: longer() }
        })
        .collect();
    let settings = Settings { epochs: 4, batch: 16, held_out: 0.0, ..Settings::default() };
    Ok(Task { settings, pairs: Pairs::tokenize(tokens, &pairs)? })
}

fn train(weights: &Weights, device: &Device, task: &Task) -> Result<(Summary, Projection)> {
    let place = Workplace::new(&Job::new("finetune"), None);
    let mut tuner = Tuner::load(weights, device)?;
    let mut state = tuner.begin(task, &place)?;
    loop {
        let steps = tuner.step(&mut [&mut state])?;
        match steps.as_slice() {
            [progress] if *progress == forebay::Progress::done() => break,
            [_] => {}
            _ => return Err(Error::fatal("the training took another number of steps than one")),
        }
    }
    let tuned = tuner.finish(state)?;
    let layer = Projection::open(&tuned.file).context("the trained layer")?;
    Ok((tuned.summary, layer))
}
