//! Forces and energies of all atoms, as tensor operations.
//!
//! Owns the arithmetic over the list of neighbours, the same on every device. Every atom's force is a sum over its own
//! row in the row's order, so results do not depend on threads, blocks or what ran before. It makes no list and moves
//! nothing.

use candle_core::{DType, Device, Tensor};
use forebay::{Context, Result};
use rayon::prelude::*;

use super::neighbours::{Block, Neighbours};
use super::potential::Potential;

/// The potential on a device.
pub(super) struct Force {
    potential: Potential,
    /// The cutoff's square.
    limit: Tensor,
    /// What [`pull`] says at the cutoff: taken from all others, so that pairs beyond it are exactly nothing.
    edge: f64,
}

/// Sums over all pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// The energy.
    pub(super) energy: f64,
    /// The virial: every pair's distance times its force.
    pub(super) virial: f64,
    /// The energy that the pairs within the cutoff have by the uncut potential.
    pub(super) plain_energy: f64,
    /// Their virial by the uncut potential.
    pub(super) plain_virial: f64,
}

/// What pairs of a block are apart: x, y, z, and the square of the distance or of the cutoff, whichever is less.
struct Apart {
    axes: [Tensor; 3],
    square: Tensor,
}

impl Force {
    pub(super) fn new(potential: Potential, dtype: DType, device: &Device) -> Result<Self> {
        let square = potential.cutoff * potential.cutoff;
        let limit = Tensor::new(square, device)?.to_dtype(dtype)?;
        let (_, edge) = pull(&limit)?;
        Ok(Self { potential, edge: edge.to_dtype(DType::F64)?.to_scalar()?, limit })
    }

    /// The force on every atom: three rows, as `positions`.
    pub(super) fn of(&self, positions: &Tensor, near: &Neighbours) -> Result<Tensor> {
        let points = near.points(positions)?;
        let blocks = each(near, |block| self.block(&points, block))?;
        match blocks.as_slice() {
            [one] => Ok(one.clone()),
            _ => Tensor::cat(&blocks, 1).context("putting forces together"),
        }
    }

    fn block(&self, points: &Tensor, block: &Block) -> Result<Tensor> {
        let apart = self.apart(points, block)?;
        let (_, pull) = pull(&apart.square)?;
        let pull = pull.affine(-1.0, self.edge)?;
        let sum = |axis: &Tensor| (axis * &pull)?.sum(1);
        let [x, y, z] = &apart.axes;
        Ok(Tensor::stack(&[sum(x)?, sum(y)?, sum(z)?], 0)?)
    }

    fn apart(&self, points: &Tensor, block: &Block) -> Result<Apart> {
        let axis = |axis: usize| {
            let from = points.get(axis)?;
            let own = from.narrow(0, block.start, block.atoms)?.unsqueeze(1)?;
            from.gather(&block.points, 0)?.reshape((block.atoms, block.width))?.broadcast_sub(&own)
        };
        let axes = [axis(0)?, axis(1)?, axis(2)?];
        let [x, y, z] = &axes;
        let square = ((x.sqr()? + y.sqr()?)? + z.sqr()?)?;
        Ok(Apart { square: square.broadcast_minimum(&self.limit)?, axes })
    }

    /// Energies and virials.
    pub(super) fn totals(&self, positions: &Tensor, near: &Neighbours) -> Result<Totals> {
        let points = near.points(positions)?;
        let blocks = each(near, |block| self.block_totals(&points, block))?;
        Ok(blocks.into_iter().fold(Totals::default(), |sum, block| Totals {
            energy: sum.energy + block.energy,
            virial: sum.virial + block.virial,
            plain_energy: sum.plain_energy + block.plain_energy,
            plain_virial: sum.plain_virial + block.plain_virial,
        }))
    }

    fn block_totals(&self, points: &Tensor, block: &Block) -> Result<Totals> {
        let Apart { square, .. } = self.apart(points, block)?;
        // Every pair is there twice.
        let half = |values: Tensor| Ok::<_, candle_core::Error>(0.5 * total(&values)?);
        let (s, pull) = pull(&square)?;
        let plain = ((s.affine(4.0, -4.0))? * &s)?;
        let cut = (&plain + square.affine(self.potential.square, self.potential.shift)?)?;
        let within = half(square.broadcast_lt(&self.limit)?.to_dtype(DType::F64)?)?;
        // Pairs beyond the cutoff count here as if they were at it, which is taken off again.
        let beyond = 0.5 * (block.atoms * block.width) as f64 - within;
        let r2 = self.potential.cutoff * self.potential.cutoff;
        let s_edge = 1.0 / (r2 * r2 * r2);
        let virial = half((pull.affine(1.0, -self.edge)? * &square)?)?;
        Ok(Totals {
            energy: half(cut)?,
            virial,
            plain_energy: half(plain)? - beyond * 4.0 * (s_edge - 1.0) * s_edge,
            plain_virial: half((pull * square)?)? - beyond * 24.0 * (2.0 * s_edge - 1.0) * s_edge,
        })
    }
}

/// `1 / r^6`, and the uncut force divided by the distance, of squared distances.
fn pull(square: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let u = square.recip()?;
    let u2 = u.sqr()?;
    let u3 = (&u2 * &u)?;
    let pull = (u3.affine(48.0, -24.0)? * u2.sqr()?)?;
    Ok((u3, pull))
}

/// The sum of all values, as `f64`.
pub(super) fn total(values: &Tensor) -> candle_core::Result<f64> {
    values.to_dtype(DType::F64)?.sum_all()?.to_scalar()
}

/// `f` of every block in order; on the CPU several at a time, by the threads of the pool this is called in.
fn each<T: Send>(near: &Neighbours, f: impl Fn(&Block) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    let blocks = near.blocks();
    match blocks.first() {
        Some(block) if blocks.len() > 1 && block.points.device().is_cpu() => blocks.par_iter().map(f).collect(),
        _ => blocks.iter().map(f).collect(),
    }
}
