//! Forces, energies and pressures.

use super::super::neighbours::wrapped;
use super::super::{Potential, Precision, Simulation, Thermostat};
use super::{apart, at_rest, melting, small, square};

/// Whether two values agree to so many parts of one, or of the larger.
#[track_caller]
fn agree(what: &str, a: f64, b: f64, parts: f64) {
    assert!((a - b).abs() <= parts * a.abs().max(b.abs()).max(1.0), "{what}: {a} and {b}");
}

#[test]
fn the_potential_ends_smoothly_and_its_force_is_its_slope() {
    for cutoff in [1.5, 2.5, 4.0] {
        let potential = Potential::new(cutoff);
        let below = |r: f64| r * r * (1.0 - 1e-12);
        agree("energy at the cutoff", potential.energy(below(cutoff)), 0.0, 1e-10);
        agree("force at the cutoff", potential.force(below(cutoff)), 0.0, 1e-10);
        assert_eq!(potential.energy(cutoff * cutoff), 0.0);
        for r in [0.9, 1.0, 1.1, 1.3, cutoff - 0.01] {
            let h = 1e-5;
            let slope = (potential.energy((r + h) * (r + h)) - potential.energy((r - h) * (r - h))) / (2.0 * h);
            agree("slope", potential.force(r * r) * r, -slope, 1e-6);
        }
    }
    // The tails are the integrals of the uncut potential and its virial over what is beyond.
    let (potential, density) = (Potential::new(2.5), 0.7);
    let (mut energy, mut pressure, step) = (0.0, 0.0, 1e-3);
    for i in 0..200_000 {
        let r = 2.5 + (f64::from(i) + 0.5) * step;
        let s = r.powi(-6);
        let shell = 2.0 * std::f64::consts::PI * density * r * r * step;
        energy += shell * 4.0 * (s * s - s);
        pressure += shell * density / 3.0 * 24.0 * (2.0 * s * s - s);
    }
    agree("energy tail", potential.energy_tail(density), energy, 1e-5);
    agree("pressure tail", potential.pressure_tail(density), pressure, 1e-5);
}

#[test]
fn the_list_gives_what_all_pairs_give() {
    // A liquid, a gas whose atoms lie far apart, and a long cutoff.
    let gas = Simulation { atoms: 100, density: 0.01, temperature: 2.0, ..small() };
    let long = Simulation { atoms: 500, cutoff: 3.6, skin: 0.5, ..small() };
    for (simulation, steps) in [(small(), 0), (small(), 77), (gas, 300), (long, 25)] {
        let system = melting(&simulation, steps);
        let (positions, forces) = (system.positions().unwrap(), system.forces().unwrap());
        let (atoms, length, potential) = (simulation.atoms as usize, system.length(), system.potential());
        let [mut energy, mut virial, mut plain_energy, mut plain_virial] = [0.0; 4];
        let mut pulls = vec![0.0; 3 * atoms];
        for i in 0..atoms {
            for j in 0..i {
                let d = apart(&positions, length, i, j);
                let r2 = square(d);
                let pull = potential.force(r2);
                for axis in 0..3 {
                    pulls[axis * atoms + i] += pull * d[axis];
                    pulls[axis * atoms + j] -= pull * d[axis];
                }
                energy += potential.energy(r2);
                virial += pull * r2;
                if r2 < potential.cutoff * potential.cutoff {
                    let s = r2.powi(-3);
                    plain_energy += 4.0 * (s * s - s);
                    plain_virial += 24.0 * (2.0 * s * s - s);
                }
            }
        }
        for (pull, force) in pulls.iter().zip(forces) {
            agree("a force", *pull, force, 1e-10);
        }
        let sample = system.sample().unwrap();
        let pressure =
            |virial: f64| simulation.density * sample.temperature + virial / (3.0 * length * length * length);
        let density = simulation.density;
        agree("energy", energy / atoms as f64, sample.potential, 1e-12);
        agree("pressure", pressure(virial), sample.pressure, 1e-12);
        let plain = plain_energy / atoms as f64 + potential.energy_tail(density);
        agree("uncut energy", plain, sample.lj_potential, 1e-12);
        agree("uncut pressure", pressure(plain_virial) + potential.pressure_tail(density), sample.lj_pressure, 1e-12);
    }
}

#[test]
fn forces_are_the_gradient_of_the_energy() {
    let simulation = small();
    let system = melting(&simulation, 60);
    let (positions, forces) = (system.positions().unwrap(), system.forces().unwrap());
    let energy = |which: usize, by: f64| {
        let mut positions = positions.clone();
        positions[which] = (positions[which] + by).rem_euclid(system.length());
        at_rest(&simulation, &positions).sample().unwrap().potential * simulation.atoms as f64
    };
    for which in (0..positions.len()).step_by(53) {
        let h = 1e-5;
        agree("gradient", (energy(which, -h) - energy(which, h)) / (2.0 * h), forces[which], 1e-6);
    }
}

#[test]
fn the_virial_is_the_slope_of_the_energy_over_the_volume() {
    let simulation = small();
    let system = melting(&simulation, 60);
    let positions = system.positions().unwrap();
    let energy = |scale: f64| {
        let stretched: Vec<f64> = positions.iter().map(|x| x * scale).collect();
        let density = simulation.density / (scale * scale * scale);
        let sample = at_rest(&Simulation { density, ..simulation.clone() }, &stretched).sample().unwrap();
        sample.potential * simulation.atoms as f64
    };
    let volume = system.length().powi(3);
    let h = 1e-5;
    let slope = (energy(1.0 + h) - energy(1.0 - h)) / (volume * 6.0 * h);
    agree("pressure", at_rest(&simulation, &positions).sample().unwrap().pressure, -slope, 1e-6);
}

#[test]
fn energy_and_momentum_are_conserved() {
    let simulation = Simulation { equilibrate: 150, ..small() };
    // Half the step makes a quarter of the error: the method is of second order.
    let [long, short] = [0.008, 0.004].map(|timestep| {
        let mut system = melting(&Simulation { timestep, ..simulation.clone() }, 150);
        let start = system.sample().unwrap().total();
        let steps = (2.0 / timestep) as u32;
        let mut squares = 0.0;
        for _ in 0..steps {
            system.advance().unwrap();
            squares += (system.sample().unwrap().total() - start).powi(2);
        }
        for axis in system.velocities().unwrap().chunks(simulation.atoms as usize) {
            let momentum: f64 = axis.iter().sum();
            assert!(momentum.abs() < 1e-10, "momentum {momentum}");
        }
        (squares / f64::from(steps)).sqrt()
    });
    assert!(short < 1e-3, "the energy strays by {short} an atom");
    assert!((2.5..7.0).contains(&(long / short)), "{long} and {short}");
}

#[test]
fn the_thermostat_leaves_the_momentum() {
    let simulation = Simulation { thermostat: Some(Thermostat { time: 0.1 }), ..small() };
    let system = melting(&simulation, 240);
    for axis in system.velocities().unwrap().chunks(simulation.atoms as usize) {
        assert!(axis.iter().sum::<f64>().abs() < 1e-10);
    }
}

#[test]
fn single_precision_gives_nearly_the_same() {
    let exact = small();
    let single = Simulation { precision: Precision::F32, ..exact.clone() };
    let [exact, single] = [exact, single].map(|simulation| melting(&simulation, 60).sample().unwrap());
    agree("potential", exact.potential, single.potential, 1e-3);
    agree("temperature", exact.temperature, single.temperature, 1e-3);
    agree("pressure", exact.pressure, single.pressure, 1e-2);
}

#[test]
fn positions_go_back_into_the_box() {
    let rows = |values: &[f64]| candle_core::Tensor::from_slice(values, (3, 1), &candle_core::Device::Cpu).unwrap();
    let inside = wrapped(&rows(&[-0.25, 4.25, -1e-20]), 4.0).unwrap();
    assert_eq!(inside, [3.75, 0.25, 0.0]);
    for lost in [f64::NAN, f64::INFINITY, 1e300] {
        assert!(wrapped(&rows(&[0.0, lost, 0.0]), 4.0).is_err());
    }
}
