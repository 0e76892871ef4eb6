//! The Lennard-Jones potential and how it is cut.
//!
//! Owns the constants of [`Potential`] and the corrections for what lies beyond the cutoff. The forces themselves are in
//! `force`.

use std::f64::consts::PI;

/// Lennard-Jones, cut so that energy and force both end at zero (Stoddard and Ford, Phys. Rev. A 8, 1504, 1973):
///
/// ```text
/// u(r) = 4 (1/r^12 - 1/r^6) + a r^2 + b        for r < cutoff, with u(cutoff) = 0 and u'(cutoff) = 0
/// ```
///
/// A potential whose force jumps at the cutoff does not conserve the energy of a discretised path. Of the forms that do,
/// this one has no odd power of `r`, so no root is taken, and it leaves the forces between next neighbours nearly as
/// they are: the term `a r^2` is small where `r` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Potential {
    /// Where it ends, in sigma.
    pub cutoff: f64,
    /// `a`, the factor of `r^2`.
    pub square: f64,
    /// `b`, what is added throughout.
    pub shift: f64,
}

impl Potential {
    /// Cut at `cutoff`.
    pub fn new(cutoff: f64) -> Self {
        let s = 1.0 / (cutoff * cutoff * cutoff * cutoff * cutoff * cutoff);
        let square = 4.0 * (6.0 * s * s - 3.0 * s) / (cutoff * cutoff);
        Self { cutoff, square, shift: -4.0 * (7.0 * s * s - 4.0 * s) }
    }

    /// The energy of two atoms at a distance whose square is `r2`.
    pub fn energy(&self, r2: f64) -> f64 {
        if r2 >= self.cutoff * self.cutoff {
            return 0.0;
        }
        let s = 1.0 / (r2 * r2 * r2);
        4.0 * (s * s - s) + self.square * r2 + self.shift
    }

    /// The force between them along their distance, divided by it; positive where they repel.
    pub fn force(&self, r2: f64) -> f64 {
        if r2 >= self.cutoff * self.cutoff {
            return 0.0;
        }
        let s = 1.0 / (r2 * r2 * r2);
        24.0 * (2.0 * s * s - s) / r2 - 2.0 * self.square
    }

    /// What uncut Lennard-Jones adds to the potential energy per atom beyond the cutoff, if atoms are spread evenly
    /// there (as in Johnson, Zollweg and Gubbins, Mol. Phys. 78, 591, 1993, and every textbook).
    pub fn energy_tail(&self, density: f64) -> f64 {
        let s = 1.0 / (self.cutoff * self.cutoff * self.cutoff);
        8.0 / 3.0 * PI * density * (s * s * s / 3.0 - s)
    }

    /// What uncut Lennard-Jones adds to the pressure.
    pub fn pressure_tail(&self, density: f64) -> f64 {
        let s = 1.0 / (self.cutoff * self.cutoff * self.cutoff);
        16.0 / 3.0 * PI * density * density * (2.0 * s * s * s / 3.0 - s)
    }
}
