//! How long a free device should linger for more items: learned, never set.
//!
//! **What is learned.** Callers that wait for their replies come back in flocks: a batch ends, its
//! replies go out, and each caller is back after its own pause. A mean arrival rate cannot see that,
//! so [`Linger`] keeps a life table instead: of the items that were out at a given age (time since
//! their batch ended), how many came back before the next age. Every batch feeds the table, however
//! long it was lingered for, so there is no exploring and nothing to pay for it.
//!
//! **The rule.** With `waiting` items in the queue and `out` of the last batch not yet back, the table
//! says how many more are expected within any time `w`. Lingering `w` is worth it where
//!
//! ```text
//! expected(w) * (1 - per_item * price)  >  w * price        (price in items a second)
//! ```
//!
//! and the `w` that gains most is taken; each arrival asks anew. The left side is what the batch
//! gains, less the device time by which more items make a batch longer; the right side is what the
//! time would have brought otherwise. What that is depends on who calls:
//!
//! * *Closed loop:* callers come only because they were answered, so a moment lost is lost to all of
//!   them, at the long-run `throughput` (the marginal-value rule: go on where the yield of staying
//!   falls below the mean yield). This is what joins two flocks that would alternate for ever.
//! * *Open loop:* items come whatever the device does, so no throughput can be gained and lingering
//!   only trades delays: it delays by `w` all that wait and all that will come during the batch, and
//!   saves those who still get aboard one batch time. The price is `demand`, those items per batch
//!   time. It is about twice the arrival rate, so noise does not make it linger.
//!
//! Which of the two is told by counting: a closed flock of `n` never sends more than `n` back before
//! the next batch ends, while open arrivals exceed it about every other time. In between, the two
//! prices are mixed.
//!
//! **Bounds.** One linger lasts at most one typical batch time. A lone caller never waits: nobody
//! else is out. What comes long after its flock, or from nowhere, is not waited for: it has no age the
//! table knows. Everything learned fades with the last [`MEMORY`] batches.
use std::time::{Duration, Instant};

/// About how many batches back the past counts.
const MEMORY: f64 = 64.0;
/// The life table's ages grow geometrically: fine where callers come straight back (microseconds),
/// and still reaching pauses of seconds. The first ends at `FIRST_AGE` seconds, the last at about 2 s.
const AGES: usize = 108;
const AGES_PER_OCTAVE: f64 = 6.0;
const FIRST_AGE: f64 = 8e-6;
/// The share of arrivals beyond the flocks' sizes from which the load counts as all open.
const ALL_OPEN: f64 = 0.05;

/// Decides how long the free device waits for its batch to grow. Times are given, never taken.
pub(crate) struct Linger {
    /// The life table: how many were out when an age began, and how many of them came back in it.
    out: [f64; AGES],
    back: [f64; AGES],
    /// The items of the last batch, since its end; and those of the batch before, kept until the
    /// arrivals during the last batch have all been told.
    flock: Option<Flock>,
    flock_before: Option<Flock>,
    running: Option<(Instant, usize)>,
    /// When the present linger began.
    since: Option<Instant>,
    /// A typical batch time, in seconds.
    batch_time: f64,
    /// Fading sums over flocks (arrivals, and those beyond the flock's size) and over batches (items,
    /// and seconds from end to end).
    arrivals: f64,
    beyond: f64,
    served: f64,
    spent: f64,
    /// Fading sums of 1, n, t, n², nt, t² over batches of n items that took t seconds.
    fit: [f64; 6],
}

/// The items of one batch, from the moment their replies went out.
struct Flock {
    since: Instant,
    size: usize,
    came: [u32; AGES],
    came_all: usize,
}

impl Linger {
    pub(crate) fn new() -> Self {
        Linger {
            out: [0.0; AGES],
            back: [0.0; AGES],
            flock: None,
            flock_before: None,
            running: None,
            since: None,
            batch_time: 0.0,
            arrivals: 0.0,
            beyond: 0.0,
            served: 0.0,
            spent: 0.0,
            fit: [0.0; 6],
        }
    }

    /// An item arrived at `at`. It may be told late, in any order, but before the next batch starts.
    pub(crate) fn arrived(&mut self, at: Instant) {
        let flocks = [&mut self.flock, &mut self.flock_before];
        if let Some(flock) = flocks.into_iter().flatten().find(|flock| flock.since <= at) {
            flock.came[age_of(seconds(flock.since, at))] += 1;
            flock.came_all += 1;
        }
    }

    /// A batch of `items` starts.
    pub(crate) fn started(&mut self, now: Instant, items: usize) {
        self.running = Some((now, items));
        self.since = None;
    }

    /// That batch ended; its replies go out from now on.
    pub(crate) fn ended(&mut self, now: Instant) {
        let Some((started, items)) = self.running.take() else { return };
        if let Some(last) = self.flock.take() {
            self.learn_batch(items as f64, seconds(started, now), seconds(last.since, now));
            if let Some(before) = self.flock_before.replace(last) {
                self.learn_flock(&before);
            }
        }
        self.flock = Some(Flock { since: now, size: items, came: [0; AGES], came_all: 0 });
    }

    /// The device is free and `waiting` items (1 to `full`) wait: until when to wait for more. A time
    /// not after `now` means: dispatch. To be asked again at that time and after each arrival.
    pub(crate) fn until(&mut self, now: Instant, waiting: usize, full: usize) -> Instant {
        let since = *self.since.get_or_insert(now);
        let Some(flock) = &self.flock else { return now };
        let out = flock.size.saturating_sub(flock.came_all) as f64;
        let longest = self.batch_time - seconds(since, now);
        if out <= 0.0 || longest <= 0.0 {
            return now;
        }
        // How many of the flock are expected back by the end of each age, up to a batch time ahead.
        let age = seconds(flock.since, now);
        let mut expected = [(0.0, 0.0); AGES];
        let (mut still_out, mut during, mut from) = (out, 0.0, age);
        for (i, slot) in (age_of(age)..AGES).zip(&mut expected) {
            let (begin, end) = (age_begin(i), age_begin(i + 1));
            // Less one: an age hardly ever seen promises nothing.
            let returning = self.back[i] / (self.out[i] + 1.0);
            let to = end.min(age + self.batch_time).max(from);
            still_out *= (1.0 - returning).powf((to - from) / (end - begin));
            during = out - still_out;
            *slot = (to - age, during);
            from = to;
            if to < end {
                break;
            }
        }
        let demand = (waiting as f64 + during) / self.batch_time;
        let throughput = self.served / self.spent.max(self.batch_time);
        let open = (self.beyond / self.arrivals.max(1.0) / ALL_OPEN).min(1.0);
        let price = open * demand + (1.0 - open) * demand.min(throughput);
        let worth = (1.0 - self.per_item() * price).max(0.0);
        let room = full.saturating_sub(waiting) as f64;
        let (mut most, mut wait) = (0.0, 0.0);
        for (time, more) in expected {
            let gain = more.min(room) * worth - time * price;
            if gain > most && time <= longest {
                (most, wait) = (gain, time);
            }
        }
        now + Duration::from_secs_f64(wait)
    }

    /// Takes a finished flock into the life table, as far as it was watched: to the next batch's end.
    fn learn_flock(&mut self, flock: &Flock) {
        let watched = self.flock_before.as_ref().map_or(0.0, |next| seconds(flock.since, next.since));
        fade(&mut self.arrivals, flock.came_all as f64);
        fade(&mut self.beyond, flock.came_all.saturating_sub(flock.size) as f64);
        let mut still_out = flock.size as f64;
        for i in 0..AGES {
            let seen = if i < age_of(watched) { still_out } else { 0.0 };
            let came = seen.min(f64::from(flock.came[i]));
            fade(&mut self.out[i], seen);
            fade(&mut self.back[i], came);
            still_out -= came;
        }
    }

    /// Takes in a batch of `items` that took `took`, `cycle` after the end of the batch before.
    fn learn_batch(&mut self, items: f64, took: f64, cycle: f64) {
        if self.batch_time == 0.0 {
            self.batch_time = took;
        }
        // A hiccup must not pass for the device's pace, nor an idle hour for its throughput.
        let took = took.min(2.0 * self.batch_time);
        self.batch_time += (took - self.batch_time) / 16.0;
        fade(&mut self.served, items);
        fade(&mut self.spent, cycle.min(4.0 * self.batch_time));
        let terms = [1.0, items, took, items * items, items * took, took * took];
        for (sum, term) in self.fit.iter_mut().zip(terms) {
            fade(sum, term);
        }
    }

    /// By how many seconds one more item makes a batch longer: the slope of batch time over items,
    /// shrunk by how much of the batch times it explains (r²), so that noise counts as no slope.
    fn per_item(&self) -> f64 {
        let [count, n, t, nn, nt, tt] = self.fit;
        let covariance = nt * count - n * t;
        let (spread_n, spread_t) = (nn * count - n * n, tt * count - t * t);
        if covariance <= 0.0 || spread_t <= 0.0 || spread_n <= 1e-6 * nn * count {
            return 0.0;
        }
        let explained = covariance * covariance / (spread_n * spread_t);
        covariance / spread_n * explained.min(1.0)
    }
}

fn fade(sum: &mut f64, term: f64) {
    *sum += term - *sum / MEMORY;
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

fn age_of(seconds: f64) -> usize {
    // A float turned integer saturates: below the first age it is 0.
    let octaves = (seconds.max(FIRST_AGE / 2.0) / FIRST_AGE).log2();
    ((1.0 + octaves * AGES_PER_OCTAVE) as usize).min(AGES - 1)
}

fn age_begin(age: usize) -> f64 {
    if age == 0 { 0.0 } else { FIRST_AGE * ((age - 1) as f64 / AGES_PER_OCTAVE).exp2() }
}

#[cfg(test)]
mod tests;
