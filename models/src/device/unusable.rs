//! Why a card cannot be used: one message each, with what to do, and whose fault it is.
//!
//! Owns the words. It finds nothing out; `card` and `cuda` do.

use std::fmt;

use forebay::{Error, Fault};

use super::architecture::{Built, Capability, LOWEST};

/// The least CUDA version of the driver, as the driver counts: 13.0.
pub(super) const DRIVER: i32 = 13_000;

/// Why a card cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// This program knows no cards.
    NotBuilt,
    /// The driver's library cannot be loaded.
    NoDriver { why: String },
    /// The driver serves a CUDA version below [`DRIVER`].
    OldDriver { version: i32 },
    /// The driver's library lacks a function.
    NoFunction { name: &'static str },
    /// A call to the driver failed.
    Call { name: &'static str, status: String },
    /// The driver knows no card.
    NoCard,
    /// There are fewer cards.
    NoSuchCard { number: usize, count: usize },
    /// The card is below [`LOWEST`].
    OldCard { card: String, capability: Capability },
    /// The kernels in this program are for other cards.
    OtherCard { card: String, capability: Capability, built: Built },
    /// A library of CUDA's cannot be loaded.
    NoLibrary { name: &'static str, why: String },
    /// The model does not fit.
    Full { card: String, needed: u64, free: u64, total: u64 },
}

impl Unusable {
    /// This as an error: the node's fault if another node could do better.
    pub(super) fn error(self) -> Error {
        let fault = match self {
            Self::NotBuilt | Self::NoLibrary { .. } => Fault::Invalid,
            _ => Fault::Fatal,
        };
        Error::new(fault, self)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => f.write_str(
                "this program was built without CUDA: build it with `--features cuda` (scripts/cuda-build), or set \
                 FOREBAY_DEVICE=cpu",
            ),
            Self::NoDriver { why } => write!(
                f,
                "there is no NVIDIA driver: libcuda.so.1 cannot be loaded ({why}). Run on a machine with a card and \
                 driver 580 or later; a container's runtime brings the library in where \
                 NVIDIA_DRIVER_CAPABILITIES=compute,utility is set; or set FOREBAY_DEVICE=cpu"
            ),
            Self::OldDriver { version } => write!(
                f,
                "the NVIDIA driver is too old: it serves CUDA {}, and 13.0 is needed. Update it to 580 or later, or \
                 run on a machine that has it",
                version_text(*version)
            ),
            Self::NoFunction { name } => write!(
                f,
                "the NVIDIA driver's library has no function {name}: it is damaged or no driver; install 580 or later"
            ),
            Self::Call { name, status } => {
                write!(f, "the NVIDIA driver failed: {name} answered {status}. Look at `nvidia-smi` on this machine")
            }
            Self::NoCard => f.write_str(
                "the NVIDIA driver finds no card. Run on a machine with one, or give one to the container \
                 (NVIDIA_VISIBLE_DEVICES) and do not hide it (CUDA_VISIBLE_DEVICES)",
            ),
            Self::NoSuchCard { number, count } => write!(
                f,
                "there is no card cuda:{number}: the NVIDIA driver finds {count}, counted from cuda:0. Set \
                 FOREBAY_DEVICE to one that is there"
            ),
            Self::OldCard { card, capability } => write!(
                f,
                "{card} has compute capability {capability}, and {LOWEST} (Ampere) is the lowest that is served: run \
                 on a newer card"
            ),
            Self::OtherCard { card, capability, built } => write!(
                f,
                "{card} has compute capability {capability}, and this program was built for {built}: build it for the \
                 card (scripts/cuda-build), or run on such a card"
            ),
            Self::NoLibrary { name, why } => write!(
                f,
                "CUDA's library {name} cannot be loaded ({why}): install it with the image, where the loader looks \
                 (LD_LIBRARY_PATH)"
            ),
            Self::Full { card, needed, free, total } => write!(
                f,
                "{card} has too little memory: the weights need {}, and of {} there are {} free. End what else is on \
                 the card, run on a larger one, or load the weights in a smaller type",
                mib(*needed),
                mib(*total),
                mib(*free)
            ),
        }
    }
}

impl std::error::Error for Unusable {}

/// 12080 as `12.8`.
pub(super) fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
