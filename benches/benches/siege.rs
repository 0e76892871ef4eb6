//! A worker behind HTTP under siege: probes beside pinned cores and a hung device, hostile connections beside callers
//! who behave, callers who leave.
//!
//! 1. Both cores pinned by CPU stages and one device call of 60 s: how long each health probe takes, on a connection
//!    of its own, all three some 20 times a second.
//! 2. 4,000 hostile connections at all times, of which half are silent and half send a byte a second, each at a
//!    moment of its own; each that is cut is replaced: 99th percentile of eight callers who behave, in blocks with and
//!    without, interleaved; and how long the longest-lived hostile connection lasted.
//! 3. 10,000 callers who leave at random moments: requests still inside, tasks and bytes still held afterwards, and
//!    how many were computed although they had left 100 ms and more before their batch.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use forebay::source::http::Http;
use forebay::{Batching, Context, Error, Model, Pipeline, Result, Worker};
use forebay_benches::{Random, Spread, quantile, result};
use forebay_models::toy::FakeDevice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PROBES_FOR: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_millis(50);
const HOSTILE: usize = 4_000;
/// How often a hostile connection sends a byte.
const DRIBBLE: Duration = Duration::from_secs(1);
const BEHAVED: usize = 8;
const BLOCKS: usize = 10;
const BLOCK: Duration = Duration::from_secs(4);
const LEAVERS: usize = 10_000;
/// How soon a worker must have noticed that a caller has left.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);
/// What bodies may hold together while callers leave.
const HELD: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let callers = Builder::new_current_thread().enable_all().build()?;
    let (probes, probe_max_ms) = callers.block_on(probes())?;
    println!("{probes} probes beside pinned cores and a hung device: the slowest took {probe_max_ms:.1} ms");
    let hostile = callers.block_on(hostile())?;
    println!(
        "{HOSTILE} hostile connections: p99 of the others {:.2} ms, without {:.2} ms, ratio {}; cut after {:.1} s at most",
        hostile.with.median, hostile.without.median, hostile.ratio, hostile.longest
    );
    let left = callers.block_on(leavers())?;
    println!(
        "{LEAVERS} callers left: {} answered first, {} still inside, {} tasks more than before, {} computed too late",
        left.answered, left.inside, left.tasks, left.computed
    );
    result(serde_json::json!({
        "probes": probes,
        "probe_max_ms": probe_max_ms,
        "hostile_p99_ratio": hostile.ratio.median,
        "hostile_cut_within_s": hostile.longest,
        "left_inside": left.inside,
        "left_tasks": left.tasks,
        "left_bytes_free": left.bytes_free,
        "computed_after_leaving": left.computed,
    }));
    Ok(())
}

/// A worker in a runtime of its own. Dropped, it is left behind: a hung device cannot be stopped.
struct Served {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Served {
    async fn start(worker: Worker, set: impl FnOnce(Http) -> Http) -> Result<Served> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listening")?;
        let address = listener.local_addr().context("asking for the socket's address")?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.spawn(worker.source(set(Http::on(listener)?)).run_once());
        let served = Served { address, runtime: Some(runtime) };
        for _ in 0..500 {
            match served.get("/health/ready").await {
                Ok(text) if text.starts_with("HTTP/1.1 200") => return Ok(served),
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
        Err(Error::failed("the worker does not become ready"))
    }

    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address).await.context("connecting")?;
        exchange(&mut stream, format!("GET {path} HTTP/1.1\r\nhost: worker\r\n\r\n").as_bytes()).await
    }

    /// How many requests are inside, as the probes tell.
    async fn inside(&self) -> Result<usize> {
        let text = self.get("/health/live").await?;
        let count = text.rsplit("; ").next().and_then(|tail| tail.split(' ').next()?.parse().ok());
        count.ok_or_else(|| Error::failed("the probe does not say how many are inside"))
    }

    fn tasks(&self) -> usize {
        self.runtime.as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends a request and reads its answer, which must say how long its body is.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<String> {
    stream.write_all(request).await.context("sending")?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await.context("reading")? == 0 {
            return Err(Error::failed("the connection ended before the answer"));
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) {
            return Ok(text.into_owned());
        }
    }
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: worker\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// How many probes were answered, and how long the slowest took, in milliseconds.
async fn probes() -> Result<(usize, f64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let spinning = stop.clone();
    let pipeline = Pipeline::new()
        .cpu("spin", 2, move |_, n: u64| {
            // As busy as a core can be, for two of the jobs; the others go on to the device.
            while n < 2 && !spinning.load(Relaxed) {
                std::hint::spin_loop();
            }
            Ok(n)
        })
        .cpu("pass", 1, |_, n: u64| Ok(n))
        .gpu("hang", Batching::items(1), || Ok(FakeDevice::new(PROBES_FOR, Duration::ZERO)));
    let served = Served::start(Worker::new(pipeline), |http| http).await?;
    let mut inside = Vec::new();
    // The device gets its job before both threads of the CPU stage spin.
    for n in [2, 0, 1] {
        let mut stream = TcpStream::connect(served.address).await.context("connecting")?;
        stream.write_all(post(&n.to_string()).as_bytes()).await.context("sending")?;
        inside.push(stream);
        while served.inside().await? < inside.len() {}
    }
    let (start, mut slowest, mut count) = (Instant::now(), 0.0_f64, 0);
    while start.elapsed() < PROBES_FOR {
        for probe in ["/health/live", "/health/startup", "/health/ready"] {
            let asked = Instant::now();
            let answer = served.get(probe).await?;
            slowest = slowest.max(asked.elapsed().as_secs_f64() * 1e3);
            if !answer.starts_with("HTTP/1.1 200") && probe != "/health/ready" {
                return Err(Error::failed(format_args!("{probe} is answered with {answer}")));
            }
            count += 1;
        }
        sleep(PROBE_EVERY).await;
    }
    stop.store(true, Relaxed);
    Ok((count, slowest))
}

struct Hostile {
    with: Spread,
    without: Spread,
    ratio: Spread,
    /// In seconds.
    longest: f64,
}

async fn hostile() -> Result<Hostile> {
    let pipeline = Pipeline::new()
        .gpu("device", Batching::items(8), || Ok(FakeDevice::new(Duration::from_millis(5), Duration::ZERO)));
    let served = Served::start(Worker::new(pipeline), |http| http).await?;
    let (address, longest_ms) = (served.address, Arc::new(AtomicU64::new(0)));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        without.push(behaved(address).await?);
        let siege = Siege::lay(address, &longest_ms)?;
        with.push(behaved(address).await?);
        siege.end()?;
    }
    // One siege until all are cut, so that the longest-lived is seen.
    let siege = Siege::lay(address, &longest_ms)?;
    sleep(Duration::from_secs(40)).await;
    siege.end()?;
    let longest = longest_ms.load(Relaxed) as f64 / 1e3;
    let ratio = Spread::of_ratios(&with, &without);
    Ok(Hostile { with: Spread::of(&with), without: Spread::of(&without), ratio, longest })
}

/// The 99th percentile of the callers who behave, in milliseconds.
async fn behaved(address: SocketAddr) -> Result<f64> {
    // The siege is laid before anything counts.
    sleep(2 * DRIBBLE).await;
    let callers = (0..BEHAVED).map(async |_| {
        let mut times = Vec::new();
        let mut stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true).context("connecting")?;
        let start = Instant::now();
        while start.elapsed() < BLOCK {
            let asked = Instant::now();
            let answer = exchange(&mut stream, post("7").as_bytes()).await?;
            if !answer.starts_with("HTTP/1.1 200") {
                return Err(Error::failed(format_args!("a caller who behaves is answered with {answer}")));
            }
            times.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    });
    let times = futures_util::future::try_join_all(callers).await?;
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    Ok(quantile(&times, 0.99))
}

/// A siege, on a thread of its own.
struct Siege {
    stop: watch::Sender<bool>,
    besiegers: std::thread::JoinHandle<Result<()>>,
}

impl Siege {
    /// Keeps all hostile connections up until it ends; notes the longest life of one, in milliseconds.
    fn lay(address: SocketAddr, longest_ms: &Arc<AtomicU64>) -> Result<Siege> {
        let (stop, stopped) = watch::channel(false);
        let longest_ms = longest_ms.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let besiegers = std::thread::spawn(move || {
            runtime.block_on(async {
                let one = |n| besiege(address, n, stopped.clone(), longest_ms.clone());
                (0..HOSTILE).map(one).collect::<JoinSet<_>>().join_all().await;
            });
            Ok(())
        });
        Ok(Siege { stop, besiegers })
    }

    fn end(self) -> Result<()> {
        // They are waiting for it, or have panicked.
        let _ = self.stop.send(true);
        self.besiegers.join().map_err(|_| Error::failed("a besieger panicked"))?
    }
}

/// The `n`th besieger: silent, or it sends a byte a second, each at its own moment of the second.
async fn besiege(address: SocketAddr, n: usize, mut stopped: watch::Receiver<bool>, longest_ms: Arc<AtomicU64>) {
    sleep(DRIBBLE.mul_f64(n as f64 / HOSTILE as f64)).await;
    while !*stopped.borrow() {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            continue;
        };
        let start = Instant::now();
        tokio::select! {
            // It was answered with 408, or cut.
            () = last(&mut stream, n.is_multiple_of(2)) => {}
            // What is stopped but older than any that was cut counts too.
            _ = stopped.changed() => {}
        }
        longest_ms.fetch_max(start.elapsed().as_millis() as u64, Relaxed);
    }
}

/// Lasts as long as the server lets it.
async fn last(stream: &mut TcpStream, dribbles: bool) {
    let (mut from, mut to) = stream.split();
    let dribble = async {
        let mut sent = to.write_all(b"POST / HTTP/1.1\r\nhost: a\r\nx: ").await;
        while sent.is_ok() {
            sleep(DRIBBLE).await;
            sent = to.write_all(b"x").await;
        }
    };
    let mut byte = [0];
    tokio::select! {
        _ = from.read(&mut byte) => {}
        () = dribble, if dribbles => {}
    }
}

struct Left {
    answered: usize,
    inside: usize,
    tasks: usize,
    bytes_free: bool,
    computed: usize,
}

/// A device that knows when each caller left.
struct Watching {
    left: Arc<[OnceLock<Instant>]>,
    late: Arc<AtomicUsize>,
}

impl Model for Watching {
    type Input = usize;
    type Output = usize;

    fn infer(&mut self, callers: &[usize]) -> Result<Vec<usize>> {
        let had_left = |caller: &&usize| self.left[**caller].get().is_some_and(|at| at.elapsed() > NOTICED_WITHIN);
        self.late.fetch_add(callers.iter().filter(had_left).count(), Relaxed);
        // As long as a batch takes.
        std::thread::sleep(Duration::from_millis(2));
        Ok(callers.to_vec())
    }
}

async fn leavers() -> Result<Left> {
    // One more: the model is warmed up with nobody's request.
    let left: Arc<[OnceLock<Instant>]> = (0..=LEAVERS).map(|_| OnceLock::new()).collect();
    let (late, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let watching = {
        let (left, late) = (left.clone(), late.clone());
        move || Ok(Watching { left: left.clone(), late: late.clone() })
    };
    let pipeline = Pipeline::new()
        .io("in", 64, async |_, body: bytes::Bytes| {
            let text = String::from_utf8_lossy(&body);
            Ok(text.trim_end_matches('.').parse().unwrap_or(LEAVERS))
        })
        .gpu("device", Batching::items(8), watching)
        .io("out", 64, async |_, n: usize| Ok(bytes::Bytes::from(n.to_string())));
    let served = Served::start(Worker::bytes(pipeline), |http| http.body(HELD).held(HELD)).await?;
    let (address, before) = (served.address, served.tasks());
    let at_once = Arc::new(tokio::sync::Semaphore::new(200));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..LEAVERS {
        let place = at_once.clone().acquire_owned().await.context("waiting for a place")?;
        let (left, answered) = (left.clone(), answered.clone());
        callers.spawn(async move {
            let mut random = Random::new(n as u64 + 1);
            let Ok(mut stream) = TcpStream::connect(address).await else {
                return;
            };
            // Up to 8 KiB, so that some leave in the middle of a body.
            let padding = ".".repeat((random.unit() * 8192.0) as usize);
            let request = post(&format!("{n}{padding}"));
            let whole = random.unit() < 0.7;
            let sent = if whole { request.len() } else { (random.unit() * request.len() as f64) as usize };
            let _ = stream.write_all(&request.as_bytes()[..sent]).await;
            let patience = Duration::from_secs_f64(random.unit() * 0.15);
            if timeout(patience, stream.readable()).await.is_ok_and(|read| read.is_ok()) {
                answered.fetch_add(1, Relaxed);
            }
            drop(stream);
            let _ = left[n].set(Instant::now());
            drop(place);
        });
    }
    callers.join_all().await;
    let start = Instant::now();
    // A probe's own connection is gone by the time it is counted.
    // Until nothing is left, or it is plain that something stays.
    while (served.inside().await? > 0 || served.tasks() > before) && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10)).await;
    }
    let (inside, tasks) = (served.inside().await?, served.tasks().saturating_sub(before));
    // Only if every byte is free does the largest body fit.
    let mut stream = TcpStream::connect(address).await.context("connecting")?;
    let largest = exchange(&mut stream, post(&format!("{LEAVERS}{}", ".".repeat(HELD - 16))).as_bytes()).await?;
    Ok(Left {
        answered: answered.load(Relaxed),
        inside,
        tasks,
        bytes_free: largest.starts_with("HTTP/1.1 200"),
        computed: late.load(Relaxed),
    })
}
