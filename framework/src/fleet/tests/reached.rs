//! What the automatic interval reaches, on each preset and with jobs of 48 h whose saves block for a second.
//!
//! `forebay fleet --sweep` shows the same on more nodes and intervals.

use super::*;

/// The share of the useful work that saves cost and losses took, at most; in the whole fleet and against the best of
/// some fixed intervals, in seconds, around the best of all.
fn reaches(preset: Preset, nodes: usize, fixed: [u64; 3]) {
    let fleet = fleet(preset, nodes, 30);
    let automatic = fleet.run().unwrap();
    assert!(automatic.waste() <= 0.025, "{preset}: {:.4}", automatic.waste());
    if matches!(preset, Preset::Typical | Preset::Zombie | Preset::Calm) {
        assert!(automatic.share(automatic.lost) <= 0.005, "{preset}: {:.4}", automatic.share(automatic.lost));
    }
    let with = |seconds| Fleet { interval: Interval::every(Duration::from_secs(seconds)), ..fleet.clone() };
    let best = fixed.map(|seconds| with(seconds).run().unwrap().waste()).into_iter().fold(1.0, f64::min);
    let ratio = automatic.waste() / best;
    assert!(ratio <= 1.05, "{preset}: {ratio:.3} times what the best fixed interval wastes");
}

#[test]
fn in_calm() {
    reaches(Preset::Calm, 60, [720, 840, 960]);
}

#[test]
fn on_typical_nodes() {
    reaches(Preset::Typical, 60, [400, 470, 540]);
}

#[test]
fn in_a_storm() {
    reaches(Preset::Storm, 20, [120, 135, 160]);
}

#[test]
fn in_bursts() {
    reaches(Preset::Burst, 50, [250, 300, 400]);
}

#[test]
fn beside_zombies() {
    reaches(Preset::Zombie, 60, [400, 470, 540]);
}
