//! The trait that a user implements: a model, as the device thread runs it.
//!
//! It deliberately does not mention a tensor library. A model is made on the device thread, lives and dies there,
//! and so need not be `Send`; only its inputs and outputs travel.

use std::any::Any;

use crate::error::{Error, Result};

/// A model: inputs in, as many outputs out, in the same order.
///
/// ```
/// use forebay::{Model, Result};
///
/// /// Counts the vowels of each text.
/// struct Vowels;
///
/// impl Model for Vowels {
///     type Input = String;
///     type Output = usize;
///
///     fn infer(&mut self, texts: &[String]) -> Result<Vec<usize>> {
///         let vowels = |text: &String| text.chars().filter(|c| "aeiou".contains(*c)).count();
///         Ok(texts.iter().map(vowels).collect())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "needs `impl forebay::Model for {Self}`",
    note = "a model has `type Input`, `type Output` and `fn infer(&mut self, inputs: &[Self::Input]) -> Result<Vec<Self::Output>>`"
)]
pub trait Model: 'static {
    /// One item of a batch.
    type Input: Send + 'static;
    /// What one item becomes.
    type Output: Send + 'static;

    /// Runs one batch: one output for each input, in order; another number is a fatal fault.
    ///
    /// If it fails or panics, each item is run once more alone, so that only the item that causes it fails. If it fails
    /// with [`OutOfMemory`](crate::OutOfMemory), its halves are run instead, and for a while batches of this
    /// [`key`](Model::key) are kept below what has failed. Inputs are lent, not given, for that reason.
    fn infer(&mut self, inputs: &[Self::Input]) -> Result<Vec<Self::Output>>;

    /// What an item costs, in a unit of the model's own (tokens, frames, pixels); 1 unless said otherwise. Batches
    /// are cut by the sum of it, or with [`Batching::padded`](crate::Batching::padded) by the longest times the number.
    fn weight(_input: &Self::Input) -> usize {
        1
    }

    /// Only items of one key go into one batch. All are alike unless said otherwise.
    fn key(_input: &Self::Input) -> u64 {
        0
    }

    /// Called once after each loading, at the start before the worker is ready: run what compiles kernels and fills caches.
    fn warm_up(&mut self) -> Result<()> {
        Ok(())
    }

    /// Asked on the device thread before an item may be put in a batch.
    fn admit(&mut self, _input: &Self::Input) -> Admit {
        Admit::Now
    }

    /// Whether [`collate`](Model::collate) does anything.
    const COLLATES: bool = false;

    /// Prepares a batch off the device thread, while the one before runs: pads, stacks, copies to pinned memory.
    fn collate(_inputs: &[Self::Input]) -> Result<Collated> {
        Ok(Collated::nothing())
    }

    /// Runs a batch that was collated. Items that are run again alone come through [`infer`](Model::infer).
    fn infer_collated(&mut self, inputs: &[Self::Input], _collated: Collated) -> Result<Vec<Self::Output>> {
        self.infer(inputs)
    }

    /// Whether batches run by [`launch`](Model::launch) and [`finish`](Model::finish) instead of
    /// [`infer_collated`](Model::infer_collated): the device then goes from one full batch to the next without waiting for
    /// the thread to answer, to cut and to launch.
    const LAUNCHES: bool = false;

    /// Starts a batch on the device and does not wait for it. One more may be launched before this one is finished, if
    /// what waits fills it; they are finished in the order of their launches, unless the model is dropped or a launch
    /// fails. What it gives back may be dropped without being finished.
    ///
    /// It fails as [`infer`](Model::infer) does. A batch that finds no memory while another is on the device is run again
    /// with the device to itself, before it is halved.
    fn launch(&mut self, _inputs: &[Self::Input], _collated: Collated) -> Result<Launched> {
        Ok(Launched::new(()))
    }

    /// Waits for a batch that was launched and fetches its outputs, one for each input, in order.
    ///
    /// Items that are run again alone come through [`infer`](Model::infer).
    fn finish(&mut self, inputs: &[Self::Input], _launched: Launched) -> Result<Vec<Self::Output>> {
        self.infer(inputs)
    }
}

/// A model's answer to whether it can take an item.
#[derive(Debug)]
pub enum Admit {
    /// Yes.
    Now,
    /// Not while it is as full as it is now: ask again after the next batch.
    Later,
    /// Never: the item's job fails with this.
    Never(Error),
}

/// What [`Model::collate`] made of a batch, on its way to [`Model::infer_collated`].
#[derive(Default)]
pub struct Collated(Option<Box<dyn Any + Send>>);

impl Collated {
    /// Nothing was prepared.
    pub fn nothing() -> Self {
        Collated(None)
    }

    /// A prepared batch.
    pub fn new<T: Send + 'static>(batch: T) -> Self {
        Collated(Some(Box::new(batch)))
    }

    /// The prepared batch, if there is one and it is a `T`.
    pub fn take<T: 'static>(self) -> Option<T> {
        self.0?.downcast().ok().map(|batch| *batch)
    }
}

/// What [`Model::launch`] has started, on its way to [`Model::finish`]. It stays on the device thread.
pub struct Launched(Box<dyn Any>);

impl Launched {
    /// A batch that was started.
    pub fn new<T: 'static>(batch: T) -> Self {
        Launched(Box::new(batch))
    }

    /// The batch that was started, if it is a `T`.
    pub fn take<T: 'static>(self) -> Option<T> {
        self.0.downcast().ok().map(|batch| *batch)
    }
}
