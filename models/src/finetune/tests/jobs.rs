//! Trainings as jobs: saved by one worker's stepper and gone on with by another's.

use std::fs;
use std::sync::Arc;

use forebay::checkpoint::{Checkpoints, Workplace};
use forebay::store::{Key, Memory};
use forebay::{Fault, Job, Model, Pipeline, Progress, Result, Stepper, Stepping};

use super::super::{Projection, Run, Settings, Summary, Task, Tuner};
use super::{small, task, tokenized, tuner, twisted, weights};
use crate::tests::tiny;
use crate::{Device, Embedder, Tokens, Weights};

/// The figures and the file of a run that goes on to its end.
fn end(tuner: &mut Tuner, mut run: Run) -> (Summary, Vec<u8>) {
    while tuner.step(&mut [&mut run]).unwrap() != [Progress::done()] {}
    let tuned = tuner.finish(run).unwrap();
    (tuned.summary, fs::read(tuned.file).unwrap())
}

fn whole(task: &Task, threads: usize) -> (Summary, Vec<u8>) {
    let mut tuner = tuner(threads);
    let run = tuner.begin(task, &Workplace::new(&Job::new("whole"), None)).unwrap();
    end(&mut tuner, run)
}

#[test]
fn training_finds_what_was_not_trained_on() {
    let pairs = twisted(600);
    let task = Task { settings: Settings { epochs: 20, ..small() }, pairs: tokenized(&pairs) };
    let mut tuner = tuner(1);
    let place = Workplace::new(&Job::new("1"), None);
    let mut run = tuner.begin(&task, &place).unwrap();
    while tuner.step(&mut [&mut run]).unwrap() != [Progress::done()] {}
    let tuned = tuner.finish(run).unwrap();
    let Summary { pairs: trained, held_out, texts, steps, losses, accuracy_before, accuracy_after } = tuned.summary;
    assert_eq!((trained, held_out, steps), (480, 120, 300));
    assert!(texts <= 1200);
    assert_eq!(losses.len(), 20);
    assert!(losses[19] < losses[0] / 2.0, "{losses:?}");
    let (before, after) = (accuracy_before.unwrap(), accuracy_after.unwrap());
    // Chance finds one of 120.
    assert!(before < 0.1 && after > 0.25, "{before} -> {after}");

    // The file, on vectors of the embedder, does the same.
    let layer = Projection::open(tuned.file).unwrap();
    let tokens = Tokens::open(&weights()).unwrap();
    let mut embedder = Embedder::load(&weights(), &Device::Cpu).unwrap();
    let mut of = |text: fn(&super::Pair) -> &str| {
        let texts: Vec<&str> = pairs.iter().take(100).map(text).collect();
        let vectors = embedder.infer(&tokens.encode(&texts).unwrap()).unwrap();
        vectors.iter().map(|vector| layer.apply(vector).unwrap()).collect::<Vec<_>>()
    };
    let (anchors, positives) = (of(|pair| &pair.anchor), of(|pair| &pair.positive));
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let nearest = |anchor: &[f32]| {
        let cosines = positives.iter().map(|positive| cosine(anchor, positive));
        cosines.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
    };
    let hits = anchors.iter().enumerate().filter(|(at, anchor)| nearest(anchor) == *at).count();
    assert!(hits > 30, "{hits} of 100");
}

#[test]
fn threads_of_the_embedder_change_no_bit() {
    let task = task();
    let one = whole(&task, 1);
    assert_eq!(one, whole(&task, 1));
    assert_eq!(one, whole(&task, 3));
    assert_ne!(one.1, whole(&Task { settings: Settings { seed: 1, ..small() }, ..task }, 1).1);
}

#[tokio::test]
async fn another_worker_goes_on_with_a_saved_job() -> Result<()> {
    let task = task();
    let expected = whole(&task, 1);
    assert_eq!(expected.0.steps, 36);

    let (store, key) = (Arc::new(Memory::new()), Key::new("jobs/1/state")?);
    // Before the first text, among the texts (8 batches of them), before the first step of the optimiser, and among those.
    for advance in [0, 3, 5, 1, 7, 20] {
        let place = Workplace::new(&Job::new("1"), None);
        let mut checkpoints = Checkpoints::open(store.clone(), &key, &place, Tuner::FORMAT).await?;
        let mut tuner = tuner(2);
        let mut run = match checkpoints.restore().await? {
            None => tuner.begin(&task, &place)?,
            Some(saved) => tuner.restore(&task, &place, saved)?,
        };
        for _ in 0..advance {
            tuner.advance(&mut run)?;
        }
        checkpoints.save(tuner.save(&mut run)?).await?;
        // Lost with this worker.
        tuner.advance(&mut run)?;
    }
    let place = Workplace::new(&Job::new("1"), None);
    let mut checkpoints = Checkpoints::open(store, &key, &place, Tuner::FORMAT).await?;
    let mut tuner = tuner(1);
    let run = tuner.restore(&task, &place, checkpoints.restore().await?.expect("a state"))?;
    assert_eq!(end(&mut tuner, run), expected);
    Ok(())
}

#[tokio::test]
async fn a_state_of_another_training_is_refused() -> Result<()> {
    let task = task();
    let (store, key) = (Arc::new(Memory::new()), Key::new("jobs/1/state")?);
    let place = Workplace::new(&Job::new("1"), None);
    let mut mine = tuner(1);
    let mut run = mine.begin(&task, &place)?;
    (0..12).try_for_each(|_| mine.advance(&mut run))?;
    let mut checkpoints = Checkpoints::open(store.clone(), &key, &place, Tuner::FORMAT).await?;
    checkpoints.save(mine.save(&mut run)?).await?;

    let why = Checkpoints::open(store.clone(), &key, &place, "forebay finetune 2").await.err().expect("refused");
    let said = why.to_string();
    assert!(said.contains("`forebay finetune 1`") && said.contains("`forebay finetune 2`"), "{said}");

    // The tiny model with other weights.
    let dir = tiny::model();
    let mut parts = tiny::tensors("");
    let bytes = &mut parts.get_mut("embeddings.word_embeddings.weight").unwrap().2;
    bytes.as_chunks_mut::<4>().0.reverse();
    tiny::write(&dir.path().join("model.safetensors"), &parts);
    let mut other = Tuner::load(&Weights::dir(dir.path())?, &Device::Cpu)?;

    let settings = Task { settings: Settings { epochs: 7, ..small() }, ..task.clone() };
    let pairs = Task { pairs: tokenized(&twisted(251)), ..task.clone() };
    for (tuner, task, reason) in [
        (&mut mine, settings, "begun with other settings"),
        (&mut tuner(1), pairs, "begun with other pairs"),
        (&mut other, task, "begun with another embedder"),
    ] {
        let place = Workplace::new(&Job::new("1"), None);
        let mut checkpoints = Checkpoints::open(store.clone(), &key, &place, Tuner::FORMAT).await?;
        let saved = checkpoints.restore().await?.expect("a state");
        let why = tuner.restore(&task, &place, saved).err().expect("refused");
        assert!(why.to_string().contains(reason) && why.fault() == Fault::Failed, "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pipeline_trains_several_at_once() -> Result<()> {
    let pipeline = Pipeline::new().gpu_steps("tune", Stepping::jobs(2), || Tuner::load(&weights(), &Device::Cpu));
    let pipeline = pipeline.start().await?;
    let of = |seed| Task { settings: Settings { seed, ..small() }, pairs: tokenized(&twisted(250)) };
    let refused = Task { settings: Settings { batch: 0, ..small() }, ..of(0) };
    let (a, b, refused) = tokio::join!(pipeline.call(of(0)), pipeline.call(of(1)), pipeline.call(refused));
    let (a, b) = (a?, b?);
    assert_eq!(refused.map(drop).unwrap_err().fault(), Fault::Invalid);
    assert_eq!((a.summary, fs::read(a.file)?), whole(&of(0), 1));
    assert_eq!((b.summary, fs::read(b.file)?), whole(&of(1), 1));
    Ok(())
}
