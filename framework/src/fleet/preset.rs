//! Presets: how nodes of a fleet are lost.
//!
//! The figures come from public logs of fifteen jobs of 48 h on SaladCloud (35 losses in 720 h), from its week of a
//! hundred nodes in 2025 (a loss in 93 h of a node), and from a fleet that lost a node every 2.9 h.

use std::fmt;
use std::str::FromStr;

use super::random::Weibull;
use crate::error::Error;

/// How nodes are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// At every age alike, on average after 93 h.
    Calm,
    /// The young most: Weibull with shape 0.56 and scale 19.7 h, 32.6 h on average.
    #[default]
    Typical,
    /// At every age alike, on average after 2.9 h.
    Storm,
    /// As in `Typical`, and every 36 h on average there are 60 to 100 minutes in which each node that runs is lost with
    /// probability 0.8, and each that takes one's place with 0.4 within 30 minutes.
    Burst,
    /// As in `Typical`, but after a fifth of the losses the node goes on for 30 s to 10 min without its queue and with
    /// its storage, and after a twentieth without either until it has its storage back. Its worker is taken not to
    /// notice, as if its clock had stood still: what stops it is the generation of the checkpoint alone.
    Zombie,
}

impl Preset {
    /// In the order in which they are described.
    pub const ALL: [Preset; 5] = [Preset::Calm, Preset::Typical, Preset::Storm, Preset::Burst, Preset::Zombie];

    /// As it is written: `typical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::Calm => "calm",
            Preset::Typical => "typical",
            Preset::Storm => "storm",
            Preset::Burst => "burst",
            Preset::Zombie => "zombie",
        }
    }

    pub(super) fn lifetime(self) -> Weibull {
        match self {
            Preset::Calm => Weibull { shape: 1.0, scale: 93.0 },
            Preset::Storm => Weibull { shape: 1.0, scale: 2.9 },
            Preset::Typical | Preset::Burst | Preset::Zombie => Weibull { shape: 0.56, scale: 19.7 },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Preset::ALL.into_iter().find(|preset| preset.as_str() == text);
        let names = Preset::ALL.map(Preset::as_str).join(", ");
        found.ok_or_else(|| Error::invalid(format_args!("`{text}` is no preset: there are {names}")))
    }
}
