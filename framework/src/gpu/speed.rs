//! How fast a device is, as whoever knows its tensor library measures it. It only holds the figures.

use std::fmt;

/// How fast a device is, for `Fitness::device` (feature `node`). This crate knows no tensor library, so the program
/// measures it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceSpeed {
    /// A matrix product at the precision that models use, in TFLOP/s: 10^12 multiplications and additions a second.
    pub tflops: f64,
    /// A copy from the host's memory to the device's, in GB/s: 10^9 bytes a second.
    pub copy: f64,
}

impl fmt::Display for DeviceSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} TFLOP/s, {:.1} GB/s to the device", self.tflops, self.copy)
    }
}
