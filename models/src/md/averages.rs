//! Means over a run, and its [`Summary`].
//!
//! Owns running means and variances (Welford, Technometrics 4, 419, 1962) and the straight line through the total energy.
//! They take the same memory however long a run is.

use forebay::{Error, Result};
use serde::Serialize;

use super::Sample;

/// What is averaged: temperature, pressure, potential, kinetic, total, and the two by the uncut potential.
const KINDS: usize = 7;

/// A mean over the samples of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of one sample from it. The mean itself is more certain than that, and less so than by the
    /// number of samples, which depend on each other.
    pub deviation: f64,
}

/// What a simulation gave, in reduced units; energies are per atom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many atoms.
    pub atoms: u64,
    /// Atoms in a volume of sigma cubed.
    pub density: f64,
    /// The side of the box.
    pub length: f64,
    /// Steps that counted.
    pub steps: u64,
    /// How often the rest was taken.
    pub samples: u64,
    /// The temperature.
    pub temperature: Mean,
    /// The pressure, by the potential that moves the atoms.
    pub pressure: Mean,
    /// The potential energy, by the potential that moves the atoms.
    pub potential: Mean,
    /// The kinetic energy.
    pub kinetic: Mean,
    /// Potential and kinetic energy together.
    pub total: Mean,
    /// The potential energy by the uncut Lennard-Jones potential, with the correction for what is beyond the cutoff.
    pub lj_potential: Mean,
    /// The pressure by the uncut potential, likewise.
    pub lj_pressure: Mean,
    /// Slope of the straight line through the total energy, per unit of time. Without a thermostat it should be nothing.
    pub drift: f64,
    /// The radial distribution function: the middle of each bin, and the value.
    pub radial: Vec<[f64; 2]>,
}

/// Running means.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Averages {
    count: u64,
    mean: [f64; KINDS],
    /// Sums of squared deviations from the mean.
    squares: [f64; KINDS],
    step: f64,
    step_squares: f64,
    /// Sum of the products of the deviations of step and total energy.
    products: f64,
}

impl Averages {
    pub(super) fn add(&mut self, sample: &Sample) {
        self.count += 1;
        let count = self.count as f64;
        let values = [
            sample.temperature,
            sample.pressure,
            sample.potential,
            sample.kinetic,
            sample.total(),
            sample.lj_potential,
            sample.lj_pressure,
        ];
        let step = sample.step as f64;
        let from = step - self.step;
        self.step += from / count;
        self.step_squares += from * (step - self.step);
        self.products += from * (sample.total() - self.mean[4]) * (count - 1.0) / count;
        for (kind, value) in values.into_iter().enumerate() {
            let from = value - self.mean[kind];
            self.mean[kind] += from / count;
            self.squares[kind] += from * (value - self.mean[kind]);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn of(&self, kind: usize) -> Mean {
        let variance = self.squares[kind] / (self.count.saturating_sub(1).max(1)) as f64;
        Mean { mean: self.mean[kind], deviation: variance.sqrt() }
    }

    /// Slope of the total energy per step.
    pub(super) fn slope(&self) -> f64 {
        if self.step_squares > 0.0 { self.products / self.step_squares } else { 0.0 }
    }

    /// As numbers that [`Averages::of_numbers`] takes.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let rest = [self.step, self.step_squares, self.products];
        let values = self.mean.into_iter().chain(self.squares).chain(rest);
        std::iter::once(self.count).chain(values.map(f64::to_bits)).collect()
    }

    pub(super) fn of_numbers(numbers: &[u64]) -> Result<Self> {
        let [count, values @ ..] = numbers else { return Err(Error::failed("the saved averages are empty")) };
        let values: Vec<f64> = values.iter().map(|bits| f64::from_bits(*bits)).collect();
        if values.len() != 2 * KINDS + 3 {
            return Err(Error::failed(format!("the saved averages are {} numbers", numbers.len())));
        }
        let kinds = |start: usize| std::array::from_fn(|kind| values[start + kind]);
        let rest = &values[2 * KINDS..];
        Ok(Self {
            count: *count,
            mean: kinds(0),
            squares: kinds(KINDS),
            step: rest[0],
            step_squares: rest[1],
            products: rest[2],
        })
    }
}
