//! Simulations as jobs: [`Dynamics`] is a stepper whose states are [`Run`]s.
//!
//! Owns how long a step of the stepper takes and the names of the saved parts. What a run gives does not depend on where
//! its steps are cut, so that may go by the clock. It keeps nothing between two jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use forebay::checkpoint::{Saved, Snapshot, Workplace};
use forebay::{Error, Progress, Result, Stepper};

use super::{Frozen, Run, Simulation, Summary, TRAJECTORY};
use crate::classify;
use crate::words::{of_bytes, to_bytes};

/// The part that says what was asked for.
const SIMULATION: &str = "simulation.json";
/// How long a step of all states together takes, if no single step of time takes longer.
const STEP: Duration = Duration::from_millis(200);

/// Molecular dynamics on a device; a [`Stepper`] from a [`Simulation`] to its [`Outcome`].
///
/// A saved run goes on bit for bit on any device of the same kind, with the same build of the program. On the CPU neither
/// its model nor the number of cores matters: only sums, products, quotients and roots are computed, in a fixed order.
pub struct Dynamics {
    device: Device,
}

/// What a simulation gave, and where its files lie.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its averages.
    pub summary: Summary,
    /// Its trajectory, if it was asked for. The file goes with `place`.
    pub trajectory: Option<PathBuf>,
    /// The folder that the file lies in.
    pub place: Workplace,
}

/// A run and where it works.
pub struct Placed {
    pub(super) run: Run,
    place: Workplace,
}

impl Dynamics {
    /// On this device.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone() }
    }
}

impl Stepper for Dynamics {
    type Spec = Simulation;
    type State = Placed;
    type Output = Outcome;

    const FORMAT: &'static str = "forebay md 1";

    fn begin(&mut self, simulation: &Simulation, place: &Workplace) -> Result<Placed> {
        let run = Run::start(simulation, &self.device, folder(simulation, place)?).map_err(classify)?;
        Ok(Placed { run, place: place.clone() })
    }

    fn step(&mut self, states: &mut [&mut Placed]) -> Result<Vec<Progress>> {
        let each = STEP / states.len().max(1) as u32;
        let advance = |state: &mut &mut Placed| {
            let start = Instant::now();
            while !state.run.done() {
                state.run.advance().map_err(classify)?;
                if start.elapsed() >= each {
                    break;
                }
            }
            Ok(if state.run.done() { Progress::done() } else { Progress::of(state.run.fraction() as f32) })
        };
        states.iter_mut().map(advance).collect()
    }

    fn finish(&mut self, state: Placed) -> Result<Outcome> {
        Ok(Outcome { summary: state.run.summary(), trajectory: state.run.trajectory(), place: state.place })
    }

    fn save(&mut self, state: &mut Placed) -> Result<Snapshot> {
        let Frozen { positions, velocities, reference, records } = state.run.freeze().map_err(classify)?;
        let bytes = |values: Vec<f64>| move || Ok(to_bytes(values.into_iter().map(f64::to_bits)));
        let snapshot = Snapshot::new()
            .later("positions", bytes(positions))
            .later("velocities", bytes(velocities))
            .later("reference", move || Ok(to_bytes(reference.iter().map(|value| value.to_bits()))))
            .bytes("records", to_bytes(records))
            .bytes(SIMULATION, serde_json::to_vec(state.run.simulation())?);
        Ok(match state.run.trajectory() {
            Some(_) => snapshot.grows(TRAJECTORY),
            None => snapshot,
        })
    }

    fn restore(&mut self, simulation: &Simulation, place: &Workplace, saved: Saved) -> Result<Placed> {
        let asked: Simulation = serde_json::from_slice(&saved.bytes(SIMULATION)?)?;
        if asked != *simulation {
            return Err(Error::failed(format_args!(
                "the saved state is of another simulation than the job asks for now; remove the state to begin anew. \
                 It was {asked:?}, and is {simulation:?}"
            )));
        }
        let numbers = |name: &str| of_bytes(name, &saved.bytes(name)?);
        let values =
            |name: &str| Ok::<Vec<f64>, forebay::Error>(numbers(name)?.into_iter().map(f64::from_bits).collect());
        let frozen = Frozen {
            positions: values("positions")?,
            velocities: values("velocities")?,
            reference: Arc::new(values("reference")?),
            records: numbers("records")?,
        };
        let run = Run::thaw(simulation, &self.device, folder(simulation, place)?, frozen).map_err(classify)?;
        Ok(Placed { run, place: place.clone() })
    }
}

/// Where the trajectory goes. No folder is made for a run that writes none.
fn folder<'a>(simulation: &Simulation, place: &'a Workplace) -> Result<&'a Path> {
    match simulation.trajectory_every {
        Some(_) => place.folder(),
        None => Ok(Path::new("")),
    }
}
