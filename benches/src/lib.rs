//! What the benchmarks share: interleaved comparisons, medians with their spread, exact pauses, seeded randomness,
//! and the RESULT line that each ends with.

pub mod lennard_jones;
pub mod link;
pub mod transfer;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay::telemetry::{BATCH_ITEMS, GPU_BUSY, GPU_IDLE, Snapshot};
use tokio::sync::oneshot;

/// The middle value, and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// A quarter of the values are no larger.
    pub low: f64,
    /// Half of them are no larger.
    pub median: f64,
    /// Three quarters are no larger.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&sorted, share);
        Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    /// Of the ratios of values that were measured side by side.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        Spread::of(&ratios)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median >= 100.0 { 0 } else { 3 };
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}

/// The value below which a `share` of the sorted values lie.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Prints the line that a benchmark ends with.
pub fn result(keys: serde_json::Value) {
    println!("RESULT {keys}");
}

/// A small generator of random numbers (xorshift64*, Vigna 2016), so that a run can be repeated.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Started from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From the normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// From the exponential distribution of mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// Wakes tasks at exact moments: a thread of its own, since the runtime's timers round to milliseconds.
#[derive(Clone)]
pub struct Pacer(Arc<Shared>);

type Alarms = BinaryHeap<Reverse<Alarm>>;

struct Shared {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

struct Alarm {
    at: Instant,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Pacer::new()
    }
}

impl Pacer {
    /// Starts the thread; it ends with the last handle.
    pub fn new() -> Self {
        let shared = Arc::new(Shared { alarms: Mutex::default(), changed: Condvar::new() });
        let weak = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            while let Some(shared) = weak.upgrade() {
                shared.ring();
            }
        });
        Pacer(shared)
    }

    /// Waits until then.
    pub async fn until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        self.0.add(Alarm { at, wake });
        // The thread outlives this handle.
        let _ = woken.await;
    }
}

impl Shared {
    fn add(&self, alarm: Alarm) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let soonest = alarms.peek().is_none_or(|Reverse(first)| alarm.at < first.at);
        alarms.push(Reverse(alarm));
        if soonest {
            self.changed.notify_one();
        }
    }

    /// Wakes whoever is due, or waits for the next, at most for a while.
    fn ring(&self) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some(Reverse(alarm)) = alarms.peek()
            && alarm.at <= now
        {
            if let Some(Reverse(alarm)) = alarms.pop() {
                // Whoever asked may have gone.
                let _ = alarm.wake.send(());
            }
        }
        let next = alarms.peek().map_or(Duration::from_millis(100), |Reverse(alarm)| alarm.at - now);
        drop(self.changed.wait_timeout(alarms, next.min(Duration::from_millis(100))));
    }
}

/// What the devices did between two snapshots, all of them together.
pub struct Window {
    /// The share of the time in which they ran batches.
    pub busy: f64,
    /// Items in batches that ended.
    pub items: f64,
    /// Batches that ended.
    pub batches: f64,
}

impl Window {
    /// From `before` to `after`.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let grown = |name| (after.counter(name, &[]) - before.counter(name, &[])) as f64;
        let (busy, idle) = (grown(GPU_BUSY), grown(GPU_IDLE));
        let items = |snapshot: &Snapshot| snapshot.summary(BATCH_ITEMS, &[]);
        let total = |snapshot: &Snapshot| items(snapshot).mean * items(snapshot).count as f64;
        Window {
            busy: busy / (busy + idle),
            items: total(after) - total(before),
            batches: (items(after).count - items(before).count) as f64,
        }
    }
}

/// Resident memory of this process in MiB; not a number where the system does not tell.
pub fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0 / (1 << 20) as f64)
}

/// Whether two files hold the same bytes.
pub fn same(one: &Path, other: &Path) -> forebay::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut a)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}
