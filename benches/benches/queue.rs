//! What SQS as a source costs: messages a second from receive to delete, and the CPU time that each takes, beside
//! sqs-consumer (npm) and a loop of boto3 (PyPI).
//!
//! All three do nothing with a message, on the same server in one run: the fake SQS of this repository, a process of
//! its own, since what is to be measured is its clients. Each has 8 receives of 10 messages at once under way and
//! deletes in batches. In each of 10 rounds each of them, as a new process, empties a queue of 20,000 messages. What
//! counts is from when the first message is gone until the last is, so that nobody's start is measured; the same for
//! the CPU time. Installs both into a cache folder; needs python3 and npm.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use forebay::source::sqs::Sqs;
use forebay::testing::fake_sqs::FakeSqs;
use forebay::{Context, Error, Pipeline, Result, Worker};
use forebay_benches::{Spread, result};
use forebay_tests::sqs_client;
use serde_json::json;
use tokio::io::AsyncReadExt;

const ROUNDS: usize = 10;
const MESSAGES: usize = 20_000;
/// Receives under way at once: what the source has at most.
const WIDTH: usize = 8;
/// One round of one of them.
const WITHIN: Duration = Duration::from_secs(60);
const ACCOUNT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKTEST"),
    ("AWS_SECRET_ACCESS_KEY", "SKTEST"),
    ("AWS_REGION", "us-east-1"),
    // As boto3 has it.
    ("AWS_DEFAULT_REGION", "us-east-1"),
];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match std::env::args().nth(1).as_deref() {
        Some("serve") => return runtime.block_on(serve()),
        Some("work") => return runtime.block_on(work()),
        _ => {}
    }
    let peers = peers()?;
    let mut server = Server::start()?;
    let client = sqs_client(&server.endpoint);
    let (mut rates, mut costs) = (vec![Vec::new(); peers.len()], vec![Vec::new(); peers.len()]);
    for round in 0..ROUNDS {
        for (index, peer) in peers.iter().enumerate() {
            let queue = runtime.block_on(fill(&client, &format!("round-{round}-{index}")))?;
            let (rate, cost) = runtime.block_on(empty(&client, peer, &queue, &server.endpoint))?;
            rates[index].push(rate);
            costs[index].push(cost);
        }
    }
    server.end();
    for ((peer, rates), costs) in peers.iter().zip(&rates).zip(&costs) {
        println!("{}: {} messages/s, {} us of CPU a message", peer.name, Spread::of(rates), Spread::of(costs));
    }
    let ratios: Vec<Spread> = rates[1..].iter().map(|theirs| Spread::of_ratios(&rates[0], theirs)).collect();
    let cpu: Vec<Spread> = costs[1..].iter().map(|theirs| Spread::of_ratios(&costs[0], theirs)).collect();
    for ((peer, ratio), cpu) in peers[1..].iter().zip(&ratios).zip(&cpu) {
        println!("beside {}: {ratio} times the messages/s, {cpu} of the CPU time a message", peer.name);
    }
    let median = |of: &[Spread], pick: fn(f64, f64) -> f64| of.iter().map(|spread| spread.median).reduce(pick);
    result(json!({
        "per_s": Spread::of(&rates[0]).median,
        "cpu_us": Spread::of(&costs[0]).median,
        // Beside the better of the two.
        "ratio": median(&ratios, f64::min),
        "cpu_ratio": median(&cpu, f64::max),
    }));
    Ok(())
}

/// A consumer that is raced.
struct Peer {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// Ours first, and the others as they are installed.
fn peers() -> Result<Vec<Peer>> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/queue");
    let setup = Command::new(scripts.join("setup")).output().context("running scripts/queue/setup")?;
    if !setup.status.success() {
        let said = String::from_utf8_lossy(&setup.stderr);
        return Err(Error::invalid(format_args!("scripts/queue/setup could not install what is raced: {said}")));
    }
    let cache = PathBuf::from(String::from_utf8_lossy(&setup.stdout).trim());
    let ours = Peer { name: "forebay", program: std::env::current_exe()?, arguments: vec!["work".to_owned()] };
    let python = Peer {
        name: "boto3",
        program: cache.join("python/bin/python"),
        arguments: vec![text(&scripts.join("boto3_loop.py")), WIDTH.to_string()],
    };
    let node = Peer {
        name: "sqs-consumer",
        program: cache.join("node_modules/node/bin/node"),
        arguments: vec![text(&scripts.join("sqs_consumer.mjs")), WIDTH.to_string(), text(&cache)],
    };
    Ok(vec![ours, node, python])
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Has a consumer empty a queue: messages a second, and microseconds of CPU time a message.
async fn empty(client: &Client, peer: &Peer, queue: &str, endpoint: &str) -> Result<(f64, f64)> {
    let mut consumer = Command::new(&peer.program)
        .args(&peer.arguments)
        .envs(ACCOUNT)
        .env("FOREBAY_SQS_QUEUE", queue)
        .env("FOREBAY_SQS_ENDPOINT", endpoint)
        .env("FOREBAY_SQS_DEAD_LETTERS", "none")
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", peer.name))?;
    let measured = measure(client, &consumer, queue).await;
    // It need not end well, and may have ended.
    let _ = consumer.kill();
    let _ = consumer.wait();
    measured.with_context(|| format!("measuring {}", peer.name))
}

async fn measure(client: &Client, consumer: &Child, queue: &str) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let mut first = None;
    while begun.elapsed() < WITHIN {
        let left = depth(client, queue).await?;
        let (now, cpu) = (Instant::now(), cpu_time(consumer.id())?);
        if left < MESSAGES {
            let (start, cpu_before, from) = *first.get_or_insert((now, cpu, left));
            if left == 0 {
                let done = (from - left) as f64;
                return Ok((done / (now - start).as_secs_f64(), (cpu - cpu_before).as_secs_f64() * 1e6 / done));
            }
        }
        // Asking more often would take processor time from those that are measured.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Error::failed(format_args!("{} messages are left after {WITHIN:?}", depth(client, queue).await?)))
}

/// What a process has used of the processors so far.
fn cpu_time(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("reading how busy a consumer was")?;
    // After the name, which may hold anything, the 12th and 13th: in ticks of 10 ms (proc(5)).
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

async fn fill(client: &Client, name: &str) -> Result<String> {
    let made = client.create_queue().queue_name(name).send().await.map_err(|why| Error::failed(format!("{why:?}")))?;
    let queue = made.queue_url.ok_or_else(|| Error::failed("a queue without a URL was made"))?;
    for first in (0..MESSAGES).step_by(10) {
        let entry =
            |n: usize| SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(n.to_string()).build();
        let entries: std::result::Result<Vec<_>, _> = (first..first + 10).map(entry).collect();
        let entries = entries.map_err(|why| Error::failed(format!("{why:?}")))?;
        let sent = client.send_message_batch().queue_url(&queue).set_entries(Some(entries)).send().await;
        sent.map_err(|why| Error::failed(format!("{why:?}")))?;
    }
    Ok(queue)
}

/// Messages on the queue, those that somebody holds too.
async fn depth(client: &Client, queue: &str) -> Result<usize> {
    let names =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    let asked = client.get_queue_attributes().queue_url(queue).set_attribute_names(Some(names.to_vec())).send().await;
    let asked = asked.map_err(|why| Error::failed(format!("{why:?}")))?;
    let count = |name| asked.attributes()?.get(name)?.parse::<usize>().ok();
    Ok(names.iter().filter_map(count).sum())
}

/// The server, a process of its own.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start() -> Result<Server> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut endpoint = String::new();
        let said = child.stdout.take().ok_or_else(|| Error::failed("the server cannot say where it is"))?;
        BufReader::new(said).read_line(&mut endpoint)?;
        Ok(Server { child, endpoint: endpoint.trim().to_owned() })
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve() -> Result<()> {
    let served = FakeSqs::new().serve(0).await?;
    println!("{}", served.endpoint());
    // It ends with whoever started it.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    Ok(())
}

async fn work() -> Result<()> {
    forebay::telemetry::init()?;
    let pipeline = Pipeline::new().cpu("nothing", 1, |_, body| Ok(body));
    Worker::bytes(pipeline).source(Sqs::from_env()?).run().await;
    Ok(())
}
