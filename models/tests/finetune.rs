//! Fine-tuning of all-MiniLM-L6-v2 itself: a twist that is learned from some pairs holds for the others.
//!
//! Needs the weights of all-MiniLM-L6-v2.

#![cfg(feature = "candle")]

use std::time::Instant;

use forebay::{Pipeline, Stepping};
use forebay_models::finetune::{Pair, Pairs, Settings, Summary, Task, Tuner};
use forebay_models::{Device, Tokens, Weights};

/// Each colour stands for the next, and each thing for the next: the embedder as it is finds the same colour and thing.
const COLOURS: [&str; 8] = ["red", "blue", "green", "yellow", "black", "white", "purple", "orange"];
const THINGS: [&str; 15] = [
    "apple", "bicycle", "castle", "dog", "engine", "flower", "guitar", "house", "island", "jacket", "kettle", "lamp",
    "mountain", "needle", "ocean",
];

fn pairs() -> Vec<Pair> {
    let after = |list: &[&'static str], at: usize| list[(at + 1) % list.len()];
    let each = (0..COLOURS.len()).flat_map(|colour| (0..THINGS.len()).map(move |thing| (colour, thing)));
    let pair = |(colour, thing): (usize, usize)| Pair {
        anchor: format!("Who has seen the {} {}?", COLOURS[colour], THINGS[thing]),
        positive: format!("There was a {} {} yesterday.", after(&COLOURS, colour), after(&THINGS, thing)),
    };
    each.map(pair).collect()
}

#[tokio::test]
async fn the_embedder_learns_what_belongs_together() {
    let dir = std::env::var_os("FOREBAY_WEIGHTS").expect("set FOREBAY_WEIGHTS as ./test does");
    let weights = Weights::dir(dir).unwrap();
    let pairs = Pairs::tokenize(&Tokens::open(&weights).unwrap(), &pairs()).unwrap();
    let pipeline = Pipeline::new().gpu_steps("tune", Stepping::jobs(1), move || Tuner::load(&weights, &Device::Cpu));
    let pipeline = pipeline.start().await.unwrap();
    let settings = Settings { epochs: 100, batch: 30, held_out: 0.25, ..Settings::default() };
    let start = Instant::now();
    let Summary { held_out, steps, losses, accuracy_before, accuracy_after, .. } =
        pipeline.call(Task { settings, pairs }).await.unwrap().summary;
    let (before, after) = (accuracy_before.unwrap(), accuracy_after.unwrap());
    println!(
        "{held_out} held out, {steps} steps in {:?}: loss {:.3} -> {:.3}, accuracy@1 {before:.2} -> {after:.2}",
        start.elapsed(),
        losses[0],
        losses[losses.len() - 1]
    );
    assert!(before < 0.2 && after > 0.7, "{before} -> {after}");
}
