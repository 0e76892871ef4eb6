//! How often and after which pauses a part is tried again.
//!
//! It owns the budget of one part. Failures count only as long as nothing moves: a link that breaks every minute but
//! moves bytes in between gets through, one that gives nothing comes to an end.

use std::time::Duration;

use tokio::time::Instant;

use fastrand::f64 as random;

use crate::error::{Error, Fault};

/// A transfer that moves no byte for this long is broken off and tried again.
pub(crate) const MOVES_WITHIN: Duration = Duration::from_secs(8);
/// Failures in a row, without anything moved in between, after which a part may be given up.
const TRIES: u32 = 12;
/// It is given up no sooner than this after the first of them: a home router takes a minute or two to start anew.
const PATIENCE: Duration = Duration::from_secs(120);
/// Less than this between two failures is not counted as moving, lest somebody trickle for ever.
const MOVED: u64 = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The tries that one part has.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    failures: u32,
    since: Option<Instant>,
}

impl Budget {
    /// After a failed try that moved `bytes`: the pause before the next, or the error if there is none.
    pub(crate) fn spend(&mut self, why: Error, bytes: u64) -> Result<Duration, Error> {
        if bytes >= MOVED {
            (self.failures, self.since) = (0, None);
        }
        self.failures += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let passing = matches!(why.fault(), Fault::Transient | Fault::Failed);
        if !passing {
            return Err(why);
        }
        if self.failures >= TRIES && since.elapsed() >= PATIENCE {
            return Err(why.context(format_args!("given up after {} tries", self.failures)));
        }
        Ok(pause(self.failures))
    }
}

/// The pause after so many failures: doubling, with up to half of it taken off by chance, so that many do not come back
/// at once.
pub(crate) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE * 2u32.pow(failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 - random() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_moves_is_tried_for_ever() {
        let mut budget = Budget::default();
        let lost = || Error::transient("connection lost");
        for _ in 0..100 {
            assert!(budget.spend(lost(), MOVED).is_ok());
        }
        let pauses: Vec<_> = (1..2 * TRIES).map(|_| budget.spend(lost(), MOVED - 1).unwrap()).collect();
        assert!(pauses.windows(3).take(5).all(|three| three[2] > three[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        tokio::time::advance(PATIENCE).await;
        let why = budget.spend(lost(), 0).unwrap_err();
        assert_eq!(why.to_string(), "given up after 25 tries: connection lost");
    }

    #[test]
    fn what_is_the_callers_fault_is_not_tried_again() {
        assert!(Budget::default().spend(Error::invalid("no permission"), MOVED).is_err());
    }
}
