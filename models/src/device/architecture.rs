//! Generations of cards, and which of them this program has kernels for.
//!
//! Owns the rules of what runs where. The build says what it compiled for in CUDA_COMPUTE_CAP and FOREBAY_CUDA_ARCHS,
//! as scripts/cuda-build sets them.

use std::fmt;

/// A card's generation, as NVIDIA counts: 9.0 is Hopper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Capability {
    pub(super) major: i32,
    pub(super) minor: i32,
}

/// The lowest that is served: Ampere, the first with all matrix units that the kernels use.
pub(super) const LOWEST: Capability = Capability { major: 8, minor: 0 };

/// From here on a build for one card uses what only that generation has, so it runs on no other.
const EXACT: i32 = 9;

/// What the kernels in this program were compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Built {
    /// The build did not say.
    Unknown,
    /// One generation.
    For(Capability),
    /// This generation and every later one.
    From(Capability),
}

/// What this program was built for.
pub(super) fn built() -> Built {
    match cfg!(feature = "cuda") {
        true => Built::of(option_env!("CUDA_COMPUTE_CAP"), option_env!("FOREBAY_CUDA_ARCHS")),
        false => Built::Unknown,
    }
}

impl Built {
    /// `one` as in `90`; `many` as in `80 86 90`, lowest first, which comes before `one`.
    pub(super) fn of(one: Option<&str>, many: Option<&str>) -> Self {
        let lowest = many.unwrap_or_default().split_whitespace().filter_map(Capability::of).min();
        match (lowest, one.and_then(Capability::of)) {
            (Some(lowest), _) => Self::From(lowest),
            (None, Some(one)) => Self::For(one),
            (None, None) => Self::Unknown,
        }
    }

    /// Whether all kernels run on such a card. Machine code runs on later cards of its own major version, and code that
    /// the driver compiles runs on all later ones; but a build for one card has machine code alone for some kernels.
    pub(super) fn runs_on(self, card: Capability) -> bool {
        match self {
            Self::Unknown => true,
            Self::For(one) if one.major >= EXACT => card == one,
            Self::For(one) => card.major == one.major && card.minor >= one.minor,
            Self::From(lowest) => card >= lowest,
        }
    }
}

impl Capability {
    /// `90`, `9.0` and `90a` are the same.
    fn of(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let number: i32 = digits.parse().ok()?;
        Some(Self { major: number / 10, minor: number % 10 })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("any card"),
            Self::For(one) => write!(f, "{one} only"),
            Self::From(lowest) => write!(f, "{lowest} and later"),
        }
    }
}
