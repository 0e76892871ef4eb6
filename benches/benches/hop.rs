//! What the framework itself costs: five stages that do nothing, io -> cpu -> gpu -> cpu -> io.
//!
//! 1. The pipeline alone, 1,024 jobs in flight, default places: jobs a second.
//! 2. One job at a time beside the bare mechanism (a boxed task, three thread hops, replies by oneshot), in
//!    interleaved blocks: median time of each, and their ratio.
//! 3. The whole worker (memory source, leases, settling, metrics recorder and log subscriber at their defaults).
//! 4. Bytes a job in flight takes, and how resident memory grows from 100,000 to 1,000,000 jobs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::{Batching, Bytes, Model, Pipeline, Result, Running, Worker};
use forebay_benches::{Spread, resident_mib, result};
use tokio::sync::oneshot;

/// Counts the bytes in use, for the memory that jobs in flight take.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; only a counter is kept beside it.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Same<T>(std::marker::PhantomData<T>);

impl<T: Clone + Send + 'static> Model for Same<T> {
    type Input = T;
    type Output = T;

    fn infer(&mut self, inputs: &[T]) -> Result<Vec<T>> {
        Ok(inputs.to_vec())
    }
}

fn pipeline<T: Clone + Send + 'static>() -> Pipeline<T, T> {
    Pipeline::new()
        .io("in", 64, async |_, x| Ok(x))
        .cpu("before", 1, |_, x| Ok(x))
        .gpu("device", Batching::items(64), || Ok(Same(std::marker::PhantomData)))
        .cpu("after", 1, |_, x| Ok(x))
        .io("out", 64, async |_, x| Ok(x))
}

const IN_FLIGHT: usize = 1024;
const BLOCKS: usize = 11;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}", pipeline::<u64>());
    println!("places: io 64, cpu 33, gpu 256, cpu 33, io 64 (the defaults for these sizes)");

    let running = Arc::new(runtime.block_on(pipeline::<u64>().start())?);
    runtime.block_on(flood(&running, 200_000));
    let before = IN_USE.load(Ordering::Relaxed);
    let (bytes, _) = runtime.block_on(async { tokio::join!(peak(before), flood(&running, 100_000)) });
    let rates: Vec<f64> = (0..BLOCKS).map(|_| runtime.block_on(flood(&running, 200_000))).collect();
    let jobs_per_s = Spread::of(&rates);
    println!("pipeline alone, {IN_FLIGHT} in flight: {jobs_per_s} jobs/s");
    println!("one job in flight takes {bytes} bytes");

    let bare = Arc::new(Bare::start());
    let t = Instant::now();
    runtime.block_on(async {
        let hs: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let bare = bare.clone();
                tokio::spawn(async move {
                    for x in 0..500u64 {
                        assert_eq!(tokio::spawn(bare.call(x)).await.unwrap(), x);
                    }
                })
            })
            .collect();
        for h in hs {
            h.await.unwrap();
        }
    });
    println!("bare alone flood {}", 512_000.0 / t.elapsed().as_secs_f64());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        ours.push(runtime.block_on(alone(|x| {
            let running = running.clone();
            async move { running.call(x).await.unwrap_or_default() }
        })));
        theirs.push(runtime.block_on(alone(|x| bare.call(x))));
    }
    let lone = Spread::of_ratios(&ours, &theirs);
    println!("one at a time: {} us, bare {} us, ratio {lone}", Spread::of(&ours), Spread::of(&theirs));
    drop(running);

    let telemetry = forebay::telemetry::init()?;
    let mut rates = Vec::new();
    let mut memory = Vec::new();
    for block in 0..BLOCKS {
        let (rate, resident) = runtime.block_on(worker(100_000))?;
        rates.push(rate);
        memory.push(resident);
        if block == 0 {
            println!("after the first 100,000 jobs: {resident:.1} MiB resident");
        }
    }
    let worker_jobs_per_s = Spread::of(&rates);
    let growth = memory.last().copied().unwrap_or(f64::NAN) - memory[0];
    println!("whole worker, {IN_FLIGHT} in flight: {worker_jobs_per_s} jobs/s");
    println!("memory grew by {growth:.1} MiB from 100,000 to {},100,000 jobs", BLOCKS / 10);
    let done = telemetry.snapshot().counter(forebay::telemetry::JOBS, &[("verdict", "done")]);
    assert_eq!(done, 100_000 * BLOCKS as u64, "every job is counted once");
    result(serde_json::json!({
        "jobs_per_s": jobs_per_s.median,
        "worker_jobs_per_s": worker_jobs_per_s.median,
        "lone_ratio": lone.median,
        "bytes_per_job": bytes,
        "rss_growth_mib": growth,
    }));
    Ok(())
}

/// Runs so many jobs, always 1,024 of them in flight; jobs a second.
async fn flood(running: &Arc<Running<u64, u64>>, jobs: usize) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|caller| {
            let running = running.clone();
            tokio::spawn(async move {
                for job in 0..jobs / IN_FLIGHT {
                    let x = (caller * jobs + job) as u64;
                    assert_eq!(running.call(x).await.unwrap_or(!x), x);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no caller panics");
    }
    (jobs / IN_FLIGHT * IN_FLIGHT) as f64 / start.elapsed().as_secs_f64()
}

/// The most bytes in use beyond `before`, for each job in flight.
async fn peak(before: usize) -> usize {
    let mut peak = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        peak = peak.max(IN_USE.load(Ordering::Relaxed).saturating_sub(before));
    }
    peak / IN_FLIGHT
}

/// The median time of a call, one at a time, in microseconds.
async fn alone<F: Future<Output = u64> + Send + 'static>(call: impl Fn(u64) -> F) -> f64 {
    let mut times = Vec::new();
    for x in 0..2_000 {
        let start = Instant::now();
        let y = tokio::spawn(call(x)).await.expect("no call panics");
        times.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(x, y);
    }
    Spread::of(&times).median
}

/// The least that the three thread stages can cost: channels to three threads, oneshots back, one boxed task.
struct Bare(Vec<mpsc::Sender<(u64, oneshot::Sender<u64>)>>);

impl Bare {
    fn start() -> Self {
        let thread = |_| {
            let (to, from) = mpsc::channel::<(u64, oneshot::Sender<u64>)>();
            std::thread::spawn(move || {
                for (x, reply) in from {
                    let _ = reply.send(x);
                }
            });
            to
        };
        Bare((0..3).map(thread).collect())
    }

    fn call(&self, x: u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> {
        let threads = self.0.clone();
        Box::pin(async move {
            let mut x = x;
            for thread in threads {
                let (reply, answer) = oneshot::channel();
                let _ = thread.send((x, reply));
                x = answer.await.unwrap_or(!0);
            }
            x
        })
    }
}

/// Runs so many jobs through a whole worker; jobs a second and resident memory after it.
async fn worker(jobs: usize) -> Result<(f64, f64)> {
    let queue = Memory::counting();
    let payload = Bytes::from_static(b"7");
    (0..jobs).for_each(|job| queue.push(job.to_string(), payload.clone()));
    queue.close();
    let worker = Worker::bytes(pipeline()).source(queue.clone()).in_flight(IN_FLIGHT);
    let start = Instant::now();
    let report = worker.run_once().await?;
    let rate = jobs as f64 / start.elapsed().as_secs_f64();
    assert_eq!(report.done, jobs as u64);
    drop(queue);
    Ok((rate, resident_mib()))
}
