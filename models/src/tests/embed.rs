//! The embedder against candle-transformers' model, against itself in other batches, and against bad input.

use std::sync::LazyLock;

use candle_core::DType;
use forebay::{Admit, Collated, Model};

use super::tiny;
use crate::{Device, Embedder, TokenIds, Weights};

static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(tiny::model);

fn weights() -> Weights {
    Weights::dir(MODEL.path()).unwrap()
}

/// Inputs of the given lengths, ids all over the vocabulary.
fn inputs(lengths: &[usize]) -> Vec<TokenIds> {
    let ids = |n: usize| (0..n).map(|i| ((i * i + 31 * n + i) % 80) as u32).collect();
    lengths.iter().map(|n| TokenIds::new(ids(*n))).collect()
}

const LENGTHS: [usize; 17] = [3, 200, 1, 17, 17, 512, 5, 90, 90, 90, 2, 256, 31, 32, 33, 64, 64];

#[track_caller]
fn close(a: &[Vec<f32>], b: &[Vec<f32>]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && off < 2e-6, "vector {i} is off by {off}");
    }
}

#[test]
fn the_fused_encoder_computes_what_candle_does() {
    let mut fused = Embedder::load_with(&weights(), &Device::Cpu, 3).unwrap();
    let mut padded = Embedder::load_padded(&weights(), &Device::Cpu).unwrap();
    let inputs = inputs(&LENGTHS);
    let vectors = fused.infer(&inputs).unwrap();
    close(&vectors, &padded.infer(&inputs).unwrap());
    for vector in &vectors {
        assert_eq!(vector.len(), tiny::HIDDEN);
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn so_does_the_encoder_for_cards_but_for_its_kernels() {
    let mut packed = Embedder::load_packed(&weights(), &Device::Cpu, DType::F32, false).unwrap();
    let mut padded = Embedder::load_padded(&weights(), &Device::Cpu).unwrap();
    let inputs = inputs(&LENGTHS);
    close(&packed.infer(&inputs).unwrap(), &padded.infer(&inputs).unwrap());
    assert!(packed.infer(&[]).unwrap().is_empty());
}

#[test]
fn a_batch_equals_its_items_alone_in_order() {
    let inputs = inputs(&LENGTHS);
    for threads in [1, 2, 5] {
        let mut embedder = Embedder::load_with(&weights(), &Device::Cpu, threads).unwrap();
        let batch = embedder.infer(&inputs).unwrap();
        let alone: Vec<_> =
            inputs.iter().flat_map(|input| embedder.infer(std::slice::from_ref(input)).unwrap()).collect();
        close(&batch, &alone);
    }
}

#[test]
fn collating_ahead_changes_nothing() {
    let mut embedder = Embedder::load(&weights(), &Device::Cpu).unwrap();
    let inputs = inputs(&[9, 40, 2]);
    let plain = embedder.infer(&inputs).unwrap();
    let ahead = Embedder::collate(&inputs).unwrap();
    assert_eq!(embedder.infer_collated(&inputs, ahead).unwrap(), plain);
    let of_another_batch = Embedder::collate(&inputs[1..]).unwrap();
    assert_eq!(embedder.infer_collated(&inputs, of_another_batch).unwrap(), plain);
    assert_eq!(embedder.infer_collated(&inputs, Collated::nothing()).unwrap(), plain);
}

#[test]
fn it_warms_up_and_takes_an_empty_batch() {
    let mut embedder = Embedder::load(&weights(), &Device::Cpu).unwrap();
    embedder.warm_up().unwrap();
    assert!(embedder.infer(&[]).unwrap().is_empty());
    assert_eq!(Embedder::weight(&inputs(&[7])[0]), 7);
}

#[test]
fn bad_inputs_are_refused_with_a_reason() {
    let mut embedder = Embedder::load(&weights(), &Device::Cpu).unwrap();
    let unknown = TokenIds::new(vec![2, 99_999, 3]);
    for (input, reason) in [
        (TokenIds::default(), "without tokens"),
        (inputs(&[513]).remove(0), "513 tokens: the model takes at most 512"),
        (unknown, "token 99999 is not in the model's vocabulary"),
    ] {
        let Admit::Never(error) = embedder.admit(&input) else { panic!("{input:?} was let in") };
        assert!(error.to_string().contains(reason), "{error}");
        let error = embedder.infer(&[input]).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(matches!(embedder.admit(&inputs(&[512])[0]), Admit::Now));
}

#[test]
fn weights_that_are_not_numbers_are_an_error() {
    let dir = tiny::model();
    let mut parts = tiny::tensors("");
    let part = parts.get_mut("encoder.layer.0.output.dense.bias").unwrap();
    part.2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    tiny::write(&dir.path().join("model.safetensors"), &parts);
    let mut embedder = Embedder::load(&Weights::dir(dir.path()).unwrap(), &Device::Cpu).unwrap();
    let message = embedder.infer(&inputs(&[5])).unwrap_err().to_string();
    assert!(message.contains("not numbers"), "{message}");
}
