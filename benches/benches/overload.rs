//! Whether overload costs anything but the requests that are too many: a worker behind HTTP, at 0.8 to 10 times what
//! its device can do.
//!
//! A fake device takes 40 ms for a batch of up to 8, so 200 requests a second; every request has to be answered within
//! 2 s. They arrive by chance (Poisson) and in open loop: none waits for another's answer, and each one's time counts
//! from the moment it was to be sent, whatever kept it from that. Of each load, seconds of warm-up are not counted;
//! then it says what was answered in time, refused and late, and how long each took. Goodput is a share of the best
//! over all loads. The worker shares process and cores with its callers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay::source::http::Http;
use forebay::{Batching, Context, Error, Pipeline, Result, Worker};
use forebay_benches::{Pacer, Random, quantile, result};
use forebay_models::toy::FakeDevice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

const BATCH: usize = 8;
const BATCH_TIME: Duration = Duration::from_millis(40);
const CAPACITY: f64 = BATCH as f64 / 0.040;
const DEADLINE: Duration = Duration::from_secs(2);
/// In parts of the capacity.
const LOADS: [f64; 5] = [0.8, 1.0, 2.0, 5.0, 10.0];
/// Until the queue is as long as it gets, and the forecast has seen those who waited in it.
const WARM_UP: Duration = Duration::from_secs(6);
const COUNTED: Duration = Duration::from_secs(20);
/// A caller without an answer gives up after this.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 4096;
/// An idle connection is not used again after this: the server closes it after 20 s.
const IDLE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let _telemetry = forebay::telemetry::init()?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listening")?;
    let address = listener.local_addr().context("asking for the socket's address")?;
    let worker = Worker::new(pipeline()).source(Http::on(listener)?.deadline(DEADLINE));
    let serving = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let worker = serving.spawn(worker.run_once());
    println!("{}; {CAPACITY} requests/s, to be answered within {DEADLINE:?}", pipeline());

    let calling = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let caller = Arc::new(Caller::new(address));
    let counts = calling.block_on(async {
        caller.until_ready().await?;
        println!(" load  offered/s  in time/s  refused/s  late  failed  accepted ms p50/p99  refused ms p50/p99  sent late ms p99");
        let mut counts = Vec::new();
        for (seed, load) in LOADS.into_iter().enumerate() {
            let of_load = Counts::of(load, &offer(&caller, load, seed as u64 + 1).await);
            println!("{of_load}");
            counts.push(of_load);
        }
        Ok::<_, Error>(counts)
    })?;
    worker.abort();
    serving.shutdown_timeout(Duration::from_secs(5));

    let peak = counts.iter().map(Counts::goodput).fold(0.0, f64::max);
    let at = |load: f64| counts.iter().find(|of| of.load == load).map_or(f64::NAN, |of| of.goodput() / peak);
    let worst = |of: fn(&Counts) -> f64, worse: fn(f64, f64) -> f64| counts.iter().map(of).reduce(worse);
    println!("peak: {peak:.1} requests/s in time");
    result(serde_json::json!({
        "goodput_1x": at(1.0),
        "goodput_2x": at(2.0),
        "goodput_5x": at(5.0),
        "goodput_10x": at(10.0),
        "late": counts.iter().map(|of| of.late).sum::<usize>(),
        "reject_p99_ms": worst(|of| quantile(&of.refused, 0.99), f64::max),
        "in_time": worst(Counts::in_time, f64::min),
        "failed": counts.iter().map(|of| of.failed).sum::<usize>(),
        "without_retry_after": counts.iter().map(|of| of.without_retry_after).sum::<usize>(),
    }));
    Ok(())
}

fn pipeline() -> Pipeline<u64, u64> {
    Pipeline::new().gpu("device", Batching::items(BATCH), || Ok(FakeDevice::new(BATCH_TIME, Duration::ZERO)))
}

/// How a request ended, and how long after the moment it was to be sent.
struct Ended {
    after: Duration,
    sent_after: Duration,
    answer: Result<Answer>,
}

struct Answer {
    status: u16,
    retry_after: bool,
    body: String,
    right: bool,
}

/// Sends requests at a load, and answers how those of the counted time ended.
async fn offer(caller: &Arc<Caller>, load: f64, seed: u64) -> Vec<Ended> {
    let (pacer, mut random) = (Pacer::new(), Random::new(seed));
    let start = Instant::now();
    let (count_from, end) = (start + WARM_UP, start + WARM_UP + COUNTED);
    let (mut requests, mut at, mut number) = (JoinSet::new(), start, seed << 32);
    loop {
        at += Duration::from_secs_f64(random.exponential() / (load * CAPACITY));
        if at >= end {
            break;
        }
        pacer.until(at).await;
        let (caller, input) = (caller.clone(), number);
        requests.spawn(async move { (at >= count_from).then_some(caller.call(at, input).await) });
        number += 1;
    }
    requests.join_all().await.into_iter().flatten().collect()
}

/// Callers over connections that are kept alive; a request takes one that is idle, or opens another.
struct Caller {
    address: SocketAddr,
    /// A mutex, because requests' tasks take and bring back on their own.
    idle: Mutex<Vec<(TcpStream, Instant)>>,
    connections: Semaphore,
}

impl Caller {
    fn new(address: SocketAddr) -> Self {
        Caller { address, idle: Mutex::default(), connections: Semaphore::new(CONNECTIONS) }
    }

    async fn until_ready(&self) -> Result<()> {
        for _ in 0..500 {
            if self.exchange(b"GET /health/ready HTTP/1.1\r\nhost: worker\r\n\r\n").await?.status == 200 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Error::failed("the worker does not become ready"))
    }

    async fn call(&self, at: Instant, input: u64) -> Ended {
        let body = input.to_string();
        let head = "POST / HTTP/1.1\r\nhost: worker\r\ncontent-type: application/json\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let sent_after = at.elapsed();
        let answer = timeout(PATIENCE, self.exchange(request.as_bytes())).await;
        let after = at.elapsed();
        let mut answer = answer.unwrap_or_else(|_| Err(Error::failed("no answer came")));
        if let Ok(answer) = &mut answer {
            answer.right = answer.body == FakeDevice::output(input).to_string();
        }
        Ended { after, sent_after, answer }
    }

    async fn exchange(&self, request: &[u8]) -> Result<Answer> {
        let _one_of_them = self.connections.acquire().await.context("waiting for a connection")?;
        let mut stream = match self.take_idle() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.context("connecting")?;
                stream.set_nodelay(true).context("connecting")?;
                stream
            }
        };
        stream.write_all(request).await.context("sending a request")?;
        let answer = read(&mut stream).await?;
        self.idle().push((stream, Instant::now()));
        Ok(answer)
    }

    fn take_idle(&self) -> Option<TcpStream> {
        let mut idle = self.idle();
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        idle.pop().map(|(stream, _)| stream)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(TcpStream, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one answer, which must say how long its body is.
async fn read(stream: &mut TcpStream) -> Result<Answer> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await.context("reading an answer")? == 0 {
            return Err(Error::failed("the connection ended before the answer"));
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let header = |name: &str| {
            let mut headers = head.lines().filter_map(|line| line.split_once(": "));
            headers.find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let length: usize = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            return Ok(Answer {
                status: status.ok_or_else(|| Error::failed("the answer has no status"))?,
                retry_after: header("retry-after").is_some_and(|text| text.parse::<u64>().is_ok()),
                body: body.to_owned(),
                right: false,
            });
        }
    }
}

/// What became of the requests of one load.
struct Counts {
    load: f64,
    offered: usize,
    in_time: usize,
    /// Admitted, and answered after the deadline, be it with 504.
    late: usize,
    /// Anything else: a wrong result, another status, no answer.
    failed: usize,
    without_retry_after: usize,
    /// In milliseconds, sorted.
    accepted: Vec<f64>,
    refused: Vec<f64>,
    sent_after: Vec<f64>,
}

impl Counts {
    fn of(load: f64, requests: &[Ended]) -> Self {
        let offered = requests.len();
        let mut counts = Counts {
            load,
            offered,
            in_time: 0,
            late: 0,
            failed: 0,
            without_retry_after: 0,
            accepted: Vec::new(),
            refused: Vec::new(),
            sent_after: Vec::new(),
        };
        requests.iter().for_each(|request| counts.count(request));
        for times in [&mut counts.accepted, &mut counts.refused, &mut counts.sent_after] {
            times.sort_by(f64::total_cmp);
        }
        counts
    }

    fn count(&mut self, request: &Ended) {
        let ms = request.after.as_secs_f64() * 1e3;
        self.sent_after.push(request.sent_after.as_secs_f64() * 1e3);
        match &request.answer {
            Ok(Answer { status: 200, right: true, .. }) => {
                self.accepted.push(ms);
                match request.after <= DEADLINE {
                    true => self.in_time += 1,
                    false => self.late += 1,
                }
            }
            Ok(Answer { status: 504, .. }) => self.late += 1,
            Ok(Answer { status: 429 | 503, retry_after, .. }) => {
                self.refused.push(ms);
                self.without_retry_after += usize::from(!retry_after);
            }
            other => {
                self.failed += 1;
                match other {
                    Ok(Answer { status, body, .. }) => eprintln!("failed: {status} {body}"),
                    Err(why) => eprintln!("failed: {why}"),
                }
            }
        }
    }

    /// Answered in time, a second.
    fn goodput(&self) -> f64 {
        self.in_time as f64 / COUNTED.as_secs_f64()
    }

    /// Of those admitted, the share that was answered in time.
    fn in_time(&self) -> f64 {
        self.in_time as f64 / (self.in_time + self.late + self.failed).max(1) as f64
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per_s = |count: usize| count as f64 / COUNTED.as_secs_f64();
        let at = |ms: &[f64], share| match ms.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.1}", quantile(ms, share)),
        };
        let both = |ms: &[f64]| format!("{}/{}", at(ms, 0.5), at(ms, 0.99));
        write!(
            f,
            "{:>4}x {:>10.1} {:>10.1} {:>10.1} {:>5} {:>7} {:>20} {:>19} {:>17}",
            self.load,
            per_s(self.offered),
            self.goodput(),
            per_s(self.refused.len()),
            self.late,
            self.failed,
            both(&self.accepted),
            both(&self.refused),
            at(&self.sent_after, 0.99),
        )
    }
}
