//! Molecular dynamics of a Lennard-Jones fluid, on candle tensors.
//!
//! Owns a simulation from its description ([`Simulation`]) to its averages ([`Summary`]), in steps that can be saved
//! between any two and gone on with elsewhere: a run that was cut is bit for bit the run that was not. All quantities are
//! in reduced units: length in sigma, energy in epsilon, mass in that of an atom, Boltzmann's constant 1.
//!
//! It is one fluid of one kind of atom in a cube. There are no molecules, charges, mixtures or walls.

mod averages;
mod cells;
mod force;
mod lattice;
mod neighbours;
mod potential;
mod radial;
mod run;
mod simulation;
mod stepper;
mod system;
#[cfg(test)]
mod tests;
mod thermostat;
mod xyz;

pub use averages::{Mean, Summary};
pub use potential::Potential;
pub use radial::Radial;
pub use run::{Frozen, Run};
pub use simulation::{Precision, Simulation, Thermostat};
pub use stepper::{Dynamics, Outcome, Placed};
pub use system::{Sample, System};
pub use xyz::TRAJECTORY;
