//! The element-wise steps of a transformer block on the CPU, each in one pass over the memory and in place.
//!
//! Owns the arithmetic only: rows of `f32`, by the widest vector instructions that the processor has. It knows nothing of
//! layers, heads or weights, uses no threads, and does not multiply matrices.

use pulp::{Arch, Simd, WithSimd};

/// Independent partial sums, so that a sum over a row can use vector instructions.
const LANES: usize = 16;

/// The parameters of a layer norm.
pub(crate) struct Norm {
    pub gain: Vec<f32>,
    pub shift: Vec<f32>,
    pub eps: f32,
}

impl Norm {
    /// `x = layer_norm(x)` over rows of `gain.len()`.
    pub(crate) fn apply(&self, arch: Arch, x: &mut [f32]) {
        arch.dispatch(
            #[inline(always)]
            || x.chunks_exact_mut(self.gain.len()).for_each(|row| self.row(row)),
        );
    }

    /// `x = layer_norm(x + y)` over rows of `gain.len()`.
    pub(crate) fn apply_sum(&self, arch: Arch, x: &mut [f32], y: &[f32]) {
        let width = self.gain.len();
        arch.dispatch(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                    x.iter_mut().zip(y).for_each(|(x, y)| *x += *y);
                    self.row(x);
                }
            },
        );
    }

    #[inline(always)]
    fn row(&self, row: &mut [f32]) {
        let n = row.len() as f32;
        let mean = sum(row, |x| x) / n;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + self.eps).sqrt();
        for ((x, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *x = (*x - mean) * scale * *gain + *shift;
        }
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

/// `x = e^(scale * (x - max))`, max being the largest; returns the sum of the results.
///
/// The row is a whole number of vectors.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(simd: S, row: &mut [f32], scale: f32) -> f32 {
    let (row, _) = S::as_mut_simd_f32s(row);
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let max = simd.reduce_max_f32s(row.iter().fold(lowest, |max, x| simd.max_f32s(max, *x)));
    let (scale, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-max * scale));
    let mut sums = simd.splat_f32s(0.0);
    for x in row {
        *x = exp(simd, simd.mul_add_e_f32s(*x, scale, shift));
        sums = simd.add_f32s(sums, *x);
    }
    simd.reduce_sum_f32s(sums)
}

/// `x = gelu(x)`, in its exact (erf) form.
pub(crate) fn gelu(arch: Arch, x: &mut [f32]) {
    arch.dispatch(Gelu(x));
}

struct Gelu<'a>(&'a mut [f32]);

impl WithSimd for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (whole, rest) = S::as_mut_simd_f32s(self.0);
        whole.iter_mut().for_each(|x| *x = gelu_of(simd, *x));
        if !rest.is_empty() {
            let x = simd.partial_load_f32s(rest);
            simd.partial_store_f32s(rest, gelu_of(simd, x));
        }
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`, erf by Abramowitz and Stegun 7.1.26: at most 1.5e-7 off.
#[inline(always)]
fn gelu_of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let of = |value: f32| simd.splat_f32s(value);
    let one = of(1.0);
    let z = simd.mul_f32s(simd.abs_f32s(x), of(std::f32::consts::FRAC_1_SQRT_2));
    let t = simd.div_f32s(one, simd.mul_add_e_f32s(z, of(0.327_591_1), one));
    let p = polynomial(simd, t, [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6, 0.0]);
    // 1 - erf(z), and from there to half of x times 1 + erf(x) without asking for its sign twice.
    let left = simd.mul_f32s(p, exp(simd, simd.mul_f32s(simd.neg_f32s(z), z)));
    let half = simd.mul_f32s(x, of(0.5));
    let erf = simd.sub_f32s(one, left);
    simd.mul_add_e_f32s(simd.abs_f32s(half), erf, half)
}

/// `e^x` for x <= 0 (what softmax and gelu need), within 2 units in the last place; below -87 it is 0 or nearly so.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let of = |value: f32| simd.splat_f32s(value);
    // Not the maximum of the two: what is not a number stays so.
    let x = simd.select_f32s(simd.less_than_f32s(x, of(-87.0)), of(-87.0), x);
    let shifted = simd.mul_add_e_f32s(x, of(std::f32::consts::LOG2_E), of(ROUND));
    let n = simd.sub_f32s(shifted, of(ROUND));
    let r = simd.mul_add_e_f32s(n, of(-LN2_LOW), simd.mul_add_e_f32s(n, of(-LN2_HIGH), x));
    let p = polynomial(simd, r, [1.388_888_9e-3, 8.333_334e-3, 4.166_666_8e-2, 1.666_666_7e-1, 0.5, 1.0, 1.0]);
    // 2^n by adding n to the exponent: n lies in -126..=0 here, so nothing overflows into the sign.
    let n = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), n))
}

/// A polynomial, the highest power's factor first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, factors: [f32; N]) -> S::f32s {
    let [first, rest @ ..] = factors.as_slice() else { return simd.splat_f32s(0.0) };
    rest.iter().fold(simd.splat_f32s(*first), |sum, factor| simd.mul_add_e_f32s(sum, x, simd.splat_f32s(*factor)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use candle_core::{D, Device, Tensor};

    /// Every kind of vector instructions that this processor has, down to none.
    pub(crate) fn archs() -> Vec<Arch> {
        let mut archs = vec![Arch::new(), Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs
    }

    pub(crate) fn wave(n: usize, phase: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 + phase).sin()).collect()
    }

    /// Rows of 37 values (no multiple of any vector) from -8 to 8 and, in one row, far beyond.
    fn sample() -> Vec<f32> {
        let mut values: Vec<f32> = (0..37 * 700).map(|i| (i * 7919 % 16_001) as f32 / 1000.0 - 8.0).collect();
        values[37..74].iter_mut().for_each(|x| *x *= 30.0);
        values
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len() / 37, 37), &Device::Cpu).unwrap()
    }

    fn off(a: &[f32], b: &Tensor) -> f32 {
        (tensor(a) - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// `exp` of a few values, whatever the vectors are.
    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for x in self.0 {
                let y = exp(simd, simd.splat_f32s(*x));
                simd.partial_store_f32s(std::slice::from_mut(x), y);
            }
        }
    }

    #[test]
    fn exp_is_exact_to_the_last_places() {
        for arch in archs() {
            let x: Vec<f32> = (0..=87_000).map(|i| -(i as f32) / 1000.0).collect();
            let mut y = x.clone();
            arch.dispatch(Exp(&mut y));
            for (x, y) in x.iter().zip(&y) {
                let wanted = f64::from(*x).exp();
                let error = (f64::from(*y) - wanted).abs() / wanted;
                assert!(error < 4e-7, "{arch:?}: exp({x}) is off by {error:e}");
            }
            let mut ends = [0.0, -1e30, f32::NEG_INFINITY, f32::NAN];
            arch.dispatch(Exp(&mut ends));
            assert_eq!(ends[0], 1.0);
            assert!(ends[1] < 1.7e-38 && ends[2] < 1.7e-38 && ends[3].is_nan(), "{arch:?}: {ends:?}");
        }
    }

    #[test]
    fn gelu_is_the_exact_one() {
        for arch in archs() {
            let mut x = sample();
            let wanted = tensor(&x).gelu_erf().unwrap();
            let scale = (tensor(&x).abs().unwrap() + 1.0).unwrap();
            x.chunks_mut(37).for_each(|row| gelu(arch, row));
            let relative = ((tensor(&x) - wanted).unwrap() / scale).unwrap().abs().unwrap();
            assert!(relative.max_all().unwrap().to_scalar::<f32>().unwrap() < 3e-7, "{arch:?}");
        }
    }

    /// `exponentials` of rows of 37 values, filled up to 48, divided by their sums.
    struct Softmax<'a>(&'a mut [f32]);

    impl WithSimd for Softmax<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for row in self.0.chunks_exact_mut(37) {
                let mut filled = [f32::NEG_INFINITY; 48];
                filled[..37].copy_from_slice(row);
                let total = exponentials(simd, &mut filled, 0.7);
                row.iter_mut().zip(filled).for_each(|(to, x)| *to = x / total);
            }
        }
    }

    #[test]
    fn softmax_of_scaled_rows() {
        for arch in archs() {
            let mut x = sample();
            let wanted = candle_nn::ops::softmax(&(tensor(&x) * 0.7).unwrap(), D::Minus1).unwrap();
            arch.dispatch(Softmax(&mut x));
            assert!(off(&x, &wanted) < 1e-6, "{arch:?}");
        }
    }

    #[test]
    fn add_and_layer_norm() {
        for arch in archs() {
            let norm = Norm { gain: wave(37, 0.5), shift: wave(37, 0.9), eps: 1e-12 };
            let (mut x, y) = (sample(), wave(37 * 700, 0.1));
            let [gain, shift] = [&norm.gain, &norm.shift].map(|row| tensor(row).squeeze(0).unwrap());
            let expected = |x: &Tensor| candle_nn::ops::layer_norm(x, &gain, &shift, 1e-12).unwrap();
            let mut alone = x.clone();
            norm.apply(arch, &mut alone);
            assert!(off(&alone, &expected(&tensor(&x))) < 1e-5, "{arch:?}");
            let wanted = expected(&(tensor(&x) + tensor(&y)).unwrap());
            norm.apply_sum(arch, &mut x, &y);
            assert!(off(&x, &wanted) < 1e-5, "{arch:?}");
        }
    }
}
