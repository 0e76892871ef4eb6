//! The command `device`: which device models run on, and how fast it is.

use candle_core::DeviceLocation;
use forebay::Result;
use forebay_models::{Card, DeviceChoice, device_speed};

use crate::report::Report;

/// Opens the device, describes it and measures it.
pub fn check() -> Result<Report> {
    let choice = DeviceChoice::from_env()?;
    let device = choice.open()?;
    let mut report = Report::new("device");
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => {
            let card = Card::find(gpu_id)?;
            let (memory, (major, minor)) = (card.memory()?, card.capability());
            report.figure("card", card.name());
            report.figure("capability", format!("{major}.{minor}"));
            report.figure("cuda", format!("{}.{}", card.driver().0, card.driver().1));
            report.figure("memory_bytes", memory.total);
            report.figure("free_bytes", memory.free);
        }
        _ => report.figure("card", "none: models run on the CPU"),
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    report.figure("cpus", cpus);
    if choice != DeviceChoice::Cpu {
        report.check("models run on a card", device.is_cuda(), device.is_cuda(), "a card");
    }
    let speed = device_speed(&device)?;
    report.figure("tflops", speed.tflops);
    report.figure("copy_gb_s", speed.copy);
    report.check("the device computes", speed.tflops > 0.0, speed.to_string(), "a matrix product and a copy");
    Ok(report)
}
