//! The 12 hours that SQS lets anybody hold a message: what may still be asked for, computed and never tried out.
//!
//! They count from when the queue handed the message out. The worker counts from before it asked, and leaves time for
//! calls on their way, so that it never asks for more than is granted: SQS refuses that, and shortens nothing.

use std::time::Duration;

use tokio::time::Instant;

/// How long a message can be held, whatever is asked for in between.
const MOST: Duration = Duration::from_secs(12 * 3600);
/// When a job has to stop, so that there is time to say so or to hand it over.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(12 * 3600 - 15 * 60);
/// The queue may hear of a call so much later than it was made.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// What to ask for.
#[derive(Debug, PartialEq)]
pub(crate) struct Extension {
    pub(crate) seconds: u32,
    /// Nothing may be asked for after this; then, when the job has to stop.
    pub(crate) stop: Option<Instant>,
}

/// To hold a message that was asked for at `received` for `by` from now. `None` if it can be held no longer.
pub(crate) fn extension(received: Instant, now: Instant, by: Duration) -> Option<Extension> {
    let wanted = whole_seconds(by);
    let age = now.saturating_duration_since(received);
    if age + Duration::from_secs(wanted.into()) <= HAND_OVER {
        return Some(Extension { seconds: wanted, stop: None });
    }
    let seconds = left(received, now);
    (seconds > 0).then_some(Extension { seconds, stop: Some(received + HAND_OVER) })
}

/// How long to hold a message back, at most for as long as it may be held.
pub(crate) fn pause(received: Instant, now: Instant, after: Duration) -> u32 {
    whole_seconds(after).min(left(received, now))
}

fn left(received: Instant, now: Instant) -> u32 {
    let age = now.saturating_duration_since(received);
    MOST.saturating_sub(age + ON_ITS_WAY).as_secs() as u32
}

/// SQS counts in seconds; what is asked for is never less than what was wanted.
pub(crate) fn whole_seconds(time: Duration) -> u32 {
    let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    whole.min(MOST.as_secs()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const LEASE: Duration = Duration::from_secs(300);

    fn at(age: Duration) -> Option<Extension> {
        let received = Instant::now();
        extension(received, received + age, LEASE)
    }

    #[test]
    fn young_messages_get_what_is_wanted() {
        for age in [Duration::ZERO, HOUR, HAND_OVER - LEASE] {
            assert_eq!(at(age), Some(Extension { seconds: 300, stop: None }), "at {age:?}");
        }
    }

    #[test]
    fn the_last_one_gets_what_is_left_and_stops_a_quarter_of_an_hour_before() {
        let received = Instant::now();
        let age = HAND_OVER - LEASE + Duration::from_millis(1);
        let last = extension(received, received + age, LEASE).unwrap();
        assert_eq!(last.stop, Some(received + HAND_OVER));
        // 15 min, the lease that would have been, and less the time on its way, in whole seconds.
        assert_eq!(last.seconds, 900 + 300 - 30 - 1);
    }

    #[test]
    fn what_is_asked_for_never_ends_after_twelve_hours() {
        let received = Instant::now();
        for minutes in 0..13 * 60 {
            for millis in [0, 1, 999] {
                let now = received + Duration::from_secs(60 * minutes) + Duration::from_millis(millis);
                let by = |asked: u32| now + Duration::from_secs(asked.into()) + ON_ITS_WAY;
                for wanted in [Duration::from_millis(1), LEASE, HOUR, 13 * HOUR] {
                    if let Some(extension) = extension(received, now, wanted) {
                        assert!(by(extension.seconds) <= received + MOST, "{minutes} min, {wanted:?}: {extension:?}");
                        assert!(extension.seconds > 0);
                    }
                    let pause = pause(received, now, wanted);
                    assert!(pause == 0 || by(pause) <= received + MOST, "{minutes} min, {wanted:?}: {pause}");
                }
            }
        }
        assert_eq!(at(MOST), None);
        assert_eq!(at(13 * HOUR), None);
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(7)), 7);
        assert_eq!(whole_seconds(Duration::MAX), 43_200);
    }
}
