//! What an operator asks for, and the device that comes of it.
//!
//! Owns `FOREBAY_DEVICE`, the one variable of the environment that this crate reads. It keeps no device: whoever opens
//! one twice has two, between which candle takes no tensor.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
#[cfg(feature = "cuda")]
use forebay::Fault;
use forebay::{Context, Error, Result};

use super::unusable::Unusable;

const VARIABLE: &str = "FOREBAY_DEVICE";

/// Which device models run on, written `auto`, `cpu`, `cuda` (the first card) or `cuda:1` (the second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first card, if it can be used, and else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The card of this number, counted from 0, and nothing else.
    Cuda(usize),
}

impl DeviceChoice {
    /// What `FOREBAY_DEVICE` says; without it, or if it is empty, [`DeviceChoice::Auto`].
    ///
    /// # Errors
    /// `Invalid` if it says anything else than a choice, or names a card and the program was built without the feature
    /// `cuda`.
    pub fn from_env() -> Result<Self> {
        let text = std::env::var_os(VARIABLE).unwrap_or_default();
        Self::of(&text.to_string_lossy()).context(VARIABLE)
    }

    pub(super) fn of(text: &str) -> Result<Self> {
        match text {
            "" => Ok(Self::Auto),
            _ => text.parse::<Self>()?.built_for(),
        }
    }

    /// This choice, if the program can be expected to open it anywhere.
    fn built_for(self) -> Result<Self> {
        match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Unusable::NotBuilt.error()),
            _ => Ok(self),
        }
    }

    /// Whether [`open`](DeviceChoice::open) gives a card, as far as can be told without opening it.
    pub fn is_card(self) -> bool {
        match self {
            Self::Cuda(_) => true,
            Self::Cpu => false,
            Self::Auto => cfg!(feature = "cuda") && crate::Card::find(0).is_ok(),
        }
    }

    /// Opens the device. Call it where the model is loaded, on the device thread: a card's device is for one thread. One
    /// line of the log says what was opened, and with `auto` why it is not a card.
    ///
    /// # Errors
    /// Only if a card was asked for: as [`Card::find`](crate::Card::find); `Invalid` if the program was built without the
    /// feature `cuda`; `Fatal` if the card cannot be opened, as when another process fills it.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => open_card(number),
            Self::Auto => Ok(open_card(0).unwrap_or_else(|why| {
                // Whoever built for cards wants to know; elsewhere it is as expected.
                match cfg!(feature = "cuda") {
                    true => tracing::warn!(%why, "models run on the CPU"),
                    false => tracing::info!(%why, "models run on the CPU"),
                }
                Device::Cpu
            })),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_card(number: usize) -> Result<Device> {
    let card = crate::Card::find(number)?;
    // A card that passed every check and does not open is this node's trouble.
    let device = super::cuda::open_device(number).map_err(|why| crate::classify(why).with_fault(Fault::Fatal));
    let device = device.with_context(|| format!("opening {card}"))?;
    card.keep_memory()?;
    tracing::info!(%card, "models run on a card");
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_card(_: usize) -> Result<Device> {
    Err(Unusable::NotBuilt.error())
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format_args!(
                "`{text}` is no device: say `auto`, `cpu`, `cuda`, or `cuda:1` for the second card"
            ))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number =
                    text.strip_prefix("cuda:").filter(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
                number.and_then(|number| number.parse().ok()).map(Self::Cuda).ok_or_else(wrong)
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}
