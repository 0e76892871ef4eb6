//! Runs that are cut, and their files.

use std::path::Path;

use candle_core::Device;
use forebay::{Bytes, Fault};

use super::super::{Frozen, Precision, Run, Simulation, TRAJECTORY, Thermostat};
use super::small;
use crate::words::{of_bytes, to_bytes};

fn advance(run: &mut Run, steps: u64) {
    for _ in 0..steps {
        run.advance().unwrap();
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Through the bytes that are saved.
fn carried(frozen: &Frozen) -> Frozen {
    let carry = |values: &[f64]| {
        let bytes = Bytes::from(to_bytes(bits(values)));
        of_bytes("part", &bytes).unwrap().into_iter().map(f64::from_bits).collect::<Vec<f64>>()
    };
    Frozen {
        positions: carry(&frozen.positions),
        velocities: carry(&frozen.velocities),
        reference: carry(&frozen.reference).into(),
        records: frozen.records.clone(),
    }
}

fn trajectory(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join(TRAJECTORY)).unwrap_or_default()
}

#[test]
fn a_run_that_was_cut_is_the_run_that_was_not() {
    let kinds = [
        small(),
        Simulation { thermostat: Some(Thermostat { time: 0.2 }), trajectory_every: Some(30), ..small() },
        Simulation { precision: Precision::F32, trajectory_every: Some(50), seed: 3, ..small() },
    ];
    for simulation in kinds {
        let whole = tempfile::tempdir().unwrap();
        let mut run = Run::start(&simulation, &Device::Cpu, whole.path()).unwrap();
        advance(&mut run, simulation.total());
        assert!(run.done());

        let folder = tempfile::tempdir().unwrap();
        let mut cut = Run::start(&simulation, &Device::Cpu, folder.path()).unwrap();
        // While it melts, in between, and right after each other.
        for steps in [17, 40, 1, 73] {
            advance(&mut cut, steps);
            let frozen = cut.freeze().unwrap();
            // What a worker did after its last save is lost with it, frames too.
            let written = trajectory(folder.path());
            advance(&mut cut, 35);
            if simulation.trajectory_every.is_some() {
                std::fs::write(folder.path().join(TRAJECTORY), written).unwrap();
            }
            cut = Run::thaw(&simulation, &Device::Cpu, folder.path(), carried(&frozen)).unwrap();
        }
        advance(&mut cut, simulation.total());

        let (ends, cut_ends) = (run.freeze().unwrap(), cut.freeze().unwrap());
        assert_eq!(bits(&ends.positions), bits(&cut_ends.positions));
        assert_eq!(bits(&ends.velocities), bits(&cut_ends.velocities));
        assert_eq!(ends, cut_ends);
        assert_eq!(run.summary(), cut.summary());
        assert_eq!(run.summary().samples, 20);
        assert_eq!(bits(&run.system().forces().unwrap()), bits(&cut.system().forces().unwrap()));
        assert_eq!(trajectory(whole.path()), trajectory(folder.path()));
        assert_eq!(run.trajectory().is_some(), simulation.trajectory_every.is_some());
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let simulation = Simulation { atoms: 400, equilibrate: 10, steps: 50, ..Simulation::default() };
    let [one, three] = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut run = Run::start(&simulation, &Device::Cpu, Path::new(".")).unwrap();
            advance(&mut run, 60);
            run.freeze().unwrap()
        })
    });
    assert_eq!(one, three);
}

#[test]
fn the_skin_changes_only_roundings() {
    let [thin, thick] = [0.05, 0.4].map(|skin| {
        let mut run = Run::start(&Simulation { skin, ..small() }, &Device::Cpu, Path::new(".")).unwrap();
        advance(&mut run, 100);
        (run.system().positions().unwrap(), run.system().rebuilds())
    });
    assert!(thin.1 > 4 * thick.1, "{} and {}", thin.1, thick.1);
    assert!(thin.0.iter().zip(thick.0).all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn parts_of_another_run_are_refused() {
    let folder = Path::new(".");
    let frozen = Run::start(&small(), &Device::Cpu, folder).unwrap().freeze().unwrap();
    let thaw = |simulation: Simulation, frozen: &Frozen| {
        let error = Run::thaw(&simulation, &Device::Cpu, folder, frozen.clone()).map(drop).unwrap_err();
        assert_eq!(error.fault(), Fault::Failed, "{error}");
        error.to_string()
    };
    assert!(thaw(Simulation { density: 0.8, ..small() }, &frozen).contains("box"));
    assert!(thaw(Simulation { atoms: 171, density: 0.8442 * 171.0 / 170.0, ..small() }, &frozen).contains("atoms"));
    assert!(thaw(Simulation { radial_bins: 10, ..small() }, &frozen).contains("radial_bins"));
    for len in [0, 2, 10] {
        let records = frozen.records[..len].to_vec();
        thaw(small(), &Frozen { records, ..frozen.clone() });
    }
    assert!(of_bytes("positions", &Bytes::from_static(b"123")).unwrap_err().to_string().contains("`positions`"));
    // More steps may be asked for.
    let longer = Simulation { steps: 300, ..small() };
    assert!(Run::thaw(&longer, &Device::Cpu, folder, frozen).is_ok());
}

#[test]
fn a_trajectory_is_frames_of_extended_xyz() {
    let folder = tempfile::tempdir().unwrap();
    let simulation = Simulation { trajectory_every: Some(25), equilibrate: 5, steps: 60, ..small() };
    let mut run = Run::start(&simulation, &Device::Cpu, folder.path()).unwrap();
    advance(&mut run, 65);
    let text = std::fs::read_to_string(folder.path().join(TRAJECTORY)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2 * 172);
    for (frame, step) in lines.chunks(172).zip([30, 55]) {
        assert_eq!(frame[0], "170");
        assert!(frame[1].starts_with("Lattice=\"5.861"), "{}", frame[1]);
        assert!(frame[1].contains("Properties=species:S:1:pos:R:3 pbc=\"T T T\""), "{}", frame[1]);
        assert!(frame[1].contains(&format!("step={step} time=")), "{}", frame[1]);
        for line in &frame[2..] {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!((words.len(), words[0]), (4, "Ar"));
            assert!(words[1..].iter().all(|x| (0.0..5.9).contains(&x.parse::<f64>().unwrap())));
        }
    }
}

#[test]
fn a_step_that_is_too_long_is_the_callers_fault() {
    let simulation = Simulation { timestep: 0.02, temperature: 1000.0, density: 1.5, atoms: 500, ..small() };
    let mut run = Run::start(&simulation, &Device::Cpu, Path::new(".")).unwrap();
    let error = (0..240).find_map(|_| run.advance().err()).expect("the simulation blows up");
    assert_eq!(error.fault(), Fault::Invalid);
    assert!(error.to_string().contains("a shorter timestep"), "{error}");
}
