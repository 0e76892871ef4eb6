//! How the transfers of this process go: what was moved in the last minutes, how long that took, and what failed.
//!
//! It owns the samples of one moving window, of the whole process, since a node has one link. It promises to cost a
//! transfer a lock and a push, and nothing while nobody looks. It decides nothing; `node` does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far back is looked.
pub(crate) const WINDOW: Duration = Duration::from_secs(120);
/// Of fewer samples than this, nothing is said,
const LEAST: usize = 5;
/// unless they took so long together.
const LONG: Duration = Duration::from_secs(60);
/// Samples of one kind that are kept; with more in a window, it is shorter.
const MOST: usize = 4096;
/// What is moved in one piece of at least this size tells of the throughput.
const LARGE: u64 = 1 << 20;
/// What is moved in one piece of at most this size takes as long as an answer does.
const SMALL: u64 = 64 << 10;

/// Seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "uploads are told by stores over a network")]
pub(crate) enum Direction {
    Upload,
    Download,
}

/// The samples. One serves the whole process.
#[derive(Default)]
pub(crate) struct Flow {
    watched: AtomicBool,
    // A lock, since transfers end on all threads at once.
    samples: Mutex<Samples>,
}

#[derive(Default)]
struct Samples {
    answers: VecDeque<(Instant, Duration)>,
    ways: [Way; 2],
}

#[derive(Default)]
struct Way {
    moved: VecDeque<Moved>,
    /// Every transfer of any size: when it ended, and whether it failed.
    ended: VecDeque<(Instant, bool)>,
}

#[derive(Clone, Copy)]
struct Moved {
    at: Instant,
    busy: Duration,
    bytes: u64,
}

/// What the window shows. `None`: too few samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// The median.
    pub(crate) latency: Option<Duration>,
    pub(crate) upload: WaySeen,
    pub(crate) download: WaySeen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WaySeen {
    /// Bits a second, of all transfers together, while there were any.
    pub(crate) rate: Option<f64>,
    /// Of so many transfers so many failed.
    pub(crate) failed: Option<(usize, usize)>,
}

#[cfg_attr(not(feature = "node"), allow(dead_code, reason = "nobody looks without the feature"))]
impl Flow {
    /// That of this process.
    pub(crate) fn of_process() -> &'static Arc<Flow> {
        static FLOW: LazyLock<Arc<Flow>> = LazyLock::new(Arc::default);
        &FLOW
    }

    /// So many bytes have been moved in one request that has ended now, and was on the network for so long. What it
    /// waited for beside the network, such as a disk, is not part of it.
    pub(crate) fn moved(&self, direction: Direction, bytes: u64, busy: Duration) {
        let Some(mut samples) = self.samples() else {
            return;
        };
        let at = Instant::now();
        if bytes <= SMALL {
            push(&mut samples.answers, (at, busy), |(at, _)| *at);
        }
        let way = &mut samples.ways[direction as usize];
        push(&mut way.ended, (at, false), |(at, _)| *at);
        if bytes >= LARGE {
            push(&mut way.moved, Moved { at, busy, bytes }, |moved| moved.at);
        }
    }

    /// A request has failed by no fault of its sender: the network, or the other side.
    pub(crate) fn failed(&self, direction: Direction) {
        if let Some(mut samples) = self.samples() {
            push(&mut samples.ways[direction as usize].ended, (Instant::now(), true), |(at, _)| *at);
        }
    }

    /// A request that carries next to nothing was answered.
    pub(crate) fn answered(&self, latency: Duration) {
        if let Some(mut samples) = self.samples() {
            push(&mut samples.answers, (Instant::now(), latency), |(at, _)| *at);
        }
    }

    /// From here on samples are kept.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// What the window shows now.
    pub(crate) fn seen(&self) -> Seen {
        let Some(mut samples) = self.samples() else {
            return Seen::default();
        };
        let now = Instant::now();
        forget(&mut samples.answers, now, |(at, _)| *at);
        let mut latencies: Vec<Duration> = samples.answers.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        let median = latencies.get(latencies.len() / 2).copied();
        let [upload, download] = &mut samples.ways;
        Seen {
            latency: median.filter(|_| latencies.len() >= LEAST),
            upload: upload.seen(now),
            download: download.seen(now),
        }
    }

    /// Nothing while nobody looks.
    fn samples(&self) -> Option<MutexGuard<'_, Samples>> {
        let watched = self.watched.load(Ordering::Relaxed);
        watched.then(|| self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Way {
    fn seen(&mut self, now: Instant) -> WaySeen {
        forget(&mut self.moved, now, |moved| moved.at);
        forget(&mut self.ended, now, |(at, _)| *at);
        let failed = self.ended.iter().filter(|(_, failed)| *failed).count();
        WaySeen { rate: self.rate(now), failed: (self.ended.len() >= LEAST).then_some((failed, self.ended.len())) }
    }

    /// Bits of what has ended in the window, over the time in it in which something was under way: transfers overlap.
    fn rate(&self, now: Instant) -> Option<f64> {
        let start = now.checked_sub(WINDOW);
        let mut busy: Vec<_> =
            self.moved.iter().map(|moved| (moved.at.checked_sub(moved.busy).max(start), moved.at)).collect();
        busy.sort_unstable();
        let (mut total, mut until) = (Duration::ZERO, None);
        for (from, to) in busy {
            total += to.saturating_duration_since(from.max(until).unwrap_or(to));
            until = until.max(Some(to));
        }
        let enough = total >= LONG || self.moved.len() >= LEAST && total > Duration::ZERO;
        let bits = self.moved.iter().map(|moved| moved.bytes as f64 * 8.0).sum::<f64>();
        enough.then(|| bits / total.as_secs_f64())
    }
}

fn push<T>(samples: &mut VecDeque<T>, sample: T, at: impl Fn(&T) -> Instant) {
    let now = at(&sample);
    forget(samples, now, at);
    if samples.len() >= MOST {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn forget<T>(samples: &mut VecDeque<T>, now: Instant, at: impl Fn(&T) -> Instant) {
    while samples.front().is_some_and(|oldest| now.saturating_duration_since(at(oldest)) > WINDOW) {
        samples.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Download, Upload};
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    fn watched() -> Flow {
        let flow = Flow::default();
        flow.watch();
        flow
    }

    #[tokio::test(start_paused = true)]
    async fn transfers_side_by_side_share_their_time() {
        let flow = watched();
        advance(60 * SECOND).await;
        // Four at once, of 2 MiB and a second each; then a pause, and another four.
        for _ in 0..2 {
            advance(20 * SECOND).await;
            (0..4).for_each(|_| flow.moved(Upload, 2 << 20, SECOND));
        }
        let rate = flow.seen().upload.rate.unwrap();
        assert_eq!(rate, (2 << 20) as f64 * 8.0 * 4.0, "bits in each of the two seconds");
        assert_eq!(flow.seen().download, WaySeen::default());
    }

    #[tokio::test(start_paused = true)]
    async fn parts_that_take_longer_than_the_window_are_counted_as_they_end() {
        let flow = watched();
        // Ten side by side, of 10 MB and 160 s each, of which one ends each 16 s: 5 Mbit/s.
        for part in 0..20 {
            advance(16 * SECOND).await;
            flow.moved(Download, 10_000_000, Duration::from_secs(160.min(16 * (part + 1))));
        }
        let mbit = flow.seen().download.rate.unwrap() / 1e6;
        assert!((4.5..=5.5).contains(&mbit), "{mbit}");
        // One alone in two minutes.
        advance(2 * WINDOW).await;
        flow.moved(Download, 10_000_000, 80 * SECOND);
        assert_eq!(flow.seen().download.rate, Some(1e6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_moves_on_and_little_says_nothing() {
        let flow = watched();
        advance(60 * SECOND).await;
        (1..LEAST).for_each(|_| flow.moved(Download, LARGE, SECOND));
        assert_eq!(flow.seen().download.rate, None);
        flow.moved(Download, LARGE, SECOND);
        assert!(flow.seen().download.rate.is_some());
        advance(WINDOW - SECOND / 2).await;
        assert!(flow.seen().download.rate.is_some());
        advance(SECOND).await;
        assert_eq!(flow.seen(), Seen::default());
    }

    #[tokio::test(start_paused = true)]
    async fn small_pieces_tell_of_the_latency_and_not_of_the_throughput() {
        let flow = watched();
        [90, 10, 30, 20].iter().for_each(|ms| flow.moved(Download, SMALL, Duration::from_millis(*ms)));
        assert_eq!(flow.seen().latency, None);
        flow.answered(Duration::from_millis(40));
        let seen = flow.seen();
        assert_eq!((seen.latency, seen.download.rate), (Some(Duration::from_millis(30)), None));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_beside_what_went_well() {
        let flow = watched();
        (0..3).for_each(|_| flow.failed(Upload));
        flow.moved(Upload, 100_000, SECOND);
        assert_eq!(flow.seen().upload.failed, None);
        flow.moved(Upload, LARGE, SECOND);
        assert_eq!((flow.seen().upload.failed, flow.seen().download.failed), (Some((3, 5)), None));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_idle_while_nobody_looks() {
        let flow = Flow::default();
        flow.moved(Upload, LARGE, SECOND);
        flow.watch();
        assert_eq!(flow.samples().unwrap().ways[0].moved.len(), 0);
        (0..MOST + 10).for_each(|_| flow.moved(Upload, LARGE, SECOND));
        let samples = flow.samples().unwrap();
        assert_eq!((samples.ways[0].moved.len(), samples.ways[0].ended.len()), (MOST, MOST));
    }
}
