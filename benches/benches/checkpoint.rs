//! What saving costs a long job: molecular dynamics with a state of 100 MB that is saved every 30 s, through an uplink of
//! 35 Mbit/s, beside the same without saving; and how many bytes a file of 1 GB costs that grows over 200 saves.
//!
//! 1. Minutes with saving and minutes without take turns, on one device thread. A minute with saving begins with the first
//!    save, so that it has two of them and 47 s of uploads (100 MB take 23.4 s). Garage and the link are processes of
//!    their own, on the same cores. All of the state but the simulation's own 1.4 MB changes with each save.
//! 2. Random bytes are appended to one file, 5 MB before each save, to a store in a folder.
//!
//! `FOREBAY_CHECKPOINT_BLOCKS` sets how many pairs of minutes there are (10).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay::checkpoint::{Checkpoints, Saving, Snapshot, Workplace};
use forebay::store::{Folder, Key, Provider, S3};
use forebay::telemetry::CHECKPOINT_BLOCKED;
use forebay::{Classify, Error, Job, Pipeline, Progress, Result, Stepper, Stepping};
use forebay_benches::{Spread, link, result};
use forebay_models::Device;
use forebay_models::md::{Frozen, Run, Simulation};
use forebay_tests::{Random, S3_BUCKET, S3_KEYS, S3_REGION, Server};
use mimalloc::MiMalloc;
use tokio::time::sleep;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bits a second of the uplink.
const RATE: u64 = 35_000_000;
const STATE: usize = 100_000_000;
const EVERY: Duration = Duration::from_secs(30);
const BLOCK: Duration = Duration::from_secs(60);
/// Until a simulation has begun.
const WARM_UP: Duration = Duration::from_secs(5);
const BLOCKS: usize = 10;
const ATOMS: u64 = 20_000;
/// Steps of time in one step of the stepper.
const STRIDE: u64 = 5;

const GROWN: usize = 1_000_000_000;
const SAVES: usize = 200;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if link::serve(&arguments)? {
        return Ok(());
    }
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let uplink = link::start(server.address(), 40, RATE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let telemetry = forebay::telemetry::init()?;
        let bytes_ratio = grow().await?;
        println!("a file of {GROWN} bytes, grown in {SAVES} saves: {bytes_ratio:.4} times its bytes were sent");
        let rates = compare(&format!("http://{}", uplink.address)).await?;
        let blocked = telemetry.snapshot().summary(CHECKPOINT_BLOCKED, &[]);
        println!("steps a second: {} without saving, {} with; ratio {}", rates.alone, rates.saving, rates.ratio);
        println!("the device stood still for a snapshot: {blocked:?}");
        result(serde_json::json!({
            "step_rate_ratio": rates.ratio.median,
            "bytes_ratio": bytes_ratio,
            "saves": rates.saves,
        }));
        Ok(())
    })
}

struct Rates {
    alone: Spread,
    saving: Spread,
    ratio: Spread,
    saves: u64,
}

async fn compare(endpoint: &str) -> Result<Rates> {
    let folder = tempfile::tempdir()?;
    let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).region(S3_REGION).provider(Provider::Garage);
    let store = store.keys(S3_KEYS.0, S3_KEYS.1).uploads(folder.path().join("uploads")).open().await?;
    let blocks = std::env::var("FOREBAY_CHECKPOINT_BLOCKS").ok().map_or(Ok(BLOCKS), |blocks| blocks.parse());
    let (mut alone, mut saving, mut saves) = (Vec::new(), Vec::new(), 0);
    for block in 0..blocks.or_invalid()? {
        // In turns, which of the two is first.
        for saved in [block % 2 == 0, block % 2 != 0] {
            let counts = Arc::new(Counts::default());
            let stepping = match saved {
                true => Stepping::jobs(1).saving(Saving::to(store.clone()).every(EVERY).scratch(folder.path())),
                false => Stepping::jobs(1),
            };
            let stepper = counts.clone();
            let pipeline = Pipeline::new().gpu_steps("md", stepping, move || Ok(Heavy(stepper.clone())));
            let running = Arc::new(pipeline.start().await?);
            let (walker, job) = (running.clone(), Job::new(format!("block-{block}")));
            let job = tokio::spawn(async move { walker.call_as(&job, ()).await });
            sleep(if saved { EVERY } else { WARM_UP }).await;
            let (before, begun) = (counts.steps.load(Relaxed), Instant::now());
            sleep(BLOCK).await;
            let rate = (counts.steps.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
            if job.is_finished() {
                job.await.map_err(Error::failed)??;
                return Err(Error::failed("the job ended by itself"));
            }
            job.abort();
            let rates = if saved { &mut saving } else { &mut alone };
            rates.push(rate);
            saves += counts.saves.load(Relaxed);
            println!("block {block}: {rate:.1} steps/s {}", if saved { "with saving" } else { "without" });
        }
    }
    let ratio = Spread::of_ratios(&saving, &alone);
    Ok(Rates { alone: Spread::of(&alone), saving: Spread::of(&saving), ratio, saves })
}

#[derive(Default)]
struct Counts {
    steps: AtomicU64,
    saves: AtomicU64,
}

/// Molecular dynamics with ballast: the state of a larger simulation at the speed of a smaller one.
struct Heavy(Arc<Counts>);

struct Loaded {
    run: Run,
    ballast: Vec<u8>,
}

impl Stepper for Heavy {
    type Spec = ();
    type State = Loaded;
    type Output = ();
    const FORMAT: &'static str = "heavy 1";

    fn begin(&mut self, (): &(), _: &Workplace) -> Result<Loaded> {
        let simulation = Simulation { atoms: ATOMS, equilibrate: 0, steps: 1_000_000_000, ..Simulation::default() };
        let run = Run::start(&simulation, &Device::Cpu, Path::new(""))?;
        let mut random = Random::new(1);
        let ballast = (0..(STATE - 72 * ATOMS as usize) / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
        Ok(Loaded { run, ballast })
    }

    fn step(&mut self, states: &mut [&mut Loaded]) -> Result<Vec<Progress>> {
        for state in states.iter_mut() {
            for _ in 0..STRIDE {
                state.run.advance()?;
                self.0.steps.fetch_add(1, Relaxed);
            }
        }
        Ok(vec![Progress::some(); states.len()])
    }

    fn finish(&mut self, _: Loaded) -> Result<()> {
        Ok(())
    }

    fn save(&mut self, state: &mut Loaded) -> Result<Snapshot> {
        let saves = self.0.saves.fetch_add(1, Relaxed);
        // No chunk is what it was.
        state.ballast.chunks_mut(4096).for_each(|page| page[0] ^= saves as u8 | 1);
        let Frozen { positions, velocities, .. } = state.run.freeze()?;
        let bytes = |values: Vec<f64>| move || Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        let snapshot = Snapshot::new().later("positions", bytes(positions)).later("velocities", bytes(velocities));
        Ok(snapshot.bytes("ballast", state.ballast.clone()))
    }
}

/// Bytes sent of a file that grows, by its length.
async fn grow() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let store = Arc::new(Folder::open(folder.path().join("store"))?);
    let place = Workplace::new(&Job::new("grows"), Some(folder.path()));
    let mut checkpoints = Checkpoints::open(store, &Key::new("state")?, &place, "grown 1").await?;
    let path = place.folder()?.join("trajectory");
    let (mut random, mut sent) = (Random::new(2), 0);
    for _ in 0..SAVES {
        let more: Vec<u8> = (0..GROWN / SAVES / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(&more)?;
        sent += checkpoints.save(Snapshot::new().grows("trajectory")).await?.bytes;
        checkpoints.collect_garbage().await;
    }
    Ok(sent as f64 / GROWN as f64)
}
