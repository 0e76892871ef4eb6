//! The cards before the first job: what the driver tells of them and what the program has measured, beside thresholds.
//!
//! It promises an answer within a time, whatever a driver does. A figure that is wanted and not known falls short, and
//! the finding says why it is not known. It reads no card itself.

use std::fmt::Display;
use std::time::Duration;

use tracing::warn;

use super::Fitness;
use super::bounded::Bounded;
use super::card::{Card, Seen};
use super::figures::{Blame, Figure, Figures, Finding, Wanted};
use crate::error::{Error, Fault, Result};
use crate::gpu::speed::DeviceSpeed;

/// Longest time for the driver to tell of its cards: the first one to ask wakes them, for seconds each.
#[cfg(feature = "nvml")]
const LOOKED_WITHIN: Duration = Duration::from_secs(30);
/// Longest time to measure the device.
const MEASURED_WITHIN: Duration = Duration::from_secs(30);

/// Compute capability, major and minor.
type Capability = (u32, u32);

/// The cards of this machine. `None`: nobody can ask for them.
#[cfg(feature = "nvml")]
pub(super) fn cards() -> Option<Bounded<Seen>> {
    Some(Bounded::new("forebay-cards-look", LOOKED_WITHIN, super::nvml::look))
}

/// The cards of this machine. `None`: nobody can ask for them.
#[cfg(not(feature = "nvml"))]
pub(super) fn cards() -> Option<Bounded<Seen>> {
    None
}

/// How fast the device is, as this call measures it.
pub(super) fn speed(measure: impl Fn() -> Result<DeviceSpeed> + Send + Sync + 'static) -> Bounded<DeviceSpeed> {
    Bounded::new("forebay-device-speed", MEASURED_WITHIN, measure)
}

impl Fitness {
    /// Adds its figures to `figures`.
    pub(super) async fn examine_gpu(&self, figures: &mut Figures) -> Vec<Finding> {
        let seen = match &self.cards {
            Some(cards) => cards.ask().await,
            None => Err(Error::invalid("this program was built without forebay's feature `nvml`")),
        };
        let driver = seen.as_ref().map(|seen| seen.driver.clone()).map_err(Error::clone);
        let capability = least(&seen, "compute capability", |card| card.capability);
        let memory = least(&seen, "memory", |card| card.memory_free);
        let speed = self.measure_device().await;

        figures.gpu_driver = driver.as_ref().ok().cloned();
        figures.gpu_capability = capability.as_ref().ok().map(|(_, capability)| *capability);
        figures.gpu_memory = memory.as_ref().ok().map(|(_, bytes)| *bytes);
        figures.gpu_tflops = speed.as_ref().ok().map(|speed| speed.tflops);
        figures.gpu_copy = speed.as_ref().ok().map(|speed| speed.copy);
        let findings = [
            self.wanted.of_driver(driver.as_deref()),
            self.wanted.of_capability(capability.as_ref()),
            self.wanted.of_gpu_memory(memory.as_ref()),
            self.wanted.of_tflops(speed.as_ref()),
            self.wanted.of_copy(speed.as_ref()),
        ];
        findings.into_iter().flatten().collect()
    }

    async fn measure_device(&self) -> Result<DeviceSpeed> {
        let Some(speed) = &self.speed else {
            return Err(Error::invalid("this program measures no device (Fitness::device)"));
        };
        let measured = speed.ask().await;
        if let Err(why) = &measured {
            // Where nothing is wanted of it, this is all that is said.
            warn!(error = %why, "the device could not be measured");
        }
        measured
    }
}

/// The least of all cards, and the card that has it; an error if it is not known of each of them.
fn least<T: PartialOrd>(seen: &Result<Seen>, what: &str, of: impl Fn(&Card) -> Option<T>) -> Result<(usize, T)> {
    let cards = &seen.as_ref().map_err(Error::clone)?.cards;
    let mut least = None;
    for (number, card) in cards.iter().enumerate() {
        let card = card.as_ref().map_err(|why| Error::fatal(format_args!("card {number} cannot be read: {why}")))?;
        let its = of(card).ok_or_else(|| Error::fatal(format_args!("card {number} does not tell its {what}")))?;
        least = match least {
            Some((other, least)) if least <= its => Some((other, least)),
            _ => Some((number, its)),
        };
    }
    least.ok_or_else(|| Error::fatal("the driver shows no card"))
}

impl Wanted {
    fn of_driver(&self, driver: Result<&str, &Error>) -> Option<Finding> {
        let wanted = self.gpu_driver?;
        let seen = match driver {
            Ok(driver) if branch(driver) >= Some(wanted) => return None,
            seen => seen.map(str::to_owned),
        };
        Some(short(Figure::GpuDriver, "driver of the cards", seen, wanted))
    }

    fn of_capability(&self, capability: Result<&(usize, Capability), &Error>) -> Option<Finding> {
        let wanted = self.gpu_capability?;
        let seen = match capability {
            Ok((_, seen)) if *seen >= wanted => return None,
            seen => seen.map(|(card, seen)| format!("{} of card {card}", dotted(*seen))),
        };
        Some(short(Figure::GpuCapability, "compute capability", seen, dotted(wanted)))
    }

    fn of_gpu_memory(&self, memory: Result<&(usize, u64), &Error>) -> Option<Finding> {
        let wanted = self.gpu_memory?;
        let seen = match memory {
            Ok((_, seen)) if *seen >= wanted => return None,
            seen => seen.map(|(card, seen)| format!("{seen} bytes of card {card}")),
        };
        Some(short(Figure::GpuMemory, "free memory of the cards", seen, wanted))
    }

    fn of_tflops(&self, speed: Result<&DeviceSpeed, &Error>) -> Option<Finding> {
        let wanted = self.gpu_tflops?;
        let seen = match speed {
            Ok(speed) if speed.tflops >= wanted => return None,
            seen => seen.map(|speed| format!("{:.1} TFLOP/s", speed.tflops)),
        };
        Some(short(Figure::GpuTflops, "matrix product on the device", seen, wanted))
    }

    fn of_copy(&self, speed: Result<&DeviceSpeed, &Error>) -> Option<Finding> {
        let wanted = self.gpu_copy?;
        let seen = match speed {
            Ok(speed) if speed.copy >= wanted => return None,
            seen => seen.map(|speed| format!("{:.1} GB/s", speed.copy)),
        };
        Some(short(Figure::GpuCopy, "copy to the device", seen, wanted))
    }
}

/// What is said of a figure that is below its threshold, or wanted and not known.
fn short(figure: Figure, what: &str, seen: Result<String, &Error>, wanted: impl Display) -> Finding {
    let (blame, seen) = match seen {
        Ok(seen) => (Blame::Node, seen),
        Err(why) if why.fault() == Fault::Invalid => (Blame::Operator, format!("unknown, since {why}")),
        Err(why) => (Blame::Node, format!("unknown, since {why}")),
    };
    let variable = format!("FOREBAY_NODE_{}", figure.as_str().to_uppercase());
    let text = format!("{what}: {seen}, wanted at least {wanted} ({variable})");
    Finding { figure, blame, text }
}

/// The branch of a driver: what stands before the first dot of its version.
pub(crate) fn branch(driver: &str) -> Option<u32> {
    driver.split('.').next()?.parse().ok()
}

pub(super) fn dotted((major, minor): Capability) -> String {
    format!("{major}.{minor}")
}
