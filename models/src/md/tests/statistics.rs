//! Random numbers, the thermostat, averages, and distances.

use super::super::averages::Averages;
use super::super::{Radial, Sample, Simulation, lattice, thermostat};
use crate::random::Random;

fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64)
}

#[test]
fn distributions_have_their_moments() {
    let mut random = Random::at(7, 0, 0);
    let mut take = |f: fn(&mut Random) -> f64| moments(&(0..200_000).map(|_| f(&mut random)).collect::<Vec<_>>());
    let close = |(mean, variance): (f64, f64), want: (f64, f64)| {
        assert!((mean - want.0).abs() < 0.01 * want.1.sqrt().max(1.0), "mean {mean}, not {}", want.0);
        assert!((variance / want.1 - 1.0).abs() < 0.02, "variance {variance}, not {}", want.1);
    };
    close(take(Random::unit), (0.5, 1.0 / 12.0));
    close(take(Random::normal), (0.0, 1.0));
    close(take(|random| random.gamma(1.0)), (1.0, 1.0));
    close(take(|random| random.gamma(380.5)), (380.5, 380.5));
}

#[test]
fn the_same_moment_has_the_same_numbers_and_no_other_has() {
    let first = |seed, stream, step| Random::at(seed, stream, step).unit().to_bits();
    assert_eq!(first(3, 1, 900), first(3, 1, 900));
    let seen: std::collections::BTreeSet<u64> =
        (0..10).flat_map(|a| (0..10).flat_map(move |b| (0..10).map(move |c| first(a, b, c)))).collect();
    assert_eq!(seen.len(), 1000);
}

/// A free system of so many degrees: the kinetic energy must have the gamma distribution, whatever it began with.
#[test]
fn the_thermostat_samples_the_canonical_ensemble() {
    for freedom in [3.0, 30.0, 765.0] {
        let (temperature, mut kinetic) = (0.7, freedom);
        let mut energies = Vec::new();
        for step in 0..60_000 {
            let factor = thermostat::factor(kinetic, freedom, temperature, 0.5, 11, step);
            kinetic *= factor * factor;
            if step > 100 {
                energies.push(kinetic);
            }
        }
        let (mean, variance) = moments(&energies);
        assert!((mean / (freedom * temperature / 2.0) - 1.0).abs() < 0.02, "{freedom} degrees: mean {mean}");
        let wanted = freedom * temperature * temperature / 2.0;
        assert!((variance / wanted - 1.0).abs() < 0.06, "{freedom} degrees: variance {variance}, not {wanted}");
    }
}

#[test]
fn averages_are_means_deviations_and_a_slope() {
    let mut random = Random::at(1, 0, 0);
    let mut averages = Averages::default();
    let mut totals = Vec::new();
    for step in 1..=500 {
        let potential = -5.0 + 1e-4 * f64::from(step) + 0.01 * random.normal();
        let step = u64::from(step as u32) * 10;
        let sample = Sample {
            step,
            potential,
            kinetic: 1.0,
            temperature: random.unit(),
            pressure: 0.0,
            lj_potential: 0.0,
            lj_pressure: 0.0,
        };
        totals.push((step as f64, sample.total()));
        averages.add(&sample);
        if step == 2500 {
            averages = Averages::of_numbers(&averages.numbers()).unwrap();
        }
    }
    let (mean, variance) = moments(&totals.iter().map(|(_, total)| *total).collect::<Vec<_>>());
    let (middle, _) = moments(&totals.iter().map(|(step, _)| *step).collect::<Vec<_>>());
    let products: f64 = totals.iter().map(|(step, total)| (step - middle) * (total - mean)).sum();
    let squares: f64 = totals.iter().map(|(step, _)| (step - middle).powi(2)).sum();
    assert!((averages.of(4).mean - mean).abs() < 1e-12);
    assert!((averages.of(4).deviation - variance.sqrt()).abs() < 1e-12);
    assert!((averages.slope() - products / squares).abs() < 1e-15);
    assert_eq!(averages.count(), 500);
    assert!(Averages::of_numbers(&averages.numbers()[1..]).is_err());
}

#[test]
fn atoms_without_forces_are_at_all_distances_alike() {
    let (atoms, length) = (2000, 12.0);
    let mut random = Random::at(5, 0, 0);
    // Up to half the box, and less.
    for reach in [6.0, 2.0] {
        let mut radial = Radial::new(reach, 8);
        for _ in 0..10 {
            let positions: Vec<f64> = (0..3 * atoms).map(|_| random.unit() * length).collect();
            radial.add(&positions, length);
        }
        let density = atoms as f64 / (length * length * length);
        for [r, value] in radial.values(atoms as u64, density) {
            assert!((value - 1.0).abs() < if r < reach / 4.0 { 0.1 } else { 0.02 }, "{value} at {r}");
        }
    }
}

#[test]
fn a_crystal_has_its_shells() {
    let simulation = Simulation { atoms: 864, density: 1.0, ..Simulation::default() };
    let mut radial = Radial::new(2.0, 200);
    radial.add(&lattice::positions(&simulation), simulation.length());
    let values = radial.values(864, 1.0);
    // Neighbours of an atom of a face-centred cubic crystal: 12 at a / sqrt 2, 6 at a, 24 at a sqrt(3/2).
    let within = |to: f64| {
        let shell = |[r, value]: &[f64; 2]| {
            value * 4.0 / 3.0 * std::f64::consts::PI * ((r + 0.005).powi(3) - (r - 0.005).powi(3))
        };
        values.iter().filter(|[r, _]| *r < to).map(shell).sum::<f64>()
    };
    let side = 4.0_f64.cbrt();
    assert!((within(side * 0.75) - 12.0).abs() < 1e-9);
    assert!((within(side * 1.1) - 18.0).abs() < 1e-9);
    assert!((within(side * 1.25) - 42.0).abs() < 1e-9);
    let mut other = Radial::new(2.0, 200).resume(&radial.numbers()).unwrap();
    assert_eq!(other, radial);
    other.add(&lattice::positions(&simulation), simulation.length());
    assert_eq!(other.values(864, 1.0), values);
    assert!(Radial::new(2.0, 100).resume(&radial.numbers()).is_err());
}
