//! Every metric's name and unit, and the handles that record them.
//!
//! Names stand here and nowhere else. Waiting and idleness are measured as time. Handles are made once, when a
//! pipeline or worker starts, so install a recorder before ([`init`] does).

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::checkpoint::{Sent, Standing};
use crate::job::Job;
use crate::pipeline::outlook::Pace;
use crate::store::transfer::Backlog;
use crate::verdict::Verdict;

#[cfg(feature = "telemetry")]
mod prometheus;
#[cfg(feature = "telemetry")]
mod recorder;
#[cfg(feature = "telemetry")]
pub use recorder::{Snapshot, Summary, Telemetry, init, init_at, installed};
#[cfg(feature = "telemetry")]
pub use tracing::Level;

/// Jobs settled, by `source` and `verdict`.
pub const JOBS: &str = "forebay_jobs_total";
/// Seconds from receiving a job to settling it, by `source`.
pub const JOB_SECONDS: &str = "forebay_job_seconds";
/// Jobs received and not yet settled.
pub const IN_FLIGHT: &str = "forebay_in_flight";
/// Bytes that jobs hold, as far as the pipeline was told.
pub const HELD_BYTES: &str = "forebay_held_bytes";
/// Seconds a job waited for a stage: for a place in it, and in its queue. By `stage`.
pub const STAGE_WAIT: &str = "forebay_stage_wait_seconds";
/// Seconds a stage worked on a job, by `stage`. For a device stage: the time of the job's batches.
pub const STAGE_RUN: &str = "forebay_stage_run_seconds";
/// Jobs that have entered a stage, by `stage`.
pub const STAGE_ENTERED: &str = "forebay_stage_entered_total";
/// Jobs that have left a stage, by `stage`.
pub const STAGE_LEFT: &str = "forebay_stage_left_total";
/// Items in a batch, by `stage`.
pub const BATCH_ITEMS: &str = "forebay_batch_items";
/// A batch's fill from 0 to 1: of the items or of the weight, whichever is nearer its limit. By `stage`.
pub const BATCH_FILL: &str = "forebay_batch_fill";
/// Seconds a batch ran, by `stage`.
pub const BATCH_SECONDS: &str = "forebay_batch_seconds";
/// Batches for which the device had no memory, by `stage`. They are halved, or run again without another beside them.
pub const BATCH_OUT_OF_MEMORY: &str = "forebay_batch_out_of_memory_total";
/// The size under which batches are kept since the device had no memory for more: the lowest of all keys, in the unit in
/// which batches are cut (weight or items); 0 if there is none. By `stage`.
pub const BATCH_CEILING: &str = "forebay_batch_ceiling";
/// Seconds during which at least one batch was on the device, from when it was begun until it was answered, by `device`. A
/// counter in microseconds.
pub const GPU_BUSY: &str = "forebay_gpu_busy_microseconds_total";
/// Seconds the device thread waited for work, by `device`. A counter in microseconds.
pub const GPU_IDLE: &str = "forebay_gpu_idle_microseconds_total";
/// Bytes that a model keeps on its device, as its stage says; 0 while it is dropped for others. By `stage` and `device`.
pub const MODEL_BYTES: &str = "forebay_model_bytes";
/// How often a model was dropped for another that had work, by `stage` and `device`.
pub const MODEL_EVICTIONS: &str = "forebay_model_evictions_total";
/// Seconds that a model took to load and warm up, by `stage` and `device`; not those after a panic.
pub const MODEL_LOAD: &str = "forebay_model_load_seconds";
/// HTTP requests to pipelines that were answered, by `status`; events and messages of a WebSocket by the status that
/// their end would have had as an answer.
pub const HTTP_REQUESTS: &str = "forebay_http_requests_total";
/// Lease extensions, by `source` and `outcome` (`kept`, `lost`, `cancelled`, `failed`).
pub const LEASE_EXTENSIONS: &str = "forebay_lease_extensions_total";
/// Verdicts that could not be told to a source, by `source`.
pub const SETTLE_FAILURES: &str = "forebay_settle_failures_total";
/// Seconds that the bucket takes to answer a small request: the median of the last minutes.
pub const NODE_LATENCY: &str = "forebay_node_latency_seconds";
/// Bits a second to and from the bucket, of all transfers together, while there are any; by `direction` (`upload`,
/// `download`).
pub const NODE_THROUGHPUT: &str = "forebay_node_bits_per_second";
/// Bytes free on the disk.
pub const NODE_DISK: &str = "forebay_node_disk_free_bytes";
/// Bytes of memory free, within the container's limit.
pub const NODE_MEMORY: &str = "forebay_node_memory_free_bytes";
/// CPUs that the worker may use, within the container's quota.
pub const NODE_CPUS: &str = "forebay_node_cpus";
/// The first number of the version of the cards' driver, before the first job.
pub const NODE_GPU_DRIVER: &str = "forebay_node_gpu_driver";
/// The compute capability of the card that has the least, as in 8.6, before the first job.
pub const NODE_GPU_CAPABILITY: &str = "forebay_node_gpu_capability";
/// Bytes free of the card that has the least, before the first job.
pub const NODE_GPU_MEMORY: &str = "forebay_node_gpu_memory_free_bytes";
/// Operations a second of a matrix product on the device, before the first job.
pub const NODE_GPU_FLOPS: &str = "forebay_node_gpu_operations_per_second";
/// Bytes a second from the host to the device, before the first job.
pub const NODE_GPU_COPY: &str = "forebay_node_gpu_copy_bytes_per_second";
/// Whether a figure of the node is short of what is wanted: 1 or 0, by `figure`.
pub const NODE_SHORT: &str = "forebay_node_short";

/// Whether a card could be read the last time: 1 or 0, by `card`, the number that its driver gives it, which need not be
/// that of a `device`. While it is 0 the other figures of the card are old. All of these come every 10 s, with the
/// feature `nvml` and a driver; a card that does not tell a figure has no such metric.
pub const CARD_UP: &str = "forebay_card_up";
/// Bytes of a card's memory that are in use, by whomever; by `card`.
pub const CARD_MEMORY_USED: &str = "forebay_card_memory_used_bytes";
/// Bytes of a card's memory, by `card`.
pub const CARD_MEMORY_TOTAL: &str = "forebay_card_memory_total_bytes";
/// The temperature of a card's chip in degrees Celsius, by `card`.
pub const CARD_TEMPERATURE: &str = "forebay_card_temperature_celsius";
/// Watts that a card draws, by `card`.
pub const CARD_POWER: &str = "forebay_card_power_watts";
/// Watts that a card may draw, by `card`.
pub const CARD_POWER_LIMIT: &str = "forebay_card_power_limit_watts";
/// The clock of a card's multiprocessors in hertz, by `card`.
pub const CARD_SM_CLOCK: &str = "forebay_card_sm_clock_hertz";
/// The clock of a card's memory in hertz, by `card`.
pub const CARD_MEMORY_CLOCK: &str = "forebay_card_memory_clock_hertz";
/// The share of the time in which anything ran on a card, 0 to 1, by `card`: of the driver's last sample, a second at
/// most.
pub const CARD_UTILIZATION: &str = "forebay_card_utilization";
/// The share of the time in which a card's memory was read or written, likewise.
pub const CARD_MEMORY_UTILIZATION: &str = "forebay_card_memory_utilization";
/// Whether something holds a card's clocks down: 1 or 0, by `card` and `reason` (`idle`, `applications_clocks`,
/// `display_clocks`, `sync_boost`, `sw_power_cap`, `sw_thermal`, `hw_thermal`, `hw_power_brake`, `hw_slowdown`).
pub const CARD_THROTTLED: &str = "forebay_card_throttled";
/// Errors of a card's memory since its driver was loaded, by `card` and `kind` (`corrected`, `uncorrected`).
pub const CARD_ECC_ERRORS: &str = "forebay_card_ecc_errors_total";
/// Errors that the driver has reported of a card since the worker began, by `card` and `xid`, NVIDIA's number for them.
pub const CARD_XID_ERRORS: &str = "forebay_card_xid_errors_total";

/// The meters of one card.
#[cfg(feature = "nvml")]
pub(crate) struct CardMeter {
    card: String,
}

#[cfg(feature = "nvml")]
impl CardMeter {
    pub(crate) fn new(number: usize) -> Self {
        CardMeter { card: number.to_string() }
    }

    pub(crate) fn up(&self, up: bool) {
        self.set(CARD_UP, Some(f64::from(u8::from(up))));
    }

    /// The driver has reported an error.
    pub(crate) fn failed(&self, xid: String) {
        counter!(CARD_XID_ERRORS, "card" => self.card.clone(), "xid" => xid).increment(1);
    }

    /// What is not known stays as it was.
    pub(crate) fn show(&self, card: &crate::node::card::Card) {
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        let watts = |milli: Option<u32>| milli.map(|milli| f64::from(milli) / 1e3);
        let hertz = |mega: Option<u32>| mega.map(|mega| f64::from(mega) * 1e6);
        let share = |percent: Option<u32>| percent.map(|percent| f64::from(percent) / 100.0);
        self.set(CARD_MEMORY_USED, bytes(card.memory_used));
        self.set(CARD_MEMORY_TOTAL, bytes(card.memory_total));
        self.set(CARD_TEMPERATURE, card.temperature.map(f64::from));
        self.set(CARD_POWER, watts(card.power));
        self.set(CARD_POWER_LIMIT, watts(card.power_limit));
        self.set(CARD_SM_CLOCK, hertz(card.sm_clock));
        self.set(CARD_MEMORY_CLOCK, hertz(card.memory_clock));
        self.set(CARD_UTILIZATION, share(card.utilization));
        self.set(CARD_MEMORY_UTILIZATION, share(card.memory_utilization));
        for (reason, throttled) in card.throttled.iter().flatten() {
            let gauge = gauge!(CARD_THROTTLED, "card" => self.card.clone(), "reason" => *reason);
            gauge.set(f64::from(u8::from(*throttled)));
        }
        for (kind, errors) in [("corrected", card.ecc_corrected), ("uncorrected", card.ecc_uncorrected)] {
            if let Some(errors) = errors {
                counter!(CARD_ECC_ERRORS, "card" => self.card.clone(), "kind" => kind).absolute(errors);
            }
        }
    }

    fn set(&self, name: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            gauge!(name, "card" => self.card.clone()).set(value);
        }
    }
}

/// Uploads that a spool has and the store has not.
pub const SPOOL_UPLOADS: &str = "forebay_spool_uploads";
/// Bytes of these uploads.
pub const SPOOL_BYTES: &str = "forebay_spool_bytes";
/// Seconds that the oldest of them has waited, as of the last change.
pub const SPOOL_OLDEST: &str = "forebay_spool_oldest_seconds";
/// Bytes a second that a spool has uploaded while it had anything to upload.
pub const SPOOL_THROUGHPUT: &str = "forebay_spool_bytes_per_second";
/// Tries of uploads from a spool that have failed.
pub const SPOOL_FAILURES: &str = "forebay_spool_failures_total";
/// Uploads from a spool that the store will never take.
pub const SPOOL_REJECTED: &str = "forebay_spool_rejected";

/// The meters of the spools of this process.
pub(crate) struct SpoolMeter {
    uploads: Gauge,
    bytes: Gauge,
    oldest: Gauge,
    throughput: Gauge,
    rejected: Gauge,
    failures: Counter,
}

impl SpoolMeter {
    pub(crate) fn new() -> Self {
        SpoolMeter {
            uploads: gauge!(SPOOL_UPLOADS),
            bytes: gauge!(SPOOL_BYTES),
            oldest: gauge!(SPOOL_OLDEST),
            throughput: gauge!(SPOOL_THROUGHPUT),
            rejected: gauge!(SPOOL_REJECTED),
            failures: counter!(SPOOL_FAILURES),
        }
    }

    pub(crate) fn show(&self, backlog: &Backlog) {
        self.uploads.set(backlog.uploads as f64);
        self.bytes.set(backlog.bytes as f64);
        self.oldest.set(backlog.oldest.as_secs_f64());
        self.throughput.set(backlog.throughput);
        self.rejected.set(backlog.rejected as f64);
    }

    pub(crate) fn failed(&self) {
        self.failures.increment(1);
    }
}

/// Bytes that are there of the files that a worker fetches before its first job ([`Assets`](crate::places::Assets)).
pub const ASSET_BYTES: &str = "forebay_asset_bytes";
/// Bytes that these files have, as far as they have been begun.
pub const ASSET_TOTAL_BYTES: &str = "forebay_asset_total_bytes";

/// Bytes of snapshots in memory that are not durable yet. This and the next two are of the job that was looked at last;
/// [`Workplace::standing`](crate::checkpoint::Workplace::standing) is of one.
pub const CHECKPOINT_BACKLOG: &str = "forebay_checkpoint_backlog_bytes";
/// Seconds since the newest durable state was taken, or since the job came.
pub const CHECKPOINT_AGE: &str = "forebay_checkpoint_age_seconds";
/// Bytes a second at which the last state was sent.
pub const CHECKPOINT_RATE: &str = "forebay_checkpoint_bytes_per_second";
/// Bytes that states have been sent in.
pub const CHECKPOINT_BYTES: &str = "forebay_checkpoint_bytes_total";
/// Saves by `outcome`: `saved`, `failed`, or `skipped` where a newer snapshot came before it was its turn.
pub const CHECKPOINTS: &str = "forebay_checkpoints_total";
/// Seconds from a save's begin until it was durable.
pub const CHECKPOINT_SECONDS: &str = "forebay_checkpoint_seconds";
/// Seconds that the device stood still for a snapshot.
pub const CHECKPOINT_BLOCKED: &str = "forebay_checkpoint_blocked_seconds";

/// The meters of the states that this process saves.
pub(crate) struct SaveMeter {
    backlog: Gauge,
    age: Gauge,
    rate: Gauge,
    bytes: Counter,
    outcomes: [Counter; 3],
    seconds: Histogram,
    blocked: Histogram,
}

impl SaveMeter {
    pub(crate) fn new() -> Self {
        SaveMeter {
            backlog: gauge!(CHECKPOINT_BACKLOG),
            age: gauge!(CHECKPOINT_AGE),
            rate: gauge!(CHECKPOINT_RATE),
            bytes: counter!(CHECKPOINT_BYTES),
            outcomes: ["saved", "failed", "skipped"].map(|outcome| counter!(CHECKPOINTS, "outcome" => outcome)),
            seconds: histogram!(CHECKPOINT_SECONDS),
            blocked: histogram!(CHECKPOINT_BLOCKED),
        }
    }

    pub(crate) fn show(&self, standing: &Standing) {
        self.backlog.set(standing.backlog as f64);
        self.age.set(standing.age.as_secs_f64());
        self.rate.set(standing.rate);
    }

    pub(crate) fn blocked(&self, time: Duration) {
        self.blocked.record(time);
    }

    pub(crate) fn saved(&self, sent: &Sent) {
        self.bytes.increment(sent.bytes);
        self.seconds.record(sent.took);
        self.outcomes[0].increment(1);
    }

    pub(crate) fn failed(&self) {
        self.outcomes[1].increment(1);
    }

    pub(crate) fn skipped(&self) {
        self.outcomes[2].increment(1);
    }
}

/// The meters of one stage.
#[derive(Clone)]
pub(crate) struct StageMeter {
    stage: &'static str,
    pace: Arc<Pace>,
    wait: Histogram,
    run: Histogram,
    entered: Counter,
    pub(crate) left: Counter,
}

impl StageMeter {
    pub(crate) fn new(stage: &'static str) -> Self {
        StageMeter {
            stage,
            pace: Arc::default(),
            wait: histogram!(STAGE_WAIT, "stage" => stage),
            run: histogram!(STAGE_RUN, "stage" => stage),
            entered: counter!(STAGE_ENTERED, "stage" => stage),
            left: counter!(STAGE_LEFT, "stage" => stage),
        }
    }

    /// The job has a place in the stage.
    pub(crate) fn enters(&self, job: &Job) {
        job.enter(self.stage);
        self.entered.increment(1);
    }

    /// The stage has worked on the job, which waited for it first.
    pub(crate) fn ran(&self, job: &Job, waited: Duration, worked: Duration) {
        self.wait.record(waited);
        self.run.record(worked);
        self.pace.ran(worked);
        job.timed(self.stage, waited, worked);
    }

    /// How long the stage works on a job.
    pub(crate) fn pace(&self) -> Arc<Pace> {
        self.pace.clone()
    }
}

/// How far the files are that have to be there before the first job.
pub(crate) struct AssetMeter {
    done: Gauge,
    total: Gauge,
}

impl AssetMeter {
    pub(crate) fn new() -> Self {
        AssetMeter { done: gauge!(ASSET_BYTES), total: gauge!(ASSET_TOTAL_BYTES) }
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        self.done.set(done as f64);
        self.total.set(total as f64);
    }
}

/// The meters of the batches of one device stage.
pub(crate) struct BatchMeter {
    items: Histogram,
    fill: Histogram,
    seconds: Histogram,
}

impl BatchMeter {
    pub(crate) fn new(stage: &'static str) -> Self {
        BatchMeter {
            items: histogram!(BATCH_ITEMS, "stage" => stage),
            fill: histogram!(BATCH_FILL, "stage" => stage),
            seconds: histogram!(BATCH_SECONDS, "stage" => stage),
        }
    }

    pub(crate) fn ran(&self, items: usize, fill: f64, time: Duration) {
        self.items.record(items as f64);
        self.fill.record(fill);
        self.seconds.record(time);
    }
}

/// The meters of the device's memory, as the batches of one stage find it.
pub(crate) struct CeilingMeter {
    out_of_memory: Counter,
    ceiling: Gauge,
}

impl CeilingMeter {
    pub(crate) fn new(stage: &'static str) -> Self {
        CeilingMeter {
            out_of_memory: counter!(BATCH_OUT_OF_MEMORY, "stage" => stage),
            ceiling: gauge!(BATCH_CEILING, "stage" => stage),
        }
    }

    /// A batch of several items ran out of memory.
    pub(crate) fn ran_out(&self) {
        self.out_of_memory.increment(1);
    }

    /// The lowest ceiling now.
    pub(crate) fn show(&self, lowest: Option<usize>) {
        self.ceiling.set(lowest.unwrap_or(0) as f64);
    }
}

/// The meters of one device thread.
pub(crate) struct DeviceMeter {
    busy: Counter,
    idle: Counter,
}

impl DeviceMeter {
    pub(crate) fn new(device: usize) -> Self {
        let device = device.to_string();
        DeviceMeter {
            busy: counter!(GPU_BUSY, "device" => device.clone()),
            idle: counter!(GPU_IDLE, "device" => device),
        }
    }

    pub(crate) fn busy(&self, time: Duration) {
        self.busy.increment(time.as_micros() as u64);
    }

    pub(crate) fn idle(&self, time: Duration) {
        self.idle.increment(time.as_micros() as u64);
    }
}

/// The meters of one model's place on its device.
pub(crate) struct ModelMeter {
    bytes: Gauge,
    evictions: Counter,
    load: Histogram,
}

impl ModelMeter {
    pub(crate) fn new(stage: &'static str, device: usize) -> Self {
        let device = device.to_string();
        ModelMeter {
            bytes: gauge!(MODEL_BYTES, "stage" => stage, "device" => device.clone()),
            evictions: counter!(MODEL_EVICTIONS, "stage" => stage, "device" => device.clone()),
            load: histogram!(MODEL_LOAD, "stage" => stage, "device" => device),
        }
    }

    pub(crate) fn loaded(&self, bytes: u64, took: Duration) {
        self.bytes.set(bytes as f64);
        self.load.record(took);
    }

    pub(crate) fn gone(&self) {
        self.bytes.set(0.0);
    }

    pub(crate) fn evicted(&self) {
        self.evictions.increment(1);
    }
}

/// The meter of the HTTP server.
#[cfg(feature = "http")]
pub(crate) struct HttpMeter;

#[cfg(feature = "http")]
impl HttpMeter {
    pub(crate) fn new() -> Self {
        HttpMeter
    }

    pub(crate) fn answered(&self, status: axum::http::StatusCode) {
        counter!(HTTP_REQUESTS, "status" => status.as_str().to_owned()).increment(1);
    }
}

/// The meters of one source of a worker.
pub(crate) struct SourceMeter {
    verdicts: [Counter; 3],
    seconds: Histogram,
    extensions: [Counter; 4],
    pub(crate) settle_failures: Counter,
    pub(crate) in_flight: Gauge,
}

impl SourceMeter {
    pub(crate) fn new(source: &'static str) -> Self {
        SourceMeter {
            verdicts: ["done", "retry", "reject"]
                .map(|verdict| counter!(JOBS, "source" => source, "verdict" => verdict)),
            seconds: histogram!(JOB_SECONDS, "source" => source),
            extensions: ["kept", "lost", "cancelled", "failed"]
                .map(|outcome| counter!(LEASE_EXTENSIONS, "source" => source, "outcome" => outcome)),
            settle_failures: counter!(SETTLE_FAILURES, "source" => source),
            in_flight: gauge!(IN_FLIGHT, "source" => source),
        }
    }

    pub(crate) fn settled(&self, verdict: &Verdict, time: Duration) {
        let counter = match verdict {
            Verdict::Done(_) => 0,
            Verdict::Retry { .. } => 1,
            Verdict::Reject { .. } => 2,
        };
        self.verdicts[counter].increment(1);
        self.seconds.record(time);
    }

    pub(crate) fn extended(&self, outcome: ExtensionOutcome) {
        self.extensions[outcome as usize].increment(1);
    }
}

/// How a lease extension ended, as the metric's label.
#[derive(Clone, Copy)]
pub(crate) enum ExtensionOutcome {
    Kept,
    Lost,
    Cancelled,
    Failed,
}

/// The meters of the node.
#[cfg(feature = "node")]
pub(crate) struct NodeMeter;

#[cfg(feature = "node")]
impl NodeMeter {
    /// What is not known stays as it was.
    pub(crate) fn show(figures: &crate::node::Figures) {
        let mbit = |name, mbit: Option<f64>| {
            if let Some(mbit) = mbit {
                gauge!(NODE_THROUGHPUT, "direction" => name).set(mbit * 1e6);
            }
        };
        mbit("upload", figures.upload);
        mbit("download", figures.download);
        let set = |name, value: Option<f64>| {
            if let Some(value) = value {
                gauge!(name).set(value);
            }
        };
        set(NODE_LATENCY, figures.latency.map(|latency| latency.as_secs_f64()));
        set(NODE_DISK, figures.disk.map(|bytes| bytes as f64));
        set(NODE_MEMORY, figures.memory.map(|bytes| bytes as f64));
        set(NODE_CPUS, figures.cpus);
        let branch = figures.gpu_driver.as_deref().and_then(crate::node::gpu::branch);
        set(NODE_GPU_DRIVER, branch.map(f64::from));
        let capability = |(major, minor)| f64::from(major) + f64::from(minor) / 10.0;
        set(NODE_GPU_CAPABILITY, figures.gpu_capability.map(capability));
        set(NODE_GPU_MEMORY, figures.gpu_memory.map(|bytes| bytes as f64));
        set(NODE_GPU_FLOPS, figures.gpu_tflops.map(|tflops| tflops * 1e12));
        set(NODE_GPU_COPY, figures.gpu_copy.map(|rate| rate * 1e9));
    }

    pub(crate) fn short(figure: &'static str, short: bool) {
        gauge!(NODE_SHORT, "figure" => figure).set(f64::from(u8::from(short)));
    }
}
