//! The radial distribution function: how often atoms are at which distance, compared with atoms spread evenly.
//!
//! Owns the counts. They are whole numbers, so their sum does not depend on any order. Pairs are found on the host.

use std::f64::consts::PI;

use forebay::{Error, Result};

use super::cells::Cells;

/// Distances between atoms, counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Radial {
    reach: f64,
    counts: Vec<u64>,
    /// How many moments were counted.
    moments: u64,
}

impl Radial {
    /// Nothing counted yet: distances up to `reach`, in so many `bins`.
    pub fn new(reach: f64, bins: usize) -> Self {
        Self { reach, counts: vec![0; bins], moments: 0 }
    }

    /// Counts the distances of one moment. Positions are all x, all y, all z, from 0 to below `length`, the side of the
    /// box, which is at least twice the reach.
    pub fn add(&mut self, positions: &[f64], length: f64) {
        let cells = Cells::new(positions, length, self.reach);
        let last = self.counts.len() - 1;
        let scale = self.counts.len() as f64 / self.reach;
        for atom in 0..positions.len() / 3 {
            cells.near(positions, atom, |_, square| {
                let bin = (square.sqrt() * scale) as usize;
                self.counts[bin.min(last)] += 1;
            });
        }
        self.moments += 1;
    }

    /// Pairs of the middle of a bin and the value there, for so many atoms at a density. Empty if nothing was counted.
    pub fn values(&self, atoms: u64, density: f64) -> Vec<[f64; 2]> {
        if self.moments == 0 {
            return Vec::new();
        }
        let width = self.reach / self.counts.len() as f64;
        let value = |(bin, count): (usize, &u64)| {
            let (low, high) = (bin as f64 * width, (bin + 1) as f64 * width);
            let volume = 4.0 / 3.0 * PI * (high * high * high - low * low * low);
            let even = self.moments as f64 * atoms as f64 * density * volume;
            [(low + high) / 2.0, *count as f64 / even]
        };
        self.counts.iter().enumerate().map(value).collect()
    }

    /// The counts as numbers that [`Radial::resume`] takes.
    pub(super) fn numbers(&self) -> Vec<u64> {
        [self.moments].iter().chain(&self.counts).copied().collect()
    }

    /// Goes on with saved counts.
    pub(super) fn resume(mut self, numbers: &[u64]) -> Result<Self> {
        match numbers {
            [moments, counts @ ..] if counts.len() == self.counts.len() => {
                self.moments = *moments;
                self.counts = counts.to_vec();
                Ok(self)
            }
            _ => Err(Error::failed(format!(
                "the saved radial distribution has {} numbers, not {}: was `radial_bins` changed?",
                numbers.len(),
                self.counts.len() + 1
            ))),
        }
    }
}
