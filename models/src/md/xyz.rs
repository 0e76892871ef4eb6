//! The trajectory: frames as text in the extended XYZ format, which OVITO, ASE, VMD and MDAnalysis read.
//!
//! Owns the file. Each frame is one write of whole lines and nothing is kept back, so what the file holds at any moment
//! between two steps is whole frames. It is only appended to.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use forebay::{Context, Result};

use super::{Sample, Simulation};

/// The name of the trajectory's file, in the folder that a run is given.
pub const TRAJECTORY: &str = "trajectory.xyz";

/// A file that frames are put behind.
pub(super) struct Trajectory {
    file: File,
    timestep: f64,
}

impl Trajectory {
    /// The file in this folder, made if it is not there.
    pub(super) fn open(folder: &Path, simulation: &Simulation) -> Result<Self> {
        let path = folder.join(TRAJECTORY);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { file, timestep: simulation.timestep })
    }

    /// Appends a frame: positions are all x, all y, all z, in the box.
    pub(super) fn write(&mut self, positions: &[f64], length: f64, sample: &Sample) -> Result<()> {
        let frame = frame(positions, length, self.timestep, sample)?;
        self.file.write_all(frame.as_bytes()).context("writing a frame of the trajectory")
    }
}

fn frame(positions: &[f64], length: f64, timestep: f64, sample: &Sample) -> Result<String> {
    let atoms = positions.len() / 3;
    let mut text = String::with_capacity(200 + 40 * atoms);
    writeln!(text, "{atoms}")?;
    writeln!(
        text,
        "Lattice=\"{length:.9} 0.0 0.0 0.0 {length:.9} 0.0 0.0 0.0 {length:.9}\" Properties=species:S:1:pos:R:3 \
         pbc=\"T T T\" step={} time={:.6} potential={:.9} kinetic={:.9} temperature={:.9} pressure={:.9}",
        sample.step,
        sample.step as f64 * timestep,
        sample.potential,
        sample.kinetic,
        sample.temperature,
        sample.pressure
    )?;
    for atom in 0..atoms {
        let [x, y, z] = [0, 1, 2].map(|axis| positions[axis * atoms + atom]);
        writeln!(text, "Ar {x:.6} {y:.6} {z:.6}")?;
    }
    Ok(text)
}
