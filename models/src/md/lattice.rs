//! How a simulation begins: atoms on a face-centred cubic lattice, with the velocities of their temperature.
//!
//! Owns the first positions and velocities, which depend on the description and its seed alone. Any number of atoms will
//! do: the smallest lattice with enough sites is filled evenly.

use super::Simulation;
use crate::random::Random;

/// Sites of a cell, in halves of its side.
const SITES: [[u64; 3]; 4] = [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]];
/// The stream of random numbers that velocities are made of.
const VELOCITIES: u64 = 1;

/// All x, then all y, then all z, from 0 to below the side of the box.
pub(super) fn positions(simulation: &Simulation) -> Vec<f64> {
    let atoms = simulation.atoms;
    let side = (1..).find(|side| 4 * side * side * side >= atoms).unwrap_or(1);
    let sites = 4 * side * side * side;
    let step = simulation.length() / (2 * side) as f64;
    let along = |axis: usize| {
        (0..atoms).map(move |atom| {
            let site = atom * sites / atoms;
            let cell = site / 4;
            let at = [cell % side, cell / side % side, cell / (side * side)];
            let [at, half] = [at[axis], SITES[(site % 4) as usize][axis]];
            // Half a step from the wall, so that no atom begins on it.
            ((2 * at + half) as f64 + 0.5) * step
        })
    };
    (0..3).flat_map(along).collect()
}

/// Maxwell's velocities in the same order: no momentum, and exactly the temperature.
pub(super) fn velocities(simulation: &Simulation) -> Vec<f64> {
    let atoms = simulation.atoms as usize;
    let mut random = Random::at(simulation.seed, VELOCITIES, 0);
    let mut velocities: Vec<f64> = (0..3 * atoms).map(|_| random.normal()).collect();
    for axis in velocities.chunks_mut(atoms) {
        let mean = axis.iter().sum::<f64>() / atoms as f64;
        axis.iter_mut().for_each(|velocity| *velocity -= mean);
    }
    let squares: f64 = velocities.iter().map(|velocity| velocity * velocity).sum();
    let scale = (simulation.temperature * (3 * atoms - 3) as f64 / squares).sqrt();
    velocities.iter_mut().for_each(|velocity| *velocity *= scale);
    velocities
}
