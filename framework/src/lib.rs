//! forebay keeps a GPU at full flow: a framework for inference workers on interruptible nodes.
//!
//! # The parts
//! * [`Model`]: what you implement. It lives on the device thread and runs batches.
//! * [`Stepper`]: the same for what works in steps, such as a simulation or a training; its states are saved and come back
//!   elsewhere, see [`checkpoint`].
//! * [`Pipeline`]: stages that a job walks through: async I/O, CPU threads, the device.
//! * [`Worker`]: pipelines fed by [sources](source), until they end or the process is told to stop.
//! * [`Error`] and its four [faults](Fault): the one thing to say of a failure is whose fault it is.
//! * [`store`]: objects by key, for results and checkpoints.
//! * [`places`]: what a job names instead of carrying it: references, and what they may lead to.
//!
//! # An example
//! ```
//! use forebay::source::memory::Memory;
//! use forebay::{Batching, Model, Pipeline, Result, Worker};
//!
//! struct Doubler;
//!
//! impl Model for Doubler {
//!     type Input = u32;
//!     type Output = u32;
//!
//!     fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
//!         Ok(inputs.iter().map(|x| 2 * x).collect())
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let pipeline = Pipeline::new().gpu("double", Batching::items(32), || Ok(Doubler));
//! let queue = Memory::new();
//! (0..100).for_each(|n| queue.push(format!("job-{n}"), n.to_string()));
//! queue.close();
//! let report = Worker::new(pipeline).source(queue).run_once().await?;
//! assert_eq!(report.done, 100);
//! # Ok::<(), forebay::Error>(()) }).unwrap();
//! ```
//!
//! # Features
//! * `telemetry` (default): [`telemetry::init`], a log subscriber and a metrics recorder that can be read back.
//! * `http`: the sources `Http`, a server whose requests are jobs, and `Deferred`, jobs whose callers do not wait.
//! * `fleet`: fleets of interruptible nodes, simulated, with the worker's own code.
//! * `node`: checks of the node before work and while at it, and a way to leave one that is unfit.
//! * `nvml`: the health of NVIDIA's cards in metrics, and their driver, capability and memory among these checks.
//! * `openapi`: `Http` with `GET /openapi.json`, which describes the service by your own types.
//! * `s3`: the store `S3`, objects in Amazon S3 and what speaks its protocol.
//! * `https`: references to `https://`, kept out of your network.
//! * `webhook`: signed messages to URLs that others name, kept out of your network.
//! * `sqs`: Amazon SQS.
//! * `testing`: conformance suites for your own sources and stores, and with `sqs` a fake SQS.

#![warn(clippy::unwrap_used)]

pub mod checkpoint;
mod config;
mod error;
#[cfg(feature = "fleet")]
pub mod fleet;
mod flow;
mod gpu;
mod job;
mod model;
#[cfg(feature = "https")]
mod net;
#[cfg(feature = "node")]
pub mod node;
mod pipeline;
pub mod places;
mod pool;
pub mod source;
mod stepper;
pub mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod verdict;
#[cfg(feature = "webhook")]
pub mod webhook;
mod witness;
mod worker;

pub use error::{Classify, Context, DeadlinePassed, Error, Fault, OutOfMemory, Result};
pub use gpu::batching::Batching;
pub use gpu::speed::DeviceSpeed;
pub use gpu::stepping::Stepping;
pub use job::{Event, Job, Meta, Priority, Timing, Timings};
pub use model::{Admit, Collated, Launched, Model};
pub use pipeline::outlook::Outlook;
pub use pipeline::{Pipeline, Running};
pub use stepper::{Progress, Stepper};
pub use verdict::{FIRST_PAUSE, LONGEST_PAUSE, Verdict, judge};
pub use worker::{EXIT_NODE_FAULT, EXIT_UNFINISHED, Report, Worker};
#[cfg(feature = "http")]
pub use worker::{Form, Part};

// Part of the traits' signatures.
pub use bytes::Bytes;
pub use futures_util::future::BoxFuture;

/// The example of README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
