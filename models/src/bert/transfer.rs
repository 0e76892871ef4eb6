//! The way of a batch to its device, and of its vectors back.
//!
//! On a card the two go through pinned memory on streams of their own, beside the kernels of other batches, and are
//! ordered with the kernels by events; nothing waits before [`Courier::fetch`]. Elsewhere they are plain copies.

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::{Copies, Journey};
use super::packing::{Packing, Part};

/// A batch on its device.
pub(crate) struct Packed<'a> {
    pub(super) packing: &'a Packing,
    pub(super) buffer: &'a Tensor,
}

impl Packed<'_> {
    pub(super) fn part(&self, (from, count): Part) -> Result<Tensor> {
        self.buffer.narrow(0, from, count)
    }

    /// The first row and the number of rows of each sequence.
    pub(super) fn ranges(&self) -> Result<Vec<(usize, usize)>> {
        let starts: Vec<u32> = self.part(self.packing.starts())?.to_vec1()?;
        Ok(starts.windows(2).map(|ends| (ends[0] as usize, (ends[1] - ends[0]) as usize)).collect())
    }
}

/// Sends batches to one device and brings their vectors back.
pub(crate) struct Courier {
    device: Device,
    #[cfg(feature = "cuda")]
    copies: Option<Copies>,
}

/// A batch between the two. Dropped, it waits until the device is done with its memory.
pub(crate) struct Flight {
    buffer: Tensor,
    vectors: Option<Tensor>,
    #[cfg(feature = "cuda")]
    journey: Option<Journey>,
}

impl Flight {
    /// The batch, for kernels. `packing` is what was sent.
    pub(crate) fn packed<'a>(&'a self, packing: &'a Packing) -> Packed<'a> {
        Packed { packing, buffer: &self.buffer }
    }
}

impl Courier {
    /// `plain`: without pinned memory and streams of its own, to measure what they are worth.
    pub(crate) fn new(device: &Device, plain: bool) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let copies = match device {
            Device::Cuda(card) if !plain => Some(Copies::new(card)?),
            _ => None,
        };
        #[cfg(not(feature = "cuda"))]
        let _ = plain;
        Ok(Courier {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            copies,
        })
    }

    pub(crate) fn goes_to_a_card(&self) -> bool {
        self.device.is_cuda()
    }

    /// Begins to send a batch.
    pub(crate) fn send(&mut self, packing: &Packing) -> Result<Flight> {
        #[cfg(feature = "cuda")]
        if let Some(copies) = &mut self.copies {
            let (buffer, journey) = copies.send(packing.words())?;
            return Ok(Flight { buffer, vectors: None, journey: Some(journey) });
        }
        Ok(Flight {
            buffer: Tensor::from_slice(packing.words(), packing.words().len(), &self.device)?,
            vectors: None,
            #[cfg(feature = "cuda")]
            journey: None,
        })
    }

    /// Begins to bring its vectors back, which may still be to be computed.
    pub(crate) fn bring(&mut self, flight: &mut Flight, vectors: Tensor) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(copies), Some(journey)) = (&mut self.copies, &mut flight.journey) {
            copies.bring(journey, &vectors)?;
        }
        flight.vectors = Some(vectors);
        Ok(())
    }

    /// Waits for the vectors, of `width` values each.
    pub(crate) fn fetch(&mut self, flight: Flight, width: usize) -> Result<Vec<Vec<f32>>> {
        #[cfg(feature = "cuda")]
        let flight = {
            let mut flight = flight;
            if let (Some(copies), Some(journey)) = (&mut self.copies, flight.journey.take()) {
                return copies.fetch(journey, width);
            }
            flight
        };
        match &flight.vectors {
            Some(vectors) => vectors.reshape(((), width))?.to_vec2(),
            None => candle_core::bail!("a batch was fetched before it was computed"),
        }
    }
}
