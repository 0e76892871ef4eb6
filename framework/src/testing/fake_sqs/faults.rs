//! What goes wrong, by script: for an action and the calls of it that are meant, or for everything until it heals.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::action::Action;
use super::refusal::Refusal;

/// Something that goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens, and there is never an answer.
    Hang,
    /// It happens, and there is never an answer.
    HangAfter,
    /// For so long nothing happens; then it does, and is answered.
    Delay(Duration),
    /// It happens at once, and is answered so much later.
    Late(Duration),
    /// Nothing happens; the connection breaks.
    Break,
    /// It happens; the connection breaks in place of the answer.
    BreakAfter,
    /// Nothing happens; an error is answered.
    Refuse(Refuse),
    /// Of a batch the entries at these places, from 0, fail by the server's fault; nothing happens to them.
    Entries(Vec<usize>),
}

/// An error that an answer brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// 500, `InternalError`.
    Internal,
    /// 503, `ServiceUnavailable`.
    Unavailable,
    /// 403, `RequestThrottled`.
    Throttled,
    /// 403, `AccessDenied`.
    AccessDenied,
    /// 403, `ExpiredToken`.
    ExpiredToken,
    /// 403, `InvalidClientTokenId`.
    UnknownKey,
    /// 403, `SignatureDoesNotMatch`, with a `Date` that is so much later than the true one.
    ClockBehind(Duration),
    /// 400, `RequestExpired`, with a `Date` that is so much later than the true one.
    Expired(Duration),
    /// 400, `AWS.SimpleQueueService.NonExistentQueue`.
    NoQueue,
    /// 403, `OverLimit`: too many messages in flight.
    OverLimit,
}

impl Refuse {
    pub(super) fn refusal(self, action: Action) -> Refusal {
        match self {
            Refuse::Internal => Refusal::internal(),
            Refuse::Unavailable => Refusal::unavailable(),
            Refuse::Throttled => Refusal::throttled(),
            Refuse::AccessDenied => Refusal::access_denied(action),
            Refuse::ExpiredToken => Refusal::expired_token(),
            Refuse::UnknownKey => Refusal::unknown_key(),
            Refuse::ClockBehind(_) => Refusal::signature(),
            Refuse::Expired(_) => Refusal::request_expired(),
            Refuse::NoQueue => Refusal::no_queue(),
            Refuse::OverLimit => Refusal::over_limit(),
        }
    }

    /// How much later the server's clock is.
    pub(super) fn skew(self) -> Duration {
        match self {
            Refuse::ClockBehind(by) | Refuse::Expired(by) => by,
            _ => Duration::ZERO,
        }
    }
}

/// The script.
#[derive(Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    everywhere: Option<Fault>,
}

struct Rule {
    action: Action,
    calls: RangeInclusive<u64>,
    fault: Fault,
    /// Calls of the action since the rule was made.
    seen: u64,
}

impl Faults {
    pub(super) fn add(&mut self, action: Action, calls: RangeInclusive<u64>, fault: Fault) {
        self.rules.push(Rule { action, calls, fault, seen: 0 });
    }

    pub(super) fn everywhere(&mut self, fault: Fault) {
        self.everywhere = Some(fault);
    }

    pub(super) fn heal(&mut self) {
        *self = Faults::default();
    }

    /// What goes wrong with a call that comes now. Each rule counts it; the first that means it wins.
    pub(super) fn next(&mut self, action: Action) -> Option<Fault> {
        let mut found = self.everywhere.clone();
        for rule in self.rules.iter_mut().filter(|rule| rule.action == action) {
            rule.seen += 1;
            if found.is_none() && rule.calls.contains(&rule.seen) {
                found = Some(rule.fault.clone());
            }
        }
        self.rules.retain(|rule| rule.seen < *rule.calls.end());
        found
    }
}
