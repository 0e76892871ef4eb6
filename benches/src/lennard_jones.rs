//! Published values of the Lennard-Jones fluid, in reduced units, to hold simulations against.
//!
//! Owns an equation of state and tables, each with where it is from. What was read in a transcription says in whose: the
//! articles themselves were not at hand. It computes nothing of its own.

/// A state at which energy and pressure were published.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Atoms in a volume of sigma cubed.
    pub density: f64,
    /// The temperature.
    pub temperature: f64,
    /// Potential energy per atom, with what is beyond the cutoff.
    pub energy: f64,
    /// Pressure, likewise.
    pub pressure: f64,
}

/// Molecular dynamics by NIST: 500 atoms, cutoff 3 with long-range corrections, steps of 0.005. The last digits' standard
/// errors are 0.001 for the energy and 0.006 for the pressure.
///
/// From <https://mmlapps.nist.gov/srs/LJ_PURE/md.htm>, as quoted in several public repositories.
pub const NIST: [Point; 3] = [
    Point { density: 0.776, temperature: 0.851, energy: -5.517, pressure: 0.030 },
    Point { density: 0.820, temperature: 0.852, energy: -5.803, pressure: 0.573 },
    Point { density: 0.840, temperature: 0.851, energy: -5.909, pressure: 0.910 },
];

/// A radial distribution function that was published: `(distance, value)`.
pub struct Distribution {
    /// By whom.
    pub source: &'static str,
    /// Atoms in a volume of sigma cubed.
    pub density: f64,
    /// The temperature.
    pub temperature: f64,
    /// How much is known of it.
    pub values: &'static [(f64, f64)],
}

/// Simulated near the triple point: Reatto, Levesque and Weis, Phys. Rev. A 33, 3451 (1986). Every second value up to
/// 1.5. Read in the data of the repository `elvissoares/PyDFTlj`.
pub const REATTO: Distribution = Distribution {
    source: "Reatto, Levesque and Weis 1986",
    density: 0.84,
    temperature: 0.75,
    values: &[
        (0.92, 0.013),
        (0.96, 0.279),
        (1.00, 1.286),
        (1.04, 2.468),
        (1.08, 2.945),
        (1.12, 2.742),
        (1.16, 2.269),
        (1.20, 1.808),
        (1.24, 1.431),
        (1.28, 1.152),
        (1.32, 0.950),
        (1.36, 0.815),
        (1.40, 0.720),
        (1.44, 0.653),
        (1.48, 0.615),
        (1.52, 0.593),
        (1.56, 0.592),
        (1.60, 0.605),
        (1.68, 0.680),
        (1.76, 0.817),
        (1.84, 0.991),
        (1.92, 1.140),
        (2.00, 1.239),
        (2.08, 1.275),
        (2.16, 1.221),
        (2.24, 1.103),
        (2.32, 0.974),
        (2.40, 0.884),
        (2.48, 0.842),
        (2.56, 0.843),
        (2.64, 0.885),
        (2.72, 0.951),
        (2.80, 1.024),
        (2.88, 1.077),
        (2.96, 1.097),
        (3.00, 1.096),
    ],
};

/// Simulated with 864 atoms: Verlet, Phys. Rev. 165, 201 (1968). Every second value from 1.6 to 2.4, all others but those
/// next to zero. Read in the data of the repository `elvissoares/PyOZ`.
///
/// Its column for 0.658 was left out: there the values below 2.5 are not of the state that those above are of. The latter
/// are what we find at 0.658 too, to 0.01; the former do not follow from those of warmer states.
pub const VERLET: Distribution = Distribution {
    source: "Verlet 1968",
    density: 0.85,
    temperature: 1.127,
    values: &[
        (0.88, 0.002),
        (0.92, 0.085),
        (0.96, 0.610),
        (1.00, 1.750),
        (1.04, 2.560),
        (1.08, 2.710),
        (1.12, 2.413),
        (1.16, 2.009),
        (1.20, 1.643),
        (1.24, 1.349),
        (1.28, 1.122),
        (1.32, 0.955),
        (1.36, 0.824),
        (1.40, 0.739),
        (1.44, 0.682),
        (1.48, 0.640),
        (1.52, 0.627),
        (1.56, 0.625),
        (1.60, 0.644),
        (1.68, 0.725),
        (1.76, 0.854),
        (1.84, 1.009),
        (1.92, 1.137),
        (2.00, 1.231),
        (2.08, 1.241),
        (2.16, 1.172),
        (2.24, 1.068),
        (2.32, 0.960),
        (2.40, 0.892),
        (2.60, 0.894),
        (2.80, 1.026),
        (3.00, 1.080),
        (3.20, 1.014),
        (3.40, 0.951),
        (3.60, 0.974),
        (3.80, 1.023),
        (4.00, 1.026),
        (4.20, 0.994),
        (4.40, 0.980),
        (4.60, 0.996),
        (4.80, 1.012),
    ],
};

/// Parameters of [`johnson`], by the article's numbers from 1.
#[allow(clippy::excessive_precision, reason = "as it was published")]
const X: [f64; 32] = [
    0.8623085097507421,
    2.976218765822098,
    -8.402230115796038,
    0.1054136629203555,
    -0.8564583828174598,
    1.582759470107601,
    0.7639421948305453,
    1.753173414312048,
    2.798291772190376e3,
    -4.839422026085766e-2,
    0.9963265197721935,
    -3.698000291272493e1,
    2.084012299434647e1,
    8.305402124717285e1,
    -9.574799715203068e2,
    -1.477746229234994e2,
    6.398607852471505e1,
    1.603993673294834e1,
    6.805916615864377e1,
    -2.791293578795945e3,
    -6.245128304568454,
    -8.11683610495841e3,
    1.488735559561229e1,
    -1.059346754655084e4,
    -1.131607632802822e2,
    -8.867771540418822e3,
    -3.986982844450543e1,
    -4.689270299917261e3,
    2.593535277438717e2,
    -2.694523589434903e3,
    -7.218487631550215e2,
    1.721802063863269e2,
];

/// Energy and pressure by the equation of state of Johnson, Zollweg and Gubbins, Mol. Phys. 78, 591 (1993), fitted to
/// simulations of the fluid. Its form is the residual free energy `sum a_i rho^i / i + sum b_i G_i`, with coefficients
/// that are polynomials of the temperature; energy and pressure are its derivatives.
///
/// The parameters were read in several public repositories, which agree to all digits.
pub fn johnson(density: f64, temperature: f64) -> Point {
    let (rho, root, t, t2) = (density, temperature.sqrt(), 1.0 / temperature, 1.0 / (temperature * temperature));
    // Every term as its factor, and its power of the temperature: the energy weighs a term by one less that power.
    let at = |terms: &[(usize, f64, f64)]| {
        terms.iter().fold((0.0, 0.0), |(a, c), (i, factor, power)| {
            let term = X[i - 1] * factor;
            (a + term, c + term * (1.0 - power))
        })
    };
    let series = [
        at(&[(1, temperature, 1.0), (2, root, 0.5), (3, 1.0, 0.0), (4, t, -1.0), (5, t2, -2.0)]),
        at(&[(6, temperature, 1.0), (7, 1.0, 0.0), (8, t, -1.0), (9, t2, -2.0)]),
        at(&[(10, temperature, 1.0), (11, 1.0, 0.0), (12, t, -1.0)]),
        at(&[(13, 1.0, 0.0)]),
        at(&[(14, t, -1.0), (15, t2, -2.0)]),
        at(&[(16, t, -1.0)]),
        at(&[(17, t, -1.0), (18, t2, -2.0)]),
        at(&[(19, t2, -2.0)]),
    ];
    let (t3, t4) = (t2 * t, t2 * t2);
    let damped = [
        at(&[(20, t2, -2.0), (21, t3, -3.0)]),
        at(&[(22, t2, -2.0), (23, t4, -4.0)]),
        at(&[(24, t2, -2.0), (25, t3, -3.0)]),
        at(&[(26, t2, -2.0), (27, t4, -4.0)]),
        at(&[(28, t2, -2.0), (29, t3, -3.0)]),
        at(&[(30, t2, -2.0), (31, t3, -3.0), (32, t4, -4.0)]),
    ];
    let damping = (-3.0 * rho * rho).exp();
    let (mut energy, mut pressure) = (0.0, rho * temperature);
    let mut power = rho;
    for (i, (a, c)) in series.into_iter().enumerate() {
        energy += c * power / (i + 1) as f64;
        power *= rho;
        pressure += a * power;
    }
    let mut integral = (1.0 - damping) / 6.0;
    let mut power = 1.0;
    for (i, (b, d)) in damped.into_iter().enumerate() {
        energy += d * integral;
        pressure += damping * b * power * rho * rho * rho;
        power *= rho * rho;
        integral = (2.0 * (i + 1) as f64 * integral - damping * power) / 6.0;
    }
    Point { density, temperature, energy, pressure }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kolafa and Nezbeda's equation of state, fitted to other simulations, gives -2.806 and 0.1125 at the second.
    #[test]
    fn the_equation_of_state_agrees_with_others() {
        for point in NIST {
            let Point { energy, pressure, .. } = johnson(point.density, point.temperature);
            assert!((energy - point.energy).abs() < 0.02, "{energy}, {point:?}");
            assert!((pressure - point.pressure).abs() < 0.04, "{pressure}, {point:?}");
        }
        let Point { energy, pressure, .. } = johnson(0.4, 1.3);
        assert!((energy + 2.806).abs() < 0.01 && (pressure - 0.1125).abs() < 0.011);
    }

    /// `d(A / T) / d(1 / T)` is the energy and `rho^2 dA / d rho` the pressure, so one follows from the other.
    #[test]
    fn energy_and_pressure_belong_together() {
        let (rho, temperature, h) = (0.7, 1.1, 1e-4);
        let energy = |rho| johnson(rho, temperature).energy;
        let pressure = |temperature| johnson(rho, temperature).pressure;
        let slope = (energy(rho + h) - energy(rho - h)) / (2.0 * h) * rho * rho;
        let other =
            pressure(temperature) - temperature * (pressure(temperature + h) - pressure(temperature - h)) / (2.0 * h);
        assert!((slope - other).abs() < 1e-5, "{slope} and {other}");
    }
}
