//! Models for [forebay] pipelines.
//!
//! | | what | feature |
//! |---|---|---|
//! | [`Embedder`] | sentence embeddings by models of the BERT family | `candle` (default) |
//! | [`Tokens`], [`Passages`] | text to token ids, documents to passages; for CPU stages | `candle` |
//! | [`Weights`] | a model's files in a directory, or from a Hugging Face repository | `candle`, `hub` |
//! | [`finetune`] | a last layer for the embedder, trained on pairs of texts in steps that can be saved | `candle` |
//! | [`md`] | molecular dynamics of a Lennard-Jones fluid, in steps that can be saved and gone on with | `candle` |
//! | [`DeviceChoice`], [`Card`] | the device that models run on, as the operator says; what is wrong with a card | `candle`, `cuda` |
//! | [`classify`] | whose fault a failure on a device is | `candle` |
//! | [`toy`] | an echo and a fake device without weights | none |
//!
//! ```no_run
//! # #[cfg(feature = "candle")]
//! # fn main() -> forebay::Result<()> {
//! use forebay::Model;
//! use forebay_models::{Device, Embedder, Tokens, Weights};
//!
//! let weights = Weights::dir("all-MiniLM-L6-v2")?;
//! let tokens = Tokens::open(&weights)?;
//! let mut embedder = Embedder::load(&weights, &Device::Cpu)?;
//!
//! let document = std::fs::read_to_string("README.md")?;
//! let passages = tokens.passages(&document).collect::<forebay::Result<Vec<_>>>()?;
//! let ids: Vec<_> = passages.iter().map(|passage| passage.ids.clone()).collect();
//! let vectors = embedder.infer(&ids)?; // one unit vector a passage
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "candle"))]
//! # fn main() {}
//! ```
//!
//! In a pipeline `Tokens` belongs in a `.cpu` stage and `Embedder` in a `.gpu_each` stage, whose loader is
//! `|| Embedder::load(&Weights::dir(..)?, &DeviceChoice::from_env()?.open()?)`.

#![deny(unsafe_code, missing_docs)]
#![warn(unreachable_pub)]

pub mod toy;

#[cfg(feature = "candle")]
mod attention;
#[cfg(feature = "candle")]
mod bert;
#[cfg(feature = "candle")]
mod bounds;
#[cfg(feature = "candle")]
mod device;
#[cfg(feature = "candle")]
mod embed;
#[cfg(feature = "candle")]
mod fault;
#[cfg(feature = "candle")]
pub mod finetune;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "candle")]
mod kernels;
#[cfg(feature = "candle")]
mod lanes;
#[cfg(feature = "candle")]
mod map;
#[cfg(feature = "candle")]
mod matmul;
#[cfg(feature = "candle")]
pub mod md;
#[cfg(feature = "candle")]
mod passages;
#[cfg(feature = "candle")]
mod plan;
#[cfg(feature = "candle")]
mod random;
#[cfg(all(test, feature = "candle"))]
mod tests;
#[cfg(feature = "candle")]
mod tokens;
#[cfg(feature = "candle")]
mod weights;
#[cfg(feature = "candle")]
mod words;

/// Where a model runs: candle's type, [`Device::Cpu`] or a device that candle was built for.
#[cfg(feature = "candle")]
pub use candle_core::Device;
#[cfg(feature = "candle")]
pub use device::{Card, DeviceChoice, Memory, device_speed};
#[cfg(feature = "candle")]
pub use embed::Embedder;
#[cfg(feature = "candle")]
pub use fault::classify;
#[cfg(feature = "candle")]
pub use passages::{Passage, Passages};
#[cfg(feature = "candle")]
pub use tokens::{TokenIds, Tokens};
#[cfg(feature = "candle")]
pub use weights::Weights;
