//! Two hours of molecular dynamics that is saved every 10 s: whether memory, tasks, threads, files and objects stay as
//! many as they were.
//!
//! One job of 4,000 atoms with a trajectory that grows, on one device thread; its states go to moto, which has conditional
//! writes, so that garbage is collected. Once a minute everything is counted: the process's resident memory, its threads
//! and open files, the runtime's tasks, the files in its scratch folder, and the bucket's objects. The trajectory is what
//! is meant to grow, so the objects that it is in are counted by themselves. A tenth of the samples is left out as the
//! start; of the rest, the first third is compared with the last.
//!
//! `FOREBAY_SOAK_MINUTES` sets how long it takes (120).

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use forebay::checkpoint::Saving;
use forebay::store::{S3, Store};
use forebay::telemetry::CHECKPOINTS;
use forebay::{Classify, Error, Job, Pipeline, Result, Stepping};
use forebay_benches::{resident_mib, result};
use forebay_models::Device;
use forebay_models::md::{Dynamics, Simulation};
use forebay_tests::{S3_BUCKET, S3_KEYS, S3_REGION, Server};
use mimalloc::MiMalloc;
use tokio::runtime::Handle;
use tokio::time::sleep;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const MINUTES: usize = 120;
const EVERY: Duration = Duration::from_secs(10);
const SAMPLE: Duration = Duration::from_secs(60);
/// A save takes 10 s, so the second look already finds what the first has missed.
const LOOKS: usize = 5;
/// More than two hours can take.
const STEPS: u64 = 100_000_000;

/// What is counted, and by how much of itself the last third may be more than the first. Buffers of the allocator and
/// connections that happen to be open come and go.
const COUNTED: [(&str, f64); 6] = [
    ("resident MiB", 0.10),
    ("tasks", 0.0),
    ("threads", 0.0),
    ("open files", 0.0),
    ("files in scratch", 0.0),
    ("objects but the trajectory's", 0.0),
];

fn main() -> Result<()> {
    let server = Server::start("moto").ok_or_else(|| Error::invalid("this needs moto, and may not start it"))?;
    let endpoint = format!("http://{}", server.address());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(soak(&endpoint))
}

async fn soak(endpoint: &str) -> Result<()> {
    let minutes = std::env::var("FOREBAY_SOAK_MINUTES").ok().map_or(Ok(MINUTES), |minutes| minutes.parse());
    let telemetry = forebay::telemetry::init()?;
    let folder = tempfile::tempdir()?;
    let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).region(S3_REGION);
    let store = store.keys(S3_KEYS.0, S3_KEYS.1).uploads(folder.path().join("uploads")).open().await?;
    let saving = Saving::to(store.clone()).every(EVERY).scratch(folder.path().join("scratch"));
    let pipeline =
        Pipeline::new().gpu_steps("md", Stepping::jobs(1).saving(saving), || Ok(Dynamics::new(&Device::Cpu)));
    let pipeline = pipeline.start().await?;
    let simulation = Simulation {
        atoms: 4000,
        steps: STEPS,
        trajectory_every: Some(1000),
        sample_every: 1000,
        ..Simulation::default()
    };
    let (job, begun) = (Job::new("soak"), Instant::now());
    let running = tokio::spawn(async move { pipeline.call_as(&job, simulation).await.map(drop) });
    let mut samples = Vec::new();
    for minute in 1..=minutes.or_invalid()? {
        sleep((SAMPLE * minute as u32).saturating_sub(begun.elapsed())).await;
        if running.is_finished() {
            running.await.map_err(Error::failed)??;
            return Err(Error::failed("the job ended by itself"));
        }
        let sample = Sample::take(&store, folder.path()).await?;
        println!("minute {minute}: {} saves, {sample}", telemetry.snapshot().counter(CHECKPOINTS, &[]));
        samples.push(sample);
    }
    running.abort();
    judge(&samples, telemetry.snapshot().counter(CHECKPOINTS, &[]))
}

#[derive(Clone, Copy)]
struct Sample {
    counts: [f64; COUNTED.len()],
    trajectory: u64,
    bytes: u64,
}

impl Sample {
    async fn take(store: &dyn Store, folder: &Path) -> Result<Sample> {
        for _ in 0..LOOKS {
            if let Some(sample) = Sample::look(store, folder).await? {
                return Ok(sample);
            }
        }
        Err(Error::failed("the newest manifest was gone at each of several looks"))
    }

    /// `None` where the newest manifest was replaced and removed while it was looked for.
    async fn look(store: &dyn Store, folder: &Path) -> Result<Option<Sample>> {
        let objects = store.list_all("").await?;
        let newest =
            objects.iter().filter(|meta| meta.key.as_str().contains("/states/")).max_by_key(|meta| meta.modified);
        // What the trajectory is in: the newest manifest says it.
        let trajectory = match newest {
            None => 0,
            Some(newest) => match store.get(&newest.key).await? {
                None => return Ok(None),
                Some(manifest) => segments(&manifest.bytes)?,
            },
        };
        let tasks = Handle::current().metrics().num_alive_tasks();
        let counted = [
            count(Path::new("/proc/self/task"))?,
            count(Path::new("/proc/self/fd"))?,
            files(&folder.join("scratch"))?,
            objects.len() - trajectory.min(objects.len()),
        ];
        let [threads, open, files, others] = counted.map(|count| count as f64);
        Ok(Some(Sample {
            counts: [resident_mib(), tasks as f64, threads, open, files, others],
            trajectory: trajectory as u64,
            bytes: objects.iter().map(|meta| meta.len).sum(),
        }))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((what, _), count) in COUNTED.iter().zip(self.counts) {
            write!(f, "{count:.0} {what}, ")?;
        }
        write!(f, "{} of the trajectory, {} bytes in all", self.trajectory, self.bytes)
    }
}

/// How many objects a manifest's growing parts are in.
fn segments(manifest: &[u8]) -> Result<usize> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest)?;
    let parts = manifest["parts"].as_array().into_iter().flatten().filter(|part| part["kind"] == "grows");
    let chunks = parts.flat_map(|part| part["chunks"].as_array().into_iter().flatten());
    let objects: std::collections::HashSet<_> = chunks.filter_map(|chunk| chunk["object"].as_str()).collect();
    Ok(objects.len())
}

fn count(folder: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}

fn files(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { self::files(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn judge(samples: &[Sample], saves: u64) -> Result<()> {
    let steady = &samples[samples.len() / 10..];
    let third = steady.len() / 3;
    if third == 0 {
        return Err(Error::invalid("that is too short to compare anything"));
    }
    let (first, last) = (&steady[..third], &steady[steady.len() - third..]);
    let median = |samples: &[Sample], at: usize| {
        let mut counts: Vec<f64> = samples.iter().map(|sample| sample.counts[at]).collect();
        counts.sort_by(f64::total_cmp);
        counts[counts.len() / 2]
    };
    let mut passed = true;
    let mut ratios = serde_json::Map::new();
    for (at, (what, more)) in COUNTED.into_iter().enumerate() {
        let (before, after) = (median(first, at), median(last, at));
        let flat = after <= before * (1.0 + more);
        passed &= flat;
        println!(
            "{what}: {before:.1} in the first third, {after:.1} in the last{}",
            if flat { "" } else { ": IT GROWS" }
        );
        ratios.insert(what.to_owned(), (after / before.max(1.0)).into());
    }
    result(serde_json::json!({ "minutes": samples.len(), "saves": saves, "ratios": ratios, "passed": passed }));
    match passed {
        true => Ok(()),
        false => Err(Error::failed("something grows that should not")),
    }
}
