//! Fine-tuning of the embedder on pairs of texts that belong together, such as questions and their answers.
//!
//! Owns a training from the texts to the trained layer, in steps that can be saved between any two and gone on with
//! elsewhere: on the CPU a run that was cut gives bit for bit what the run that was not gives. The network stays as it is;
//! what is trained is a linear layer behind it ([`Projection`]), which begins as the identity. So each text goes through
//! the network once, and a training of many epochs costs little more than embedding its texts.
//!
//! The loss is the contrastive one with negatives from the batch, the optimiser AdamW. There are no labels, no hard
//! negatives and no layers but this one.
//!
//! ```no_run
//! use forebay::{Pipeline, Stepping};
//! use forebay_models::finetune::{Pair, Pairs, Projection, Settings, Task, Tuner};
//! use forebay_models::{Device, Embedder, Tokens, Weights};
//!
//! # async fn tune() -> forebay::Result<()> {
//! let weights = Weights::dir("all-MiniLM-L6-v2")?;
//! let pairs = Pair::lines(&std::fs::read_to_string("pairs.jsonl")?)?;
//! let pairs = Pairs::tokenize(&Tokens::open(&weights)?, &pairs)?;
//! let pipeline = Pipeline::new()
//!     .gpu_steps("tune", Stepping::jobs(1), move || Tuner::load(&weights, &Device::Cpu))
//!     .start()
//!     .await?;
//! let tuned = pipeline.call(Task { settings: Settings::default(), pairs }).await?;
//! println!("accuracy {:?} -> {:?}", tuned.summary.accuracy_before, tuned.summary.accuracy_after);
//! let projection = Projection::open(&tuned.file)?; // to be applied to the embedder's vectors
//! # Ok(()) }
//! ```

mod accuracy;
mod adamw;
mod loss;
mod order;
mod pairs;
mod projection;
mod settings;
mod stepper;
#[cfg(test)]
mod tests;
mod training;
mod vectors;

pub use pairs::{Pair, Pairs};
pub use projection::Projection;
pub use settings::{Settings, Task};
pub use stepper::{Run, Tuned, Tuner};
pub use training::Summary;
