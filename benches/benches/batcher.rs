//! How well the learned linger does beside every fixed one, on a fake device of 5 ms per batch of up to 32.
//!
//! 1. No pause between calls: the median time of a lone caller, and calls a second of 32 and 128 callers.
//! 2. 1, 8, 32 and 128 callers that pause 0 to 1, 0 to 2 or 0 to 4 ms between calls: calls a second, beside the
//!    best fixed linger of a sweep in the same run.
//! 3. Open loop, Poisson arrivals at 50 % and 80 % of capacity: the 99th percentile of the time from arrival to
//!    answer, beside the best fixed linger's.
//!
//! Each cell sweeps the fixed lingers first, then measures the learned one (after 4 s of learning) and the best two
//! of the sweep in interleaved blocks; ratios are medians over paired blocks, with their quartiles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::{Batching, Pipeline, Result, Running};
use forebay_benches::{Pacer, Random, Spread, quantile, result};
use forebay_models::toy::FakeDevice;
use tokio::time::sleep;

const BATCH: usize = 32;
const BATCH_TIME: Duration = Duration::from_millis(5);
const CAPACITY: f64 = BATCH as f64 / 0.005;
/// Fixed lingers, in microseconds.
const FIXED: [u64; 9] = [0, 250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000];
const SWEEPS: usize = 3;
const BLOCKS: usize = 11;
const LEARNING: Duration = Duration::from_secs(4);
const SETTLE: Duration = Duration::from_millis(100);
const BLOCK: Duration = Duration::from_millis(400);
const OPEN_BLOCK: Duration = Duration::from_millis(1_200);

type Device = Arc<Running<u64, u64>>;

/// The devices under comparison: one that learns, and one for each fixed linger.
struct Field {
    learned: Device,
    fixed: Vec<Device>,
    pacer: Pacer,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(compare())
}

async fn compare() -> Result<()> {
    let mut field = Field { learned: device(None).await?, fixed: Vec::new(), pacer: Pacer::new() };
    for linger in FIXED {
        field.fixed.push(device(Some(Duration::from_micros(linger))).await?);
    }
    let c1 = no_pause(&field, 1).await.0;
    let c32 = no_pause(&field, 32).await.1;
    let c128 = no_pause(&field, 128).await.1;

    let mut worst = f64::INFINITY;
    for callers in [1, 8, 32, 128] {
        for pause in [1, 2, 4] {
            let ratio = closed(&field, callers, Duration::from_millis(pause)).await;
            worst = worst.min(ratio.median);
        }
    }
    let half = open(&field, 0.5).await;
    let most = open(&field, 0.8).await;
    result(serde_json::json!({
        "c1_p50_ms": c1,
        "c32_per_s": c32,
        "c128_per_s": c128,
        "worst_of_best": worst,
        "open_50_p99_ratio": half.median,
        "open_80_p99_ratio": most.median,
    }));
    Ok(())
}

async fn device(linger: Option<Duration>) -> Result<Device> {
    let batching = Batching::items(BATCH).places(4 * 128);
    let batching = linger.into_iter().fold(batching, Batching::linger);
    let model = || Ok(FakeDevice::new(BATCH_TIME, Duration::ZERO));
    Ok(Arc::new(Pipeline::new().gpu("device", batching, model).start().await?))
}

/// Callers that call, pause and call again, for one block: calls a second, and their median time in milliseconds.
async fn block(
    device: &Device,
    pacer: &Pacer,
    callers: usize,
    pause: Duration,
    seed: u64,
    time: Duration,
) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let work = |caller: usize| {
        let (device, pacer, stop, calls) = (device.clone(), pacer.clone(), stop.clone(), calls.clone());
        let mut random = Random::new(seed * 1000 + caller as u64);
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let input = caller as u64;
                assert_eq!(device.call(input).await.unwrap_or_default(), FakeDevice::output(input));
                times.push(start.elapsed().as_secs_f64() * 1e3);
                calls.fetch_add(1, Ordering::Relaxed);
                if !pause.is_zero() {
                    pacer.until(Instant::now() + pause.mul_f64(random.unit())).await;
                }
            }
            times
        })
    };
    let tasks: Vec<_> = (0..callers).map(work).collect();
    sleep(SETTLE).await;
    let (start, before) = (Instant::now(), calls.load(Ordering::Relaxed));
    sleep(time).await;
    let count = calls.load(Ordering::Relaxed) - before;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no caller panics"));
    }
    (rate, Spread::of(&times).median)
}

async fn no_pause(field: &Field, callers: usize) -> (f64, f64) {
    block(&field.learned, &field.pacer, callers, Duration::ZERO, 0, LEARNING).await;
    let (mut rates, mut times) = (Vec::new(), Vec::new());
    for seed in 0..BLOCKS {
        let (rate, time) = block(&field.learned, &field.pacer, callers, Duration::ZERO, seed as u64, BLOCK).await;
        rates.push(rate);
        times.push(time);
    }
    let (rate, time) = (Spread::of(&rates), Spread::of(&times));
    println!("{callers:>3} callers, no pause: {rate} calls/s, p50 {time} ms");
    (time.median, rate.median)
}

async fn closed(field: &Field, callers: usize, pause: Duration) -> Spread {
    let run =
        async |device: &Device, seed: usize| block(device, &field.pacer, callers, pause, seed as u64, BLOCK).await.0;
    let finalists = sweep(field, &run).await;
    block(&field.learned, &field.pacer, callers, pause, 77, LEARNING).await;
    let name = format!("{callers:>3} callers, pause 0..{} ms", pause.as_millis());
    duel(field, &finalists, &run, &name, "calls/s").await
}

async fn open(field: &Field, load: f64) -> Spread {
    // Higher is better for `duel`, so it compares the inverse of the time.
    let run =
        async |device: &Device, seed: usize| 1.0 / poisson(device, &field.pacer, load, seed as u64, OPEN_BLOCK).await;
    let finalists = sweep(field, &run).await;
    poisson(&field.learned, &field.pacer, load, 77, LEARNING).await;
    let name = format!("open loop at {:.0} %", load * 100.0);
    let ratio = duel(field, &finalists, &run, &name, "1/p99 s").await;
    Spread { low: 1.0 / ratio.high, median: 1.0 / ratio.median, high: 1.0 / ratio.low }
}

/// The two best of the fixed lingers, by the median of a few blocks each.
async fn sweep(field: &Field, run: &impl AsyncFn(&Device, usize) -> f64) -> Vec<usize> {
    let mut rates = vec![Vec::new(); FIXED.len()];
    for seed in 0..SWEEPS {
        for (device, rates) in field.fixed.iter().zip(&mut rates) {
            rates.push(run(device, seed).await);
        }
    }
    let medians: Vec<f64> = rates.iter().map(|rates| Spread::of(rates).median).collect();
    let mut order: Vec<usize> = (0..FIXED.len()).collect();
    order.sort_by(|&a, &b| medians[b].total_cmp(&medians[a]));
    order.truncate(2);
    order
}

/// The learned linger against the finalists, in interleaved blocks; the ratio to the better of them.
async fn duel(
    field: &Field,
    finalists: &[usize],
    run: &impl AsyncFn(&Device, usize) -> f64,
    name: &str,
    unit: &str,
) -> Spread {
    let mut learned = Vec::new();
    let mut fixed = vec![Vec::new(); finalists.len()];
    for seed in 100..100 + BLOCKS {
        learned.push(run(&field.learned, seed).await);
        for (&finalist, rates) in finalists.iter().zip(&mut fixed) {
            rates.push(run(&field.fixed[finalist], seed).await);
        }
    }
    let ratios = finalists.iter().zip(&fixed).map(|(&f, rates)| (Spread::of_ratios(&learned, rates), f, rates));
    let worst = ratios.min_by(|a, b| a.0.median.total_cmp(&b.0.median));
    let (ratio, best, rates) = worst.expect("there are finalists");
    let (ours, theirs) = (Spread::of(&learned), Spread::of(rates));
    println!("{name}: learned {ours}, best fixed ({} us) {theirs} {unit}, ratio {ratio}", FIXED[best]);
    ratio
}

/// Poisson arrivals at a share of the capacity; the 99th percentile of seconds from arrival to answer.
async fn poisson(device: &Device, pacer: &Pacer, load: f64, seed: u64, time: Duration) -> f64 {
    let mut random = Random::new(seed + 7);
    let start = Instant::now();
    let mut at = start;
    let mut calls = Vec::new();
    while at - start < time {
        at += Duration::from_secs_f64(random.exponential() / (load * CAPACITY));
        pacer.until(at).await;
        let device = device.clone();
        calls.push(tokio::spawn(async move {
            assert_eq!(device.call(1).await.unwrap_or_default(), FakeDevice::output(1));
            at.elapsed().as_secs_f64()
        }));
    }
    let mut times = Vec::new();
    for call in calls {
        times.push(call.await.expect("no call panics"));
    }
    times.sort_by(f64::total_cmp);
    quantile(&times, 0.99)
}
