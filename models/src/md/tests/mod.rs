//! Molecular dynamics held against what is computed in another way: all pairs, derivatives, exact distributions; and
//! runs that were cut against runs that were not.

mod begins;
mod forces;
mod jobs;
mod runs;
mod statistics;

use std::sync::Arc;

use candle_core::Device;

use super::{Simulation, System};

/// A small liquid: as few atoms as the box allows, not a number that fills a lattice.
fn small() -> Simulation {
    Simulation { atoms: 170, equilibrate: 40, steps: 200, sample_every: 10, ..Simulation::default() }
}

/// One that has begun to melt.
fn melting(simulation: &Simulation, steps: u64) -> System {
    let mut system = System::start(simulation, &Device::Cpu).unwrap();
    for _ in 0..steps {
        system.advance().unwrap();
    }
    system
}

/// At rest, at these positions.
fn at_rest(simulation: &Simulation, positions: &[f64]) -> System {
    let reference = Arc::new(positions.to_vec());
    System::of_parts(simulation, &Device::Cpu, positions, &vec![0.0; positions.len()], reference, 0).unwrap()
}

/// How far two atoms are apart, each by the other's nearest image.
fn apart(positions: &[f64], length: f64, i: usize, j: usize) -> [f64; 3] {
    let atoms = positions.len() / 3;
    [0, 1, 2].map(|axis| {
        let d = positions[axis * atoms + i] - positions[axis * atoms + j];
        d - length * (d / length).round()
    })
}

fn square(d: [f64; 3]) -> f64 {
    d.iter().map(|d| d * d).sum()
}
