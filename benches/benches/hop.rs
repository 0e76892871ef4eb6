//! What the framework itself costs: five stages that do nothing, io -> cpu -> gpu -> cpu -> io.
//!
//! 1. The pipeline alone, 1,024 jobs in flight, default places: jobs a second.
//! 2. One job at a time beside the bare mechanism (a boxed task, three thread hops, replies by oneshot), in
//!    interleaved blocks: median time of each, and their ratio.
//! 3. The whole worker (memory source, leases, settling, metrics recorder and log subscriber at their defaults).
//! 4. Bytes a job in flight takes, and how resident memory grows from 100,000 to 1,200,000 jobs.
//!
//! Memory comes from mimalloc, as in the examples.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::{Batching, Model, Pipeline, Result, Running, Worker};
use forebay_benches::{Spread, resident_mib, result};
use mimalloc::MiMalloc;
use tokio::sync::oneshot;

/// Counts the bytes that are taken and given back while it is told to: for the memory that jobs in flight take.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static TAKEN: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    if COUNTS.load(Ordering::Relaxed) {
        TAKEN.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to mimalloc unchanged; only a counter is kept beside it.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { MiMalloc.dealloc(pointer, layout) }
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
        .io("in", 1024, async |_, x| Ok(x))
        .cpu("before", 1, |_, x| Ok(x))
        .gpu("device", Batching::items(256), || Ok(Same(std::marker::PhantomData)))
        .cpu("after", 1, |_, x| Ok(x))
        .io("out", 1024, async |_, x| Ok(x))
}

const IN_FLIGHT: usize = 1024;
const BLOCKS: usize = 11;
/// Jobs in a block of the whole worker.
const BLOCK: usize = 100 * 1024;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}", pipeline::<u64>());
    println!("places (the defaults for these sizes): in 1024, before 129, device 1024, after 129, out 1024");

    let running = Arc::new(runtime.block_on(pipeline::<u64>().start())?);
    runtime.block_on(flood(&running, 200_000));
    let bytes = runtime.block_on(bytes_per_job(&running));
    let rates: Vec<f64> = (0..BLOCKS).map(|_| runtime.block_on(flood(&running, 200_000))).collect();
    let jobs_per_s = Spread::of(&rates);
    println!("pipeline alone, {IN_FLIGHT} in flight: {jobs_per_s} jobs/s");
    println!("one job in flight takes {bytes} bytes");

    let bare = Arc::new(Bare::start());
    let rates: Vec<f64> = (0..BLOCKS).map(|_| runtime.block_on(flood_bare(&bare, 200_000))).collect();
    let bare_jobs_per_s = Spread::of(&rates);
    println!("bare mechanism, {IN_FLIGHT} in flight: {bare_jobs_per_s} jobs/s");
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
    let run = runtime.block_on(worker())?;
    let worker_jobs_per_s = Spread::of(&run.rates);
    let growth = run.resident_at_end - run.resident_at_first;
    println!("whole worker, {IN_FLIGHT} in flight: {worker_jobs_per_s} jobs/s");
    println!(
        "resident after the first {BLOCK} jobs {:.1} MiB, growth over {BLOCKS} x {BLOCK} more {growth:.1} MiB",
        run.resident_at_first
    );
    let done = telemetry.snapshot().counter(forebay::telemetry::JOBS, &[("verdict", "done")]);
    assert_eq!(done, (BLOCK * (BLOCKS + 1)) as u64, "every job is counted once");
    result(serde_json::json!({
        "jobs_per_s": jobs_per_s.median,
        "bare_jobs_per_s": bare_jobs_per_s.median,
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

/// The same with the bare mechanism, a task a job.
async fn flood_bare(bare: &Arc<Bare>, jobs: usize) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let bare = bare.clone();
            tokio::spawn(async move {
                for x in 0..(jobs / IN_FLIGHT) as u64 {
                    assert_eq!(bare.call(x).await, x);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no caller panics");
    }
    (jobs / IN_FLIGHT * IN_FLIGHT) as f64 / start.elapsed().as_secs_f64()
}

/// The most bytes that were taken for each job in flight, its caller's task included.
async fn bytes_per_job(running: &Arc<Running<u64, u64>>) -> isize {
    COUNTS.store(true, Ordering::Relaxed);
    let watch = async {
        let mut most = 0;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            most = most.max(TAKEN.load(Ordering::Relaxed));
        }
        most / IN_FLIGHT as isize
    };
    let (bytes, _) = tokio::join!(watch, flood(running, 200_000));
    COUNTS.store(false, Ordering::Relaxed);
    bytes
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

/// What a long run of a whole worker showed.
struct Run {
    rates: Vec<f64>,
    resident_at_first: f64,
    resident_at_end: f64,
}

/// Runs 1,200,000 jobs through one worker, fed so that it never starves and the queue stays short.
async fn worker() -> Result<Run> {
    let queue = Memory::counting();
    let worker = Worker::bytes(pipeline()).source(queue.clone()).in_flight(IN_FLIGHT);
    let running = tokio::spawn(worker.run_once());
    let mut run = Run { rates: Vec::new(), resident_at_first: 0.0, resident_at_end: 0.0 };
    let mut pushed = 0;
    for block in 0..=BLOCKS {
        let start = Instant::now();
        let end = BLOCK * (block + 1);
        while queue.done() < end as u64 {
            while pushed < BLOCK * (BLOCKS + 1) && queue.waiting() < 4 * IN_FLIGHT {
                (0..IN_FLIGHT).for_each(|job| queue.push((pushed + job).to_string(), "7"));
                pushed += IN_FLIGHT;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match block {
            0 => run.resident_at_first = resident_mib(),
            _ => run.rates.push(BLOCK as f64 / start.elapsed().as_secs_f64()),
        }
    }
    run.resident_at_end = resident_mib();
    queue.close();
    let report = running.await.expect("the worker does not panic")?;
    assert_eq!(report.done, pushed as u64);
    Ok(run)
}
