//! Stochastic velocity rescaling (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101, 2007).
//!
//! Owns one formula: by what all velocities are multiplied after a step, so that the kinetic energy is that of the
//! canonical ensemble. It draws the random numbers of a step from the step's own number, so it has no state.

use crate::random::Random;

/// The stream of random numbers that thermostats draw from.
const STREAM: u64 = 2;

/// What velocities of `kinetic` energy and so many degrees of freedom are multiplied by after one `step`, which is
/// `share` of the thermostat's time long (equation A7 of the article).
pub(super) fn factor(kinetic: f64, freedom: f64, temperature: f64, share: f64, seed: u64, step: u64) -> f64 {
    let mut random = Random::at(seed, STREAM, step);
    let kept = libm::exp(-share);
    let one = random.normal();
    // The sum of the squares of all others.
    let others = 2.0 * random.gamma((freedom - 1.0) / 2.0);
    let new = (1.0 - kept) * temperature / (2.0 * kinetic);
    let root = (kept * new).sqrt();
    let square = kept + new * (one * one + others) + 2.0 * one * root;
    // The root of one random number can turn all velocities round; that happens where atoms are very few.
    let sign = if one + (kept / new).sqrt() < 0.0 { -1.0 } else { 1.0 };
    sign * square.max(0.0).sqrt()
}
