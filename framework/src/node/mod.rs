//! Whether this node is fit to work: checks against the real bucket, and of disk, memory, CPUs and cards, before the
//! first job and while jobs are at work. Requires the feature `node`; what is known of cards, the feature `nvml`.
//!
//! A [`Fitness`] says what is wanted of a node, by variables or in code. A worker that has one
//! ([`Worker::fit`](crate::Worker::fit)) measures its node before it loads its models, and on one that falls short takes
//! no job: it asks the platform for another node, and ends with [`EXIT_NODE_FAULT`](crate::EXIT_NODE_FAULT).
//!
//! ```no_run
//! # use forebay::{Pipeline, Worker, node::Fitness, source::memory::Memory, store};
//! # async fn example(pipeline: Pipeline<u32, u32>, source: Memory) -> forebay::Result<std::process::ExitCode> {
//! let bucket = store::Folder::open("/data/results")?;
//! let fitness = Fitness::from_env()?.bucket(bucket).folder("/data");
//! Ok(Worker::new(pipeline).fit(fitness).source(source).run().await)
//! # }
//! ```
//!
//! # What leads to what
//! * **Latency, throughput, free disk, the machine's memory and CPUs, its cards** are the node's. It is measured
//!   [three times](Fitness::tries), 20 s apart, and if it falls short each time the worker leaves it. A card of which
//!   something is wanted and that is not there falls short.
//! * **Keys that the bucket refuses, a container whose own limits are too small, and thresholds that the program was not
//!   built to look at** are the same on every node. The worker stays up, not ready, says so, and tries again after pauses
//!   that grow to 10 minutes. It never leaves.
//! * **A bucket that cannot be reached**: from one node nobody can tell its network from an outage for all. The worker
//!   stays, not ready, for its [patience](Fitness::patience) of 30 minutes, and leaves after that. So an outage up to so
//!   long costs no node, a longer one each replica two an hour, and a node that is cut off is lost after half an hour.
//! * **Not all may leave.** Who leaves writes that into the bucket, below `.forebay/left/`, and does not leave where
//!   [60](Fitness::leaves) have within the hour; so a threshold that no node meets cannot go through all nodes. Where
//!   there is no bucket to count in, patience is the bound.
//!
//! The keys have to allow what is needed of the bucket below `.forebay/`: reading, writing, deleting and listing. Probes
//! move at most 16 MB each way; what a process that was killed has left of them is below `.forebay/probe/`.

mod admit;
mod bounded;
mod bucket;
#[cfg_attr(not(feature = "nvml"), allow(dead_code, reason = "only NVML fills it, and only the metrics read it whole"))]
pub(crate) mod card;
mod figures;
pub(crate) mod gpu;
#[cfg(feature = "nvml")]
mod health;
mod ledger;
mod machine;
mod metadata;
mod nearest;
#[cfg(feature = "nvml")]
mod nvml;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::NodeConfig;
use crate::error::{Context, Result};
use crate::flow::Flow;
use crate::gpu::speed::DeviceSpeed;
use crate::store::Store;
use bounded::Bounded;
use card::Seen;
pub use figures::Figures;
pub(crate) use figures::Wanted;
#[cfg(feature = "nvml")]
pub(crate) use health::watch_cards;
use machine::Machine;
use metadata::Metadata;
pub(crate) use metadata::URL as METADATA;
pub use nearest::nearest;

/// What is wanted of a node, and what is done where one falls short.
///
/// Without a threshold a figure is measured, logged and shown in metrics, and anything will do. Thresholds are whole
/// numbers of the units that the methods name, but for the compute capability.
#[derive(Clone)]
pub struct Fitness {
    store: Option<Arc<dyn Store>>,
    folder: PathBuf,
    wanted: Wanted,
    unfit: Unfit,
    tries: u32,
    leaves: usize,
    patience: Duration,
    watch: Unfit,
    metadata: Option<Metadata>,
    machine: Machine,
    /// `None` without the feature `nvml`.
    cards: Option<Bounded<Seen>>,
    speed: Option<Bounded<DeviceSpeed>>,
    flow: Arc<Flow>,
    /// How often is looked while jobs are at work.
    tick: Duration,
    /// How long the platform has to take this node away.
    taken_within: Duration,
}

/// What a worker does on a node that is unfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Asks the platform for another node, if that is SaladCloud, and ends with
    /// [`EXIT_NODE_FAULT`](crate::EXIT_NODE_FAULT).
    Reallocate,
    /// Ends with [`EXIT_NODE_FAULT`](crate::EXIT_NODE_FAULT).
    Exit,
    /// Says so in the log, and works.
    Warn,
}

impl Fitness {
    /// What the variables `FOREBAY_NODE_*` say; what is set in code comes last.
    ///
    /// | variable | sets |
    /// |---|---|
    /// | `FOREBAY_NODE_LATENCY` | [`latency`](Self::latency), in milliseconds |
    /// | `FOREBAY_NODE_UPLOAD`, `FOREBAY_NODE_DOWNLOAD` | [`upload`](Self::upload), [`download`](Self::download), in Mbit/s |
    /// | `FOREBAY_NODE_DISK`, `FOREBAY_NODE_MEMORY` | [`disk`](Self::disk), [`memory`](Self::memory), in bytes |
    /// | `FOREBAY_NODE_CPUS` | [`cpus`](Self::cpus) |
    /// | `FOREBAY_NODE_GPU_DRIVER` | [`gpu_driver`](Self::gpu_driver), as in `580` |
    /// | `FOREBAY_NODE_GPU_CAPABILITY` | [`gpu_capability`](Self::gpu_capability), as in `8.6` |
    /// | `FOREBAY_NODE_GPU_MEMORY` | [`gpu_memory`](Self::gpu_memory), in bytes |
    /// | `FOREBAY_NODE_GPU_TFLOPS`, `FOREBAY_NODE_GPU_COPY` | [`gpu_tflops`](Self::gpu_tflops), [`gpu_copy`](Self::gpu_copy), in GB/s |
    /// | `FOREBAY_NODE_UNFIT` | [`unfit`](Self::unfit): `reallocate`, `exit` or `warn` |
    /// | `FOREBAY_NODE_TRIES`, `FOREBAY_NODE_LEAVES` | [`tries`](Self::tries), [`leaves`](Self::leaves) |
    /// | `FOREBAY_NODE_PATIENCE` | [`patience`](Self::patience), in seconds |
    /// | `FOREBAY_NODE_WATCH` | [`watch`](Self::watch): `reallocate`, `exit` or `off` |
    /// | `FOREBAY_NODE_METADATA` | the metadata service, as a URL; on SaladCloud it is known |
    ///
    /// # Errors
    /// `Invalid` if a variable is not as it should be.
    pub fn from_env() -> Result<Self> {
        Self::configured(NodeConfig::from_env()?)
    }

    fn configured(config: NodeConfig) -> Result<Self> {
        let metadata = config.metadata.as_deref().map(Metadata::new).transpose();
        Ok(Fitness {
            store: None,
            folder: std::env::temp_dir(),
            wanted: config.wanted,
            unfit: config.unfit,
            tries: config.tries,
            leaves: config.leaves,
            patience: config.patience,
            watch: config.watch,
            metadata: metadata.context("FOREBAY_NODE_METADATA")?,
            machine: Machine::new(),
            cards: gpu::cards(),
            speed: None,
            flow: Flow::of_process().clone(),
            tick: watch::TICK,
            taken_within: admit::TAKEN_WITHIN,
        })
    }

    /// The bucket that the jobs use: it is measured with objects of random bytes below `.forebay/probe/`, through this
    /// store. Without one there is no latency and no throughput.
    pub fn bucket(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// The folder whose disk is looked at. Default: that for temporary files.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// The bucket answers a small request within this time, by the median.
    pub fn latency(mut self, at_most: Duration) -> Self {
        self.wanted.latency = Some(at_most);
        self
    }

    /// Throughput to the bucket, in Mbit/s, of four transfers at once.
    pub fn upload(mut self, at_least: u32) -> Self {
        self.wanted.upload = Some(at_least.into());
        self
    }

    /// Throughput from the bucket, in Mbit/s, of four transfers at once.
    pub fn download(mut self, at_least: u32) -> Self {
        self.wanted.download = Some(at_least.into());
        self
    }

    /// Free disk, in bytes.
    pub fn disk(mut self, at_least: u64) -> Self {
        self.wanted.disk = Some(at_least);
        self
    }

    /// Free memory before the models are loaded, in bytes: of the machine, and within the container's limit.
    pub fn memory(mut self, at_least: u64) -> Self {
        self.wanted.memory = Some(at_least);
        self
    }

    /// CPUs: of the machine, and by the container's quota.
    pub fn cpus(mut self, at_least: u32) -> Self {
        self.wanted.cpus = Some(at_least.into());
        self
    }

    /// The branch of the NVIDIA driver, the first number of its version. CUDA 13 needs 580. Requires the feature `nvml`,
    /// as do the next two; without it nobody can look, and the worker stays, not ready, and says so.
    pub fn gpu_driver(mut self, at_least: u32) -> Self {
        self.wanted.gpu_driver = Some(at_least);
        self
    }

    /// The compute capability of every card that the container has, `CUDA_VISIBLE_DEVICES` or not, as in `(8, 6)`.
    pub fn gpu_capability(mut self, major: u32, minor: u32) -> Self {
        self.wanted.gpu_capability = Some((major, minor));
        self
    }

    /// Free memory of every card that the container has, `CUDA_VISIBLE_DEVICES` or not, in bytes, before the models are loaded. Where the
    /// [device](Self::device) is measured too, what that has left in the process, some 500 MB for CUDA, is missing
    /// from the second try on.
    pub fn gpu_memory(mut self, at_least: u64) -> Self {
        self.wanted.gpu_memory = Some(at_least);
        self
    }

    /// A matrix product on the device, in TFLOP/s, as [`device`](Self::device) measures it.
    pub fn gpu_tflops(mut self, at_least: u32) -> Self {
        self.wanted.gpu_tflops = Some(at_least.into());
        self
    }

    /// Copies from the host to the device, in GB/s, as [`device`](Self::device) measures them.
    pub fn gpu_copy(mut self, at_least: u32) -> Self {
        self.wanted.gpu_copy = Some(at_least.into());
        self
    }

    /// How the device is measured: this crate knows no tensor library, so the program says it. It is called each time
    /// that the node is measured before the first job, on a thread of its own, and has 30 s; it may block, and a panic
    /// is an error. Where it fails nothing follows but a warning, unless [`gpu_tflops`](Self::gpu_tflops) or
    /// [`gpu_copy`](Self::gpu_copy) is wanted: then it is the node that falls short, or with `Invalid` the settings.
    pub fn device(mut self, measure: impl Fn() -> Result<DeviceSpeed> + Send + Sync + 'static) -> Self {
        self.speed = Some(gpu::speed(measure));
        self
    }

    /// What a worker does that finds its node unfit before it has begun. Default [`Unfit::Reallocate`].
    pub fn unfit(mut self, unfit: Unfit) -> Self {
        self.unfit = unfit;
        self
    }

    /// How often a node is measured, 20 s apart, before it is found unfit. Default 3.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// How many workers may leave their nodes within an hour, of all that share the bucket. Who comes later stays, not
    /// ready, until there is room or the node has become fit. Default 60.
    pub fn leaves(mut self, an_hour: usize) -> Self {
        self.leaves = an_hour;
        self
    }

    /// How long a worker stays on an unfit node, not ready, if it cannot see how many have left: the bucket cannot be
    /// reached, or there is none. Default 30 minutes.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What a worker does when the bucket becomes too slow while it works, by the same thresholds. Default
    /// [`Unfit::Warn`].
    ///
    /// The figures are those of the last two minutes: answers of the bucket, which is asked every 20 s, and the real
    /// transfers of 1 MiB or more, if there were five of them, or they took a minute. Every 20 s is looked, and a figure
    /// acts that 15 looks have found short, unless one in between has found it a quarter better than wanted. So does a
    /// bucket that fails more than half of the transfers; one that cannot be reached does after
    /// [`patience`](Self::patience). The worker drains as after SIGTERM, and then leaves. A few transfers at a time do
    /// not fill a link, so thresholds for this should be well below what the link can do.
    pub fn watch(mut self, unfit: Unfit) -> Self {
        self.watch = unfit;
        self
    }
}
