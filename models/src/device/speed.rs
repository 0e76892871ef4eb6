//! How fast a device is, measured in about a second.
//!
//! Owns two small workloads: a matrix product, and a copy from the host. They tell a card that throttles, or is behind a
//! slow bus, from one that is fit; they are no benchmark of a model.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use forebay::{Context, DeviceSpeed, Result};

use crate::classify;

/// Rounds that are measured, after [`WARM_UP`] that are not.
const ROUNDS: usize = 5;
const WARM_UP: usize = 2;
/// Products of one round: a wait for the device costs little beside them.
const PRODUCTS: u32 = 8;
/// Bytes that are copied in a round.
const COPY: usize = 64 << 20;

/// Measures a device that nothing else uses meanwhile: medians of a matrix product, in `f16` on a card and in `f32` on the
/// CPU, and of a copy from ordinary memory. Blocks for about a second.
///
/// # Errors
/// As [`classify`] says, if the device fails.
pub fn device_speed(device: &Device) -> Result<DeviceSpeed> {
    measure(device).map_err(classify).context("measuring the device")
}

fn measure(device: &Device) -> candle_core::Result<DeviceSpeed> {
    let (side, dtype) = if device.is_cuda() { (4096, DType::F16) } else { (512, DType::F32) };
    let matrix = || Tensor::rand(-1f32, 1f32, (side, side), device)?.to_dtype(dtype);
    let (a, b) = (matrix()?, matrix()?);
    let product = median(device, || (0..PRODUCTS).try_for_each(|_| a.matmul(&b).map(drop)))?;
    let operations = 2.0 * (side as f64).powi(3) * f64::from(PRODUCTS);

    let values = vec![1u8; COPY];
    let copy = median(device, || Tensor::from_slice(&values, COPY, device).map(drop))?;
    Ok(DeviceSpeed { tflops: operations / product.as_secs_f64() / 1e12, copy: COPY as f64 / copy.as_secs_f64() / 1e9 })
}

/// How long `round` takes on the device, from start to end.
fn median(device: &Device, mut round: impl FnMut() -> candle_core::Result<()>) -> candle_core::Result<Duration> {
    let mut times = Vec::with_capacity(ROUNDS);
    for number in 0..WARM_UP + ROUNDS {
        device.synchronize()?;
        let start = Instant::now();
        round()?;
        device.synchronize()?;
        if number >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times.sort();
    Ok(times[ROUNDS / 2])
}
