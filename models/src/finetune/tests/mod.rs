//! Tests of the fine-tuning, on the tiny model of the other tests and on vectors made up here.

#![allow(clippy::unwrap_used)]

mod formulas;
mod jobs;
mod plan;
mod refusals;

use std::sync::LazyLock;

use super::{Pair, Pairs, Settings, Task, Tuner};
use crate::random::Random;
use crate::tests::tiny;
use crate::{Device, Embedder, Tokens, Weights};

static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(tiny::model);

fn weights() -> Weights {
    Weights::dir(MODEL.path()).unwrap()
}

fn tuner(threads: usize) -> Tuner {
    Tuner::new(Embedder::load_with(&weights(), &Device::Cpu, threads).unwrap(), &Device::Cpu)
}

fn tokenized(pairs: &[Pair]) -> Pairs {
    Pairs::tokenize(&Tokens::open(&weights()).unwrap(), pairs).unwrap()
}

/// Pairs with a twist that can be learned: the positive has the anchor's letters, each moved by 13.
fn twisted(count: usize) -> Vec<Pair> {
    let pair = |number: usize| {
        let mut random = Random::at(11, 0, number as u64);
        let anchor: Vec<u8> = (0..6).map(|_| random.below(26) as u8).collect();
        let text = |moved: u8| {
            let letters = anchor.iter().map(|letter| char::from(b'a' + (letter + moved) % 26).to_string());
            letters.collect::<Vec<_>>().join(" ")
        };
        Pair { anchor: text(0), positive: text(13) }
    };
    (0..count).map(pair).collect()
}

fn small() -> Settings {
    Settings { epochs: 6, batch: 32, rate: 0.01, held_out: 0.2, ..Settings::default() }
}

fn task() -> Task {
    Task { settings: small(), pairs: tokenized(&twisted(250)) }
}
