//! The kernels of `kernels/encoder.cu`, launched, and copies beside them.
//!
//! The one place of this crate's encoder with `unsafe` code, which launching kernels and asynchronous copies cannot do
//! without. What makes it sound: every address is taken from a tensor that is alive at the launch and has the type and
//! size that the kernel reads, checked here; what is freed afterwards is freed in the order of the same stream; and
//! memory that other streams use is kept in a [`Journey`], which waits for them before it gives anything back.
//!
//! Events are recorded here by hand: cudarc's own are off for devices of ours (`device/cuda.rs`), which also turns off
//! those that its pinned memory would be protected by.

#![allow(unsafe_code, reason = "see above")]

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PinnedHostSlice, PushKernelArg, ValidAsZeroBits, result,
};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor, bail};
use half::f16;

use super::packing::TILE;
use super::steps::Norm;
use super::transfer::Packed;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/encoder.ptx"));
/// Its name among the modules that candle keeps for a device.
const MODULE: &str = "forebay-encoder";

const LANES: u32 = 32;
/// Rows of a block where a warp takes a row.
const ROWS: usize = 4;
/// Rows and columns of a block of `bias_gelu_f16`.
const GELU: (usize, usize) = (4, 512);

/// An argument of a kernel, in the order in which `kernels/encoder.cu` declares them.
enum Arg {
    At(u64),
    Count(u32),
    Real(f32),
}

pub(super) fn embed(batch: &Packed, words: &Tensor, positions: &Tensor, norm: &Norm) -> Result<Tensor> {
    let (tokens, width) = (batch.packing.ids().1, words.dim(1)?);
    let buffer = address(batch.buffer, batch.packing.words().len())?;
    let part = |(from, _): (usize, usize)| Arg::At(buffer + 4 * from as u64);
    let (out, to) = room::<f16>(card(words)?, tokens, width)?;
    // Ids and places lie in the tables: the embedder refuses others.
    let args = [
        part(batch.packing.ids()),
        part(batch.packing.places()),
        at(words, words.elem_count())?,
        at(positions, positions.elem_count())?,
        at(&norm.gain, width)?,
        at(&norm.shift, width)?,
        Arg::At(to),
        Arg::Count(tokens as u32),
        Arg::Count(width as u32),
        Arg::Real(norm.eps),
    ];
    launch(card(words)?, "embed_f16", grid((tokens.div_ceil(ROWS), 1), (LANES, ROWS as u32))?, &args)?;
    Ok(out)
}

pub(super) fn residual_norm(x: &Tensor, h: &Tensor, norm: &Norm) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let Some(bias) = &norm.bias else {
        bail!("a norm behind a linear layer has that layer's bias");
    };
    let (out, to) = room::<f16>(card(x)?, tokens, width)?;
    let args = [
        at(x, tokens * width)?,
        at(h, tokens * width)?,
        at(bias, width)?,
        at(&norm.gain, width)?,
        at(&norm.shift, width)?,
        Arg::At(to),
        Arg::Count(tokens as u32),
        Arg::Count(width as u32),
        Arg::Real(norm.eps),
    ];
    launch(card(x)?, "residual_norm_f16", grid((tokens.div_ceil(ROWS), 1), (LANES, ROWS as u32))?, &args)?;
    Ok(out)
}

pub(super) fn gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (out, to) = room::<f16>(card(x)?, tokens, width)?;
    let args =
        [at(x, tokens * width)?, at(bias, width)?, Arg::At(to), Arg::Count(tokens as u32), Arg::Count(width as u32)];
    let blocks = (tokens.div_ceil(GELU.0), width.div_ceil(GELU.1));
    launch(card(x)?, "bias_gelu_f16", grid(blocks, (64, 1))?, &args)?;
    Ok(out)
}

pub(super) fn attend(batch: &Packed, qkv: &Tensor, bias: &Tensor, heads: usize) -> Result<Tensor> {
    let (tokens, width) = (batch.packing.ids().1, bias.dim(0)? / 3);
    let kernel = match width / heads {
        32 => "attention_f16_d32",
        64 => "attention_f16_d64",
        other => bail!("there is no kernel for attention with heads of {other} values"),
    };
    let buffer = address(batch.buffer, batch.packing.words().len())?;
    let part = |(from, _): (usize, usize)| Arg::At(buffer + 4 * from as u64);
    let (out, to) = room::<f16>(card(qkv)?, tokens, width)?;
    let args = [
        at(qkv, 3 * tokens * width)?,
        at(bias, 3 * width)?,
        part(batch.packing.starts()),
        part(batch.packing.tiles()),
        Arg::At(to),
        Arg::Count(heads as u32),
    ];
    let tiles = batch.packing.tiles().1 / 2;
    launch(card(qkv)?, kernel, grid((tiles * heads, 1), (2 * TILE as u32, 1))?, &args)?;
    Ok(out)
}

pub(super) fn pool(batch: &Packed, hidden: &Tensor) -> Result<Tensor> {
    let (sequences, width) = (batch.packing.starts().1 - 1, hidden.dim(1)?);
    let buffer = address(batch.buffer, batch.packing.words().len())?;
    let (out, to) = room::<f32>(card(hidden)?, sequences, width)?;
    let args = [
        at(hidden, batch.packing.ids().1 * width)?,
        Arg::At(buffer + 4 * batch.packing.starts().0 as u64),
        Arg::At(to),
        Arg::Count(width as u32),
    ];
    launch(card(hidden)?, "pool_f16", grid((sequences, 1), (256, 1))?, &args)?;
    Ok(out)
}

fn card(tensor: &Tensor) -> Result<&CudaDevice> {
    tensor.device().as_cuda_device()
}

fn grid(blocks: (usize, usize), threads: (u32, u32)) -> Result<LaunchConfig> {
    let (Ok(x), Ok(y @ ..=65_535)) = (u32::try_from(blocks.0), u32::try_from(blocks.1)) else {
        bail!("a batch of {} by {} blocks is too large for one launch", blocks.0, blocks.1);
    };
    Ok(LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads.0, threads.1, 1), shared_mem_bytes: 0 })
}

fn launch(card: &CudaDevice, name: &'static str, grid: LaunchConfig, args: &[Arg]) -> Result<()> {
    if grid.grid_dim.0 == 0 {
        return Ok(());
    }
    let kernel = card.get_or_load_custom_func(name, MODULE, PTX)?;
    let mut launch = kernel.builder();
    for arg in args {
        match arg {
            Arg::At(address) => launch.arg(address),
            Arg::Count(count) => launch.arg(count),
            Arg::Real(value) => launch.arg(value),
        };
    }
    // SAFETY: the arguments are those that the kernel declares, and addresses are of tensors of the sizes that it
    // reads and writes: see the head of this file.
    unsafe { launch.launch(grid) }.w()?;
    Ok(())
}

/// A tensor of `rows` by `columns` whose values are still to be written, and its address.
fn room<T: CudaDType + DeviceRepr>(card: &CudaDevice, rows: usize, columns: usize) -> Result<(Tensor, u64)> {
    // SAFETY: the kernel that it is made for writes all of it before anybody reads.
    let slice = unsafe { card.alloc::<T>(rows * columns) }?;
    let to = slice.device_ptr(&card.cuda_stream()).0;
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, card.clone()));
    Ok((Tensor::from_storage(storage, (rows, columns), BackpropOp::none(), false), to))
}

fn at(tensor: &Tensor, values: usize) -> Result<Arg> {
    Ok(Arg::At(address(tensor, values)?))
}

/// Where the values of a tensor lie: of a contiguous one with as many of them, in half precision or as numbers.
fn address(tensor: &Tensor, values: usize) -> Result<u64> {
    if !tensor.is_contiguous() || tensor.elem_count() != values {
        bail!("a kernel was given {:?}, not {values} values in a row", tensor.shape());
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel was given a tensor that is not on a card");
    };
    let stream = storage.device.cuda_stream();
    let offset = layout.start_offset() as u64;
    match &storage.slice {
        CudaStorageSlice::F16(slice) => Ok(slice.device_ptr(&stream).0 + 2 * offset),
        CudaStorageSlice::F32(slice) => Ok(slice.device_ptr(&stream).0 + 4 * offset),
        CudaStorageSlice::U32(slice) => Ok(slice.device_ptr(&stream).0 + 4 * offset),
        _ => bail!("a kernel was given a tensor of {:?}", tensor.dtype()),
    }
}

/// Copies between pinned memory and one card, each way on a stream of its own.
pub(super) struct Copies {
    card: CudaDevice,
    up: Arc<CudaStream>,
    down: Arc<CudaStream>,
    /// Pinned memory that no batch uses: making it takes longer than a copy.
    numbers: Vec<PinnedHostSlice<u32>>,
    vectors: Vec<PinnedHostSlice<f32>>,
}

/// The memory that a batch uses outside of the order of the card's own stream. Dropped, it waits for those who use it.
pub(super) struct Journey {
    main: Arc<CudaStream>,
    /// When the vectors have arrived. Before they are on their way there is none.
    arrived: Option<CudaEvent>,
    numbers: Option<PinnedHostSlice<u32>>,
    vectors: Option<PinnedHostSlice<f32>>,
    /// How many values are on their way.
    values: usize,
    _onboard: Vec<Tensor>,
}

impl Drop for Journey {
    fn drop(&mut self) {
        // An error here is one of the card, which whoever uses it next is told.
        let _ = match &self.arrived {
            Some(event) => event.synchronize(),
            None => self.main.synchronize(),
        };
    }
}

impl Copies {
    pub(super) fn new(card: &CudaDevice) -> Result<Self> {
        let context = card.cuda_stream().context().clone();
        let (up, down) = (context.new_stream().w()?, context.new_stream().w()?);
        Ok(Copies { card: card.clone(), up, down, numbers: Vec::new(), vectors: Vec::new() })
    }

    /// Begins to send `words`; what is launched on the card's own stream afterwards finds them in the tensor.
    pub(super) fn send(&mut self, words: &[u32]) -> Result<(Tensor, Journey)> {
        let main = self.card.cuda_stream();
        let mut pinned = take(&mut self.numbers, &self.card, words.len())?;
        pinned.as_mut_slice().w()?[..words.len()].copy_from_slice(words);
        // SAFETY: it is written by the copy below before anybody reads.
        let slice = unsafe { self.up.alloc::<u32>(words.len()) }.w()?;
        let to = slice.device_ptr(&self.up).0;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.card.clone()));
        let buffer = Tensor::from_storage(storage, words.len(), BackpropOp::none(), false);
        let mut journey = Journey {
            main: main.clone(),
            arrived: None,
            numbers: None,
            vectors: None,
            values: 0,
            _onboard: vec![buffer.clone()],
        };
        // SAFETY: both ends are kept in the journey, which waits for the card's own stream, and so for the copy.
        let sent =
            unsafe { result::memcpy_htod_async(to, &pinned.as_slice().w()?[..words.len()], self.up.cu_stream()) };
        journey.numbers = Some(pinned);
        sent.w()?;
        main.wait(&self.up.record_event(None).w()?).w()?;
        Ok((buffer, journey))
    }

    /// Begins to bring `vectors` back, once the card's own stream has come as far as it has been told to now.
    pub(super) fn bring(&mut self, journey: &mut Journey, vectors: &Tensor) -> Result<()> {
        let values = vectors.elem_count();
        let from = address(vectors, values)?;
        let mut pinned = take(&mut self.vectors, &self.card, values)?;
        self.down.wait(&self.card.cuda_stream().record_event(None).w()?).w()?;
        let room = &mut pinned.as_mut_slice().w()?[..values];
        // SAFETY: both ends are kept in the journey, which waits for `arrived`.
        let brought = unsafe { result::memcpy_dtoh_async(room, from, self.down.cu_stream()) };
        journey.vectors = Some(pinned);
        journey.values = values;
        journey._onboard.push(vectors.clone());
        brought.w()?;
        // Whoever waits sleeps, and leaves its core to others.
        let sleeping = CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        journey.arrived = Some(self.down.record_event(Some(sleeping)).w()?);
        Ok(())
    }

    /// Waits for the vectors.
    pub(super) fn fetch(&mut self, mut journey: Journey) -> Result<Vec<f32>> {
        let (Some(arrived), Some(pinned)) = (&journey.arrived, journey.vectors.take()) else {
            bail!("a batch was fetched before it was computed");
        };
        arrived.synchronize().w()?;
        let values = pinned.as_slice().w()?[..journey.values].to_vec();
        self.vectors.push(pinned);
        self.numbers.extend(journey.numbers.take());
        Ok(values)
    }
}

/// Pinned memory for as many values: some that is free, or new.
fn take<T>(free: &mut Vec<PinnedHostSlice<T>>, card: &CudaDevice, values: usize) -> Result<PinnedHostSlice<T>>
where
    T: DeviceRepr + ValidAsZeroBits,
{
    if let Some(fits) = free.iter().position(|pinned| pinned.len() >= values) {
        return Ok(free.swap_remove(fits));
    }
    // What was too small is of no use to batches that have grown.
    free.clear();
    let room = values.next_power_of_two();
    // SAFETY: zeros are values of these types, and all of it that is read was written before. Not write-combined:
    // results are read from it.
    unsafe { card.cuda_stream().context().alloc_pinned_with_flags::<T>(room, 0) }.w()
}
