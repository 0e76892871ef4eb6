//! Whether the device waits: jobs behind a slow link, a fake device of 20 ms per batch of 8, and no tuning.
//!
//! An I/O stage takes a log-normal time (median 100 ms, 99th percentile 800 ms) before each job's turn on the device.
//! The whole worker runs them at its default limits; windows of 2 s are judged by their medians: how much of the time
//! the device was busy, how full its batches were, and jobs a second as a share of what full batches without a pause
//! would give. Beside it, in the same run: one job at a time.

use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::{Batching, Job, Pipeline, Result, Worker};
use forebay_benches::{Random, Spread, Window, result};
use forebay_models::toy::FakeDevice;
use tokio::time::sleep;

const BATCH: usize = 8;
const BATCH_TIME: Duration = Duration::from_millis(20);
const IDEAL: f64 = BATCH as f64 / 0.020;
const WINDOW: Duration = Duration::from_secs(2);
const WINDOWS: usize = 11;
/// Until the pipeline is full.
const WARM_UP: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    let telemetry = forebay::telemetry::init()?;
    let queue = Memory::counting();
    let jobs = (IDEAL * (WARM_UP + WINDOW * (WINDOWS as u32 + 1)).as_secs_f64()) as u64;
    (0..jobs).for_each(|job| queue.push(job.to_string(), job.to_string()));
    queue.close();
    let worker = Worker::new(pipeline()).source(queue);
    println!("{}; in flight: the stages' places", pipeline());
    let running = tokio::spawn(worker.run_once());

    sleep(WARM_UP).await;
    let (mut busy, mut fill, mut of_ideal) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = (telemetry.snapshot(), Instant::now());
    for _ in 0..WINDOWS {
        sleep(WINDOW).await;
        let after = (telemetry.snapshot(), Instant::now());
        let window = Window::between(&before.0, &after.0);
        busy.push(window.busy);
        fill.push(window.items / window.batches / BATCH as f64);
        of_ideal.push(window.items / (after.1 - before.1).as_secs_f64() / IDEAL);
        before = after;
    }
    let report = running.await.expect("the worker does not panic")?;
    assert_eq!(report.done, jobs, "every job is done once");

    let sequential = one_at_a_time().await;
    let (busy, fill, of_ideal) = (Spread::of(&busy), Spread::of(&fill), Spread::of(&of_ideal));
    let ratio = of_ideal.median * IDEAL / sequential;
    println!("device busy {busy}, mean fill {fill}, of the full-batch ideal ({IDEAL} jobs/s) {of_ideal}");
    println!("one job at a time: {sequential:.1} jobs/s; the worker does {ratio:.0} times as many");
    result(serde_json::json!({
        "busy": busy.median,
        "fill": fill.median,
        "of_ideal": of_ideal.median,
        "sequential_ratio": ratio,
    }));
    Ok(())
}

fn pipeline() -> Pipeline<u64, u64> {
    Pipeline::new()
        .io("fetch", 128, fetch)
        .gpu("device", Batching::items(BATCH), || Ok(FakeDevice::new(BATCH_TIME, Duration::ZERO)))
        .cpu("check", 1, |_, output| Ok(output))
}

/// A download: the same job takes the same time in each run.
async fn fetch(_job: Job, number: u64) -> Result<u64> {
    sleep(latency(number)).await;
    Ok(number)
}

fn latency(number: u64) -> Duration {
    // The 99th percentile of the normal distribution lies 2.326 deviations above its middle.
    let deviation = 8f64.ln() / 2.326;
    let mut random = Random::new(number + 1);
    // The first numbers of neighbouring seeds are alike.
    for _ in 0..4 {
        random.unit();
    }
    Duration::from_secs_f64(0.1 * (deviation * random.normal()).exp())
}

/// The plain loop: fetch, run, next. Jobs a second.
async fn one_at_a_time() -> f64 {
    const JOBS: u64 = 60;
    let start = Instant::now();
    for number in 0..JOBS {
        sleep(latency(number)).await;
        sleep(BATCH_TIME).await;
    }
    JOBS as f64 / start.elapsed().as_secs_f64()
}
