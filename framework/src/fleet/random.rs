//! What is drawn: seeded generators, and the distributions that nodes, links and queues follow.
//!
//! Promises the same draws for the same seed on every machine that computes `f64` alike. It knows nothing of presets.

use std::time::Duration;

use fastrand::Rng;

/// Nine tenths of a normal distribution lie below so many of its deviations.
const Z90: f64 = 1.281_551_565_545;

/// A generator of its own for whatever these numbers name, so that draws for one thing never shift those for another.
pub(super) fn seeded(names: &[u64]) -> Rng {
    // SplitMix64, over each number in turn.
    let mix = |state: u64, name: u64| {
        let mut z = (state ^ name).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    Rng::with_seed(names.iter().fold(0, |state, name| mix(state, *name)))
}

/// Above 0 and at most 1, so that it has a logarithm.
fn share(random: &mut Rng) -> f64 {
    1.0 - random.f64()
}

/// A Weibull distribution; exponential where the shape is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weibull {
    pub(super) shape: f64,
    /// Hours.
    pub(super) scale: f64,
}

impl Weibull {
    pub(super) fn draw(self, random: &mut Rng) -> Duration {
        hours(self.scale * (-share(random).ln()).powf(1.0 / self.shape))
    }
}

/// Lognormal on each side of the median, with a deviation for each, so that three percentiles can be met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lognormal {
    p10: f64,
    p50: f64,
    p90: f64,
}

impl Lognormal {
    pub(super) const fn by(p10: f64, p50: f64, p90: f64) -> Self {
        Lognormal { p10, p50, p90 }
    }

    pub(super) fn draw(self, random: &mut Rng) -> f64 {
        // Box and Muller's.
        let normal = (-2.0 * share(random).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
        let ratio = if normal < 0.0 { self.p50 / self.p10 } else { self.p90 / self.p50 };
        self.p50 * (ratio.ln() * normal / Z90).exp()
    }
}

/// Straight lines between points of a distribution: shares from 0 to 1, and values.
pub(super) fn between_points(random: &mut Rng, points: &[(f64, f64)]) -> f64 {
    let share = random.f64();
    let place = points.partition_point(|(at, _)| *at <= share).clamp(1, points.len() - 1);
    let ((low, from), (high, to)) = (points[place - 1], points[place]);
    from + (to - from) * (share - low) / (high - low)
}

pub(super) fn between(random: &mut Rng, from: f64, to: f64) -> f64 {
    from + (to - from) * random.f64()
}

/// How many trials succeed before one fails.
pub(super) fn successes(random: &mut Rng, failing: f64) -> u64 {
    if failing <= 0.0 {
        return u64::MAX;
    }
    if failing >= 1.0 {
        return 0;
    }
    (share(random).ln() / (-failing).ln_1p()) as u64
}

pub(super) fn hours(hours: f64) -> Duration {
    seconds(hours * 3600.0)
}

pub(super) fn minutes(minutes: f64) -> Duration {
    seconds(minutes * 60.0)
}

/// At most a century, which no simulation sees the end of.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}
