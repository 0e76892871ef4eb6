//! What the encoder computes between its matrix products: one kernel each on a card, candle's operations elsewhere.
//!
//! Owns the choice between the two. The second is the definition that the kernels are held against; nothing but tests
//! runs it, so it is written to be read.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::Config;

#[cfg(feature = "cuda")]
use super::cuda::Kernels;
use super::transfer::Packed;

/// The steps on one device.
pub(super) struct Steps {
    heads: usize,
    #[cfg(feature = "cuda")]
    kernels: Option<Kernels>,
}

/// A layer norm, and the bias of the linear layer before it, if there is one.
pub(super) struct Norm {
    pub(super) bias: Option<Tensor>,
    pub(super) gain: Tensor,
    pub(super) shift: Tensor,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn load(vb: &VarBuilder, bias: Option<&Tensor>, config: &Config) -> Result<Self> {
        Ok(Norm {
            bias: bias.cloned(),
            gain: vb.get(config.hidden_size, "weight")?,
            shift: vb.get(config.hidden_size, "bias")?,
            eps: config.layer_norm_eps as f32,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.eps))?.sqrt()?;
        let x = x.broadcast_div(&deviation)?.to_dtype(self.gain.dtype())?;
        x.broadcast_mul(&self.gain)?.broadcast_add(&self.shift)
    }
}

impl Steps {
    /// For an encoder of `width` values a token and so many heads.
    pub(super) fn new(device: &Device, width: usize, heads: usize) -> Result<Self> {
        #[cfg(not(feature = "cuda"))]
        let _ = (device, width);
        Ok(Steps {
            heads,
            #[cfg(feature = "cuda")]
            kernels: match device {
                Device::Cuda(card) => Some(Kernels::load(card, width / heads)?),
                _ => None,
            },
        })
    }

    /// The norm of the sum of each token's word and position: a row a token.
    pub(super) fn embed(&self, batch: &Packed, words: &Tensor, positions: &Tensor, norm: &Norm) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = &self.kernels {
            return kernels.embed(batch, words, positions, norm);
        }
        let sum = words.index_select(&batch.part(batch.packing.ids())?, 0)?;
        norm.apply(&(sum + positions.index_select(&batch.part(batch.packing.places())?, 0)?)?)
    }

    /// The norm of `x + (h + bias)`, the bias being the norm's.
    pub(super) fn residual_norm(&self, x: &Tensor, h: Tensor, norm: &Norm) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = &self.kernels {
            return kernels.residual_norm(x, h, norm);
        }
        let sum = (x + &h)?;
        norm.apply(&match &norm.bias {
            Some(bias) => sum.broadcast_add(bias)?,
            None => sum,
        })
    }

    /// `gelu(x + bias)`, exact (by the error function).
    pub(super) fn gelu(&self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = &self.kernels {
            return kernels.gelu(x, bias);
        }
        x.broadcast_add(bias)?.gelu_erf()
    }

    /// Attention of every sequence to itself: from rows of queries, keys and values (each all heads side by side), without
    /// their bias, to rows of contexts.
    pub(super) fn attend(&self, batch: &Packed, qkv: &Tensor, bias: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = &self.kernels {
            return kernels.attend(batch, qkv, bias, self.heads);
        }
        let qkv = qkv.broadcast_add(bias)?;
        let (width, heads) = (qkv.dim(1)? / 3, self.heads);
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let contexts = batch.ranges()?.into_iter().map(|(from, n)| {
            let rows = qkv.narrow(0, from, n)?;
            let part =
                |i| rows.narrow(1, i * width, width)?.reshape((n, heads, width / heads))?.transpose(0, 1)?.contiguous();
            let (q, k, v): (Tensor, Tensor, Tensor) = (part(0)?, part(1)?, part(2)?);
            let weights = candle_nn::ops::softmax(&(q.matmul(&k.t()?)? * scale)?, D::Minus1)?;
            weights.matmul(&v)?.transpose(0, 1)?.reshape((n, width))
        });
        Tensor::cat(&contexts.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Of each sequence the mean of its rows, divided by its length: the unit vector in single precision.
    pub(super) fn pool(&self, batch: &Packed, hidden: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = &self.kernels {
            return kernels.pool(batch, hidden);
        }
        let hidden = hidden.to_dtype(DType::F32)?;
        let vectors = batch.ranges()?.into_iter().map(|(from, n)| {
            // The mean's divisor falls out of the norm. Bounded below as sentence-transformers bounds it.
            let sum = hidden.narrow(0, from, n)?.sum_keepdim(0)?;
            sum.broadcast_div(&sum.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?)
        });
        Tensor::cat(&vectors.collect::<Result<Vec<_>>>()?, 0)
    }
}
