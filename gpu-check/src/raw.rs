//! The few calls on a card that have no safe form: what forebay does without, and a kernel that does harm.
//!
//! The only unsafe code of this program. Devices are opened here as forebay does not open them, to measure what its way is
//! worth; and a kernel stores where nothing is, since that is the fault that a process cannot outlive and no safe call
//! brings about.

#![allow(unsafe_code, reason = "see above")]

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{Device, DeviceLocation};
use forebay::{Error, Result};
use forebay_models::classify;

/// Stores a number at the address 0.
const PTX: &str = "\
.version 7.0
.target sm_80
.address_size 64
.visible .entry store_nowhere()
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 0;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
";

/// Another device on the same card, with events recorded for every tensor. The card's memory pool stays as it was made
/// for the first.
pub fn tracked(opened: &Device) -> Result<Device> {
    match opened.location() {
        DeviceLocation::Cuda { gpu_id } => Device::new_cuda_with_stream(gpu_id).map_err(classify),
        _ => Err(Error::invalid("this variant is of cards: let FOREBAY_DEVICE name one")),
    }
}

/// A device whose memory pool gives back what is not in use at each wait.
pub fn unpooled(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number).map_err(classify)?;
    // SAFETY: as forebay's own devices: one stream, the same from every thread, and the embedder orders its copies itself.
    unsafe { device.as_cuda_device().map_err(classify)?.disable_event_tracking() };
    Ok(device)
}

/// Has the card store at the address 0, and waits: an error, after which this process has no card any more.
pub fn store_nowhere(device: &Device) -> Result<()> {
    let launch = || {
        let kernel = device.as_cuda_device()?.get_or_load_custom_func("store_nowhere", "gpu-check", PTX)?;
        let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: it takes no arguments. What it does to the card's context is what it is for: this process ends of it,
        // and other processes on the card do not notice.
        unsafe { kernel.builder().launch(one) }.w()?;
        device.synchronize()
    };
    launch().map_err(classify)
}
