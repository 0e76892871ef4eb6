//! The command `parity`: the embedder on the device gives what it gives on the CPU.
//!
//! Owns the tolerances, as 1 - cosine: below 1e-3 in half precision, below 1e-5 in single. Inputs of all kinds of lengths
//! go through in one batch, in that batch reversed, and each alone.

use std::path::Path;

use candle_core::{DType, Device};
use fastrand::Rng;
use forebay::{Model, Result};
use forebay_models::{DeviceChoice, Embedder, TokenIds, Weights};

use crate::inputs;
use crate::report::Report;

/// Around every border that the kernels and tiles have.
const LENGTHS: [usize; 26] =
    [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512];
const HALF: f64 = 1e-3;
const SINGLE: f64 = 1e-5;

/// Holds each network of the device against the CPU's.
pub fn check(model: &Path) -> Result<Report> {
    let weights = Weights::dir(model)?;
    let device = DeviceChoice::from_env()?.open()?;
    let inputs = inputs::ids(&mut Rng::with_seed(11), inputs::vocabulary(&weights)?, &LENGTHS);
    let expected = Embedder::load(&weights, &Device::Cpu)?.infer(&inputs)?;
    let mut report = Report::new("parity");
    report.figure("inputs", inputs.len());
    report.figure("tokens", LENGTHS.iter().sum::<usize>());
    let packed = |dtype, plain| Embedder::load_packed(&weights, &device, dtype, plain);
    if device.is_cuda() {
        hold(&mut report, "f16, packed", HALF, packed(DType::F16, false)?, &inputs, &expected)?;
        hold(&mut report, "f16, packed, plain copies", HALF, packed(DType::F16, true)?, &inputs, &expected)?;
    } else {
        hold(&mut report, "f32, packed", SINGLE, packed(DType::F32, false)?, &inputs, &expected)?;
    }
    let padded = Embedder::load_padded(&weights, &device)?;
    hold(&mut report, "f32, candle's", SINGLE, padded, &inputs, &expected)?;
    Ok(report)
}

fn hold(
    report: &mut Report,
    name: &str,
    tolerance: f64,
    mut embedder: Embedder,
    inputs: &[TokenIds],
    expected: &[Vec<f32>],
) -> Result<()> {
    let batch = embedder.infer(inputs)?;
    let turned: Vec<_> = inputs.iter().rev().cloned().collect();
    let mut reversed = embedder.infer(&turned)?;
    reversed.reverse();
    let alone = inputs.iter().map(|input| embedder.infer(std::slice::from_ref(input))).collect::<Result<Vec<_>>>()?;
    for (how, vectors) in [("a batch", batch), ("a batch reversed", reversed), ("alone", alone.concat())] {
        let what = format!("{name}, {how}");
        report.below(format_args!("{what}: 1 - cosine"), worst(&vectors, expected), tolerance);
        let moved = strangers(&vectors, expected);
        report.check(format_args!("{what}: order"), moved == 0, moved, "each output nearest to its own input's");
    }
    Ok(())
}

/// The largest difference, as 1 - cosine, of vectors that should be the same. Not a number if any value is none, or
/// numbers differ.
pub fn worst(vectors: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    if vectors.len() != expected.len() {
        return f64::NAN;
    }
    let differences = vectors.iter().zip(expected).map(|(a, b)| difference(a, b));
    // `f64::max` would pass over what is not a number.
    differences.fold(0.0, |worst, next| if next.is_nan() || next > worst { next } else { worst })
}

/// How many vectors are nearer to another one's than to their own.
fn strangers(vectors: &[Vec<f32>], expected: &[Vec<f32>]) -> usize {
    let nearest = |vector: &Vec<f32>| {
        let distances = expected.iter().map(|other| difference(vector, other));
        distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    };
    vectors.iter().enumerate().filter(|(index, vector)| nearest(vector) != Some(*index)).count()
}

/// 1 - cosine, in double precision.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_the_worst() {
        let (one, none) = (vec![1.0, 0.0], vec![f32::NAN, 0.0]);
        assert!(worst(&[none, one.clone()], &[one.clone(), one.clone()]).is_nan());
        assert!(worst(std::slice::from_ref(&one), &[one.clone(), one.clone()]).is_nan());
        assert_eq!(worst(std::slice::from_ref(&one), std::slice::from_ref(&one)), 0.0);
    }

    #[test]
    fn outputs_that_changed_places_are_found() {
        let (a, b) = (vec![1.0, 0.0], vec![0.999, 0.0447]);
        assert_eq!(strangers(&[a.clone(), b.clone()], &[a.clone(), b.clone()]), 0);
        assert_eq!(strangers(&[b.clone(), a.clone()], &[a, b]), 2);
    }
}
