//! A simulation under way: the atoms, and what is counted and written as they move.
//!
//! Owns the schedule (which steps count, which are sampled, which are written) and [`Frozen`], the parts that a run is
//! made of. A run made of the parts of another goes on bit for bit as that one. It knows nothing of jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use forebay::{Error, Result};

use super::averages::Averages;
use super::xyz::Trajectory;
use super::{Radial, Simulation, Summary, System, TRAJECTORY};

/// A simulation under way.
pub struct Run {
    simulation: Simulation,
    system: System,
    averages: Averages,
    radial: Radial,
    trajectory: Option<Trajectory>,
    folder: PathBuf,
}

/// All that a run is made of but its trajectory, which stays in its file. Coordinates are all x, all y, all z.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// Positions as they are, which may be slightly outside of the box.
    pub positions: Vec<f64>,
    /// Velocities.
    pub velocities: Vec<f64>,
    /// The positions that the list of neighbours was made of.
    pub reference: Arc<Vec<f64>>,
    /// The step, the averages and the counted distances.
    pub records: Vec<u64>,
}

impl Run {
    /// A run at its start. The trajectory is written to [`TRAJECTORY`] in `folder`, if one is asked for.
    ///
    /// # Errors
    /// `Invalid` if the description is refused by [`Simulation::check`], before anything is allocated.
    pub fn start(simulation: &Simulation, device: &Device, folder: &Path) -> Result<Self> {
        let system = System::start(simulation, device)?;
        Self::new(simulation, system, folder)
    }

    fn new(simulation: &Simulation, system: System, folder: &Path) -> Result<Self> {
        let trajectory = match simulation.trajectory_every {
            Some(_) => Some(Trajectory::open(folder, simulation)?),
            None => None,
        };
        Ok(Self {
            radial: Radial::new(simulation.radial_reach(), simulation.radial_bins as usize),
            simulation: simulation.clone(),
            averages: Averages::default(),
            folder: folder.to_owned(),
            trajectory,
            system,
        })
    }

    /// One step of time, and what is due after it. Nothing once the run is done.
    ///
    /// # Errors
    /// `Invalid` when atoms have become too fast: the timestep is too long. `Failed` if the trajectory cannot be written.
    pub fn advance(&mut self) -> Result<()> {
        if self.done() {
            return Ok(());
        }
        self.system.advance()?;
        let Some(counted) = self.system.step().checked_sub(self.simulation.equilibrate).filter(|step| *step > 0) else {
            return Ok(());
        };
        let samples = counted % self.simulation.sample_every == 0;
        let writes = self.simulation.trajectory_every.is_some_and(|every| counted % every == 0);
        if !samples && !writes {
            return Ok(());
        }
        let (sample, positions) = (self.system.sample()?, self.system.positions()?);
        if samples {
            self.averages.add(&sample);
            self.radial.add(&positions, self.system.length());
        }
        match &mut self.trajectory {
            Some(trajectory) if writes => trajectory.write(&positions, self.system.length(), &sample),
            _ => Ok(()),
        }
    }

    /// What was asked for.
    pub fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    /// Whether all steps were made.
    pub fn done(&self) -> bool {
        self.system.step() >= self.simulation.total()
    }

    /// How much of it was done, from 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.system.step() as f64 / self.simulation.total() as f64
    }

    /// The atoms.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// The trajectory's file, if one was asked for.
    pub fn trajectory(&self) -> Option<PathBuf> {
        self.trajectory.as_ref().map(|_| self.folder.join(TRAJECTORY))
    }

    /// What came of it so far.
    pub fn summary(&self) -> Summary {
        let Simulation { atoms, density, timestep, equilibrate, .. } = self.simulation;
        let [temperature, pressure, potential, kinetic, total, lj_potential, lj_pressure] =
            [0, 1, 2, 3, 4, 5, 6].map(|kind| self.averages.of(kind));
        Summary {
            atoms,
            density,
            length: self.system.length(),
            steps: self.system.step().saturating_sub(equilibrate),
            samples: self.averages.count(),
            temperature,
            pressure,
            potential,
            kinetic,
            total,
            lj_potential,
            lj_pressure,
            drift: self.averages.slope() / timestep,
            radial: self.radial.values(atoms, density),
        }
    }

    /// Copies what the run is made of to host memory.
    pub fn freeze(&self) -> Result<Frozen> {
        let (positions, reference) = self.system.places()?;
        let averages = self.averages.numbers();
        let head = [self.system.step(), self.system.length().to_bits(), averages.len() as u64];
        let records = [head.to_vec(), averages, self.radial.numbers()].concat();
        Ok(Frozen { positions, velocities: self.system.velocities()?, reference, records })
    }

    /// Goes on with a run. In `folder` lies its trajectory as it was when the run was frozen, if it has one. More steps
    /// than before may be asked for, and less; with other atoms or another box it is another run.
    ///
    /// # Errors
    /// `Failed` if the parts are not those of such a run.
    pub fn thaw(simulation: &Simulation, device: &Device, folder: &Path, frozen: Frozen) -> Result<Self> {
        let Frozen { positions, velocities, reference, records } = frozen;
        let damaged = || Error::failed("the saved records of the run are too short");
        let [step, length, len, records @ ..] = &*records else { return Err(damaged()) };
        let length = f64::from_bits(*length);
        if length != simulation.length() {
            let now = simulation.length();
            return Err(Error::failed(format!("a run in a box of {length} cannot go on in a box of {now}")));
        }
        let (averages, radial) = records.split_at_checked(*len as usize).ok_or_else(damaged)?;
        let system = System::of_parts(simulation, device, &positions, &velocities, reference, *step)?;
        let mut run = Self::new(simulation, system, folder)?;
        run.averages = Averages::of_numbers(averages)?;
        run.radial = run.radial.resume(radial)?;
        Ok(run)
    }
}
