//! The one unsafe call of this crate: mapping a weights file into memory.
//!
//! Owns the argument why it is sound. It neither finds nor checks files: `weights` did both.

use std::path::Path;

use candle_core::{DType, Device, Result};
use candle_nn::VarBuilder;

/// Maps one safetensors file for reading.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
    // SAFETY: a mapping is unsound only if the file is changed or cut short by someone else while it is read. Its header
    // was compared with its length just before, candle checks every tensor's range against the mapping again, and that
    // weights are not rewritten in place while a model loads from them is part of `Weights`' documented contract
    // (package managers and hf-hub write a new file and rename it).
    unsafe { VarBuilder::from_mmaped_safetensors(&[path], dtype, device) }
}
