//! The element-wise steps of a transformer block on the CPU, each in one pass over the memory and in place.
//!
//! Owns the arithmetic only: rows of `f32`, the widest vector instructions that the processor has (chosen at run time),
//! and as many threads as the rayon pool it is called in. It knows nothing of layers, heads or weights, and it does not
//! multiply matrices: that is candle's.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, bail};
use pulp::Arch;
use rayon::prelude::*;

/// Elements that one task works on: enough to make a task worth its start, little enough to stay in the cache.
const TASK: usize = 16 * 1024;
/// Independent partial sums, so that a sum over a row can use vector instructions.
const LANES: usize = 16;

/// `x = gelu(x + bias)` over rows of `bias.len()`, with the exact (erf) form of gelu.
pub(crate) struct BiasGelu<'a>(pub &'a [f32]);

/// `x = x + bias` over rows of `bias.len()`.
pub(crate) struct Bias<'a>(pub &'a [f32]);

/// `x = layer_norm(x + bias + residual)` over rows of `gain.len()`; the residual is the second tensor, of the same shape.
pub(crate) struct AddNorm<'a> {
    pub bias: &'a [f32],
    pub norm: &'a Norm,
}

/// The parameters of a layer norm.
pub(crate) struct Norm {
    pub gain: Vec<f32>,
    pub shift: Vec<f32>,
    pub eps: f32,
}

/// `x = softmax(x * scale)` over rows of `width`.
pub(crate) struct Softmax {
    pub width: usize,
    pub scale: f32,
}

impl InplaceOp1 for BiasGelu<'_> {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        rows(values_mut(storage, layout)?, self.0.len(), |row| {
            for (x, b) in row.iter_mut().zip(self.0) {
                *x = gelu(*x + *b);
            }
        })
    }
}

impl InplaceOp1 for Bias<'_> {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        rows(values_mut(storage, layout)?, self.0.len(), |row| {
            for (x, b) in row.iter_mut().zip(self.0) {
                *x += *b;
            }
        })
    }
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "scaled-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        rows(values_mut(storage, layout)?, self.width, |row| softmax(row, self.scale))
    }
}

impl InplaceOp2 for AddNorm<'_> {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let width = self.bias.len();
        let (x, residual) = (values_mut(s1, l1)?, values(s2, l2)?);
        if x.len() != residual.len() || width == 0 || x.len() % width != 0 {
            bail!("add-norm of {} and {} values in rows of {width}", x.len(), residual.len());
        }
        let many = width * (TASK / width).max(1);
        let arch = Arch::new();
        x.par_chunks_mut(many).zip(residual.par_chunks(many)).for_each(|(x, residual)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (x, residual) in x.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
                        for ((x, r), b) in x.iter_mut().zip(residual).zip(self.bias) {
                            *x += *r + *b;
                        }
                        self.norm.apply(x);
                    }
                },
            );
        });
        Ok(())
    }
}

impl Norm {
    /// Normalises rows in place, `gain.len()` values each.
    pub(crate) fn rows(&self, values: &mut [f32]) -> Result<()> {
        rows(values, self.gain.len(), |row| self.apply(row))
    }

    #[inline(always)]
    fn apply(&self, row: &mut [f32]) {
        let n = row.len() as f32;
        let mean = sum(row, |x| x) / n;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + self.eps).sqrt();
        for ((x, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *x = (*x - mean) * scale * *gain + *shift;
        }
    }
}

/// Runs `f` on every row of `width` values, on the threads of the current pool and with vector instructions.
fn rows(values: &mut [f32], width: usize, f: impl Fn(&mut [f32]) + Sync) -> Result<()> {
    if width == 0 || !values.len().is_multiple_of(width) {
        bail!("{} values do not divide into rows of {width}", values.len());
    }
    let arch = Arch::new();
    values.par_chunks_mut(width * (TASK / width).max(1)).for_each(|task| {
        arch.dispatch(
            #[inline(always)]
            || task.chunks_exact_mut(width).for_each(&f),
        );
    });
    Ok(())
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => bail!("expected contiguous f32 values"),
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => bail!("expected contiguous f32 values"),
    }
}

#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    rest + lanes.iter().sum::<f32>()
}

#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let mut max = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    max = lanes.iter().fold(max, |a, b| a.max(*b)) * scale;
    for x in row.iter_mut() {
        *x = exp(*x * scale - max);
    }
    let inverse = 1.0 / sum(row, |x| x);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`, erf by Abramowitz and Stegun 7.1.26: at most 1.5e-7 off.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let erf = (1.0 - p * exp(-z * z)).copysign(x);
    0.5 * x * (1.0 + erf)
}

/// `e^x` for x <= 0 (what softmax and gelu need), within 2 units in the last place; below -87 it is 0 or nearly so.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0
        + r * (1.0 + r * (0.5 + r * (1.666_666_7e-1 + r * (4.166_666_8e-2 + r * (8.333_334e-3 + r * 1.388_888_9e-3)))));
    // 2^n by adding n to the exponent: n lies in -126..=0 here, so nothing overflows into the sign.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Tensor};

    /// Rows of 37 values (no multiple of any vector) from -8 to 8 and, in one row, far beyond.
    fn sample() -> Tensor {
        let mut values: Vec<f32> = (0..37 * 700).map(|i| (i * 7919 % 16_001) as f32 / 1000.0 - 8.0).collect();
        values[37..74].iter_mut().for_each(|x| *x *= 30.0);
        Tensor::from_vec(values, (700, 37), &Device::Cpu).unwrap()
    }

    fn wave(phase: f32) -> Vec<f32> {
        (0..37).map(|i| (i as f32 + phase).sin()).collect()
    }

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn exp_is_exact_to_the_last_places() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let wanted = f64::from(x).exp();
            let error = (f64::from(exp(x)) - wanted).abs() / wanted;
            assert!(error < 4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1.7e-38 && exp(f32::NEG_INFINITY) < 1.7e-38);
    }

    #[test]
    fn bias_and_gelu() {
        let (x, bias) = (sample(), wave(0.3));
        let sum = x.broadcast_add(&Tensor::new(bias.as_slice(), &Device::Cpu).unwrap()).unwrap();
        let y = x.copy().unwrap();
        y.inplace_op1(&Bias(&bias)).unwrap();
        assert_eq!(off(&y, &sum), 0.0);
        let y = x.copy().unwrap();
        y.inplace_op1(&BiasGelu(&bias)).unwrap();
        let relative =
            (y - sum.gelu_erf().unwrap()).unwrap().broadcast_div(&(sum.abs().unwrap() + 1.0).unwrap()).unwrap();
        assert!(relative.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 3e-7);
    }

    #[test]
    fn softmax_of_scaled_rows() {
        let x = sample();
        let wanted = candle_nn::ops::softmax(&(&x * 0.7).unwrap(), D::Minus1).unwrap();
        x.inplace_op1(&Softmax { width: 37, scale: 0.7 }).unwrap();
        assert!(off(&x, &wanted) < 1e-6);
    }

    #[test]
    fn add_and_layer_norm() {
        let (x, bias) = (sample(), wave(0.1));
        let norm = Norm { gain: wave(0.5), shift: wave(0.9), eps: 1e-12 };
        let residual = (x.flip(&[0]).unwrap() * 0.5).unwrap();
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let sum = (&x + &residual).unwrap().broadcast_add(&tensor(&bias)).unwrap();
        let wanted = candle_nn::ops::layer_norm(&sum, &tensor(&norm.gain), &tensor(&norm.shift), 1e-12).unwrap();
        x.inplace_op2(&residual, &AddNorm { bias: &bias, norm: &norm }).unwrap();
        assert!(off(&x, &wanted) < 1e-5);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = sample();
        assert!(x.inplace_op1(&Bias(&[1.0; 36])).is_err());
        assert!(x.inplace_op1(&Bias(&[])).is_err());
        assert!(x.t().unwrap().inplace_op1(&Bias(&[1.0; 700])).is_err());
        let norm = Norm { gain: wave(0.0), shift: wave(0.0), eps: 1e-12 };
        assert!(x.inplace_op2(&sample().narrow(0, 0, 2).unwrap(), &AddNorm { bias: &wave(0.0), norm: &norm }).is_err());
    }
}
