//! A card of NVIDIA's, as its driver describes it.
//!
//! Owns the checks that a card must pass before candle gets to see it, in the order in which one would mend things. They
//! need no CUDA in the build. It opens nothing.

use std::fmt;

use candle_core::{Device, DeviceLocation};
use forebay::Result;

use super::architecture::{Capability, LOWEST, built};
use super::cuda::{Driver, driver, keep_library};
use super::unusable::{Unusable, version_text};

/// What candle loads, each before those that need it: the name without an ending, and that of CUDA 13.
const LIBRARIES: [(&str, &str); 3] =
    [("libcublasLt", "libcublasLt.so.13"), ("libcublas", "libcublas.so.13"), ("libcurand", "libcurand.so.10")];

/// A card that models can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    number: usize,
    handle: i32,
    name: String,
    capability: Capability,
    total: u64,
    driver: i32,
}

/// A card's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What a model may still take: what no process has, and what this process keeps and does not use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Card {
    /// The card of this number, counted from 0 as the driver counts (`CUDA_VISIBLE_DEVICES` hides and orders them), if
    /// models can run on it. Works in every build, and loads the driver's library and those that candle needs.
    ///
    /// # Errors
    /// Each says what is missing and what to do. `Fatal`, since another node could do better: no driver, one too old
    /// (below 580), no such card, a card of a generation that is too old or that this program has no kernels for.
    /// `Invalid`: a library is missing that the image should hold.
    pub fn find(number: usize) -> Result<Self> {
        Self::checked(number).map_err(Unusable::error)
    }

    fn checked(number: usize) -> Result<Self, Unusable> {
        let driver = driver()?;
        let card = Self::described(driver, number)?;
        let (name, capability, built) = (card.name.clone(), card.capability, built());
        if capability < LOWEST {
            return Err(Unusable::OldCard { card: name, capability });
        }
        if !built.runs_on(capability) {
            return Err(Unusable::OtherCard { card: name, capability, built });
        }
        LIBRARIES.into_iter().try_for_each(|(stem, name)| keep_library(stem, name))?;
        Ok(card)
    }

    fn described(driver: &Driver, number: usize) -> Result<Self, Unusable> {
        let count = driver.count()?;
        if count == 0 {
            return Err(Unusable::NoCard);
        }
        if number >= count {
            return Err(Unusable::NoSuchCard { number, count });
        }
        let handle = driver.device(number)?;
        let (major, minor) = driver.capability(handle)?;
        Ok(Self {
            number,
            handle,
            name: driver.name(handle)?,
            capability: Capability { major, minor },
            total: driver.total(handle)?,
            driver: driver.version(),
        })
    }

    /// What the driver calls it, as in `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its compute capability: major, minor.
    pub fn capability(&self) -> (i32, i32) {
        (self.capability.major, self.capability.minor)
    }

    /// The CUDA version that the driver serves: major, minor.
    pub fn driver(&self) -> (i32, i32) {
        (self.driver / 1000, self.driver % 1000 / 10)
    }

    /// Its memory now. The first call takes a context on the card, which is slow, unless a device is open there.
    ///
    /// # Errors
    /// `Fatal` if the driver does not answer.
    pub fn memory(&self) -> Result<Memory> {
        let free = || Ok(driver()?.free(self.handle)?.saturating_add(driver()?.kept(self.handle)));
        let free = free().map_err(Unusable::error)?;
        Ok(Memory { free: free.min(self.total), total: self.total })
    }

    /// Demands that a model of so many bytes of weights fits.
    ///
    /// # Errors
    /// `Fatal` if it does not: another node may have a larger card, or one with less on it.
    pub fn room_for(&self, needed: u64) -> Result<()> {
        let Memory { free, total } = self.memory()?;
        if needed <= free {
            return Ok(());
        }
        Err(Unusable::Full { card: self.name.clone(), needed, free, total }.error())
    }

    /// Has the pool of this process on the card keep its memory.
    #[cfg(feature = "cuda")]
    pub(super) fn keep_memory(&self) -> Result<()> {
        driver().and_then(|driver| driver.keep_pool(self.handle)).map_err(Unusable::error)
    }
}

/// Demands that a model of so many bytes of weights fits on `device`, where that is a card.
///
/// # Errors
/// As [`Card::room_for`].
pub(crate) fn room_for(bytes: u64, device: &Device) -> Result<()> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Card::find(gpu_id)?.room_for(bytes),
        _ => Ok(()),
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, name, capability, .. } = self;
        let (gib, driver) = (self.total as f64 / f64::from(1 << 30), version_text(self.driver));
        write!(f, "cuda:{number}: {name}, compute capability {capability}, {gib:.1} GiB, driver for CUDA {driver}")
    }
}
