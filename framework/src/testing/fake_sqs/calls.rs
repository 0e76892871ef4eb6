//! What was asked of the fake, when, and what came of it: a test's means to see that nothing was asked too late.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::action::Action;

/// Calls that are remembered; older ones are forgotten.
const REMEMBERED: usize = 200_000;

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counts all calls, from 0.
    pub number: u64,
    /// What was asked for.
    pub action: Action,
    /// The queue's name; empty if the call named none.
    pub queue: String,
    /// When it came.
    pub at: Instant,
    /// When it took effect, or was refused; `None` if it has not yet, or never will.
    pub applied: Option<Instant>,
    /// What it did to each message.
    pub touched: Vec<Touched>,
    /// What its caller was told.
    pub outcome: Outcome,
}

/// What a call did to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The message's id; of a message that is gone, the handle that the caller named.
    pub message: String,
    /// For how long it is hidden from then on, in seconds, if the call said so.
    pub seconds: Option<u64>,
    /// The code of the error, if it was refused.
    pub refused: Option<String>,
}

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet; for a call that hangs, or whose caller has gone, for ever.
    Pending,
    /// An answer.
    Answered,
    /// An error with this status and code.
    Refused(u16, String),
    /// The connection broke.
    Broken,
}

/// All calls.
#[derive(Default)]
pub(super) struct Calls {
    list: VecDeque<Call>,
    next: u64,
}

impl Calls {
    pub(super) fn begin(&mut self, action: Action, queue: String, at: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.list.len() == REMEMBERED {
            self.list.pop_front();
        }
        let (applied, touched, outcome) = (None, Vec::new(), Outcome::Pending);
        self.list.push_back(Call { number, action, queue, at, applied, touched, outcome });
        number
    }

    pub(super) fn applied(&mut self, number: u64, at: Instant, touched: Vec<Touched>) {
        if let Some(call) = self.find(number) {
            call.applied = Some(at);
            call.touched = touched;
        }
    }

    pub(super) fn end(&mut self, number: u64, outcome: Outcome) {
        if let Some(call) = self.find(number) {
            call.outcome = outcome;
        }
    }

    pub(super) fn list(&self) -> Vec<Call> {
        self.list.iter().cloned().collect()
    }

    fn find(&mut self, number: u64) -> Option<&mut Call> {
        let first = self.list.front()?.number;
        self.list.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }
}
