//! Where, and how often, a stage of steps saves its jobs' states.
//!
//! It owns the settings; nothing is opened before the first job.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use super::interval::{Hazard, History, Interval};
use crate::error::Result;
use crate::job::Job;
use crate::source::ends::path;
use crate::store::{Key, Store};

/// How old the last durable state may get by default.
const OLDEST: Duration = Duration::from_secs(2 * 3600);

/// When this process first had to do with saving, which is about when its node began.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where the states of a stage's jobs are saved, and how often.
///
/// ```
/// use forebay::Stepping;
/// use forebay::checkpoint::Saving;
/// use forebay::store::Memory;
///
/// let stepping = Stepping::jobs(1).saving(Saving::to(Memory::new()));
/// ```
#[derive(Clone)]
pub struct Saving {
    pub(crate) store: Arc<dyn Store>,
    place: Arc<Placing>,
    interval: Interval,
    /// What was learned of nodes from the last job that has left this worker. A lock, since any of its jobs may be next.
    pub(crate) learned: Arc<Mutex<History>>,
    pub(crate) oldest: Duration,
    scratch: Option<PathBuf>,
}

/// Below which key a job's states are.
type Placing = dyn Fn(&Job) -> Result<Key> + Send + Sync;

impl Saving {
    /// States go to `jobs/<job>/state/` in this store, as often as pays: see [`Interval`].
    pub fn to(store: impl Store) -> Self {
        LazyLock::force(&BEGAN);
        Saving {
            store: Arc::new(store),
            place: Arc::new(|job| Key::new(format!("jobs/{}/state", path(job.id())))),
            interval: Interval::automatic(),
            learned: Arc::default(),
            oldest: OLDEST,
            scratch: None,
        }
    }

    /// States go below the key that `place` gives for a job. Two jobs that may run at one time need two.
    pub fn at(mut self, place: impl Fn(&Job) -> Result<Key> + Send + Sync + 'static) -> Self {
        self.place = Arc::new(place);
        self
    }

    /// Saves at a fixed interval. Default: [`Interval::automatic`].
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = Interval::every(interval);
        self
    }

    /// Saves at intervals of your own, such as automatic ones within other bounds.
    pub fn interval(mut self, interval: Interval) -> Self {
        self.interval = interval;
        self
    }

    /// How often nodes are lost, where that is known better than by the default.
    pub fn hazard(mut self, hazard: Hazard) -> Self {
        self.interval = self.interval.hazard(hazard);
        self
    }

    /// How old the newest durable state of a job may get while newer ones wait, before the node is judged unfit: the
    /// worker ends with [`EXIT_NODE_FAULT`](crate::EXIT_NODE_FAULT) if its link is too slow, and gives the job back if
    /// the store fails. Default 2 h, and never less than four intervals.
    pub fn oldest(mut self, age: Duration) -> Self {
        self.oldest = age;
        self
    }

    /// Where local folders of jobs are made. Default: the system's folder for temporary files.
    pub fn scratch(mut self, folder: impl Into<PathBuf>) -> Self {
        self.scratch = Some(folder.into());
        self
    }

    pub(crate) fn key(&self, job: &Job) -> Result<Key> {
        (self.place)(job)
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    pub(crate) fn start_interval(&self) -> Interval {
        self.interval.clone()
    }
}

/// How long this node has been at work.
pub(crate) fn age_of_node() -> Duration {
    BEGAN.elapsed()
}

impl fmt::Debug for Saving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval, oldest, scratch, .. } = self;
        f.debug_struct("Saving").field("interval", interval).field("oldest", oldest).field("scratch", scratch).finish()
    }
}
