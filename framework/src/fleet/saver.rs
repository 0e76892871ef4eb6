//! A job at work on one node: it restores, works, saves, and uploads beside its work.
//!
//! When it saves is for [`Interval`] to say, as in the worker; and as there one save is on its way, and the newest other
//! waits. It promises that every moment is counted once: as work, as time that a save blocked, as time to restore or to
//! hand over.

use std::time::Duration;

use crate::checkpoint::interval::{History, Interval};

/// No job saves more often: what saves without end would keep time from going on.
pub(super) const OFTEN: Duration = Duration::from_secs(1);

/// What a save holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Snapshot {
    pub(super) progress: Duration,
    /// The job leaves its node with it.
    last: bool,
    /// The node's age when its upload began.
    age: Duration,
}

/// An upload under way.
#[derive(Clone, Copy, Debug)]
struct Upload {
    snapshot: Snapshot,
    ends: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Restoring,
    Working,
    Blocked,
    /// For the last upload, to hand the job over.
    Waiting,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Happened {
    /// A save is stored.
    Saved,
    /// The job is done.
    Finished,
    /// The last save is stored.
    WrittenDown,
    /// The state could not be read.
    NotRestored,
}

/// How long everything took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    pub(super) blocked: Duration,
    pub(super) restoring: Duration,
    pub(super) handing_over: Duration,
}

/// What a job is on a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// When its node was born.
    pub(super) born: Duration,
    /// How long a save blocks, and how long an upload takes.
    pub(super) cost: Duration,
    pub(super) upload: Duration,
    /// Until the work begins, or until it is given up.
    pub(super) restore: Duration,
    pub(super) restores: bool,
    /// Of the work, in all.
    pub(super) length: Duration,
}

pub(super) struct Saver {
    task: Task,
    interval: Interval,
    phase: Phase,
    since: Duration,
    until: Duration,
    progress: Duration,
    upload: Option<Upload>,
    waiting: Option<Snapshot>,
    handing_over: bool,
    /// Nothing is uploaded before.
    storage_from: Duration,
    pub(super) kept: Option<Snapshot>,
    pub(super) spent: Spent,
    /// Uploads that ended.
    pub(super) uploads: u64,
}

impl Saver {
    /// A job of which so much is done comes to a node.
    pub(super) fn new(task: Task, interval: Interval, now: Duration, progress: Duration) -> Self {
        Saver {
            task,
            interval,
            phase: Phase::Restoring,
            since: now,
            until: now + task.restore,
            progress,
            upload: None,
            waiting: None,
            handing_over: false,
            storage_from: Duration::ZERO,
            kept: None,
            spent: Spent::default(),
            uploads: 0,
        }
    }

    pub(super) fn next(&self) -> Duration {
        self.upload.map_or(self.until, |upload| upload.ends.min(self.until))
    }

    /// What happens at [`next`](Saver::next).
    pub(super) fn step(&mut self) -> Option<Happened> {
        if let Some(upload) = self.upload.filter(|upload| upload.ends <= self.until) {
            return Some(self.stored(upload));
        }
        let now = self.until;
        self.count(now);
        match self.phase {
            Phase::Restoring if !self.task.restores => return Some(Happened::NotRestored),
            Phase::Restoring => self.work(now),
            Phase::Working if self.progress >= self.task.length => return Some(Happened::Finished),
            Phase::Working => self.enter(Phase::Blocked, now, now + self.task.cost),
            Phase::Blocked => self.snapshot(now),
            Phase::Waiting => {}
        }
        None
    }

    fn stored(&mut self, upload: Upload) -> Happened {
        self.uploads += 1;
        self.kept = Some(upload.snapshot);
        self.interval.upload_took(self.task.upload);
        self.upload = None;
        self.send(upload.ends);
        if upload.snapshot.last {
            self.count(upload.ends);
            return Happened::WrittenDown;
        }
        Happened::Saved
    }

    fn snapshot(&mut self, now: Duration) {
        self.interval.cost_was(self.task.cost);
        self.waiting = Some(Snapshot { progress: self.progress, last: self.handing_over, age: Duration::ZERO });
        if self.upload.is_none() {
            self.send(now);
        }
        if self.handing_over {
            self.enter(Phase::Waiting, now, Duration::MAX);
        } else {
            self.work(now);
        }
    }

    /// Uploads what waits.
    fn send(&mut self, now: Duration) {
        let age = now - self.task.born;
        let ends = now.max(self.storage_from) + self.task.upload;
        self.upload = self.waiting.take().map(|snapshot| Upload { snapshot: Snapshot { age, ..snapshot }, ends });
    }

    fn work(&mut self, now: Duration) {
        let save = now.saturating_add(self.interval.next(now - self.task.born).max(OFTEN));
        let end = now + self.task.length.saturating_sub(self.progress);
        self.enter(Phase::Working, now, save.min(end));
    }

    fn enter(&mut self, phase: Phase, now: Duration, until: Duration) {
        (self.phase, self.since, self.until) = (phase, now, until);
    }

    /// Counts the phase up to now.
    fn count(&mut self, now: Duration) {
        let time = now - self.since;
        self.since = now;
        match self.phase {
            Phase::Restoring => self.spent.restoring += time,
            Phase::Working => self.progress += time,
            Phase::Blocked => self.spent.blocked += time,
            Phase::Waiting => self.spent.handing_over += time,
        }
    }

    /// It is to write down how far it is and to end. False if there is nothing to write down.
    pub(super) fn hand_over(&mut self, now: Duration) -> bool {
        self.handing_over = true;
        match self.phase {
            Phase::Restoring => return false,
            Phase::Working => {
                self.count(now);
                self.enter(Phase::Blocked, now, now + self.task.cost);
            }
            Phase::Blocked | Phase::Waiting => {}
        }
        true
    }

    /// No upload ends before its storage is there again, as late as it was gone.
    pub(super) fn cut_off(&mut self, now: Duration, from: Duration) {
        self.storage_from = from;
        if let Some(upload) = &mut self.upload {
            upload.ends += from - now;
        }
    }

    pub(super) fn is_restoring(&self) -> bool {
        self.phase == Phase::Restoring
    }

    /// Whether the save that hands the job over is stored.
    pub(super) fn is_written_down(&self) -> bool {
        self.kept.is_some_and(|kept| kept.last)
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Counts up to now; how far it is.
    pub(super) fn progress(&mut self, now: Duration) -> Duration {
        self.count(now);
        self.progress
    }

    /// What was uploaded by now, in saves: also of the one that is under way.
    pub(super) fn sent(&self, now: Duration) -> f64 {
        let partly = self.upload.map_or(0.0, |upload| {
            let left = upload.ends.saturating_sub(now).min(self.task.upload);
            1.0 - left.as_secs_f64() / self.task.upload.as_secs_f64().max(1e-9)
        });
        self.uploads as f64 + partly
    }

    /// What the worker knows of the nodes when the job has left it.
    pub(super) fn learned(&self, now: Duration) -> History {
        self.interval.history(now - self.task.born, true)
    }

    /// What the manifest of that save says of the nodes.
    pub(super) fn history(&self, kept: Snapshot) -> History {
        self.interval.history(kept.age, kept.last)
    }
}
