//! The ways to run the embedder that are measured against each other, each of which leaves one thing out.

use candle_core::{DType, Device};
use clap::ValueEnum;
use forebay::Result;
use forebay_models::{DeviceChoice, Embedder, Weights};

/// A way to run the embedder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// As it is meant to be.
    Packed,
    /// Without pinned memory and streams for copies.
    Plain,
    /// candle's model, which pads; in single precision.
    Padded,
    /// With events recorded for every tensor.
    Tracked,
    /// With the card's memory given back at each wait.
    Unpooled,
}

impl Variant {
    /// Opens the device that FOREBAY_DEVICE names and loads the model there. On the device thread.
    ///
    /// # Errors
    /// `Invalid` where the variant is one of cards and there is none.
    pub fn load(self, weights: &Weights) -> Result<Embedder> {
        let choice = DeviceChoice::from_env()?;
        match self {
            Variant::Packed => packed(weights, &choice.open()?, false),
            Variant::Plain => packed(weights, &choice.open()?, true),
            Variant::Padded => Embedder::load_padded(weights, &choice.open()?),
            Variant::Tracked => packed(weights, &tracked(&choice.open()?)?, false),
            Variant::Unpooled => packed(weights, &unpooled(choice)?, false),
        }
    }
}

/// The encoder for cards: in half precision on one, in single on the CPU.
pub fn packed(weights: &Weights, device: &Device, plain: bool) -> Result<Embedder> {
    let dtype = if device.is_cuda() { DType::F16 } else { DType::F32 };
    Embedder::load_packed(weights, device, dtype, plain)
}

#[cfg(feature = "cuda")]
fn tracked(opened: &Device) -> Result<Device> {
    crate::raw::tracked(opened)
}

#[cfg(feature = "cuda")]
fn unpooled(choice: DeviceChoice) -> Result<Device> {
    let DeviceChoice::Cuda(number) = choice else {
        return Err(forebay::Error::invalid("this variant is of cards: let FOREBAY_DEVICE name one, as in cuda:0"));
    };
    forebay_models::Card::find(number)?;
    crate::raw::unpooled(number)
}

#[cfg(not(feature = "cuda"))]
fn tracked(_: &Device) -> Result<Device> {
    Err(not_built())
}

#[cfg(not(feature = "cuda"))]
fn unpooled(_: DeviceChoice) -> Result<Device> {
    Err(not_built())
}

#[cfg(not(feature = "cuda"))]
fn not_built() -> forebay::Error {
    forebay::Error::invalid("this variant is of cards: build with scripts/cuda-build")
}
