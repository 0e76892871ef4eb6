//! How a device stage cuts its batches, as the user describes it.

use std::fmt;
use std::time::Duration;

use super::memory::Size;

/// The longest linger that can be set.
const LONGEST_LINGER: Duration = Duration::from_secs(3600);

/// How a device stage cuts its batches. Only the number of items must be said.
///
/// ```
/// # use forebay::Batching;
/// let batching = Batching::items(64).weight(16_384).padded();
/// assert_eq!(batching.to_string(), "64 items, 16384 weight padded");
/// assert_eq!(Batching::items(64).memory(2 << 30).to_string(), "64 items, 2 GiB");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Batching {
    pub(crate) items: usize,
    pub(crate) weight: Option<usize>,
    pub(crate) padded: bool,
    pub(crate) linger: Option<Duration>,
    pub(crate) places: Option<usize>,
    pub(crate) share: u32,
    pub(crate) device: usize,
    pub(crate) memory: u64,
}

/// What a batch may be at most: both are at least 1.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) weight: Option<usize>,
}

impl Batching {
    /// At most `items` items a batch (0 is taken as 1).
    pub fn items(items: usize) -> Self {
        Batching {
            items: items.max(1),
            weight: None,
            padded: false,
            linger: None,
            places: None,
            share: 1,
            device: 0,
            memory: 0,
        }
    }

    /// At most `weight` a batch, in the unit of [`Model::weight`](crate::Model::weight). An item above it runs alone.
    pub fn weight(mut self, weight: usize) -> Self {
        self.weight = Some(weight.max(1));
        self
    }

    /// The model pads each item to the longest of its batch: a batch weighs its heaviest item times its number, and
    /// items of like weight are put together.
    pub fn padded(mut self) -> Self {
        self.padded = true;
        self
    }

    /// Waits this long for a batch to fill, instead of what the stage learns from its arrivals; at most an hour. Rarely wise.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger.min(LONGEST_LINGER));
        self
    }

    /// How many jobs may be in the stage: running, next, waiting, and done but not yet taken. Default 4 x items.
    pub fn places(mut self, places: usize) -> Self {
        self.places = Some(places.max(1));
        self
    }

    /// This model's share of the device's time beside the other models on it, when all are busy. Default 1.
    pub fn share(mut self, share: u32) -> Self {
        self.share = share.max(1);
        self
    }

    /// The device whose thread runs the model. Default 0.
    pub fn device(mut self, device: usize) -> Self {
        self.device = device;
        self
    }

    /// What the model keeps on its device, in bytes: its weights, and what it needs to work with besides. Default 0.
    ///
    /// It is held against what the models of a device may keep together
    /// ([`Worker::device_memory`](crate::Worker::device_memory)), and is neither measured nor enforced. Where not all have
    /// room, a model is dropped for another that has work, and loaded again for its next batch. One that has work itself
    /// stays until that was worth both loads; one without goes at once, so without a backlog each job may cost a load. One
    /// that says nothing, or 0, counts nothing and always stays.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The size of a batch of items of these weights, in the unit in which batches are cut: what it weighs, or its
    /// items where no weight was said.
    pub(crate) fn size(&self, weights: impl ExactSizeIterator<Item = usize>) -> usize {
        match (self.padded, self.weight) {
            (true, _) => weights.len().saturating_mul(weights.max().unwrap_or(0)),
            (false, Some(_)) => weights.fold(0, usize::saturating_add),
            (false, None) => weights.len(),
        }
    }

    /// What a batch may be at most, under a ceiling in the unit of [`size`](Batching::size).
    pub(crate) fn limits(&self, ceiling: Option<usize>) -> Limits {
        let said = Limits { items: self.items, weight: self.weight };
        match ceiling {
            None => said,
            Some(size) if self.padded || self.weight.is_some() => {
                Limits { weight: Some(self.weight.map_or(size, |weight| weight.min(size))), ..said }
            }
            Some(items) => Limits { items: self.items.min(items), ..said },
        }
    }

    pub(crate) fn place_count(&self) -> usize {
        self.places.unwrap_or(self.items.saturating_mul(4))
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.items)?;
        if let Some(weight) = self.weight {
            write!(f, ", {weight} weight")?;
        }
        if self.padded {
            f.write_str(" padded")?;
        }
        if self.memory > 0 {
            write!(f, ", {}", Size(self.memory))?;
        }
        Ok(())
    }
}
