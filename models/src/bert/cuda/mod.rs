//! What the encoder needs of a card beside candle: kernels of `kernels/encoder.cu`, launched, and copies beside them.
//!
//! The one place of this crate's encoder with `unsafe` code, which launching kernels and asynchronous copies cannot do
//! without. What makes it sound: every address is taken from a tensor that is alive at the launch and has the type and
//! size that the kernel reads, checked where it is taken; what is freed afterwards is freed in the order of the same
//! stream; and memory that other streams use is kept in a [`Journey`], which waits for them before it gives anything back.
//!
//! Events are recorded here by hand: cudarc's own are off for devices of ours (`device/cuda.rs`), which also turns off
//! those that its pinned memory would be protected by.

#![allow(unsafe_code, reason = "see above")]

mod copies;
mod kernels;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{DType, Result, Storage, Tensor, bail};

pub(super) use copies::{Copies, Journey};
pub(super) use kernels::Kernels;

/// Where the values of a tensor lie: of a contiguous one of this type with as many of them.
fn address(tensor: &Tensor, dtype: DType, values: usize) -> Result<u64> {
    if tensor.dtype() != dtype || !tensor.is_contiguous() || tensor.elem_count() != values {
        bail!("a kernel was given {:?} of {:?}, not {values} of {dtype:?} in a row", tensor.shape(), tensor.dtype());
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel was given a tensor that is not on a card");
    };
    let stream = storage.device.cuda_stream();
    let begin = match &storage.slice {
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        _ => bail!("a kernel was given a tensor of {dtype:?}"),
    };
    Ok(begin + (layout.start_offset() * dtype.size_in_bytes()) as u64)
}
