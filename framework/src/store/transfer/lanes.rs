//! How many parts are under way at once, learned from what the link gives.
//!
//! It owns one number for one direction of a link, which every transfer over it shares. It starts at 10, as the published
//! benchmarks do; while all lanes are in use, it asks each second or so whether more of them gave more, and goes back
//! where they did not. It never stops a part that is under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::retry::MOVES_WITHIN;

const START: usize = 10;
const LEAST: usize = 2;
const MOST: usize = 48;
/// A measurement takes at least this long, so that one part more or less does not decide.
const WINDOW: Duration = Duration::from_millis(1500);
/// A lane that moves less than this a second waits for the others more than it moves: fewer are better.
const SLOWEST: f64 = 64_000.0;
/// What is at least so long takes the link longer than it takes an answer, so that its goodput tells of the link.
const LARGE: u64 = 1 << 20;
/// Buffers let a lane move so much at once, and then nothing until that is through.
const BURST: u64 = 256 << 10;
/// How long the pace is measured.
const PACE: Duration = Duration::from_millis(500);
/// A link that moves less than this part of the most it has moved has room.
const ROOM: f64 = 0.6;
/// By which part of itself a goodput has to change to be another one.
const NOISE: f64 = 0.1;

/// The lanes of a link in one direction. A clone is another handle on them.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lanes: usize,
    /// Lanes to be taken away as soon as they come free.
    surplus: usize,
    used: usize,
    /// Of those, the ones that carry something large.
    large: usize,
    /// Bytes so far, and when the last of them were moved.
    total: u64,
    moved: Instant,
    /// Whether all lanes were in use since the window began.
    full: bool,
    began: Instant,
    bytes: u64,
    judge: Judge,
    pace: Pace,
}

/// How much is moved at present, and at the most so far, in bytes a second.
#[derive(Debug)]
struct Pace {
    began: Instant,
    bytes: u64,
    now: f64,
    most: f64,
}

/// What was seen in the windows before. Time and bytes are given to it, so that it needs no clock.
#[derive(Debug, Default)]
struct Judge {
    before: Option<f64>,
    /// Whether the last change was to more lanes.
    rising: bool,
    /// Windows to go until it is asked again whether more would give more.
    rest: u32,
}

/// A lane that is in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    permit: Option<OwnedSemaphorePermit>,
    lanes: Lanes,
    large: bool,
}

/// When a lane moved something last, and how much all lanes had moved by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: Instant,
    total: u64,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let state = State {
            lanes: START,
            surplus: 0,
            used: 0,
            large: 0,
            total: 0,
            moved: Instant::now(),
            full: false,
            began: Instant::now(),
            bytes: 0,
            judge: Judge::default(),
            pace: Pace { began: Instant::now(), bytes: 0, now: 0.0, most: 0.0 },
        };
        Lanes { inner: Arc::new(Inner { free: Arc::new(Semaphore::new(START)), state: Mutex::new(state) }) }
    }

    /// Waits for a lane.
    pub(crate) async fn enter(&self) -> Lane {
        // A semaphore that nobody closes always gives a permit.
        let permit = Arc::clone(&self.inner.free).acquire_owned().await.ok();
        let mut state = self.state();
        state.used += 1;
        let full = state.used >= state.lanes;
        if state.used == 1 || (full && !state.full) {
            (state.began, state.bytes) = (Instant::now(), 0);
        }
        state.full |= full;
        drop(state);
        Lane { permit, lanes: self.clone(), large: false }
    }

    /// Nothing has been moved yet on a lane.
    pub(crate) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), total: self.state().total }
    }

    /// Whether a lane that moved something last at `mark` is stalled, rather than slow: all of the link has stood still
    /// as long as nothing may move, or the others have moved meanwhile what it should have, too.
    pub(crate) fn stalled_since(&self, mark: Mark) -> bool {
        let state = self.state();
        let share = (state.total - mark.total) / state.used.max(1) as u64;
        mark.at.elapsed() >= MOVES_WITHIN && (state.moved.max(mark.at).elapsed() >= MOVES_WITHIN || share >= BURST)
    }

    /// Counts payload bytes that were moved on any lane, and learns from them.
    pub(crate) fn moved(&self, bytes: u64) -> Mark {
        let mut state = self.state();
        (state.total, state.moved) = (state.total + bytes, Instant::now());
        let mark = Mark { at: state.moved, total: state.total };
        state.pace.moved(bytes);
        state.bytes += bytes;
        let took = state.began.elapsed();
        if took < WINDOW {
            return mark;
        }
        let goodput = state.bytes as f64 / took.as_secs_f64();
        let (before, used) = (state.lanes, state.used);
        let wanted = if 2 * state.large >= used && goodput < SLOWEST * used as f64 {
            state.judge.slow(goodput)
        } else if state.full {
            state.judge.wants(before, goodput)
        } else {
            before
        };
        let wanted = wanted.clamp(LEAST, MOST);
        (state.began, state.bytes) = (Instant::now(), 0);
        if wanted > before {
            let more = wanted - before;
            // Those that were to be taken away stay instead.
            let stay = more.min(state.surplus);
            state.surplus -= stay;
            self.inner.free.add_permits(more - stay);
        } else {
            state.surplus += before - wanted;
        }
        state.lanes = wanted;
        mark
    }

    /// Whether the link moves much less than it has moved before.
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "for stores over a network"))]
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.state();
        state.pace.moved(0);
        state.pace.now < ROOM * state.pace.most
    }

    /// Lanes at present.
    pub(crate) fn count(&self) -> usize {
        self.state().lanes
    }

    /// Numbers only, so a panic elsewhere broke nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane of an answer that is given on when little of it is left.
#[derive(Debug)]
pub(crate) struct NearlyFree {
    lane: Option<Lane>,
    len: u64,
    /// How long an answer is waited for.
    waits: Duration,
    began: Instant,
}

impl Lane {
    /// It is known how much is to be moved along it.
    pub(crate) fn carries(mut self, len: u64) -> Self {
        if len >= LARGE && !self.large {
            self.large = true;
            self.lanes.state().large += 1;
        }
        self
    }

    /// For an answer of `len` bytes that was waited for so long: the lane comes free as soon as what is left takes no
    /// longer than the next answer will, so that the link is not idle while that is waited for.
    pub(crate) fn until_nearly(self, len: u64, waits: Duration) -> NearlyFree {
        NearlyFree { lane: Some(self.carries(len)), len, waits, began: Instant::now() }
    }
}

impl NearlyFree {
    /// So many bytes of the answer are left.
    pub(crate) fn left(&mut self, left: u64) {
        // Of the first half nobody knows yet how long it will take.
        if self.lane.is_none() || left > self.len / 2 {
            return;
        }
        let took = self.began.elapsed().as_secs_f64();
        if took * left as f64 <= self.waits.as_secs_f64() * (self.len - left) as f64 {
            self.lane = None;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.lanes.state();
        state.used -= 1;
        state.large -= usize::from(self.large);
        // With a lane to spare it is not the lanes that limit.
        state.full &= state.used + 1 >= state.lanes;
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

impl Pace {
    fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
        let took = self.began.elapsed();
        if took >= PACE {
            self.now = self.bytes as f64 / took.as_secs_f64();
            self.most = self.most.max(self.now);
            (self.began, self.bytes) = (Instant::now(), 0);
        }
    }
}

impl Judge {
    /// How many there should be for a link that gives each of them too little.
    fn slow(&mut self, goodput: f64) -> usize {
        (self.before, self.rising, self.rest) = (Some(goodput), false, 8);
        (goodput / SLOWEST) as usize
    }

    /// How many lanes there should be after a window with `lanes` of them, all in use, that gave `goodput` bytes a second.
    fn wants(&mut self, lanes: usize, goodput: f64) -> usize {
        let before = self.before.replace(goodput);
        let step = (lanes / 4).max(1);
        match before {
            Some(before) if self.rising && goodput < before * (1.0 + NOISE) => {
                // More gave no more: back, and leave it for a while.
                (self.rising, self.rest) = (false, 8);
                (lanes * 4 / 5).min(lanes - 1)
            }
            _ if self.rest > 0 => {
                self.rest -= 1;
                lanes
            }
            _ => {
                self.rising = true;
                lanes + step
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a link ends that gives each lane up to `each` and all together up to `all`, after so many windows.
    fn settles(each: f64, all: f64, windows: usize) -> usize {
        let mut judge = Judge::default();
        (0..windows).fold(START, |lanes, _| {
            let goodput = (each * lanes as f64).min(all);
            let slow = goodput < SLOWEST * lanes as f64;
            let wanted = if slow { judge.slow(goodput) } else { judge.wants(lanes, goodput) };
            wanted.clamp(LEAST, MOST)
        })
    }

    #[test]
    fn a_link_that_gives_each_lane_little_gets_many() {
        assert_eq!(settles(1e6, 1e9, 20), MOST);
    }

    #[test]
    fn a_link_that_is_full_keeps_what_it_has() {
        for windows in 3..40 {
            let lanes = settles(20e6, 12.5e6, windows);
            assert!((7..=13).contains(&lanes), "{lanes} after {windows}");
        }
    }

    #[test]
    fn a_slow_link_is_left_to_few() {
        assert_eq!(settles(62_500.0, 62_500.0, 3), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_that_are_taken_away_are_not_given_again() {
        let lanes = Lanes::new();
        let mut used = Vec::new();
        for _ in 0..START {
            used.push(lanes.enter().await.carries(LARGE));
        }
        tokio::time::advance(WINDOW).await;
        lanes.moved(1000);
        assert_eq!(lanes.count(), LEAST);
        used.truncate(START - 3);
        assert_eq!(lanes.inner.free.available_permits(), 0);
        used.clear();
        assert_eq!(lanes.inner.free.available_permits(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_does_not_tell_that_a_link_is_slow() {
        let lanes = Lanes::new();
        let mut used = Vec::new();
        for _ in 0..START {
            used.push(lanes.enter().await.carries(LARGE - 1));
        }
        tokio::time::advance(WINDOW).await;
        lanes.moved(1000);
        assert!(lanes.count() > START, "more may give more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_link_is_left_to_few_before_all_lanes_are_in_use() {
        let lanes = Lanes::new();
        let _used = [lanes.enter().await.carries(LARGE), lanes.enter().await.carries(LARGE)];
        tokio::time::advance(WINDOW).await;
        lanes.moved(93_750);
        assert_eq!(lanes.count(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_stalled_if_others_move_or_all_stand_still() {
        let lanes = Lanes::new();
        let _used = [lanes.enter().await, lanes.enter().await];
        let mark = lanes.moved(1);
        tokio::time::advance(MOVES_WITHIN).await;
        assert!(lanes.stalled_since(mark), "all stand still");
        // Half a burst for each of the two.
        let other = lanes.moved(BURST);
        assert!(!lanes.stalled_since(mark), "it is only slow");
        lanes.moved(BURST);
        assert!(lanes.stalled_since(mark), "the other one is not");
        assert!(!lanes.stalled_since(other));
        let new = lanes.mark();
        assert!(!lanes.stalled_since(new));
        tokio::time::advance(MOVES_WITHIN).await;
        assert!(lanes.stalled_since(new));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_given_on_when_the_rest_takes_as_long_as_an_answer() {
        let lanes = Lanes::new();
        let free = || lanes.inner.free.available_permits();
        // A thousand bytes a second.
        let mut near = lanes.enter().await.until_nearly(10_000, Duration::from_secs(2));
        for second in 1..8 {
            tokio::time::advance(Duration::from_secs(1)).await;
            near.left(10_000 - 1000 * second);
            assert_eq!(free(), START - 1, "after {second} s");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        near.left(2000);
        assert_eq!(free(), START);
        drop(near);
        assert_eq!(free(), START);
        // However long the answer took, half of it comes first.
        let mut near = lanes.enter().await.until_nearly(10_000, Duration::from_secs(200));
        near.left(5001);
        assert_eq!(free(), START - 1);
        near.left(5000);
        assert_eq!(free(), START);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_use_its_lanes_teaches_nothing() {
        let lanes = Lanes::new();
        let _one = lanes.enter().await;
        tokio::time::advance(10 * WINDOW).await;
        lanes.moved(1000);
        assert_eq!(lanes.count(), START);
    }
}
