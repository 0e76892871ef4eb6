//! The ledger of unsettled deliveries: which lease is due for renewal, and what may still be done with each.
//!
//! Pure bookkeeping with time handed in. A lease is renewed at a third of its length; an attempt may take a sixth,
//! so that at least three fit. Shortly before its end by the worker's own clock ([`margin`]) a lease that could not
//! be renewed counts as lost, and its job stops: somebody else may have it by then. Nothing is told after that either.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::job::Job;
use crate::source::{Receipt, margin};
use crate::verdict::Verdict;

pub(crate) struct Leases {
    held: HashMap<u64, Held>,
    /// Renewals to come, soonest first.
    due: BTreeSet<(Instant, u64)>,
    numbers: u64,
}

pub(crate) struct Held {
    pub(crate) source: usize,
    pub(crate) job: Job,
    pub(crate) receipt: Arc<dyn Receipt>,
    pub(crate) until: Instant,
    pub(crate) task: Option<AbortHandle>,
    pub(crate) state: State,
    /// It was told to stop, and is given back when it has.
    pub(crate) handed_over: bool,
    length: Duration,
    due: Option<Instant>,
    /// It is not renewed any more: when it is due, its job stops.
    last: bool,
}

/// What is due.
#[derive(Debug, PartialEq)]
pub(crate) enum Due {
    /// A renewal: how long the attempt may take, and how long the lease shall last.
    Renewal { number: u64, within: Duration, length: Duration },
    /// The end of a job whose lease was renewed for the last time.
    Stop(u64),
}

pub(crate) enum State {
    /// The job is at work.
    Working,
    /// A renewal is under way; the verdict, if the job ended meanwhile. It is settled once the renewal has ended.
    Renewing(Option<Verdict>),
    /// The verdict is being told.
    Settling,
    /// Lost: nothing may be told. It stays in the ledger until its job has stopped.
    Lost,
}

impl Held {
    fn set_until(&mut self, until: Instant) {
        self.until = until;
        self.job.may_write_until(until.checked_sub(margin(self.length)).unwrap_or(until));
    }

    /// How long something may still be told under this lease.
    pub(crate) fn time_to_tell(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now).saturating_sub(margin(self.length))
    }
}

impl Leases {
    pub(crate) fn new() -> Self {
        Leases { held: HashMap::new(), due: BTreeSet::new(), numbers: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Enters a delivery; its number.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        source: usize,
        until: Instant,
        receipt: Arc<dyn Receipt>,
        job: Job,
    ) -> u64 {
        self.numbers += 1;
        let length = until.saturating_duration_since(now);
        job.may_write_until(until.checked_sub(margin(length)).unwrap_or(until));
        let held = Held {
            source,
            job,
            receipt,
            until,
            task: None,
            state: State::Working,
            handed_over: false,
            length,
            due: None,
            last: false,
        };
        self.held.insert(self.numbers, held);
        self.renew_at(self.numbers, now + length / 3);
        self.numbers
    }

    pub(crate) fn get(&mut self, number: u64) -> Option<&mut Held> {
        self.held.get_mut(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Held> {
        self.forget_renewal(number);
        self.held.remove(&number)
    }

    /// When the next renewal is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is due. A lease whose renewal was taken out is due again only when [`renewed`](Leases::renewed),
    /// [`renewed_for_good`](Leases::renewed_for_good) or [`not_renewed`](Leases::not_renewed) says so.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let &(at, number) = self.due.first()?;
        if at > now {
            return None;
        }
        self.forget_renewal(number);
        let held = self.held.get_mut(&number)?;
        if held.last {
            return Some(Due::Stop(number));
        }
        held.state = State::Renewing(None);
        let within = held.time_to_tell(now).min(held.length / 6);
        Some(Due::Renewal { number, within, length: held.length })
    }

    /// After a successful attempt: whether it gained any time. A lease with a limit as a whole stops growing.
    pub(crate) fn renewed(&mut self, now: Instant, number: u64, until: Instant) -> bool {
        let Some(held) = self.held.get_mut(&number) else {
            return false;
        };
        held.set_until(until);
        let left = until.saturating_duration_since(now);
        if left <= margin(held.length) {
            return false;
        }
        self.renew_at(number, now + left / 3);
        true
    }

    /// After the last attempt of all: whether there is time left to stop the job in.
    pub(crate) fn renewed_for_good(&mut self, now: Instant, number: u64, until: Instant, stop: Instant) -> bool {
        let Some(held) = self.held.get_mut(&number) else {
            return false;
        };
        held.set_until(until);
        held.last = true;
        if held.time_to_tell(now).is_zero() {
            return false;
        }
        self.renew_at(number, stop);
        true
    }

    /// A job that was told to stop may go on for `time`, or half of what is left of its lease if that is less.
    pub(crate) fn stop_after(&mut self, number: u64, now: Instant, time: Duration) {
        if let Some(held) = self.held.get(&number) {
            let time = time.min(held.time_to_tell(now) / 2);
            self.renew_at(number, now + time);
        }
    }

    /// After a failed attempt: whether there is time for another.
    pub(crate) fn not_renewed(&mut self, now: Instant, number: u64) -> bool {
        let Some(held) = self.held.get(&number) else {
            return false;
        };
        let last = held.until - margin(held.length).min(held.until.saturating_duration_since(now));
        let next = now + held.length / 24;
        if now >= last || next >= last {
            return false;
        }
        self.renew_at(number, next);
        true
    }

    /// The lease is not renewed any more.
    pub(crate) fn forget_renewal(&mut self, number: u64) {
        let due = self.held.get_mut(&number).and_then(|held| held.due.take());
        if let Some(at) = due {
            self.due.remove(&(at, number));
        }
    }

    fn renew_at(&mut self, number: u64, at: Instant) {
        if let Some(held) = self.held.get_mut(&number) {
            held.due = Some(at);
            self.due.insert((at, number));
        }
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
