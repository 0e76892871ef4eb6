//! Matrix products on the CPU: a few rows at a time against a matrix that was cut into panels beforehand.
//!
//! Owns the innermost loop, with the widest vector instructions that the processor has, and the layout that it reads
//! from front to back. It promises no speed for thin matrices and uses no threads: the caller spreads rows over cores.

use pulp::{Arch, Simd, WithSimd};

/// Rows that are computed together: times two or four vectors, their sums fill the registers.
pub(crate) const TALL: usize = 6;

/// A linear layer: `y = x * weight^T + bias`.
pub(crate) struct Linear {
    arch: Arch,
    /// Columns of the result that belong together, panel after panel: for each input, its weight for each of them.
    panels: Vec<f32>,
    /// As long as all panels are wide.
    bias: Vec<f32>,
    from: usize,
    to: usize,
}

impl Linear {
    /// Of a weight of `bias.len()` rows; `arch` says how wide the panels are.
    pub(crate) fn new(arch: Arch, weight: &[f32], bias: &[f32]) -> Self {
        let (to, span) = (bias.len(), arch.dispatch(Span));
        let from = weight.len() / to;
        let mut panels = vec![0.0; to.next_multiple_of(span) * from];
        for (panel, rows) in panels.chunks_exact_mut(span * from).zip(weight.chunks(span * from)) {
            for (column, row) in rows.chunks_exact(from).enumerate() {
                panel.iter_mut().skip(column).step_by(span).zip(row).for_each(|(to, w)| *to = *w);
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(to.next_multiple_of(span), 0.0);
        Self { arch, panels, bias, from, to }
    }

    /// How many values a row of the result has.
    pub(crate) fn outputs(&self) -> usize {
        self.to
    }

    /// Fills the rows of `y` from those of `x`.
    pub(crate) fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.arch.dispatch(Apply { layer: self, x, y });
    }
}

/// The width of a panel in values.
struct Span;

impl WithSimd for Span {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        if S::REGISTER_COUNT < 32 { 2 * S::F32_LANES } else { 4 * S::F32_LANES }
    }
}

struct Apply<'a> {
    layer: &'a Linear,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Six rows of two vectors, or of four: sums for 16 registers or 32, with room for the operands.
        if S::REGISTER_COUNT < 32 { self.run::<S, 2>(simd) } else { self.run::<S, 4>(simd) }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn run<S: Simd, const WIDE: usize>(self, simd: S) {
        let Linear { panels, bias, from, to, .. } = self.layer;
        let (from, to, span) = (*from, *to, WIDE * S::F32_LANES);
        let rows = self.x.len() / from;
        let share = (span * from).div_ceil(rows.div_ceil(TALL));
        for (i, panel) in panels.chunks_exact(span * from).enumerate() {
            let panel = vectors::<S, WIDE>(panel);
            let start = vectors::<S, WIDE>(&bias[i * span..][..span])[0];
            let columns = i * span..to.min((i + 1) * span);
            let mut later = panels[(i + 1) * span * from..].chunks(share);
            for first in (0..rows).step_by(TALL) {
                // Past the last row the last row again: the same result goes to the same place.
                let row = |j: usize| (first + j).min(rows - 1);
                let mut x: [&[f32]; TALL] = [&[]; TALL];
                x.iter_mut().enumerate().for_each(|(j, x)| *x = &self.x[row(j) * from..][..from]);
                let sums = tile(simd, x, panel, start, later.next().unwrap_or_default());
                for (j, sums) in sums.iter().enumerate() {
                    store(simd, &mut self.y[row(j) * to..][columns.clone()], sums);
                }
            }
        }
    }
}

/// `start` plus the products of [`TALL`] rows with a panel of `WIDE` columns of vectors.
///
/// The rows are at least as long as the panel. What is needed `later` is read once on the way and not used: so it comes
/// from memory while there is still something to compute.
#[inline(always)]
pub(crate) fn tile<S: Simd, const WIDE: usize>(
    simd: S,
    rows: [&[f32]; TALL],
    panel: &[[S::f32s; WIDE]],
    start: [S::f32s; WIDE],
    later: &[f32],
) -> [[S::f32s; WIDE]; TALL] {
    // Cut to one length here, so that the loop need not check it. No `map`: an array's is not inlined into functions that
    // use wider instructions than the rest of the program.
    let mut cut = rows;
    cut.iter_mut().for_each(|row| *row = &row[..panel.len()]);
    let mut sums = [start; TALL];
    let (step, mut at, mut unused) = (later.len().div_ceil(panel.len()), 0, 0.0);
    for (k, columns) in panel.iter().enumerate() {
        unused += later.get(at).copied().unwrap_or_default();
        at += step;
        for (sums, row) in sums.iter_mut().zip(&cut) {
            let x = simd.splat_f32s(row[k]);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = simd.mul_add_e_f32s(x, *column, *sum);
            }
        }
    }
    std::hint::black_box(unused);
    sums
}

/// Values as groups of `WIDE` vectors; what does not fill a group is left out.
#[inline(always)]
pub(crate) fn vectors<S: Simd, const WIDE: usize>(values: &[f32]) -> &[[S::f32s; WIDE]] {
    S::as_simd_f32s(values).0.as_chunks().0
}

/// Writes as many of `values` as `to` has room for.
#[inline(always)]
pub(crate) fn store<S: Simd, const WIDE: usize>(simd: S, to: &mut [f32], values: &[S::f32s; WIDE]) {
    let (whole, rest) = S::as_mut_simd_f32s(to);
    whole.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
    if !rest.is_empty() {
        simd.partial_store_f32s(rest, values[whole.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{archs, wave};

    #[test]
    fn products_of_all_shapes() {
        for arch in archs() {
            for (rows, from, to) in [(1, 1, 1), (6, 32, 64), (7, 37, 65), (13, 5, 100), (20, 384, 32)] {
                let (weight, bias, x) = (wave(to * from, 0.3), wave(to, 0.7), wave(rows * from, 0.5));
                let mut y = vec![f32::NAN; rows * to];
                Linear::new(arch, &weight, &bias).apply(&x, &mut y);
                for (i, y) in y.iter().enumerate() {
                    let (x, w) = (&x[i / to * from..][..from], &weight[i % to * from..][..from]);
                    let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let wanted = sum + f64::from(bias[i % to]);
                    let bound = 1e-6 * (from + 1) as f64;
                    assert!((f64::from(*y) - wanted).abs() < bound, "{arch:?}, {rows}x{from}x{to}, value {i}");
                }
            }
        }
    }
}
