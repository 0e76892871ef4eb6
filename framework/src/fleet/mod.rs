//! Fleets of interruptible nodes, simulated: what saves cost, what losses cost, and what becomes of jobs.
//!
//! Time is virtual, and what decides is the worker's own code: [`Interval`] says when to save, the ledger of leases when to
//! renew and when to give up, [`judge`](crate::judge) what becomes of a job that could not be read. Nodes, links and the
//! queue are drawn by a seed from [distributions](Preset) that were measured. No storage and no network is touched, and no
//! job's own code runs.
//!
//! ```
//! use forebay::fleet::{Fleet, Preset};
//!
//! let outcome = Fleet { nodes: 20, preset: Preset::Storm, ..Fleet::default() }.run()?;
//! assert!(outcome.waste() < 0.025, "{:.2} % of the useful work", 100.0 * outcome.waste());
//! # Ok::<(), forebay::Error>(())
//! ```

mod keeper;
mod node;
mod outcome;
mod preset;
mod random;
mod run;
mod saver;
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::checkpoint::interval::Interval;
use crate::error::{Error, Result};
pub use outcome::{Outcome, Sample};
pub use preset::Preset;

const DAY: Duration = Duration::from_secs(86_400);
/// Beyond this nothing was measured, and sums might not fit.
const LONGEST: Duration = Duration::from_secs(3660 * 86_400);
const MOST_NODES: usize = 1_000_000;

/// A fleet, its jobs and its seed.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// How nodes are lost; typical by default.
    pub preset: Preset,
    /// How many nodes there are while none is lost: 100 by default.
    pub nodes: usize,
    /// How long it is watched: 30 days by default.
    pub time: Duration,
    /// The work of one job: 48 h by default.
    pub job: Duration,
    /// How many jobs there are; `None`, the default, for as many as keep all nodes busy.
    pub jobs: Option<u64>,
    /// How long a save blocks its job: 1 s by default.
    pub cost: Duration,
    /// Bytes of a job's state, uploaded whole with each save: 100 MB by default.
    pub state: u64,
    /// When jobs save: [`Interval::automatic`] by default.
    pub interval: Interval,
    /// The share of calls that renew a lease, and of states that are read, that fail: 1 in 1000 by default. Of the calls
    /// half hang until they are given up.
    pub faults: f64,
    /// The same seed gives the same fleet; 1 by default.
    pub seed: u64,
    /// Plays every event, also those that change nothing. It gives the same and takes longer.
    pub every_event: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            preset: Preset::Typical,
            nodes: 100,
            time: 30 * DAY,
            job: 2 * DAY,
            jobs: None,
            cost: Duration::from_secs(1),
            state: 100_000_000,
            interval: Interval::automatic(),
            faults: 1e-3,
            seed: 1,
            every_event: false,
        }
    }
}

impl Fleet {
    /// Plays it.
    ///
    /// # Errors
    /// [`Invalid`](crate::Fault::Invalid) where there is nothing to play, or more than fits.
    pub fn run(&self) -> Result<Outcome> {
        self.check()?;
        Ok(simulation::Simulation::new(self).play())
    }

    fn check(&self) -> Result<()> {
        let wrong = if self.nodes == 0 || self.nodes > MOST_NODES {
            "a fleet has from 1 to a million nodes"
        } else if self.time.is_zero() || self.time > LONGEST {
            "a fleet is watched for more than no time and at most ten years"
        } else if self.job < Duration::from_secs(60) || self.job > LONGEST {
            "a job takes from a minute to ten years"
        } else if self.interval.next(Duration::ZERO) < saver::OFTEN {
            "jobs save once a second at most"
        } else if self.cost > Duration::from_secs(3600) {
            "a save blocks its job for at most an hour"
        } else if self.state > 1 << 50 {
            "a state has at most a pebibyte"
        } else if !(0.0..=1.0).contains(&self.faults) {
            "the share of faults is from 0 to 1"
        } else {
            return Ok(());
        };
        Err(Error::invalid(wrong))
    }
}
