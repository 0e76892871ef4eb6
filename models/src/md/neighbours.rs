//! The list of neighbours (Verlet, Phys. Rev. 159, 98, 1967): for every atom, who may come within the cutoff soon.
//!
//! Owns the list, the positions it was made of, and when it is stale. It is made on the host and lies on the device as
//! rows of the same width, both directions of every pair, so that each force is one sum in one order and nothing is
//! scattered. The same reference positions give the same list, wherever: who saves them saves the list.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use forebay::{Error, Result};

use super::cells::Cells;

/// Atoms in a block on the CPU: what is computed of them stays in the cache, and below where candle uses threads of its
/// own, which wait for each other longer than this takes.
const BLOCK_CPU: usize = 128;
/// Places in a block on other devices, which want much to do at once and have memory for it.
const BLOCK_DEVICE: usize = 1 << 24;

/// Who is near whom, and since when.
pub(super) struct Neighbours {
    reference: Arc<Vec<f64>>,
    reference_on_device: Tensor,
    /// How far an atom may move, squared, before the list is stale.
    slack: f64,
    owners: Tensor,
    shifts: Tensor,
    blocks: Vec<Block>,
}

/// Some atoms, one after the other, and their neighbours.
pub(super) struct Block {
    /// The first atom.
    pub(super) start: usize,
    /// How many.
    pub(super) atoms: usize,
    /// How many places each has. Those that are not needed hold a point that is far from all.
    pub(super) width: usize,
    /// `atoms * width` points.
    pub(super) points: Tensor,
}

impl Neighbours {
    /// The list for `reference` (all x, all y, all z, in the box), good as long as no atom moves by half of `skin`.
    pub(super) fn new(
        reference: Arc<Vec<f64>>,
        length: f64,
        cutoff: f64,
        skin: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let atoms = reference.len() / 3;
        let reach = cutoff + skin;
        let cells = Cells::new(&reference, length, reach);
        let far = (0, [4.0 * (length + reach), 0.0, 0.0]);
        let points = cells.owners().len() as u32;
        let owners = || cells.owners().iter().chain([&far]);

        let mut rows = Rows::default();
        for atom in 0..atoms {
            cells.near(&reference, atom, |point, _| rows.points.push(point));
            rows.ends.push(rows.points.len());
        }
        let blocks = rows.blocks(device, points)?;
        let ids: Vec<u32> = (0..3).flat_map(|_| owners().map(|(owner, _)| *owner)).collect();
        let shifts: Vec<f64> = (0..3).flat_map(|axis| owners().map(move |(_, shift)| shift[axis])).collect();
        let shape = (3, points as usize + 1);
        Ok(Self {
            reference_on_device: on_device(&reference, dtype, device)?,
            reference,
            slack: skin * skin / 4.0,
            owners: Tensor::from_vec(ids, shape, device)?,
            shifts: Tensor::from_vec(shifts, shape, device)?.to_dtype(dtype)?,
            blocks,
        })
    }

    /// Whether an atom has moved so far that a pair may be missing.
    pub(super) fn stale(&self, positions: &Tensor) -> Result<bool> {
        let moved = (positions - &self.reference_on_device)?.sqr()?.sum(0)?.max(0)?;
        let moved = moved.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        // Whatever is not a number is stale too, and found out when the list is made anew.
        Ok(moved.partial_cmp(&self.slack) != Some(std::cmp::Ordering::Less))
    }

    /// The positions that the list was made of.
    pub(super) fn reference(&self) -> &Arc<Vec<f64>> {
        &self.reference
    }

    /// Where all points are, atoms first: three rows.
    pub(super) fn points(&self, positions: &Tensor) -> Result<Tensor> {
        Ok((positions.gather(&self.owners, 1)? + &self.shifts)?)
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// All x, all y, all z, as three rows.
pub(super) fn on_device(values: &[f64], dtype: DType, device: &Device) -> Result<Tensor> {
    let shape = (3, values.len() / 3);
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(values.iter().map(|value| *value as f32).collect(), shape, device)?,
        _ => Tensor::from_slice(values, shape, device)?,
    })
}

/// The other way.
pub(super) fn on_host(rows: &Tensor) -> Result<Vec<f64>> {
    Ok(rows.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Positions put back into the box; an error if some are not even numbers.
pub(super) fn wrapped(positions: &Tensor, length: f64) -> Result<Vec<f64>> {
    let single = positions.dtype() == DType::F32;
    let mut values = on_host(positions)?;
    for value in &mut values {
        // Nobody crosses a box in the few steps between two lists.
        if !(-length..2.0 * length).contains(value) {
            return Err(Error::invalid(
                "the simulation blew up: atoms are too fast to have a place; a shorter timestep may help",
            ));
        }
        let mut inside = *value - length * (*value / length).floor();
        if single {
            inside = f64::from(inside as f32);
        }
        // The wall itself is the other wall.
        *value = if inside < length { inside } else { 0.0 };
    }
    Ok(values)
}

#[derive(Default)]
struct Rows {
    points: Vec<u32>,
    ends: Vec<usize>,
}

impl Rows {
    fn row(&self, atom: usize) -> &[u32] {
        let start = atom.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.points[start..self.ends[atom]]
    }

    fn blocks(&self, device: &Device, far: u32) -> Result<Vec<Block>> {
        let atoms = self.ends.len();
        let width = |start: usize, end: usize| (start..end).map(|atom| self.row(atom).len()).max().unwrap_or(0).max(1);
        let size = if device.is_cpu() { BLOCK_CPU } else { (BLOCK_DEVICE / width(0, atoms)).max(1) };
        let block = |start: usize| {
            let end = atoms.min(start + size);
            let width = width(start, end);
            let mut points = vec![far; (end - start) * width];
            for (atom, places) in (start..end).zip(points.chunks_mut(width)) {
                let row = self.row(atom);
                places[..row.len()].copy_from_slice(row);
            }
            let len = points.len();
            Ok(Block { start, atoms: end - start, width, points: Tensor::from_vec(points, len, device)? })
        };
        (0..atoms).step_by(size).map(block).collect()
    }
}
