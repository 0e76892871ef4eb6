//! Copies between pinned memory and one card, each way on a stream of its own.
//!
//! Owns the pinned memory, and whatever a batch uses outside of the order of the card's own stream, until nobody does.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DevicePtr, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits, result,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Storage, Tensor, bail};

use super::address;

/// The streams, and pinned memory.
pub(in crate::bert) struct Copies {
    card: CudaDevice,
    up: Arc<CudaStream>,
    down: Arc<CudaStream>,
    /// Pinned memory that no batch uses: making it takes longer than a copy.
    numbers: Vec<PinnedHostSlice<u32>>,
    vectors: Vec<PinnedHostSlice<f32>>,
}

/// The memory that a batch uses outside of the order of the card's own stream. Dropped, it waits for those who use it.
pub(in crate::bert) struct Journey {
    streams: [Arc<CudaStream>; 3],
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
        let waited = match &self.arrived {
            Some(event) => vec![wait(|| event.synchronize())],
            None => self.streams.iter().map(|stream| wait(|| stream.synchronize())).collect(),
        };
        // Told to whoever uses the card next.
        let context = self.streams[0].context();
        waited.into_iter().for_each(|waited| context.record_err(waited));
    }
}

type Waited = std::result::Result<(), DriverError>;

/// Waits for the card. Before it does, cudarc hands out what an earlier drop has left, and then it has to be asked again.
fn wait(ask: impl Fn() -> Waited) -> Waited {
    ask().or_else(|left| ask().and(Err(left)))
}

impl Copies {
    pub(in crate::bert) fn new(card: &CudaDevice) -> Result<Self> {
        let context = card.cuda_stream().context().clone();
        let (up, down) = (context.new_stream().w()?, context.new_stream().w()?);
        Ok(Copies { card: card.clone(), up, down, numbers: Vec::new(), vectors: Vec::new() })
    }

    /// Begins to send `words`; what is launched on the card's own stream afterwards finds them in the tensor.
    pub(in crate::bert) fn send(&mut self, words: &[u32]) -> Result<(Tensor, Journey)> {
        let main = self.card.cuda_stream();
        let mut pinned = take(&mut self.numbers, &self.card, words.len())?;
        pinned.as_mut_slice().w()?[..words.len()].copy_from_slice(words);
        // SAFETY: it is written by the copy below before anybody reads.
        let slice = unsafe { self.up.alloc::<u32>(words.len()) }.w()?;
        let to = slice.device_ptr(&self.up).0;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.card.clone()));
        let buffer = Tensor::from_storage(storage, words.len(), BackpropOp::none(), false);
        let mut journey = Journey {
            streams: [self.up.clone(), main.clone(), self.down.clone()],
            arrived: None,
            numbers: None,
            vectors: None,
            values: 0,
            _onboard: vec![buffer.clone()],
        };
        // SAFETY: both ends are kept in the journey, which waits for this stream.
        let sent =
            unsafe { result::memcpy_htod_async(to, &pinned.as_slice().w()?[..words.len()], self.up.cu_stream()) };
        journey.numbers = Some(pinned);
        sent.w()?;
        main.wait(&self.up.record_event(None).w()?).w()?;
        Ok((buffer, journey))
    }

    /// Begins to bring `vectors` back, once the card's own stream has come as far as it has been told to now.
    pub(in crate::bert) fn bring(&mut self, journey: &mut Journey, vectors: &Tensor) -> Result<()> {
        let values = vectors.elem_count();
        let from = address(vectors, DType::F32, values)?;
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

    /// Waits for the vectors, of `width` values each.
    pub(in crate::bert) fn fetch(&mut self, mut journey: Journey, width: usize) -> Result<Vec<Vec<f32>>> {
        let Some(arrived) = &journey.arrived else {
            bail!("a batch was fetched before it was computed");
        };
        wait(|| arrived.synchronize()).w()?;
        let Some(pinned) = journey.vectors.take() else {
            bail!("a batch was fetched twice");
        };
        let values = &pinned.as_slice().w()?[..journey.values];
        let vectors = values.chunks_exact(width).map(<[f32]>::to_vec).collect();
        self.vectors.push(pinned);
        self.numbers.extend(journey.numbers.take());
        Ok(vectors)
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
