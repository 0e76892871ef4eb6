//! What the simulation must be: the same for the same seed, true to its distributions, complete in what it counts; and
//! what the automatic interval must reach on it.

mod counted;
mod drawn;
mod reached;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn fleet(preset: Preset, nodes: usize, days: u32) -> Fleet {
    Fleet { preset, nodes, time: days * DAY, ..Fleet::default() }
}
