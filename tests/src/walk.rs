//! What the worker of steps makes of a file: a long walk, each step of which depends on all before.

use forebay::{Error, Result};

/// Steps of a walk.
const STEPS: u64 = 150;

/// How far a walk is.
pub struct Walk {
    at: u64,
    steps: u64,
}

impl Walk {
    /// The walk that begins with these bytes.
    pub fn begin(input: &[u8]) -> Self {
        let at = input.iter().fold(7, |at, byte| mixed(at ^ u64::from(*byte)));
        Walk { at, steps: 0 }
    }

    /// The next step; what there is to say of it.
    pub fn step(&mut self) -> String {
        self.at = mixed(self.at);
        self.steps += 1;
        format!("{} {}\n", self.steps, self.at)
    }

    /// Whether that was the last.
    pub fn is_done(&self) -> bool {
        self.steps >= STEPS
    }

    /// As bytes.
    pub fn save(&self) -> Vec<u8> {
        format!("{} {}", self.at, self.steps).into_bytes()
    }

    /// From such bytes.
    pub fn restore(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)?;
        let (at, steps) = text.split_once(' ').ok_or_else(|| Error::failed("no walk"))?;
        Ok(Walk { at: at.parse()?, steps: steps.parse()? })
    }
}

/// A step of SplitMix64.
fn mixed(at: u64) -> u64 {
    let z = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The result of a walk that nobody interrupts: a line of each step, and its end.
pub fn walked(input: &[u8]) -> Vec<u8> {
    let mut walk = Walk::begin(input);
    let mut lines = Vec::new();
    while !walk.is_done() {
        lines.extend(walk.step().into_bytes());
    }
    lines.extend(walk.save());
    lines
}
