//! What is asked for, and how it begins.

use forebay::Fault;

use super::super::{Simulation, Thermostat, lattice};
use super::{apart, small, square};

#[test]
fn what_is_left_out_has_a_default() {
    let simulation: Simulation = serde_json::from_str("{}").unwrap();
    assert_eq!(simulation, Simulation::default());
    simulation.check().unwrap();
    serde_json::from_str::<Simulation>(r#"{"atoms": 1000000}"#).unwrap().check().unwrap();
    let text = r#"{"atoms": 256, "thermostat": {"time": 0.5}, "precision": "f32", "trajectory_every": 50}"#;
    let simulation: Simulation = serde_json::from_str(text).unwrap();
    assert_eq!(simulation.thermostat, Some(Thermostat { time: 0.5 }));
    simulation.check().unwrap();
    let back: Simulation = serde_json::from_str(&serde_json::to_string(&simulation).unwrap()).unwrap();
    assert_eq!(back, simulation);
    for text in [r#"{"atom": 256}"#, r#"{"thermostat": {"tau": 1}}"#, r#"{"atoms": -1}"#, r#"{"precision": "f16"}"#] {
        assert!(serde_json::from_str::<Simulation>(text).is_err(), "{text}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let of = |text: &str| serde_json::from_str::<Simulation>(text).unwrap();
    let refused = [
        (of(r#"{"atoms": 0}"#), "atoms must be from 2 to 1000000, not 0"),
        (of(r#"{"atoms": 1}"#), "atoms must be"),
        (of(r#"{"atoms": 1000000000000}"#), "atoms must be from 2 to 1000000, not 1000000000000"),
        (of(r#"{"atoms": 18446744073709551615}"#), "atoms must be"),
        (of(r#"{"atoms": 100}"#), "take 149 atoms or more"),
        (of(r#"{"density": 0}"#), "density"),
        (of(r#"{"density": -1}"#), "density"),
        (of(r#"{"density": 3}"#), "density"),
        (of(r#"{"temperature": 0}"#), "temperature"),
        (of(r#"{"temperature": 1e30}"#), "temperature"),
        (of(r#"{"timestep": 1}"#), "timestep"),
        (of(r#"{"timestep": -0.004}"#), "timestep"),
        (of(r#"{"steps": 0}"#), "steps"),
        (of(r#"{"steps": 18446744073709551615}"#), "steps"),
        (of(r#"{"equilibrate": 18446744073709551615}"#), "equilibrate"),
        (of(r#"{"cutoff": 0.5}"#), "cutoff"),
        (of(r#"{"cutoff": 9, "atoms": 1000000}"#), "pairs of neighbours"),
        (of(r#"{"skin": 0}"#), "skin"),
        (of(r#"{"thermostat": {"time": 0}}"#), "thermostat.time"),
        (of(r#"{"sample_every": 0}"#), "sample_every"),
        (of(r#"{"trajectory_every": 0}"#), "trajectory_every"),
        (of(r#"{"trajectory_every": 1, "steps": 1000000000000}"#), "fewer frames"),
        (of(r#"{"radial_bins": 0}"#), "radial_bins"),
        (of(r#"{"radial_bins": 1000000000}"#), "radial_bins"),
        (of(r#"{"radial_reach": 5}"#), "radial_reach"),
        (of(r#"{"radial_reach": 30, "atoms": 1000000}"#), "distances to count"),
        (Simulation { density: f64::NAN, ..small() }, "density must be from 0.000001 to 2, not NaN"),
        (Simulation { temperature: f64::INFINITY, ..small() }, "temperature"),
        (Simulation { timestep: f64::NAN, ..small() }, "timestep"),
        (Simulation { skin: f64::NAN, ..small() }, "skin"),
        (Simulation { radial_reach: Some(f64::NAN), ..small() }, "radial_reach"),
        (Simulation { thermostat: Some(Thermostat { time: f64::NAN }), ..small() }, "thermostat.time"),
    ];
    for (simulation, reason) in refused {
        let error = simulation.check().unwrap_err();
        assert_eq!(error.fault(), Fault::Invalid, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(super::System::start(&simulation, &candle_core::Device::Cpu).is_err());
    }
}

#[test]
fn any_number_of_atoms_begins_with_room_for_each() {
    for atoms in [148, 149, 256, 257, 365, 500] {
        let simulation = Simulation { atoms, density: 0.8, ..Simulation::default() };
        let (positions, length) = (lattice::positions(&simulation), simulation.length());
        let atoms = atoms as usize;
        assert_eq!(positions.len(), 3 * atoms);
        assert!(positions.iter().all(|x| (0.0..length).contains(x)));
        let pairs = (0..atoms).flat_map(|i| (0..i).map(move |j| (i, j)));
        let nearest = pairs.map(|(i, j)| square(apart(&positions, length, i, j))).fold(f64::MAX, f64::min).sqrt();
        assert!(nearest > 0.85, "{atoms} atoms: {nearest}");
    }
}

#[test]
fn velocities_begin_at_the_temperature_and_without_momentum() {
    let simulation = Simulation { atoms: 4000, temperature: 1.3, ..Simulation::default() };
    let velocities = lattice::velocities(&simulation);
    let squares: f64 = velocities.iter().map(|v| v * v).sum();
    assert!((squares / (3.0 * 4000.0 - 3.0) - 1.3).abs() < 1e-12);
    for axis in velocities.chunks(4000) {
        assert!(axis.iter().sum::<f64>().abs() < 1e-10);
    }
    // The fourth moment of a normal distribution is three times the square of the second.
    let fourth: f64 = velocities.iter().map(|v| v.powi(4)).sum::<f64>() / 12_000.0;
    assert!((fourth / (1.3 * 1.3) - 3.0).abs() < 0.2, "{fourth}");
    assert_eq!(velocities, lattice::velocities(&simulation));
    assert_ne!(velocities, lattice::velocities(&Simulation { seed: 1, ..simulation }));
}
