//! What became of a fleet: every moment of its jobs and of its nodes, counted once.

use std::time::Duration;

/// What a simulated fleet did. Times are summed over jobs or nodes.
///
/// Of jobs: from when each was first received until it was done, or until the simulation's end, its time is
/// `useful + overhead + lost + gaps + restoring + handing_over`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Jobs that are done.
    pub finished: u64,
    /// Jobs that were received at least once.
    pub started: u64,
    /// The time of jobs, as above.
    pub job_time: Duration,
    /// Work that was not lost; also that of jobs which are at work in the end.
    pub useful: Duration,
    /// The time for which saves blocked jobs.
    pub overhead: Duration,
    /// Work that was done again, since it was not saved when its node was lost.
    pub lost: Duration,
    /// Jobs without a node: until their lease has run out and a node asks for them.
    pub gaps: Duration,
    /// Jobs that are read, with their state, before they go on.
    pub restoring: Duration,
    /// Jobs that are handed over and wait for their last save to be uploaded.
    pub handing_over: Duration,

    /// The time of nodes, from when they were there until they were lost.
    pub node_time: Duration,
    /// Of it, without a job.
    pub idle: Duration,
    /// The time of jobs on nodes after these were lost, until another node had the job.
    pub zombie_time: Duration,
    /// Nodes lost.
    pub losses: u64,

    /// Saves that were stored.
    pub saves: u64,
    /// Saves of zombies that were refused, since another node had claimed the job.
    pub refused: u64,
    /// Jobs handed over before the queue's limit of 12 h.
    pub hand_overs: u64,
    /// Of these, such whose progress could not be written down in time.
    pub unsaved_hand_overs: u64,
    /// Jobs given up by their workers, since leases could not be renewed.
    pub leases_lost: u64,
    /// Jobs given back, since their state could not be read.
    pub not_restored: u64,
    /// Calls that renew a lease, and how many of them failed.
    pub renewals: u64,
    /// See [`renewals`](Outcome::renewals).
    pub failed_renewals: u64,
    /// Bytes of states sent to the store.
    pub sent: u64,
    /// Bytes of states read from it.
    pub received: u64,

    /// Nodes that are there and jobs done so far, at even times.
    pub samples: Vec<Sample>,
}

/// A fleet at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Nodes that are there.
    pub nodes: u64,
    /// Jobs done so far.
    pub finished: u64,
}

impl Outcome {
    /// A time as a part of the useful work: 0.01 is a hundredth. Infinite where nothing useful was done.
    pub fn share(&self, time: Duration) -> f64 {
        if time.is_zero() { 0.0 } else { time.as_secs_f64() / self.useful.as_secs_f64() }
    }

    /// What an interval is judged by: the share of the useful work that saves cost, and that was lost for want of them.
    pub fn waste(&self) -> f64 {
        self.share(self.overhead + self.lost)
    }
}
