//! What a simulation is asked for: [`Simulation`], as it comes in a job, and whether it can be done.
//!
//! Owns the defaults and the bounds. It promises that a description that passes [`Simulation::check`] takes no more
//! memory than the bounds here say, and that the check itself takes none. It does not simulate.

use std::f64::consts::PI;

use candle_core::DType;
use forebay::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::bounds::{real, whole};

/// Atoms that a simulation may have.
const ATOMS_MAX: u64 = 1_000_000;
/// Places in all lists of neighbours together: four bytes each, and room for what is computed of them.
const PAIRS_MAX: f64 = 250e6;
/// Pairs whose distances are counted at once: some seconds on one core.
const DISTANCES_MAX: f64 = 500e6;
/// Steps that a simulation may have.
const STEPS_MAX: u64 = 1_000_000_000_000;
/// Bytes of a trajectory.
const TRAJECTORY_MAX: u64 = 64 << 30;
/// Bytes that an atom takes in a frame, about.
const LINE: u64 = 40;

/// A Lennard-Jones fluid to be simulated, in reduced units. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulation {
    /// How many atoms, from 2 to 1,000,000; and so many that half the box is longer than the cutoff and the skin.
    /// Default: 500.
    pub atoms: u64,
    /// Atoms in a volume of sigma cubed, at most 2. Default: 0.8442, the liquid at its triple point.
    pub density: f64,
    /// What the thermostat aims at, and what the atoms begin with, in epsilon / k. Default: 0.728.
    pub temperature: f64,
    /// Length of a step, in sigma * sqrt(mass / epsilon); at most 0.02. Default: 0.004.
    pub timestep: f64,
    /// Steps before those that count, at the thermostat. The crystal that the atoms begin as melts in them; averages,
    /// and the trajectory, are of what comes after. Default: 2,000.
    pub equilibrate: u64,
    /// Steps that count. Default: 10,000.
    pub steps: u64,
    /// Of all random numbers. Default: 0.
    pub seed: u64,
    /// Where forces end, in sigma, from 1 to 10. Default: 2.5.
    pub cutoff: f64,
    /// How much farther the list of neighbours reaches, in sigma, at most 2: the list is made anew when an atom has
    /// moved by half of it. It changes how long a step takes, and nothing else but the order of sums. Default: 0.3.
    pub skin: f64,
    /// What keeps the temperature in the steps that count. Default: nothing, so that the energy stays as it is.
    pub thermostat: Option<Thermostat>,
    /// Energies, pressure and distances are taken every so many steps. Default: 100.
    pub sample_every: u64,
    /// A frame of the trajectory is written every so many steps. Default: never.
    pub trajectory_every: Option<u64>,
    /// How far the radial distribution function reaches, in sigma; at most half the box. Default: 4, or half the box
    /// where that is less.
    pub radial_reach: Option<f64>,
    /// How many parts that distance is cut into, from 1 to 10,000. Default: 200.
    pub radial_bins: u64,
    /// What is computed with. Default: `f64`.
    pub precision: Precision,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            atoms: 500,
            density: 0.8442,
            temperature: 0.728,
            timestep: 0.004,
            equilibrate: 2_000,
            steps: 10_000,
            seed: 0,
            cutoff: 2.5,
            skin: 0.3,
            thermostat: None,
            sample_every: 100,
            trajectory_every: None,
            radial_reach: None,
            radial_bins: 200,
            precision: Precision::F64,
        }
    }
}

/// A thermostat: stochastic velocity rescaling (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101, 2007), which
/// samples the canonical ensemble and leaves the momentum as it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thermostat {
    /// How long a deviation of the kinetic energy lives, in units of time; no less than a step.
    pub time: f64,
}

/// What positions, velocities and forces are computed with. Sums over all atoms are always `f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 53 bits: the energy is conserved as well as the method can.
    #[default]
    F64,
    /// 24 bits: several times as fast on most GPUs.
    F32,
}

impl Precision {
    pub(super) fn dtype(self) -> DType {
        match self {
            Precision::F64 => DType::F64,
            Precision::F32 => DType::F32,
        }
    }
}

impl Simulation {
    /// Whether this can be simulated. Allocates nothing but the error.
    ///
    /// # Errors
    /// `Invalid`, with the field, what it may be, and what it is.
    pub fn check(&self) -> Result<()> {
        whole("atoms", self.atoms, 2, ATOMS_MAX)?;
        real("density", self.density, 1e-6, 2.0)?;
        real("temperature", self.temperature, 1e-6, 1e3)?;
        real("timestep", self.timestep, 1e-9, 0.02)?;
        whole("equilibrate", self.equilibrate, 0, STEPS_MAX)?;
        whole("steps", self.steps, 1, STEPS_MAX)?;
        real("cutoff", self.cutoff, 1.0, 10.0)?;
        real("skin", self.skin, 0.01, 2.0)?;
        if let Some(Thermostat { time }) = self.thermostat {
            real("thermostat.time", time, self.timestep, 1e6)?;
        }
        whole("sample_every", self.sample_every, 1, STEPS_MAX)?;
        whole("radial_bins", self.radial_bins, 1, 10_000)?;
        self.check_box()?;
        self.check_trajectory()
    }

    fn check_box(&self) -> Result<()> {
        let (length, reach) = (self.length(), self.cutoff + self.skin);
        if length < 2.0 * reach {
            let enough = (self.density * 8.0 * reach * reach * reach).ceil();
            return Err(Error::invalid(format!(
                "{} atoms at density {} are a box of {length:.3}, which must be at least twice cutoff and skin, {:.3}: \
                 take {enough} atoms or more, or a shorter cutoff",
                self.atoms,
                self.density,
                2.0 * reach
            )));
        }
        let pairs = |density: f64, reach: f64| self.atoms as f64 * density * 4.0 / 3.0 * PI * reach * reach * reach;
        // A fluid that is thin on the whole may gather into drops.
        let near = pairs(self.density.max(1.0), reach);
        if near > PAIRS_MAX {
            return Err(Error::invalid(format!(
                "about {near:.1e} pairs of neighbours are more than {PAIRS_MAX:.1e}: take fewer atoms, or a shorter cutoff"
            )));
        }
        real("radial_reach", self.radial_reach(), 0.1, length / 2.0)?;
        let counted = pairs(self.density, self.radial_reach());
        if counted > DISTANCES_MAX {
            return Err(Error::invalid(format!(
                "about {counted:.1e} distances to count are more than {DISTANCES_MAX:.1e}: take a shorter radial_reach"
            )));
        }
        Ok(())
    }

    fn check_trajectory(&self) -> Result<()> {
        let Some(every) = self.trajectory_every else { return Ok(()) };
        whole("trajectory_every", every, 1, STEPS_MAX)?;
        let bytes = (self.steps / every).saturating_mul(self.atoms).saturating_mul(LINE);
        if bytes > TRAJECTORY_MAX {
            return Err(Error::invalid(format!(
                "a trajectory of about {} GiB is more than {} GiB: write fewer frames",
                bytes >> 30,
                TRAJECTORY_MAX >> 30
            )));
        }
        Ok(())
    }

    /// The side of the box, in sigma.
    pub fn length(&self) -> f64 {
        libm::cbrt(self.atoms as f64 / self.density)
    }

    /// How far the radial distribution function reaches, in sigma.
    pub fn radial_reach(&self) -> f64 {
        self.radial_reach.unwrap_or_else(|| (self.length() / 2.0).min(4.0))
    }

    /// All steps: those that count, and those before.
    pub fn total(&self) -> u64 {
        self.equilibrate + self.steps
    }
}
