//! Attention of one sequence to itself, on the CPU.
//!
//! Owns the way from queries, keys and values to contexts: head by head, and for a few queries at a time, so that their
//! scores never leave the nearest cache. Heads are spread over the threads of the current rayon pool. It knows no masks:
//! every token sees every token.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels;
use crate::matmul::{TALL, store, tile, vectors};

/// Vectors side by side in a panel of keys or values: little padding for short sequences and small heads.
const WIDE: usize = 2;

/// Fills the rows of `context` from those of `qkv`: the queries of all heads, then the keys, then the values.
pub(crate) fn attend(arch: Arch, qkv: &[f32], tokens: usize, heads: usize, context: &mut [f32]) {
    let width = context.len() / tokens;
    // A head's part of every row, so that heads can be written side by side.
    let mut parts: Vec<_> = (0..heads).map(|_| Vec::with_capacity(tokens)).collect();
    for row in context.chunks_exact_mut(width) {
        parts.iter_mut().zip(row.chunks_exact_mut(width / heads)).for_each(|(own, part)| own.push(part));
    }
    parts.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (head, context)| {
        arch.dispatch(Head { qkv, width, from: head * (width / heads), context, scratch });
    });
}

struct Head<'a> {
    qkv: &'a [f32],
    width: usize,
    /// Where the head's queries start in a row.
    from: usize,
    context: Vec<&'a mut [f32]>,
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { qkv, width, from, mut context, scratch } = self;
        let (n, size, span) = (context.len(), context[0].len(), WIDE * S::F32_LANES);
        let part = |row: usize, which: usize| &qkv[(3 * row + which) * width + from..][..size];
        let padded = n.next_multiple_of(span);
        let scored = n.next_multiple_of(S::F32_LANES);
        scratch.resize(padded * size + n * size.next_multiple_of(span) + TALL * padded, 0.0);
        let (keys, rest) = scratch.split_at_mut(padded * size);
        let (scores, values) = rest.split_at_mut(TALL * padded);

        // What is left in the padding is never used: scores beyond the last key are overwritten, and values beyond the
        // head's size are not stored.
        for row in 0..n {
            let panel = &mut keys[row / span * span * size..][..span * size];
            panel.iter_mut().skip(row % span).step_by(span).zip(part(row, 1)).for_each(|(to, x)| *to = *x);
            for (i, x) in part(row, 2).chunks(span).enumerate() {
                values[(i * n + row) * span..][..x.len()].copy_from_slice(x);
            }
        }
        let zero = [simd.splat_f32s(0.0); WIDE];
        let scale = 1.0 / (size as f32).sqrt();
        for first in (0..n).step_by(TALL) {
            let mut queries: [&[f32]; TALL] = [&[]; TALL];
            queries.iter_mut().enumerate().for_each(|(j, query)| *query = part((first + j).min(n - 1), 0));
            for (i, keys) in keys.chunks_exact(span * size).enumerate() {
                let sums = tile(simd, queries, vectors::<S, WIDE>(keys), zero, &[]);
                for (row, sums) in scores.chunks_exact_mut(padded).zip(&sums) {
                    store(simd, &mut row[i * span..][..span], sums);
                }
            }
            let mut totals = [0.0; TALL];
            for (row, total) in scores.chunks_exact_mut(padded).zip(&mut totals) {
                row[n..scored].fill(f32::NEG_INFINITY);
                *total = kernels::exponentials(simd, &mut row[..scored], scale);
            }
            let mut rows: [&[f32]; TALL] = [&[]; TALL];
            rows.iter_mut().zip(scores.chunks_exact(padded)).for_each(|(row, scores)| *row = &scores[..n]);
            for (i, values) in values.chunks_exact(span * n).enumerate() {
                let mut sums = tile(simd, rows, vectors::<S, WIDE>(values), zero, &[]);
                let columns = i * span..size.min((i + 1) * span);
                for ((context, sums), total) in context[first..].iter_mut().zip(&mut sums).zip(totals) {
                    let share = simd.splat_f32s(1.0 / total);
                    sums.iter_mut().for_each(|sum| *sum = simd.mul_f32s(*sum, share));
                    store(simd, &mut context[columns.clone()], sums);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{archs, wave};

    /// Attention in the plainest way, in 64 bits.
    fn plain(qkv: &[f32], n: usize, heads: usize, width: usize) -> Vec<f64> {
        let at = |row: usize, which: usize, i: usize| f64::from(qkv[(3 * row + which) * width + i]);
        let size = width / heads;
        let mut context = Vec::new();
        for (q, i) in (0..n).flat_map(|q| (0..width).map(move |i| (q, i))) {
            let head = i / size * size..(i / size + 1) * size;
            let dot = |k: usize| head.clone().map(|i| at(q, 0, i) * at(k, 1, i)).sum::<f64>();
            let shares: Vec<f64> = (0..n).map(|k| (dot(k) / (size as f64).sqrt()).exp()).collect();
            let sum: f64 = shares.iter().enumerate().map(|(k, share)| share * at(k, 2, i)).sum();
            context.push(sum / shares.iter().sum::<f64>());
        }
        context
    }

    #[test]
    fn contexts_for_all_shapes() {
        for arch in archs() {
            for (n, heads, size) in [(1, 1, 1), (2, 3, 8), (6, 2, 32), (37, 2, 5), (70, 1, 48)] {
                let qkv = wave(n * 3 * heads * size, 0.2);
                let mut context = vec![f32::NAN; n * heads * size];
                attend(arch, &qkv, n, heads, &mut context);
                let wanted = plain(&qkv, n, heads, heads * size);
                let off = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs();
                let worst = context.iter().zip(&wanted).map(off).fold(0.0, f64::max);
                assert!(worst < 2e-6, "{arch:?}, {n} tokens, {heads} heads of {size}: off by {worst:e}");
            }
        }
    }
}
