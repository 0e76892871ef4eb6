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

use super::interval::{History, Interval};
use super::saving::age_of_node;
use super::{Checkpoints, Saving, Sent, Snapshot, TakenOver};
use crate::error::{Error, Fault};
use crate::telemetry::SaveMeter;

/// After a save has failed, the first and the longest pause before another.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Saves in a row that fail for no passing reason, before the job fails with it.
const HOPELESS: u32 = 3;
/// As good as never.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The two ends of one job's saving. A cheap handle.
#[derive(Clone)]
pub(crate) struct Saves(Arc<Shared>);

struct Shared {
    job: String,
    oldest: Duration,
    /// For this worker's next job.
    learned: Arc<Mutex<History>>,
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
    sending: Option<(u64, Instant)>,
    /// When the newest durable state was taken; before the first, when the job began here.
    durable: Instant,
    saved: u64,
    /// Failures in a row, and the last.
    failing: Option<Failing>,
    rate: f64,
    verdict: Option<Error>,
    /// The last save of all is asked for: nothing comes after it.
    last: bool,
}

/// Failures in a row.
struct Failing {
    count: u32,
    /// When what could not be saved first was taken.
    since: Instant,
    last: Error,
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
        let known = checkpoints.history().or(&saving.learned.lock().unwrap_or_else(PoisonError::into_inner));
        let interval = saving.start_interval().learn(known, age);
        let state = State {
            due: later(now, interval.next(age)),
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
            learned: saving.learned.clone(),
            state: Mutex::new(state),
            came: Notify::new(),
            ended: Notify::new(),
            meter: SaveMeter::new(),
        }))
    }

    /// Whether a snapshot should be taken now. One that still waits makes way for it, so that there are never three.
    pub(crate) fn is_due(&self) -> bool {
        let mut state = self.lock();
        if state.last || Instant::now() < state.due {
            return false;
        }
        let older = state.waiting.take();
        drop(state);
        if older.is_some() {
            self.skipped();
        }
        true
    }

    fn skipped(&self) {
        self.0.meter.skipped();
        debug!(job = self.0.job, "a snapshot was not saved before the next was due: it is dropped");
    }

    /// What still waits is not wanted any more.
    pub(crate) fn clear(&self) {
        drop(self.lock().waiting.take());
    }

    /// The job must not go on here.
    pub(crate) fn give_up(&self, why: Error) {
        error!(job = self.0.job, error = %why, "nothing is saved any more");
        let mut state = self.lock();
        state.sending = None;
        state.verdict.get_or_insert(why);
        drop(state);
        self.0.ended.notify_waiters();
    }

    /// A snapshot, for whose sake the device stood still for `blocked`.
    pub(crate) fn give(&self, snapshot: Snapshot, blocked: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        state.interval.cost_was(blocked);
        state.due = later(now, state.interval.next(age_of_node()));
        let older = state.waiting.replace(Taken { snapshot, at: now, time: SystemTime::now() });
        self.show(&state);
        drop(state);
        self.0.meter.blocked(blocked);
        if older.is_some() {
            self.skipped();
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
        self.show(&state);
        let waits_since = match (&state.failing, &state.sending) {
            (Some(failing), _) => Some(failing.since),
            (None, Some((_, taken))) => Some(*taken),
            (None, None) => None,
        };
        if let Some(since) = waits_since.filter(|_| state.verdict.is_none()) {
            let patience = self.0.oldest.max(state.interval.next(age_of_node()).saturating_mul(4));
            if since.elapsed() > patience {
                state.verdict = Some(self.judge(&state, since.elapsed()));
            }
        }
        state.verdict.clone()
    }

    /// The node is to blame if it sends, and too slowly; the store if it fails.
    fn judge(&self, state: &State, age: Duration) -> Error {
        let (job, minutes) = (&self.0.job, age.as_secs() / 60);
        let verdict = match &state.failing {
            Some(Failing { count, last, .. }) => Error::transient(format_args!(
                "no state of job {job} could be saved for {minutes} minutes, {count} times in a row: {last}"
            )),
            None => Error::fatal(format_args!(
                "this node's link cannot keep up: a state of job {job} of {} bytes has been under way for {minutes} minutes",
                state.sending.map_or(0, |(bytes, _)| bytes)
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
                    tokio::select! {
                        () = checkpoints.collect_garbage() => {}
                        // What waits to be saved comes first; what is left is removed another time.
                        () = self.0.came.notified() => self.0.came.notify_one(),
                    }
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
                Err(why) => self.failed(at, why),
            }
        }
    }

    fn take(&self) -> Option<(Taken, History)> {
        let mut state = self.lock();
        let taken = state.waiting.take()?;
        state.sending = Some((taken.snapshot.len(), taken.at));
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
    fn failed(&self, at: Instant, why: Error) {
        let mut state = self.lock();
        let since = state.failing.as_ref().map_or(at, |failing| failing.since);
        let failures = state.failing.as_ref().map_or(0, |failing| failing.count) + 1;
        warn!(job = self.0.job, failures, error = %why, "a state could not be saved; the one before stands");
        let pause = PAUSES.0.saturating_mul(1 << (failures - 1).min(8)).min(PAUSES.1);
        state.due = state.due.min(Instant::now() + pause);
        state.sending = None;
        // What the user's own snapshot is to blame for does not get better with time.
        let hopeless = match why.fault() {
            Fault::Invalid | Fault::Fatal => true,
            Fault::Failed => failures >= HOPELESS,
            Fault::Transient => false,
        };
        if hopeless {
            state.verdict = Some(why.clone());
        }
        state.failing = Some(Failing { count: failures, since, last: why });
        self.show(&state);
        drop(state);
        self.0.meter.failed();
        self.0.ended.notify_waiters();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let learned = state.interval.history(age_of_node(), true);
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }
}

fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

fn standing(state: &State) -> Standing {
    let waiting = state.waiting.as_ref().map_or(0, |taken| taken.snapshot.len());
    Standing {
        saved: state.saved,
        age: state.durable.elapsed(),
        backlog: waiting + state.sending.map_or(0, |(bytes, _)| bytes),
        rate: state.rate,
    }
}
