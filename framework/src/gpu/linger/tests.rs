//! What the learned linger promises: a lone caller never waits, a flock that always comes back is waited for, and no
//! wait lasts longer than a batch. The device and its callers are simulated; no clock is read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Linger;

/// What a simulated device saw.
#[derive(Default)]
struct Seen {
    /// Sizes of the batches, and how long each was lingered for.
    batches: Vec<(usize, Duration)>,
}

impl Seen {
    /// The mean size of the second half's batches.
    fn settled_size(&self) -> f64 {
        let late = &self.batches[self.batches.len() / 2..];
        late.iter().map(|(size, _)| *size as f64).sum::<f64>() / late.len() as f64
    }
}

/// Callers that each come back after the pause that `pause` gives, on a device whose batches take `batch`.
fn closed_loop(
    callers: usize,
    full: usize,
    batch: Duration,
    batches: usize,
    mut pause: impl FnMut() -> Duration,
) -> Seen {
    let start = Instant::now();
    let mut linger = Linger::new();
    let mut seen = Seen::default();
    // When each caller will have come.
    let mut coming: BTreeSet<(Instant, usize)> = (0..callers).map(|caller| (start + pause(), caller)).collect();
    let mut waiting: Vec<usize> = Vec::new();
    let mut now = start;
    while seen.batches.len() < batches {
        take_in(&mut coming, now, &mut waiting, &mut linger);
        let Some(&(next, _)) = coming.first().filter(|_| waiting.is_empty()) else {
            let free = now;
            while waiting.len() < full {
                let until = linger.until(now, waiting.len(), full);
                if until <= now {
                    break;
                }
                assert!(until <= free + 2 * batch, "lingers for {:?}", until - free);
                now = coming.first().map_or(until, |&(at, _)| at.min(until));
                take_in(&mut coming, now, &mut waiting, &mut linger);
            }
            let size = waiting.len().min(full);
            linger.started(now, size);
            seen.batches.push((size, now - free));
            let end = now + batch;
            take_in(&mut coming, end, &mut waiting, &mut linger);
            linger.ended(end);
            coming.extend(waiting.drain(..size).map(|caller| (end + pause(), caller)));
            now = end;
            continue;
        };
        now = next;
    }
    seen
}

fn take_in(coming: &mut BTreeSet<(Instant, usize)>, now: Instant, waiting: &mut Vec<usize>, linger: &mut Linger) {
    while let Some(&(at, caller)) = coming.first().filter(|(at, _)| *at <= now) {
        coming.pop_first();
        linger.arrived(at);
        waiting.push(caller);
    }
}

/// Pauses spread evenly from nothing to `most`, the same each time.
fn pauses(most: Duration) -> impl FnMut() -> Duration {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        most.mul_f64((state >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

const BATCH: Duration = Duration::from_millis(5);

#[test]
fn a_lone_caller_never_waits() {
    for most in [0, 1, 4, 20] {
        let seen = closed_loop(1, 32, BATCH, 2_000, pauses(Duration::from_millis(most)));
        assert!(seen.batches.iter().all(|&(size, wait)| size == 1 && wait.is_zero()));
    }
}

#[test]
fn a_first_item_never_waits() {
    let now = Instant::now();
    let mut linger = Linger::new();
    linger.arrived(now);
    assert!(linger.until(now, 1, 32) <= now);
}

#[test]
fn a_closed_flock_is_waited_for() {
    // Greedy dispatch settles into batches of 1 and 31 by turns, which is 16 on average.
    let seen = closed_loop(32, 32, BATCH, 2_000, pauses(Duration::from_millis(1)));
    assert!(seen.settled_size() > 30.0, "{}", seen.settled_size());
}

#[test]
fn callers_that_come_straight_back_are_not_waited_for_in_vain() {
    let seen = closed_loop(32, 32, BATCH, 2_000, || Duration::ZERO);
    assert!(seen.settled_size() > 31.0, "{}", seen.settled_size());
    let late: Duration = seen.batches[1_000..].iter().map(|(_, wait)| *wait).sum();
    assert!(late < BATCH, "{late:?} of waiting for nobody");
}

#[test]
fn no_linger_lasts_longer_than_a_batch() {
    for (callers, most) in [(2, 1), (8, 4), (32, 2), (32, 40), (128, 4), (128, 300)] {
        let seen = closed_loop(callers, 32, BATCH, 2_000, pauses(Duration::from_millis(most)));
        // The batch time that it learns is the device's own, here without noise.
        let longest = seen.batches.iter().map(|(_, wait)| *wait).max().unwrap_or_default();
        assert!(longest <= BATCH + Duration::from_micros(1), "{callers} callers, 0 to {most} ms: {longest:?}");
    }
}

#[test]
fn a_caller_that_never_comes_back_is_forgotten() {
    let mut linger = Linger::new();
    let mut now = Instant::now();
    // Flocks of 8 that come back within a millisecond, and then seven of them are gone for good.
    let round = |linger: &mut Linger, now: &mut Instant, count: usize| {
        (0..count).for_each(|_| linger.arrived(*now));
        let mut waited = Duration::ZERO;
        loop {
            let until = linger.until(*now, count, 32);
            if until <= *now {
                break;
            }
            waited += until - *now;
            *now = until;
        }
        linger.started(*now, count);
        *now += BATCH;
        linger.ended(*now);
        *now += Duration::from_micros(500);
        waited
    };
    for _ in 0..200 {
        round(&mut linger, &mut now, 8);
    }
    let waits: Vec<Duration> = (0..100).map(|_| round(&mut linger, &mut now, 1)).collect();
    assert!(waits[0] <= BATCH + Duration::from_micros(1), "{waits:?}");
    // The seven were out of the last flock only: a lone caller is answered at once again.
    assert!(waits[1..].iter().all(Duration::is_zero), "{waits:?}");
}
