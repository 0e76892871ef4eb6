//! One node's time with a job: the lease and the saves side by side, until either of them, the job or the node ends.
//!
//! It is played event by event, or with quiet renewals left out; both give the same. Nothing that happens elsewhere
//! reaches into a run, but for the claim that ends a zombie's.

use std::time::Duration;

use super::keeper::{Keeper, Told};
use super::node::{After, Node};
use super::saver::{Happened, Saver};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// The job is done.
    Finished,
    /// The job was given back, whether or not its progress could be written down.
    HandedOver,
    /// The state could not be read: the job was given back to be tried again.
    NotRestored,
    /// The worker gave the job up, since it could not renew its lease.
    LeaseLost,
    /// The node was lost.
    Died,
}

pub(super) struct Run {
    pub(super) job: usize,
    pub(super) node: Node,
    pub(super) keeper: Keeper,
    pub(super) saver: Saver,
    /// Whether quiet renewals are left out.
    leaps: bool,
    /// What the keeper does next.
    asks: Duration,
    /// How it ended, once it has.
    pub(super) end: Option<End>,
}

impl Run {
    pub(super) fn new(job: usize, node: Node, keeper: Keeper, saver: Saver, leaps: bool) -> Self {
        let mut run = Run { job, node, keeper, saver, leaps, asks: Duration::ZERO, end: None };
        run.look_ahead();
        run
    }

    fn look_ahead(&mut self) {
        self.asks = if self.leaps { self.keeper.incident() } else { self.keeper.next() };
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Duration {
        self.saver.next().min(self.asks).min(self.node.dies)
    }

    /// What happens at [`next`](Run::next).
    pub(super) fn step(&mut self) -> Option<End> {
        let saves = self.saver.next();
        let now = saves.min(self.asks);
        self.end = if self.node.dies <= now {
            Some(End::Died)
        } else if saves <= self.asks {
            match self.saver.step() {
                None | Some(Happened::Saved) => None,
                Some(Happened::Finished) => Some(End::Finished),
                Some(Happened::WrittenDown) => Some(End::HandedOver),
                Some(Happened::NotRestored) => Some(End::NotRestored),
            }
        } else {
            self.catch_up(now);
            let end = match self.keeper.step() {
                None => None,
                Some(Told::HandOver) => (!self.saver.hand_over(now)).then_some(End::HandedOver),
                Some(Told::GiveBack) => Some(End::HandedOver),
                Some(Told::Lost) => Some(End::LeaseLost),
            };
            self.look_ahead();
            end
        };
        self.end
    }

    /// Plays what was left out before now.
    pub(super) fn catch_up(&mut self, now: Duration) {
        if self.leaps {
            self.keeper.leap(now);
        }
    }

    /// A node that goes on after its loss: the run without its lease.
    pub(super) fn zombie(&mut self) -> Option<Zombie> {
        let died = self.node.dies;
        let (until, waits) = match self.node.after {
            After::Nothing => return None,
            After::GoesOn(time) => (died + time, false),
            After::CutOff(time) => {
                self.saver.cut_off(died, died + time);
                (died + time, true)
            }
        };
        (!self.saver.is_restoring()).then_some(Zombie { until, waits })
    }
}

/// Until when a lost node goes on; and whether it then waits for an upload that its storage had stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zombie {
    until: Duration,
    waits: bool,
}

impl Zombie {
    /// Plays what happens before `to`, while nobody else has the job: when it ended.
    pub(super) fn play(self, saver: &mut Saver, to: Duration) -> Duration {
        while let Some(next) = self.next(saver, to) {
            match saver.step() {
                Some(Happened::Saved) if self.waits && next >= self.until => return next,
                None | Some(Happened::Saved) => {}
                // Nobody hears that it is done.
                Some(_) => return next,
            }
        }
        self.end(saver, to)
    }

    /// Plays what happens before `to` when another node has the job: when it was refused a save, which ends it.
    pub(super) fn is_refused(self, saver: &mut Saver, to: Duration) -> Option<Duration> {
        while let Some(next) = self.next(saver, to) {
            match saver.step() {
                Some(Happened::Saved | Happened::WrittenDown) => return Some(next),
                None => {}
                Some(_) => return None,
            }
        }
        None
    }

    fn next(self, saver: &Saver, to: Duration) -> Option<Duration> {
        Some(saver.next()).filter(|next| *next < self.end(saver, to))
    }

    fn end(self, saver: &Saver, to: Duration) -> Duration {
        if self.waits && saver.is_uploading() { to } else { to.min(self.until) }
    }
}
