//! Nodes as they are drawn: when each is lost, how it is linked, whether it goes on as a zombie, and what comes in its
//! place.
//!
//! A node is drawn by its seed, its place in the fleet and its number there, and by nothing that jobs do. So fleets that
//! differ in their intervals alone have the very same nodes.

use std::time::Duration;

use super::preset::Preset;
use super::random::{self, Lognormal, between, hours, minutes, seconds};

/// Mbit/s, as measured on nodes of SaladCloud.
const UPLOAD: Lognormal = Lognormal::by(38.7, 281.0, 734.0);
const DOWNLOAD: Lognormal = Lognormal::by(150.0, 659.0, 868.0);
/// Milliseconds to a store or queue: spread evenly on a logarithmic scale.
const RTT: (f64, f64) = (28.0, 230.0);
/// Minutes from a loss to the next node.
const GAP: Lognormal = Lognormal::by(12.0 * 12.0 / 29.0, 12.0, 29.0);
/// Minutes from a fleet's start to a node's: shares of nodes, and when these are there.
const START: [(f64, f64); 5] = [(0.0, 3.0), (0.5, 10.0), (0.8, 20.0), (0.9, 40.0), (1.0, 80.0)];

/// Names of generators.
const NODES: u64 = 1;
const BURSTS: u64 = 2;
const STARTS: u64 = 3;

#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) born: Duration,
    pub(super) dies: Duration,
    /// From its loss to the next one.
    pub(super) gap: Duration,
    pub(super) link: Link,
    pub(super) after: After,
    /// Of the node and of its jobs: names further generators.
    pub(super) seed: u64,
}

/// Bits per second each way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) rtt: Duration,
}

/// What a node does after its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum After {
    Nothing,
    /// It goes on for so long, with its storage.
    GoesOn(Duration),
    /// It goes on for so long without its storage, and then has it back.
    CutOff(Duration),
}

impl Node {
    /// The `number`th node at one of the fleet's places.
    pub(super) fn draw(seed: u64, place: u64, number: u64, born: Duration, preset: Preset, bursts: &Bursts) -> Node {
        let mut random = random::seeded(&[seed, NODES, place, number]);
        let own = born.saturating_add(preset.lifetime().draw(&mut random));
        let gap = minutes(GAP.draw(&mut random));
        let link = Link {
            up: UPLOAD.draw(&mut random) * 1e6,
            down: DOWNLOAD.draw(&mut random) * 1e6,
            rtt: seconds(RTT.0 * (RTT.1 / RTT.0).powf(random.f64()) / 1e3),
        };
        let (kind, lasting) = (random.f64(), seconds(between(&mut random, 30.0, 600.0)));
        let after = match preset {
            Preset::Zombie if kind < 0.2 => After::GoesOn(lasting),
            Preset::Zombie if kind < 0.25 => After::CutOff(lasting),
            _ => After::Nothing,
        };
        let dies = bursts.death(&mut random, born, own);
        Node { born, dies, gap, link, after, seed: random.u64(..) }
    }

    /// When the first node at a place is there.
    pub(super) fn first(seed: u64, place: u64) -> Duration {
        minutes(random::between_points(&mut random::seeded(&[seed, STARTS, place]), &START))
    }
}

/// Times in which many nodes are lost at once.
pub(super) struct Bursts(Vec<(Duration, Duration)>);

impl Bursts {
    pub(super) fn draw(seed: u64, preset: Preset, until: Duration) -> Self {
        let mut bursts = Vec::new();
        if preset == Preset::Burst {
            let mut random = random::seeded(&[seed, BURSTS]);
            let every = random::Weibull { shape: 1.0, scale: 36.0 };
            let mut from = every.draw(&mut random);
            while from < until {
                let to = from + minutes(between(&mut random, 60.0, 100.0));
                bursts.push((from, to));
                // From start to start, 36 h on average.
                from = to + every.draw(&mut random).saturating_sub(minutes(80.0));
            }
        }
        Bursts(bursts)
    }

    /// When a node is lost that would else be lost at `own`.
    fn death(&self, random: &mut fastrand::Rng, born: Duration, own: Duration) -> Duration {
        let first = self.0.partition_point(|(_, to)| *to <= born);
        for &(from, to) in self.0[first..].iter().take_while(|(from, _)| *from < own) {
            let (hit, share) = (random.f64(), random.f64());
            if from <= born {
                if hit < 0.4 {
                    return own.min(born + hours(0.5).mul_f64(share));
                }
            } else if hit < 0.8 {
                return own.min(from + (to - from).mul_f64(share));
            }
        }
        own
    }
}
