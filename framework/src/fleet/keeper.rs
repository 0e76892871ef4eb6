//! One job's lease in virtual time: the worker's own ledger, against a queue as SQS is one.
//!
//! The queue grants 300 s at a time and 12 h in all; of its calls some fail, and half of these hang until they
//! are given up. Renewals that
//! succeed need not be played one by one: between two that do not, the ledger's times are an arithmetic series. It
//! promises the same instants and counts either way.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::random::successes;
use crate::error::Result;
use crate::job::Job;
use crate::source::limit::{self, HAND_OVER};
use crate::source::{Extended, Receipt};
use crate::verdict::Verdict;
use crate::worker::control::WIND_UP;
use crate::worker::leases::{Due, Leases};

/// What the queue grants at a time: the default of the source `Sqs`.
pub(super) const LEASE: Duration = Duration::from_secs(300);

/// A receipt that nobody asks: the queue is simulated here.
pub(super) struct Nobody;

impl Receipt for Nobody {
    fn extend(&self, _: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(async { Ok(Extended::Lost) })
    }

    fn settle<'a>(&'a self, _: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// What all leases of a simulation share.
#[derive(Clone)]
pub(super) struct Queue {
    /// Virtual time's zero.
    pub(super) origin: Instant,
    pub(super) job: Job,
    pub(super) receipt: Arc<dyn Receipt>,
    /// The share of calls that fail.
    pub(super) faults: f64,
}

/// What the ledger says to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Told {
    /// The job is handed over, once its progress is written down.
    HandOver,
    /// The time for that is over.
    GiveBack,
    /// The lease is lost.
    Lost,
}

pub(super) struct Keeper {
    leases: Leases,
    number: u64,
    origin: Instant,
    received: Duration,
    rtt: Duration,
    random: Rng,
    faults: f64,
    /// Calls that succeed before one fails.
    good: u64,
    call: Option<Call>,
    /// When the last call was made that the queue heard, and how long it granted.
    heard: (Duration, Duration),
    handing_over: bool,
    pub(super) renewals: u64,
    pub(super) failed: u64,
}

/// A call under way: when it ends, and the answer if there is one.
struct Call {
    ends: Duration,
    answer: Option<Extended>,
}

impl Keeper {
    /// A job that was asked for at `received`, and came a round trip later.
    pub(super) fn new(queue: &Queue, received: Duration, rtt: Duration, mut random: Rng) -> Self {
        let good = successes(&mut random, queue.faults);
        let mut leases = Leases::new();
        let asked = queue.origin + received;
        let number = leases.enter(asked + rtt, 0, asked + LEASE, queue.receipt.clone(), queue.job.clone());
        Keeper {
            leases,
            number,
            origin: queue.origin,
            received,
            rtt,
            random,
            faults: queue.faults,
            good,
            call: None,
            heard: (received, LEASE),
            handing_over: false,
            renewals: 0,
            failed: 0,
        }
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Duration {
        let due = || self.leases.next_due().map_or(Duration::MAX, |due| due - self.origin);
        self.call.as_ref().map_or_else(due, |call| call.ends)
    }

    /// When something happens next that is no renewal which succeeds, as those before it.
    pub(super) fn incident(&self) -> Duration {
        let next = self.next();
        let quiet = self.quiet(next);
        if quiet == 0 { next } else { next + times(self.period(), quiet) }
    }

    /// Plays renewals that succeed, all that are made before `to`, which is no later than the
    /// [`incident`](Keeper::incident).
    pub(super) fn leap(&mut self, to: Duration) {
        let next = self.next();
        let made = to.saturating_sub(next).as_nanos().div_ceil(self.period().as_nanos());
        let made = self.quiet(next).min(made as u64);
        if made == 0 {
            return;
        }
        let asked = next + times(self.period(), made - 1);
        self.leases.forget_renewal(self.number);
        let (now, until) = (self.origin + asked + self.rtt, self.origin + asked + LEASE);
        self.leases.renewed(now, self.number, until);
        self.heard = (asked, LEASE);
        self.good -= made;
        self.renewals += made;
    }

    /// Between renewals that succeed: a round trip, and a third of what is left then.
    fn period(&self) -> Duration {
        self.rtt + (LEASE - self.rtt) / 3
    }

    /// How many renewals from `next` on succeed and are granted whole.
    fn quiet(&self, next: Duration) -> u64 {
        if self.call.is_some() || self.handing_over || self.heard.1 != LEASE {
            return 0;
        }
        let last = self.received + HAND_OVER - LEASE;
        let granted = match last.checked_sub(next) {
            Some(time) => (time.as_nanos() / self.period().as_nanos()) as u64 + 1,
            None => 0,
        };
        self.good.min(granted)
    }

    /// What happens at [`next`](Keeper::next).
    pub(super) fn step(&mut self) -> Option<Told> {
        let at = self.next();
        let now = self.origin + at;
        if let Some(call) = self.call.take() {
            let goes_on = match call.answer {
                Some(Extended::Until(until)) => self.leases.renewed(now, self.number, until),
                Some(Extended::Last { until, stop }) => self.leases.renewed_for_good(now, self.number, until, stop),
                Some(_) => false,
                None => self.leases.not_renewed(now, self.number),
            };
            return (!goes_on).then_some(Told::Lost);
        }
        match self.leases.take_due(now)? {
            Due::Renewal { within, length, .. } => {
                self.call = Some(self.ask(at, within, length));
                None
            }
            Due::Stop(_) if self.handing_over => Some(Told::GiveBack),
            Due::Stop(number) => {
                self.handing_over = true;
                self.leases.stop_after(number, now, WIND_UP);
                Some(Told::HandOver)
            }
        }
    }

    fn ask(&mut self, at: Duration, within: Duration, length: Duration) -> Call {
        self.renewals += 1;
        if self.good == 0 {
            self.failed += 1;
            self.good = successes(&mut self.random, self.faults);
            let hangs = self.random.bool();
            return Call { ends: at + if hangs { within } else { self.rtt.min(within) }, answer: None };
        }
        self.good -= 1;
        let answer = match limit::extension(self.origin + self.received, self.origin + at, length) {
            None => Extended::Lost,
            Some(limit::Extension { seconds, stop }) => {
                let granted = Duration::from_secs(seconds.into());
                self.heard = (at, granted);
                let until = self.origin + at + granted;
                stop.map_or(Extended::Until(until), |stop| Extended::Last { until, stop })
            }
        };
        Call { ends: at + self.rtt, answer: Some(answer) }
    }

    /// When the job was asked for.
    pub(super) fn received(&self) -> Duration {
        self.received
    }

    /// When the queue delivers the job again, if it hears nothing more.
    pub(super) fn visible(&self) -> Duration {
        self.heard.0 + self.rtt / 2 + self.heard.1
    }
}

fn times(period: Duration, times: u64) -> Duration {
    Duration::from_nanos_u128(period.as_nanos() * u128::from(times))
}
