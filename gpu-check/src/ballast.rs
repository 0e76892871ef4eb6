//! Memory of a card that is taken so that others run short of it. Dropped, it is given back.

use candle_core::{DType, Device, DeviceLocation, Tensor};
use forebay::{Error, Result};
use forebay_models::{Card, classify};

/// Pieces in which memory is taken, the larger first.
const PIECES: [u64; 3] = [1 << 30, 64 << 20, 4 << 20];

/// Tensors that nobody reads.
pub struct Ballast {
    _tensors: Vec<Tensor>,
    left: u64,
}

impl Ballast {
    /// Takes memory of the card that `device` is on, until about `bytes` are free.
    ///
    /// # Errors
    /// `Invalid` if the device is no card; else as the card answers.
    pub fn leaving(bytes: u64, device: &Device) -> Result<Self> {
        let card = card(device)?;
        let mut tensors = Vec::new();
        for piece in PIECES {
            while card.memory()?.free >= bytes + piece {
                match take(piece, device) {
                    Ok(tensor) => tensors.push(tensor),
                    // What is free may lie in pieces that are smaller.
                    Err(why) if why.find::<forebay::OutOfMemory>().is_some() => break,
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(Self { _tensors: tensors, left: card.memory()?.free })
    }

    /// Bytes that were free once it was taken.
    pub fn left(&self) -> u64 {
        self.left
    }
}

/// A tensor of so many bytes. It is there when this returns.
///
/// # Errors
/// As [`classify`] says: with `OutOfMemory` in it where so much is not free.
pub fn take(bytes: u64, device: &Device) -> Result<Tensor> {
    let take = || {
        let tensor = Tensor::zeros(bytes as usize, DType::U8, device)?;
        device.synchronize()?;
        Ok(tensor)
    };
    take().map_err(|why: candle_core::Error| classify(why))
}

/// The card that a device is on.
///
/// # Errors
/// `Invalid` if it is on none.
pub fn card(device: &Device) -> Result<Card> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Card::find(gpu_id),
        _ => Err(Error::invalid("there is no card to fill: let FOREBAY_DEVICE name one")),
    }
}
