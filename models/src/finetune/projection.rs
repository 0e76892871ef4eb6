//! What comes of a training: a linear layer behind the embedder, and its file.
//!
//! Owns the file's form and the layer at work. It does not embed: it is given the embedder's vectors.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use forebay::{Context, Error, Result};

/// The tensor's name in the file.
const NAME: &str = "linear.weight";

/// A linear layer that turns an embedder's vectors into those that were trained for.
///
/// Its file is a safetensors file with one tensor, `linear.weight`, of `width` rows and columns. It is that of a `Dense`
/// module of sentence-transformers without bias and activation, to be put between `Pooling` and `Normalize`: whether the
/// vector that goes in has length 1 does not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    width: usize,
    /// For each value that goes in, its weight in each that comes out.
    columns: Vec<f32>,
}

impl Projection {
    /// Reads the file of a layer.
    ///
    /// # Errors
    /// `Failed`, naming the file, where it cannot be read or holds something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let read = || {
            let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
            let tensor = tensors.get(NAME).ok_or_else(|| Error::failed(format!("there is no tensor {NAME} in it")))?;
            let (rows, width) = tensor.dims2()?;
            if rows != width {
                return Err(Error::failed(format!(
                    "{NAME} has {rows} rows and {width} columns, which should be as many"
                )));
            }
            let columns = tensor.to_dtype(DType::F32)?.t()?.flatten_all()?.to_vec1()?;
            Ok(Self { width, columns })
        };
        read().with_context(|| format!("the trained layer in {}", path.display()))
    }

    /// Writes the layer `1 + delta` to a file.
    pub(super) fn write(delta: &Tensor, path: &Path) -> Result<()> {
        let one = Tensor::eye(delta.dim(0)?, delta.dtype(), delta.device())?;
        let weight = (delta + one)?;
        weight.save_safetensors(NAME, path).with_context(|| path.display().to_string())
    }

    /// How many values a vector has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The unit vector that an embedder's vector becomes.
    ///
    /// # Errors
    /// `Invalid` if it has another width, or no length.
    pub fn apply(&self, vector: &[f32]) -> Result<Vec<f32>> {
        if vector.len() != self.width {
            let (given, width) = (vector.len(), self.width);
            return Err(Error::invalid(format!("a vector of {given} values, and the layer takes {width}")));
        }
        let mut moved = vec![0f32; self.width];
        for (value, column) in vector.iter().zip(self.columns.chunks_exact(self.width)) {
            moved.iter_mut().zip(column).for_each(|(sum, weight)| *sum += value * weight);
        }
        let length = moved.iter().map(|value| value * value).sum::<f32>().sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return Err(Error::invalid("a vector without a length"));
        }
        moved.iter_mut().for_each(|value| *value /= length);
        Ok(moved)
    }
}
