//! The cards as their driver tells of them at one moment, in plain values: what is between NVML and whoever judges or
//! shows. It reads nothing.

use crate::error::Result;

/// What the driver tells.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Its version, as in `580.65.06`.
    pub(crate) driver: String,
    /// All cards that this process may see, in the driver's order; an error where one cannot be read.
    pub(crate) cards: Vec<Result<Card>>,
    /// The errors that the driver has reported since it was looked last, where that is watched: of which card, and the
    /// Xid, NVIDIA's number for the kind. `None` is a kind that the driver does not tell.
    pub(crate) xids: Vec<(usize, Option<u64>)>,
}

/// One card. What it does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Card {
    /// Its compute capability, major and minor.
    pub(crate) capability: Option<(u32, u32)>,
    /// Bytes.
    pub(crate) memory_free: Option<u64>,
    pub(crate) memory_used: Option<u64>,
    pub(crate) memory_total: Option<u64>,
    /// Of the chip, in degrees Celsius.
    pub(crate) temperature: Option<u32>,
    /// Milliwatts.
    pub(crate) power: Option<u32>,
    pub(crate) power_limit: Option<u32>,
    /// MHz.
    pub(crate) sm_clock: Option<u32>,
    pub(crate) memory_clock: Option<u32>,
    /// Percent of the driver's last sample in which a kernel ran, or memory was read or written.
    pub(crate) utilization: Option<u32>,
    pub(crate) memory_utilization: Option<u32>,
    /// What may hold its clocks down, and whether it does.
    pub(crate) throttled: Option<Vec<(&'static str, bool)>>,
    /// Memory errors since the driver was loaded.
    pub(crate) ecc_corrected: Option<u64>,
    pub(crate) ecc_uncorrected: Option<u64>,
}
