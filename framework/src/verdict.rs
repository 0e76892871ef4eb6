//! What becomes of a job: the three verdicts, and [`judge`], the only place that decides between them.
//!
//! `judge` is pure: the same outcome, job and attempt always give the same verdict, so that the whole policy can be
//! read and tested as a table. It never looks at a clock and never speaks to a broker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Fault, Result};

/// How a job ended, as its source is told.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Done, with its encoded result.
    Done(Bytes),
    /// Give it back: to be delivered again, not before `after`.
    Retry {
        /// How long the source should hold it back.
        after: Duration,
        /// What went wrong; `None` where the job was merely given back, by a drain for example.
        why: Option<Error>,
    },
    /// Never again: it would fail for ever, or has failed too often.
    Reject {
        /// What went wrong.
        why: Error,
    },
}

impl Verdict {
    /// Given back at once, nothing said against it.
    pub fn give_back() -> Self {
        Verdict::Retry { after: Duration::ZERO, why: None }
    }

    /// The verdict in lower case, as metrics and logs name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Done(_) => "done",
            Verdict::Retry { .. } => "retry",
            Verdict::Reject { .. } => "reject",
        }
    }
}

/// The first pause before another attempt; it doubles with each further one.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before another attempt.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Decides what becomes of job `id` after its `attempt` (the first is 1) of at most `max_attempts`.
///
/// | fault | verdict |
/// |---|---|
/// | none | `Done` |
/// | `Invalid` | `Reject` |
/// | `Transient` | `Retry` after a pause, however often |
/// | `Failed` | `Retry` after a pause, at the last attempt `Reject` |
/// | `Fatal` | given back at once, since another node may do it; from twice as many attempts on `Reject`, lest one job take node after node |
///
/// The pause doubles with each attempt and is spread over its upper half by the job's id, so that jobs that failed
/// together do not come back together.
pub fn judge(outcome: Result<Bytes>, id: &str, attempt: u32, max_attempts: u32) -> Verdict {
    let why = match outcome {
        Ok(output) => return Verdict::Done(output),
        Err(error) => error,
    };
    match why.fault() {
        Fault::Invalid => Verdict::Reject { why },
        Fault::Failed if attempt >= max_attempts => {
            Verdict::Reject { why: why.context(format_args!("gave up after {attempt} attempts")) }
        }
        Fault::Failed | Fault::Transient => Verdict::Retry { after: pause(id, attempt), why: Some(why) },
        Fault::Fatal if attempt >= max_attempts.saturating_mul(2) => {
            Verdict::Reject { why: why.context(format_args!("gave up after {attempt} attempts")) }
        }
        Fault::Fatal => Verdict::Retry { after: Duration::ZERO, why: Some(why) },
    }
}

/// How long job `id` is held back after its `attempt`.
pub(crate) fn pause(id: &str, attempt: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    let mut hasher = DefaultHasher::new();
    (id, attempt).hash(&mut hasher);
    let share = 0.5 + 0.5 * (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
    doubled.min(LONGEST_PAUSE).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(outcome: Result<Bytes>, attempt: u32) -> &'static str {
        judge(outcome, "job", attempt, 3).as_str()
    }

    #[test]
    fn the_whole_table() {
        assert_eq!(word(Ok(Bytes::new()), 9), "done");
        let cases = [
            (Error::invalid("x"), ["reject"; 4]),
            (Error::transient("x"), ["retry"; 4]),
            (Error::failed("x"), ["retry", "retry", "reject", "reject"]),
            (Error::fatal("x"), ["retry"; 4]),
        ];
        for (error, verdicts) in cases {
            for (attempt, expected) in (1..).zip(verdicts) {
                assert_eq!(word(Err(error.clone()), attempt), expected, "attempt {attempt}");
            }
        }
    }

    #[test]
    fn a_fatal_job_does_not_go_round_for_ever() {
        assert_eq!(word(Err(Error::fatal("x")), 5), "retry");
        assert_eq!(word(Err(Error::fatal("x")), 6), "reject");
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_differ_between_jobs() {
        for attempt in 1..40 {
            let full = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
            let pause = pause("a", attempt);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
        assert_ne!(pause("a", 1), pause("b", 1));
    }
}
