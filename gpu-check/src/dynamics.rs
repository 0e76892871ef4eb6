//! The command `dynamics`: molecular dynamics on the device go where they go on the CPU.
//!
//! Owns the tolerances of energies per atom. Atoms are chaotic, so that differences in the last bit grow; a few hundred
//! steps keep them small in double precision, and so does the sum over all atoms in single.

use candle_core::Device;
use forebay::Result;
use forebay_models::DeviceChoice;
use forebay_models::md::{Precision, Sample, Simulation, System};

use crate::report::Report;

const STEPS: u64 = 300;
/// Steps between two looks.
const EVERY: u64 = 50;

/// Runs the same simulation on both, in both precisions.
pub fn check() -> Result<Report> {
    let device = DeviceChoice::from_env()?.open()?;
    let mut report = Report::new("dynamics");
    let atoms = if device.is_cuda() { 2048 } else { 256 };
    report.figure("atoms", atoms);
    report.figure("steps", STEPS);
    for (name, precision, tolerance) in [("f64", Precision::F64, 1e-8), ("f32", Precision::F32, 2e-3)] {
        let simulation = Simulation { atoms, precision, equilibrate: 0, steps: STEPS, ..Simulation::default() };
        let (ours, theirs) = (energies(&simulation, &device)?, energies(&simulation, &Device::Cpu)?);
        let far = |of: fn(&Sample) -> f64| {
            let differences = ours.iter().zip(&theirs).map(|(a, b)| (of(a) - of(b)).abs());
            differences.fold(0.0, |far: f64, next| if next.is_nan() || next > far { next } else { far })
        };
        report.below(format_args!("{name}: potential energy, device against CPU"), far(|at| at.potential), tolerance);
        report.below(format_args!("{name}: kinetic energy, device against CPU"), far(|at| at.kinetic), tolerance);
        let total: Vec<f64> = ours.iter().map(Sample::total).collect();
        let drift = total.iter().map(|energy| (energy - total[0]).abs()).fold(0.0, f64::max);
        report.below(format_args!("{name}: total energy, from the first look on"), drift, 0.05);
    }
    Ok(report)
}

fn energies(simulation: &Simulation, device: &Device) -> Result<Vec<Sample>> {
    let mut system = System::start(simulation, device)?;
    let mut samples = Vec::new();
    while system.step() < STEPS {
        system.advance()?;
        if system.step() % EVERY == 0 {
            samples.push(system.sample()?);
        }
    }
    Ok(samples)
}
