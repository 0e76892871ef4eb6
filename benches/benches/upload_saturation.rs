//! Whether the device waits for uploads: a worker with a fake device of 20 ms per batch of 8, beside it uploads that fill
//! an uplink of 300 Mbit/s, all on the same cores.
//!
//! Files of 64 MB go to Garage in parts, two files at once, through a link that is a process of its own. Windows of 3 s
//! with uploads and without them take turns; how much of the time the device was busy is compared within each pair.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::store::{Content, Key, Outcome, Progress, Provider, Put, S3, Store};
use forebay::{Batching, Error, Job, Pipeline, Result, Worker};
use forebay_benches::{Spread, Window, link, result};
use forebay_models::toy::FakeDevice;
use forebay_tests::{Link, Random, S3_BUCKET, S3_KEYS, S3_REGION, Server};
use tokio::task::JoinSet;
use tokio::time::sleep;

const BATCH: usize = 8;
const BATCH_TIME: Duration = Duration::from_millis(20);
const FETCH: Duration = Duration::from_millis(100);
/// Bits a second of the uplink.
const RATE: u64 = 300_000_000;
const FILE: usize = 64_000_000;
const AT_ONCE: usize = 2;
const PAIRS: usize = 15;
const WINDOW: Duration = Duration::from_secs(3);
/// Until the pipeline is full, or the link is, or neither is any more.
const WARM_UP: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if link::serve(&arguments)? {
        return Ok(());
    }
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let uplink = link::start(server.address(), 0, RATE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(compare(&format!("http://{}", uplink.address)))
}

async fn compare(endpoint: &str) -> Result<()> {
    let telemetry = forebay::telemetry::init()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("output");
    std::fs::write(&file, (0..FILE / 8).flat_map(noise(Random::new(64))).collect::<Vec<u8>>())?;
    let uploads = Uploads { store: open(endpoint, folder.path()).await?, file, progress: Progress::new() };

    let queue = Memory::counting();
    let time = (WARM_UP + WINDOW) * (2 * PAIRS as u32 + 2);
    let jobs = (time.as_secs_f64() / BATCH_TIME.as_secs_f64()) as u64 * BATCH as u64;
    (0..jobs).for_each(|job| queue.push(job.to_string(), job.to_string()));
    let running = tokio::spawn(Worker::new(pipeline()).source(queue).run_once());
    sleep(WARM_UP).await;

    let (mut alone, mut beside, mut link_use) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // In turns, which of the two is first.
        for uploading in [pair % 2 == 0, pair % 2 != 0] {
            let under_way = uploading.then(|| uploads.start());
            sleep(WARM_UP).await;
            let before = (telemetry.snapshot(), uploads.progress.done(), Instant::now());
            sleep(WINDOW).await;
            let busy = Window::between(&before.0, &telemetry.snapshot()).busy;
            if let Some(under_way) = under_way {
                let moved = uploads.progress.done() - before.1;
                link_use.push(Link::floor(moved, RATE) / before.2.elapsed().as_secs_f64());
                beside.push(busy);
                under_way.stop().await?;
            } else {
                alone.push(busy);
            }
        }
    }
    // A queue that is not closed has no end: the worker drains when it is dropped.
    running.abort();
    let ratio = Spread::of_ratios(&beside, &alone);
    let (alone, beside, link_use) = (Spread::of(&alone), Spread::of(&beside), Spread::of(&link_use));
    println!(
        "device busy {alone} without uploads and {beside} beside them: {ratio} times; of the uplink used {link_use}"
    );
    result(serde_json::json!({
        "busy_alone": alone.median,
        "busy_beside": beside.median,
        "ratio": ratio.median,
        "link_use": link_use.median,
    }));
    Ok(())
}

fn pipeline() -> Pipeline<u64, u64> {
    Pipeline::new()
        .io("fetch", 128, fetch)
        .gpu("device", Batching::items(BATCH), || Ok(FakeDevice::new(BATCH_TIME, Duration::ZERO)))
        .cpu("check", 1, |_, output| Ok(output))
}

async fn fetch(_job: Job, number: u64) -> Result<u64> {
    sleep(FETCH).await;
    Ok(number)
}

fn noise(mut random: Random) -> impl FnMut(usize) -> [u8; 8] {
    move |_| random.bits().to_le_bytes()
}

async fn open(endpoint: &str, folder: &Path) -> Result<S3> {
    let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).region(S3_REGION).provider(Provider::Garage);
    store.keys(S3_KEYS.0, S3_KEYS.1).uploads(folder.join("uploads")).open().await
}

/// What is uploaded over and over.
struct Uploads {
    store: S3,
    file: PathBuf,
    progress: Progress,
}

/// Uploads that go on until they are stopped.
struct UnderWay(JoinSet<Result<()>>);

impl Uploads {
    fn start(&self) -> UnderWay {
        let mut tasks = JoinSet::new();
        for number in 0..AT_ONCE {
            let (store, file, progress) = (self.store.clone(), self.file.clone(), self.progress.clone());
            tasks.spawn(async move {
                loop {
                    let (key, content) = (Key::new(format!("output-{number}"))?, Content::file(&file));
                    let sent = store.write(&key, content.counted_in(&progress), Put::Overwrite).await?;
                    assert!(matches!(sent, Outcome::Stored(_)), "nothing forbids it");
                }
            });
        }
        UnderWay(tasks)
    }
}

impl UnderWay {
    async fn stop(mut self) -> Result<()> {
        self.0.abort_all();
        while let Some(ended) = self.0.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(why) if why.is_cancelled() => {}
                Err(why) => return Err(Error::failed(why)),
            }
        }
        Ok(())
    }
}
