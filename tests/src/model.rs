//! A model made of a closure.

use std::marker::PhantomData;

use forebay::{Model, Result};

/// A model that is its `infer`.
pub struct Func<I, O, F>(F, PhantomData<fn(I) -> O>);

/// A model that runs `infer`.
pub fn model<I, O, F: FnMut(&[I]) -> Result<Vec<O>>>(infer: F) -> Func<I, O, F> {
    Func(infer, PhantomData)
}

impl<I, O, F> Model for Func<I, O, F>
where
    I: Send + 'static,
    O: Send + 'static,
    F: FnMut(&[I]) -> Result<Vec<O>> + 'static,
{
    type Input = I;
    type Output = O;

    fn infer(&mut self, inputs: &[I]) -> Result<Vec<O>> {
        (self.0)(inputs)
    }
}
