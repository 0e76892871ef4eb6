//! The trained layer at work, and the loss that it is trained by.
//!
//! Owns the two formulas, as tensors that gradients go through. The layer is kept as its difference from the identity, so
//! that weight decay draws it to the embedder as it was. It changes no weights.

use candle_core::{Device, Result, Tensor};

/// Added to a pair's score where it is no negative.
const NEVER: f32 = -1e9;

/// The rows of `vectors`, each through the layer `1 + delta` and divided by its length.
pub(super) fn project(vectors: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let moved = (vectors + vectors.matmul(&delta.t()?)?)?;
    let square = moved.sqr()?.sum_keepdim(1)?;
    // The root has no slope at zero, and a vector without a length has no direction anyway.
    moved.broadcast_div(&(square + 1e-12)?.sqrt()?)
}

/// The contrastive loss with negatives from the batch: of each anchor, the cross entropy of finding its own positive among
/// all positives of the batch, averaged. It is the multiple negatives ranking loss of Henderson et al. 2017
/// (arXiv:1705.00652) and the InfoNCE of van den Oord, Li and Vinyals 2018 (arXiv:1807.03748), of cosines divided by
/// `temperature`.
///
/// `vectors` are the anchors and, below them, their positives, in rows; `mask` is what [`mask`] makes of the pairs.
pub(super) fn contrastive(vectors: &Tensor, mask: &Tensor, delta: &Tensor, temperature: f64) -> Result<Tensor> {
    let pairs = mask.dim(0)?;
    let units = project(vectors, delta)?;
    let (anchors, positives) = (units.narrow(0, 0, pairs)?, units.narrow(0, pairs, pairs)?);
    let scores = ((anchors.matmul(&positives.t()?)? / temperature)? + mask)?;
    let own = ((anchors * positives)?.sum(1)? / temperature)?;
    // The largest score only keeps the exponentials small: it drops out of the sum, and of its gradient.
    let largest = scores.max_keepdim(1)?.detach();
    let others = (scores.broadcast_sub(&largest)?.exp()?.sum(1)?.log()? + largest.squeeze(1)?)?;
    (others - own)?.mean_all()
}

/// Which positives of a batch, in columns, are negatives of which anchors, in rows: 0 for those and for the pairs' own, and
/// far below for those that may well belong to the anchor, since the pairs share the one or the other, or are the anchor.
pub(super) fn mask(pairs: &[(u32, u32)], device: &Device) -> Result<Tensor> {
    let of = |row: usize, column: usize| {
        let ((anchor, positive), (other, others)) = (pairs[row], pairs[column]);
        let common = anchor == other || positive == others || anchor == others;
        if row != column && common { NEVER } else { 0.0 }
    };
    let n = pairs.len();
    let values: Vec<f32> = (0..n * n).map(|at| of(at / n, at % n)).collect();
    Tensor::from_vec(values, (n, n), device)
}
