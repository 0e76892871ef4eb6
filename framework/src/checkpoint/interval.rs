//! How often a job's progress is saved: what a save costs, held against the work that a lost node takes with it.
//!
//! Pure logic with time handed in; workers and the simulation of fleets run the same. It promises an interval between
//! the bounds for whatever it is told, and never one that is shorter than an upload takes. It saves nothing itself, and
//! it foresees nothing: it knows how long nodes of others lasted, and what the job's own nodes have done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The fleets that were measured in public: how likely one's own is like that, its shape, and its scale in hours. Fifteen
/// jobs of 48 h, see [`Hazard`]; a week of a hundred nodes; and a job that lost fourteen nodes in two days.
const FLEETS: [(f64, f64, f64); 3] = [(0.4, 0.56, 19.7), (0.4, 1.0, 90.0), (0.2, 1.0, 3.0)];
/// How many losses each of them counts for, against those that the job has seen itself.
const PRIOR_LOSSES: f64 = 3.0;
/// A younger node counts as this old: the rate at which nodes are lost has no bound at age zero.
pub const YOUNGEST: Duration = Duration::from_secs(60);
/// What a save is taken to cost while none was measured, and the least that one costs.
pub const FIRST_COST: Duration = Duration::from_secs(1);
/// See [`FIRST_COST`].
pub const LEAST_COST: Duration = Duration::from_millis(1);
/// The shortest automatic interval, unless [`Interval::between`] says otherwise.
pub const SHORTEST: Duration = Duration::from_secs(5);
/// The longest automatic interval, unless [`Interval::between`] says otherwise.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// The weight of the newest measurement in what is expected of the next.
const NEWEST: f64 = 0.3;
/// How much longer than an upload an interval is at least.
const ROOM: f64 = 1.25;
/// How many runs a history holds: the newest.
pub const RUNS: usize = 64;

/// At which rate nodes of an age are lost: the hazard of a Weibull distribution.
///
/// The default, shape 0.56 and scale 19.7 h, was fitted to 50 runs of nodes of SaladCloud from public logs of fifteen
/// jobs of 48 h, with 35 losses in 720 h. A shape below 1 says that the young are lost most. With shape 1 the rate is
/// the same at every age, and the scale is the mean time between losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hazard {
    shape: f64,
    /// In seconds.
    scale: f64,
}

impl Default for Hazard {
    fn default() -> Self {
        Hazard { shape: 0.56, scale: 19.7 * 3600.0 }
    }
}

impl Hazard {
    /// By shape, kept within 0.1 and 10, and scale, at least a second.
    pub fn weibull(shape: f64, scale: Duration) -> Self {
        let shape = if shape.is_nan() { 1.0 } else { shape.clamp(0.1, 10.0) };
        Hazard { shape, scale: scale.as_secs_f64().max(1.0) }
    }

    /// Losses per second of one node of that age, at least [`YOUNGEST`].
    pub fn rate(&self, age: Duration) -> f64 {
        let age = age.max(YOUNGEST);
        self.shape * self.expected(age) / age.as_secs_f64()
    }

    /// The losses to be expected up to an age, if each lost node were replaced by one of its age.
    pub fn expected(&self, age: Duration) -> f64 {
        let age = age.as_secs_f64() / self.scale;
        if self.shape == 1.0 { age } else { age.powf(self.shape) }
    }
}

/// One node's time with the job, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How old the node was when the job came to it.
    #[serde(default, rename = "age_s")]
    pub age: u64,
    /// How long it was at work with the job, as far as is known: up to its last save.
    #[serde(rename = "lasted_s")]
    pub lasted: u64,
    /// Whether it was lost, and did not end or hand over the job.
    pub lost: bool,
}

/// The nodes that have had the job, oldest first. It travels with the job, in the manifest of its checkpoint, so that
/// a calm or a stormy fleet is learned within the job; and from job to job with the worker that has ended one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    runs: Vec<Run>,
}

/// Seconds: a run that begins so soon after another at the node's age that this one ended at is of the same node.
const SAME_NODE: u64 = 60;

impl History {
    /// Adds a run; the oldest of more than [`RUNS`] is forgotten. One that goes on where the last ended, as of two jobs
    /// that a node had one after the other, is counted with it.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut() {
            let ended = last.age.saturating_add(last.lasted);
            if !last.lost && run.age >= ended && run.age - ended <= SAME_NODE {
                (last.lasted, last.lost) = (run.age.saturating_add(run.lasted) - last.age, run.lost);
                return;
            }
        }
        self.runs.push(run);
        if self.runs.len() > RUNS {
            self.runs.remove(0);
        }
    }

    /// This one, or the other if nothing is known here: a new job begins with what its worker has learned from its last.
    pub fn or(self, other: &History) -> History {
        if self.runs.is_empty() { other.clone() } else { self }
    }

    /// Oldest first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}

/// When to save next.
///
/// The automatic interval is Young's, `sqrt(2 * cost * MTBF)` (J. W. Young, 1974; J. T. Daly's of 2006 differs by less
/// than 1 % where the cost is small). `cost` is what a save was measured to block the job for. `MTBF` is the mean time
/// between losses of nodes as old as this one, as far as it can be known: each of three fleets that were measured may be
/// like the job's, each but for a factor with a Gamma distribution, and the job's [`History`] and this node's survival
/// say how much. An upload goes on beside the work, so its time is no cost; but there is never more than one, so no
/// interval is shorter than an upload.
#[derive(Clone, Debug)]
pub struct Interval {
    fixed: Option<Duration>,
    shortest: Duration,
    longest: Duration,
    /// Seconds, of what was measured.
    cost: Option<f64>,
    upload: Option<f64>,
    beliefs: Vec<Belief>,
    past: History,
    /// Of `past`.
    losses: f64,
    /// The node's age when the job came to it.
    began: Duration,
}

/// A hazard that may be that of the job's fleet, but for a factor; and what the past says of it.
#[derive(Clone, Copy, Debug)]
struct Belief {
    hazard: Hazard,
    /// The logarithm of how likely it is beforehand.
    weight: f64,
    /// The losses that it expected of the past, less those up to the node's age when the job came.
    expected: f64,
    /// The logarithm of how likely it made the ages at which nodes were lost, but for the factor.
    likely: f64,
}

impl Default for Interval {
    fn default() -> Self {
        Self::automatic()
    }
}

impl Interval {
    /// Between [`SHORTEST`] and [`LONGEST`], by what is measured and learned.
    pub fn automatic() -> Self {
        Interval {
            fixed: None,
            shortest: SHORTEST,
            longest: LONGEST,
            cost: None,
            upload: None,
            beliefs: FLEETS.iter().map(|&(weight, shape, hours)| Belief::new(weight, shape, hours * 3600.0)).collect(),
            past: History::default(),
            losses: 0.0,
            began: Duration::ZERO,
        }
    }

    /// Always the same, but never shorter than an upload takes. Zero saves again as soon as the last is uploaded.
    pub fn every(interval: Duration) -> Self {
        Interval { fixed: Some(interval), ..Self::automatic() }
    }

    /// Other bounds for the automatic interval. A `longest` below `shortest` counts as that.
    pub fn between(mut self, shortest: Duration, longest: Duration) -> Self {
        (self.shortest, self.longest) = (shortest, longest.max(shortest));
        self
    }

    /// What is known of this fleet's nodes, instead of what was measured of others. It is corrected, too, by the job's
    /// history.
    pub fn hazard(mut self, hazard: Hazard) -> Self {
        self.beliefs = vec![Belief::new(1.0, hazard.shape, hazard.scale)];
        let (past, began) = (std::mem::take(&mut self.past), self.began);
        self.learn(past, began)
    }

    /// The job came to this node at that age of it, with this history.
    pub fn learn(mut self, past: History, age_of_node: Duration) -> Self {
        self.losses = past.runs().iter().filter(|run| run.lost).count() as f64;
        for belief in &mut self.beliefs {
            belief.learn(past.runs(), age_of_node);
        }
        (self.past, self.began) = (past, age_of_node);
        self
    }

    /// What the manifest of a save holds: the past, and this run up to now. Unless the job leaves the node with this
    /// save, the run counts as lost for whoever reads it, half an interval later: nobody reads it while the node has the
    /// job.
    pub fn history(&self, age_of_node: Duration, leaves: bool) -> History {
        let beyond = if leaves { Duration::ZERO } else { self.next(age_of_node) / 2 };
        let lasted = age_of_node.saturating_sub(self.began).saturating_add(beyond).as_secs();
        let mut history = self.past.clone();
        history.push(Run { age: self.began.as_secs(), lasted, lost: !leaves });
        history
    }

    /// A save blocked the job for so long.
    pub fn cost_was(&mut self, blocked: Duration) {
        self.cost = Some(smoothed(self.cost, blocked));
    }

    /// The upload of a save took so long.
    pub fn upload_took(&mut self, upload: Duration) {
        self.upload = Some(smoothed(self.upload, upload));
    }

    /// How long after the end of a save, or after the job's begin on this node, the next save begins.
    pub fn next(&self, age_of_node: Duration) -> Duration {
        let interval = match self.fixed {
            Some(fixed) => fixed,
            None => {
                let cost = self.cost.unwrap_or(FIRST_COST.as_secs_f64()).max(LEAST_COST.as_secs_f64());
                seconds((2.0 * cost / self.rate(age_of_node)).sqrt()).clamp(self.shortest, self.longest)
            }
        };
        interval.max(seconds(self.upload.unwrap_or(0.0) * ROOM))
    }

    /// Losses per second to be expected of this node now: those of each belief, by how likely it is after all that was
    /// seen.
    pub fn rate(&self, age_of_node: Duration) -> f64 {
        let age = age_of_node.max(YOUNGEST);
        let (mut rates, mut shares, mut most) = (0.0, 0.0, f64::NEG_INFINITY);
        for belief in &self.beliefs {
            let (rate, likely) = belief.after(self.losses, age);
            // Shares are kept relative to the likeliest, since a likelihood itself may be too small for a number.
            if likely > most {
                let before = (most - likely).exp();
                (rates, shares, most) = (rates * before + rate, shares * before + 1.0, likely);
            } else {
                let share = (likely - most).exp();
                (rates, shares) = (rates + rate * share, shares + share);
            }
        }
        rates / shares
    }
}

impl Belief {
    fn new(weight: f64, shape: f64, scale: f64) -> Self {
        Belief { hazard: Hazard { shape, scale }, weight: weight.ln(), expected: 0.0, likely: 0.0 }
    }

    fn learn(&mut self, past: &[Run], began: Duration) {
        let up_to = |seconds: u64| self.hazard.expected(Duration::from_secs(seconds));
        let end = |run: &Run| run.age.saturating_add(run.lasted);
        let expected: f64 = past.iter().map(|run| up_to(end(run)) - up_to(run.age)).sum();
        let lost = past.iter().filter(|run| run.lost);
        self.likely = lost.map(|run| self.hazard.rate(Duration::from_secs(end(run))).ln()).sum();
        self.expected = expected - self.hazard.expected(began.max(YOUNGEST));
    }

    /// Losses per second at that age, at least [`YOUNGEST`], and the logarithm of how likely the belief is: a Gamma prior on the factor, of
    /// shape [`PRIOR_LOSSES`] and mean 1, after so many losses.
    fn after(&self, losses: f64, age: Duration) -> (f64, f64) {
        let (seen, up_to_now) = (PRIOR_LOSSES + losses, self.hazard.expected(age));
        let expected = PRIOR_LOSSES + (self.expected + up_to_now).max(0.0);
        let rate = self.hazard.shape * up_to_now / age.as_secs_f64();
        (rate * seen / expected, self.weight + self.likely - seen * expected.ln())
    }
}

fn smoothed(before: Option<f64>, newest: Duration) -> f64 {
    let newest = newest.as_secs_f64();
    before.map_or(newest, |before| before + NEWEST * (newest - before))
}

/// Saturating; nothing for what is no number.
fn seconds(seconds: f64) -> Duration {
    if seconds.is_nan() {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
#[path = "interval_tests.rs"]
mod tests;
