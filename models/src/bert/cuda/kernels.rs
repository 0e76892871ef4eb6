//! Launches the kernels of `kernels/encoder.cu`, each with the grid and the arguments that stand there.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Storage, Tensor, bail};
use half::f16;

use super::address;
use crate::bert::packing::{Part, TILE};
use crate::bert::steps::Norm;
use crate::bert::transfer::Packed;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/encoder.ptx"));
/// Its name among the modules that candle keeps for a device.
const MODULE: &str = "forebay-encoder";

const LANES: u32 = 32;
/// Rows of a block where a warp takes a row.
const ROWS: usize = 4;
/// Rows and columns of a block of `bias_gelu_f16`.
const GELU: (usize, usize) = (4, 512);

/// The kernels, loaded onto one card, for an encoder with heads of one size.
pub(in crate::bert) struct Kernels {
    card: CudaDevice,
    stream: Arc<CudaStream>,
    embed: CudaFunction,
    residual_norm: CudaFunction,
    gelu: CudaFunction,
    attend: CudaFunction,
    pool: CudaFunction,
}

/// An argument of a kernel.
enum Arg {
    At(u64),
    Count(u32),
    Real(f32),
}

impl Kernels {
    /// `head`: how many values a head has, 32 or 64.
    pub(in crate::bert) fn load(card: &CudaDevice, head: usize) -> Result<Self> {
        let load =
            |name| Ok::<_, candle_core::Error>(card.get_or_load_custom_func(name, MODULE, PTX)?.into_cuda_function());
        let attention = match head {
            32 => "attention_f16_d32",
            64 => "attention_f16_d64",
            other => bail!("there is no kernel for attention with heads of {other} values"),
        };
        Ok(Kernels {
            card: card.clone(),
            stream: card.cuda_stream(),
            embed: load("embed_f16")?,
            residual_norm: load("residual_norm_f16")?,
            gelu: load("bias_gelu_f16")?,
            attend: load(attention)?,
            pool: load("pool_f16")?,
        })
    }

    pub(in crate::bert) fn embed(
        &self,
        batch: &Packed,
        words: &Tensor,
        places: &Tensor,
        norm: &Norm,
    ) -> Result<Tensor> {
        let (tokens, width) = (batch.packing.ids().1, words.dim(1)?);
        let (out, to) = self.room::<f16>(tokens, width)?;
        // Ids and places lie in the tables: the embedder refuses others.
        let args = [
            part(batch, batch.packing.ids())?,
            part(batch, batch.packing.places())?,
            halves(words, words.elem_count())?,
            halves(places, places.elem_count())?,
            halves(&norm.gain, width)?,
            halves(&norm.shift, width)?,
            Arg::At(to),
            Arg::Count(tokens as u32),
            Arg::Count(width as u32),
            Arg::Real(norm.eps),
        ];
        self.launch(&self.embed, (tokens.div_ceil(ROWS), 1), (LANES, ROWS as u32), &args)?;
        Ok(out)
    }

    /// In the place of `h`, which nobody else may have.
    pub(in crate::bert) fn residual_norm(&self, x: &Tensor, h: Tensor, norm: &Norm) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let Some(bias) = &norm.bias else {
            bail!("a norm behind a linear layer has that layer's bias");
        };
        let args = [
            halves(x, tokens * width)?,
            halves(&h, tokens * width)?,
            halves(bias, width)?,
            halves(&norm.gain, width)?,
            halves(&norm.shift, width)?,
            halves(&h, tokens * width)?,
            Arg::Count(tokens as u32),
            Arg::Count(width as u32),
            Arg::Real(norm.eps),
        ];
        self.launch(&self.residual_norm, (tokens.div_ceil(ROWS), 1), (LANES, ROWS as u32), &args)?;
        Ok(h)
    }

    /// In the place of `x`, which nobody else may have.
    pub(in crate::bert) fn gelu(&self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let args = [
            halves(&x, tokens * width)?,
            halves(bias, width)?,
            halves(&x, tokens * width)?,
            Arg::Count(tokens as u32),
            Arg::Count(width as u32),
        ];
        self.launch(&self.gelu, (tokens.div_ceil(GELU.0), width.div_ceil(GELU.1)), (64, 1), &args)?;
        Ok(x)
    }

    pub(in crate::bert) fn attend(&self, batch: &Packed, qkv: &Tensor, bias: &Tensor, heads: usize) -> Result<Tensor> {
        let (tokens, width) = (batch.packing.ids().1, bias.dim(0)? / 3);
        let (out, to) = self.room::<f16>(tokens, width)?;
        let args = [
            halves(qkv, 3 * tokens * width)?,
            halves(bias, 3 * width)?,
            part(batch, batch.packing.starts())?,
            part(batch, batch.packing.tiles())?,
            Arg::At(to),
            Arg::Count(heads as u32),
        ];
        let tiles = batch.packing.tiles().1 / 2;
        self.launch(&self.attend, (tiles * heads, 1), (2 * TILE as u32, 1), &args)?;
        Ok(out)
    }

    pub(in crate::bert) fn pool(&self, batch: &Packed, hidden: &Tensor) -> Result<Tensor> {
        let (sequences, width) = (batch.packing.starts().1 - 1, hidden.dim(1)?);
        let (out, to) = self.room::<f32>(sequences, width)?;
        let args = [
            halves(hidden, batch.packing.ids().1 * width)?,
            part(batch, batch.packing.starts())?,
            Arg::At(to),
            Arg::Count(width as u32),
        ];
        self.launch(&self.pool, (sequences, 1), (256, 1), &args)?;
        Ok(out)
    }

    fn launch(&self, kernel: &CudaFunction, blocks: (usize, usize), threads: (u32, u32), args: &[Arg]) -> Result<()> {
        let (Ok(x), Ok(y @ ..=65_535)) = (u32::try_from(blocks.0), u32::try_from(blocks.1)) else {
            bail!("a batch of {} by {} blocks is too large for one launch", blocks.0, blocks.1);
        };
        if x == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(kernel);
        for arg in args {
            match arg {
                Arg::At(address) => launch.arg(address),
                Arg::Count(count) => launch.arg(count),
                Arg::Real(value) => launch.arg(value),
            };
        }
        let grid = LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads.0, threads.1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those that the kernel declares, and addresses are of tensors of the types and sizes
        // that it reads and writes.
        unsafe { launch.launch(grid) }.w()?;
        Ok(())
    }

    /// A tensor of `rows` by `columns` whose values are still to be written, and its address.
    fn room<T: CudaDType + DeviceRepr>(&self, rows: usize, columns: usize) -> Result<(Tensor, u64)> {
        // SAFETY: the kernel that it is made for writes all of it before anybody reads.
        let slice = unsafe { self.card.alloc::<T>(rows * columns) }?;
        let to = slice.device_ptr(&self.stream).0;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.card.clone()));
        Ok((Tensor::from_storage(storage, (rows, columns), BackpropOp::none(), false), to))
    }
}

/// So many values in half precision.
fn halves(tensor: &Tensor, values: usize) -> Result<Arg> {
    Ok(Arg::At(address(tensor, DType::F16, values)?))
}

/// A part of the batch's numbers.
fn part(batch: &Packed, (from, _): Part) -> Result<Arg> {
    let buffer = address(batch.buffer, DType::U32, batch.packing.words().len())?;
    Ok(Arg::At(buffer + (from * DType::U32.size_in_bytes()) as u64))
}
