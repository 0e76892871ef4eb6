//! Reads the cards through NVML, NVIDIA's management library, which is opened at run time (feature `nvml`).
//!
//! It promises that a library or card that is missing, or a value that a card does not tell, is no more than an error or
//! a `None`. It changes nothing on a card, and judges nothing. Calls block, and may hang where a driver does.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::card::{Card, Seen};
use crate::error::{Error, Result};

/// At one look so many errors of a card are taken in; the others wait for the next.
const XIDS: usize = 100;
/// Longest wait for an error of one card, in ms: they are there already, or are seen the next time.
const XID_WAIT: u32 = 1;

/// What may hold clocks down, as the metric's label.
const THROTTLES: [(&str, ThrottleReasons); 9] = [
    ("idle", ThrottleReasons::GPU_IDLE),
    ("applications_clocks", ThrottleReasons::APPLICATIONS_CLOCKS_SETTING),
    ("display_clocks", ThrottleReasons::DISPLAY_CLOCK_SETTING),
    ("sync_boost", ThrottleReasons::SYNC_BOOST),
    ("sw_power_cap", ThrottleReasons::SW_POWER_CAP),
    ("sw_thermal", ThrottleReasons::SW_THERMAL_SLOWDOWN),
    ("hw_thermal", ThrottleReasons::HW_THERMAL_SLOWDOWN),
    ("hw_power_brake", ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
    ("hw_slowdown", ThrottleReasons::HW_SLOWDOWN),
];

/// The driver's own mark on a machine, which a container sees too.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// The library, opened once: closing it races with its own end as the process ends.
///
/// # Errors
/// `Invalid` where there is a driver and this container was not given the library; `Fatal` where there is no driver.
pub(super) fn open() -> Result<&'static Nvml> {
    // Of the whole process, as the library is; the lock is for those who come first together.
    static OPEN: Mutex<Option<&'static Nvml>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvml) = *open {
        return Ok(nvml);
    }
    let nvml = Nvml::init().map_err(|why| {
        let not_given = matches!(why, NvmlError::LibloadingError(_)) && Path::new(DRIVER).exists();
        let text = format!(
            "the NVIDIA driver cannot be asked ({why}); in a container that also needs `utility` among \
             NVIDIA_DRIVER_CAPABILITIES"
        );
        if not_given { Error::invalid(text) } else { Error::fatal(text) }
    })?;
    Ok(open.insert(Box::leak(Box::new(nvml))))
}

/// The cards now.
pub(super) fn look() -> Result<Seen> {
    Nvidia::new(open()?).look()
}

/// The cards of an open library.
pub(super) struct Nvidia<'nvml> {
    nvml: &'nvml Nvml,
    /// Where errors of a card arrive, for those that are watched.
    xids: Vec<(usize, EventSet<'nvml>)>,
}

impl<'nvml> Nvidia<'nvml> {
    pub(super) fn new(nvml: &'nvml Nvml) -> Self {
        Nvidia { nvml, xids: Vec::new() }
    }

    /// Watches for errors from now on, of the cards that tell of them.
    pub(super) fn with_xids(mut self) -> Self {
        let set = |number| -> Result<_, NvmlError> {
            let device = self.nvml.device_by_index(number)?;
            let set = self.nvml.create_event_set()?;
            let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|why| why.error)?;
            Ok((number as usize, set))
        };
        self.xids = (0..self.nvml.device_count().unwrap_or(0)).filter_map(|number| set(number).ok()).collect();
        self
    }

    pub(super) fn look(&mut self) -> Result<Seen> {
        let failed = |what: &str, why| Error::fatal(format_args!("the NVIDIA driver does not tell {what}: {why}"));
        let driver = self.nvml.sys_driver_version().map_err(|why| failed("its version", why))?;
        let count = self.nvml.device_count().map_err(|why| failed("how many cards there are", why))?;
        let card = |number| {
            let card = self.nvml.device_by_index(number).and_then(|device| card(&device));
            card.map_err(Error::fatal)
        };
        Ok(Seen { driver, cards: (0..count).map(card).collect(), xids: self.new_xids() })
    }

    fn new_xids(&self) -> Vec<(usize, Option<u64>)> {
        let of_card = |(number, set): &(usize, EventSet<'nvml>)| {
            let waiting = std::iter::from_fn(|| set.wait(XID_WAIT).ok()).take(XIDS);
            let xids = waiting.filter_map(|event| match event.event_data? {
                XidError::Value(xid) => Some((*number, Some(xid))),
                XidError::Unknown => Some((*number, None)),
            });
            xids.collect::<Vec<_>>()
        };
        self.xids.iter().flat_map(of_card).collect()
    }
}

/// An error is that of a card that is lost.
fn card(device: &Device<'_>) -> Result<Card, NvmlError> {
    let memory = told(device.memory_info())?;
    let utilization = told(device.utilization_rates())?;
    let capability = told(device.cuda_compute_capability())?;
    let throttled = told(device.current_throttle_reasons())?;
    let of = |now: ThrottleReasons| THROTTLES.map(|(name, reason)| (name, now.contains(reason))).to_vec();
    Ok(Card {
        capability: capability.and_then(|it| Some((it.major.try_into().ok()?, it.minor.try_into().ok()?))),
        memory_free: memory.as_ref().map(|memory| memory.free),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.as_ref().map(|memory| memory.total),
        temperature: told(device.temperature(TemperatureSensor::Gpu))?,
        power: told(device.power_usage())?,
        power_limit: told(device.enforced_power_limit())?,
        sm_clock: told(device.clock_info(Clock::SM))?,
        memory_clock: told(device.clock_info(Clock::Memory))?,
        utilization: utilization.as_ref().map(|rates| rates.gpu),
        memory_utilization: utilization.as_ref().map(|rates| rates.memory),
        throttled: throttled.map(of),
        ecc_corrected: told(device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile))?,
        ecc_uncorrected: told(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
    })
}

/// Many cards do not tell everything, each with an error of its own choice; only a lost one is wrong.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(why @ (NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::DriverNotLoaded)) => Err(why),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
