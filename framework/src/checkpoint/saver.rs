//! What a job's states go through between the device thread and the store: one waits, one is on its way.
//!
//! The device thread asks whether a save is due, hands over a snapshot, and never waits. A task of its own takes the
//! newest snapshot there is; one that is still waiting when a newer one comes is dropped. It judges as well: a job that
//! was taken over, and a node that cannot keep up, are told to the device thread, which ends the job.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, warn};

use super::interval::Interval;
use super::saving::age_of_node;
use super::{Checkpoints, Saving, Sent, Snapshot, TakenOver};
use crate::error::{Error, Fault};
use crate::telemetry::SaveMeter;

/// After a save has failed, the first and the longest pause before another.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The two ends of one job's saving. A cheap handle.
#[derive(Clone)]
pub(crate) struct Saves(Arc<Shared>);

struct Shared {
    job: String,
    oldest: Duration,
    // A lock, since the device thread and the task that uploads both change it; neither holds it for long.
    state: Mutex<State>,
    /// A snapshot has come.
    came: Notify,
    /// A save has ended.
    ended: Notify,
    meter: SaveMeter,
}

struct State {
    interval: Interval,
    /// When the next save is due.
    due: Instant,
    waiting: Option<Taken>,
    /// Bytes of the snapshot that is being saved.
    sending: Option<u64>,
    /// When the newest durable state was taken; before the first, when the job began here.
    durable: Instant,
    saved: u64,
    /// Failures in a row, and the last.
    failing: Option<(u32, Error)>,
    rate: f64,
    verdict: Option<Error>,
    /// The last save of all is asked for: nothing comes after it.
    last: bool,
}

/// A snapshot, and when it was taken.
struct Taken {
    snapshot: Snapshot,
    at: Instant,
    time: SystemTime,
}

/// How the saving of a job's states stands: see [`Workplace::standing`](super::Workplace::standing).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Saves that are durable, of this worker.
    pub saved: u64,
    /// How old the newest durable state is; before the first save, since when the job is here.
    pub age: Duration,
    /// Bytes of snapshots in memory that are not durable yet, as far as that is known.
    pub backlog: u64,
    /// Bytes a second that the last save was sent at; 0 before the first.
    pub rate: f64,
}

impl Saves {
    pub(crate) fn new(saving: &Saving, checkpoints: &Checkpoints) -> Self {
        let (now, age) = (Instant::now(), age_of_node());
        let interval = saving.start_interval().learn(checkpoints.history(), age);
        let state = State {
            due: now + interval.next(age),
            interval,
            waiting: None,
            sending: None,
            durable: now,
            saved: 0,
            failing: None,
            rate: 0.0,
            verdict: None,
            last: false,
        };
        Saves(Arc::new(Shared {
            job: checkpoints.job().id().to_owned(),
            oldest: saving.oldest,
            state: Mutex::new(state),
            came: Notify::new(),
            ended: Notify::new(),
            meter: SaveMeter::new(),
        }))
    }

    /// Whether a snapshot should be taken now.
    pub(crate) fn is_due(&self) -> bool {
        let state = self.lock();
        !state.last && Instant::now() >= state.due
    }

    /// A snapshot, for whose sake the device stood still for `blocked`.
    pub(crate) fn give(&self, snapshot: Snapshot, blocked: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        state.interval.cost_was(blocked);
        state.due = now + state.interval.next(age_of_node());
        let older = state.waiting.replace(Taken { snapshot, at: now, time: SystemTime::now() });
        self.show(&state);
        drop(state);
        self.0.meter.blocked(blocked);
        if older.is_some() {
            self.0.meter.skipped();
            debug!(job = self.0.job, "a snapshot was not saved before the next: it is dropped");
        }
        self.0.came.notify_one();
    }

    /// The same, of the last snapshot of all: the job is about to go to another worker.
    pub(crate) fn give_last(&self, snapshot: Snapshot, blocked: Duration) {
        self.lock().last = true;
        self.give(snapshot, blocked);
    }

    /// Why the job must not go on here.
    pub(crate) fn verdict(&self) -> Option<Error> {
        let mut state = self.lock();
        if state.verdict.is_none() && (state.waiting.is_some() || state.sending.is_some() || state.failing.is_some()) {
            let patience = self.0.oldest.max(state.interval.next(age_of_node()).saturating_mul(4));
            let age = state.durable.elapsed();
            if age > patience {
                state.verdict = Some(self.judge(&state, age));
            }
        }
        state.verdict.clone()
    }

    /// The node is to blame if it sends, and too slowly; the store if it fails.
    fn judge(&self, state: &State, age: Duration) -> Error {
        let (job, minutes) = (&self.0.job, age.as_secs() / 60);
        let verdict = match &state.failing {
            Some((failures, why)) => Error::transient(format_args!(
                "no state of job {job} could be saved for {minutes} minutes, {failures} times in a row: {why}"
            )),
            None => Error::fatal(format_args!(
                "this node's link cannot keep up: the newest durable state of job {job} is {minutes} minutes old, and a \
                 newer one of {} bytes is still being sent",
                state.sending.unwrap_or(0)
            )),
        };
        error!(job, error = %verdict, "the job cannot go on here");
        verdict
    }

    /// Until the last snapshot is durable, or cannot be made so.
    pub(crate) async fn flush(&self, within: Duration) {
        let settled = async {
            loop {
                let ended = self.0.ended.notified();
                if self.is_settled() {
                    return;
                }
                ended.await;
            }
        };
        if timeout(within, settled).await.is_err() {
            warn!(
                job = self.0.job,
                "the last state was not saved within {within:?}; the job goes on from the one before"
            );
        }
    }

    /// Whether nothing is to be saved any more.
    fn is_settled(&self) -> bool {
        let state = self.lock();
        state.verdict.is_some() || (state.waiting.is_none() && state.sending.is_none())
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        standing(&self.lock())
    }

    fn show(&self, state: &State) {
        self.0.meter.show(&standing(state));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves what comes, until the job is over (then this is dropped) or somebody else's.
    pub(crate) async fn run(self, mut checkpoints: Checkpoints) {
        loop {
            let Some((taken, history)) = self.take() else {
                self.0.came.notified().await;
                continue;
            };
            let at = taken.at;
            checkpoints.set_history(history);
            match checkpoints.save_taken(taken.snapshot, taken.time).await {
                Ok(sent) => {
                    self.saved(at, &sent);
                    debug!(job = self.0.job, bytes = sent.bytes, state = sent.state, took = ?sent.took, "state saved");
                    self.0.ended.notify_waiters();
                    checkpoints.collect_garbage().await;
                }
                Err(why) if why.find::<TakenOver>().is_some() => {
                    warn!(job = self.0.job, error = %why, "the job is somebody else's now");
                    let mut state = self.lock();
                    state.sending = None;
                    state.verdict = Some(why);
                    drop(state);
                    self.0.ended.notify_waiters();
                    return;
                }
                Err(why) => self.failed(why),
            }
        }
    }

    fn take(&self) -> Option<(Taken, super::interval::History)> {
        let mut state = self.lock();
        let taken = state.waiting.take()?;
        state.sending = Some(taken.snapshot.len());
        let history = state.interval.history(age_of_node(), state.last);
        Some((taken, history))
    }

    fn saved(&self, at: Instant, sent: &Sent) {
        let mut state = self.lock();
        state.interval.upload_took(sent.took);
        state.durable = at;
        state.saved += 1;
        state.sending = None;
        state.failing = None;
        state.rate = sent.bytes as f64 / sent.took.as_secs_f64().max(1e-3);
        self.show(&state);
        drop(state);
        self.0.meter.saved(sent);
    }

    /// The snapshot is gone with its try: another is asked for, after a pause that grows.
    fn failed(&self, why: Error) {
        let mut state = self.lock();
        let failures = state.failing.as_ref().map_or(0, |(failures, _)| *failures) + 1;
        warn!(job = self.0.job, failures, error = %why, "a state could not be saved; the one before stands");
        let pause = PAUSES.0.saturating_mul(1 << (failures - 1).min(8)).min(PAUSES.1);
        state.due = state.due.min(Instant::now() + pause);
        state.sending = None;
        // What the user's own snapshot is to blame for does not get better with time.
        if why.fault() == Fault::Invalid {
            state.verdict = Some(why.clone());
        }
        state.failing = Some((failures, why));
        self.show(&state);
        drop(state);
        self.0.meter.failed();
        self.0.ended.notify_waiters();
    }
}

fn standing(state: &State) -> Standing {
    let waiting = state.waiting.as_ref().map_or(0, |taken| taken.snapshot.len());
    Standing {
        saved: state.saved,
        age: state.durable.elapsed(),
        backlog: waiting + state.sending.unwrap_or(0),
        rate: state.rate,
    }
}
