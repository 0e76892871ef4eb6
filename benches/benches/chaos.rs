//! Nothing is lost and nothing is done twice, whatever happens to the workers: 8 processes pull 10,000 jobs from one
//! queue, over `fauxqs` that keeps its queue on the disk, and over `moto`.
//!
//! Meanwhile workers are killed (SIGKILL) at random moments, at least 200 of them in all for each server, and replaced
//! as on another node; every tenth time one is stopped (SIGSTOP) for longer than a lease instead and then goes on
//! beside those who took over its jobs. Jobs are sent as others end, so that 250 are on the queue. Each worker writes
//! down every job it begins and every end that it commits, in a history that is only appended to. Then the history,
//! the store and the queue are compared with what was sent:
//!
//! - lost: jobs without an end, or with another result than the right one, or still on the queue;
//! - unexpected: ends of jobs that nobody sent, and dead letters;
//! - duplicated: jobs whose end was committed more than once (one that was killed between its commit and its note
//!   writes none, so what is counted are notes);
//! - repeated: executions beyond one a job, which are allowed.
//!
//! `FOREBAY_CHAOS_JOBS` and `FOREBAY_CHAOS_KILLS` change the numbers; `-- moto` or `-- fauxqs` runs just that one.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use forebay::source::committed::{Committed, Records};
use forebay::source::sqs::Sqs;
use forebay::store::{Conditional, Key, Meta, Object, Outcome, Page, Put, Store};
use forebay::{Batching, BoxFuture, Bytes, Context, Error, Job, Pipeline, Result, Verdict, Worker, store};
use forebay_benches::{Random, result};
use forebay_models::toy::FakeDevice;
use forebay_tests::{Server, sqs_client};
use serde_json::json;

const WORKERS: usize = 8;
const LEASE: Duration = Duration::from_secs(6);
/// A worker is stopped for so long: longer than its leases.
const STOPPED: Duration = Duration::from_secs(9);
/// Every so many times a worker is stopped instead of killed.
const STOP_EVERY: usize = 10;
/// Jobs that are on the queue at most: `moto` goes through all of them at every receive.
const BACKLOG: usize = 250;
/// All of it, for one server.
const WITHIN: Duration = Duration::from_secs(420);

fn main() -> Result<ExitCode> {
    if let Some(endpoint) = std::env::var_os("FOREBAY_CHAOS_ENDPOINT") {
        return work(&endpoint.to_string_lossy());
    }
    let (jobs, kills) = (number("FOREBAY_CHAOS_JOBS", 10_000)?, number("FOREBAY_CHAOS_KILLS", 200)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Vec::new();
    for name in servers() {
        let folder = tempfile::tempdir()?;
        let Some(server) = Server::start_in(name, (name == "fauxqs").then_some(folder.path())) else {
            return Err(Error::invalid("the servers are skipped, so there is nothing to show"));
        };
        let found = runtime.block_on(Chaos::new(&server.endpoint(), folder.path(), jobs, kills)?.run())?;
        println!("{name}: {found}");
        all.push((name, found));
    }
    let sum = |of: fn(&Found) -> usize| all.iter().map(|(_, found)| of(found)).sum::<usize>();
    result(json!({
        "jobs": sum(|found| found.jobs),
        "lost": sum(|found| found.lost),
        "unexpected": sum(|found| found.unexpected),
        "duplicated": sum(|found| found.duplicated),
        "kills": sum(|found| found.kills),
        "stops": sum(|found| found.stops),
        "repeated": sum(|found| found.repeated),
        "seconds": all.iter().map(|(name, found)| (*name, found.seconds)).collect::<HashMap<_, _>>(),
    }));
    let right = sum(|found| found.lost + found.unexpected + found.duplicated) == 0;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those that are named on the command line, or both.
fn servers() -> Vec<&'static str> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut servers = vec!["fauxqs", "moto"];
    if servers.iter().any(|server| named.iter().any(|name| name == server)) {
        servers.retain(|server| named.iter().any(|name| name == server));
    }
    servers
}

fn number(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => {
            text.parse().map_err(|_| Error::invalid(format_args!("{name} is `{text}`, but should be a number")))
        }
        Err(_) => Ok(default),
    }
}

/// What one server's run showed.
struct Found {
    jobs: usize,
    lost: usize,
    unexpected: usize,
    duplicated: usize,
    kills: usize,
    stops: usize,
    repeated: usize,
    seconds: f64,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { jobs, lost, unexpected, duplicated, kills, stops, repeated, seconds } = self;
        write!(
            f,
            "{jobs} jobs, {kills} kills and {stops} stops in {seconds:.0} s: {lost} lost, {unexpected} unexpected, "
        )?;
        write!(f, "{duplicated} committed twice, {repeated} executions repeated")
    }
}

struct Chaos {
    endpoint: String,
    folder: PathBuf,
    jobs: usize,
    kills: usize,
    client: Client,
}

impl Chaos {
    fn new(endpoint: &str, folder: &Path, jobs: usize, kills: usize) -> Result<Self> {
        for name in ["store", "history", "nodes"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let client = sqs_client(endpoint);
        Ok(Chaos { endpoint: endpoint.to_owned(), folder: folder.to_owned(), jobs, kills, client })
    }

    async fn run(&self) -> Result<Found> {
        let (queue, graves) = self.make_queues().await?;
        let start = Instant::now();
        let mut fleet = Fleet::new(self, &queue);
        let records = Records::new(store::Folder::open(self.folder.join("store"))?);
        let (mut sent, mut left) = (0, Vec::new());
        while sent < self.jobs || !left.is_empty() || fleet.kills < self.kills {
            if start.elapsed() > WITHIN {
                let waiting = self.jobs - sent + left.len();
                println!("after {WITHIN:?} {waiting} jobs have not ended; no more is waited for");
                break;
            }
            let more = self.jobs.min(sent + BACKLOG.saturating_sub(left.len()));
            self.send(&queue, sent..more).await?;
            left.extend(sent..more);
            sent = more;
            // As fast as the kills that are due are spread over the jobs.
            let done = sent - left.len();
            let due = self.kills * (done + self.jobs / 20) / self.jobs.max(1);
            if fleet.kills < due || left.is_empty() {
                fleet.strike()?;
            }
            fleet.wake_and_replace()?;
            // The pace of the kills, and of looking at the store.
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = unended(&records, left).await?;
        }
        fleet.end().await?;
        self.compare(&records, &fleet, &queue, &graves, start.elapsed()).await
    }

    /// The queue, and the one for its dead letters.
    async fn make_queues(&self) -> Result<(String, String)> {
        let make = async |name: &str, attributes: HashMap<QueueAttributeName, String>| {
            let made = self.client.create_queue().queue_name(name).set_attributes(Some(attributes)).send().await;
            let url = made.map_err(|why| Error::failed(format!("{why:?}")))?.queue_url;
            url.ok_or_else(|| Error::failed("a queue without a URL was made"))
        };
        let graves = make("graves", HashMap::new()).await?;
        let policy = json!({ "deadLetterTargetArn": "arn:aws:sqs:us-east-1:ACCOUNT:graves", "maxReceiveCount": 1000 });
        let account = graves.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let policy = policy.to_string().replace("ACCOUNT", &account);
        let queue = make("jobs", HashMap::from([(QueueAttributeName::RedrivePolicy, policy)])).await?;
        Ok((queue, graves))
    }

    async fn send(&self, queue: &str, jobs: Range<usize>) -> Result<()> {
        for first in jobs.clone().step_by(10) {
            let entry = |n: usize| {
                let body = json!({ "forebay": 1, "id": format!("job-{n}"), "input": n }).to_string();
                SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build()
            };
            let entries: std::result::Result<Vec<_>, _> = (first..jobs.end.min(first + 10)).map(entry).collect();
            let entries = entries.map_err(|why| Error::failed(format!("{why:?}")))?;
            let sent = self.client.send_message_batch().queue_url(queue).set_entries(Some(entries)).send().await;
            let sent = sent.map_err(|why| Error::failed(format!("{why:?}")))?;
            if !sent.failed().is_empty() {
                return Err(Error::failed(format_args!("{:?} were not sent", sent.failed())));
            }
        }
        Ok(())
    }

    async fn compare(
        &self,
        records: &Records,
        fleet: &Fleet<'_>,
        queue: &str,
        graves: &str,
        took: Duration,
    ) -> Result<Found> {
        let mut lost = 0;
        for n in 0..self.jobs {
            let right = serde_json::to_vec(&FakeDevice::output(n as u64)).context("a number")?;
            match records.outcome(&format!("job-{n}")).await? {
                Some(Verdict::Done(output)) if output == right => {}
                other => {
                    println!("job-{n} ended with {other:?}");
                    lost += 1;
                }
            }
        }
        let (mut begun, mut ended) = (HashMap::<String, usize>::new(), HashMap::<String, usize>::new());
        for file in std::fs::read_dir(self.folder.join("history"))? {
            for line in std::fs::read_to_string(file?.path())?.lines() {
                match line.split_once(' ') {
                    Some(("begun", id)) => *begun.entry(id.to_owned()).or_default() += 1,
                    Some(("ended", id)) => *ended.entry(id.to_owned()).or_default() += 1,
                    _ => return Err(Error::failed(format_args!("the history says `{line}`"))),
                }
            }
        }
        let sent: HashSet<String> = (0..self.jobs).map(|n| format!("job-{n}")).collect();
        let dead = self.depth(graves).await?;
        let strange = begun.keys().chain(ended.keys()).filter(|id| !sent.contains(*id)).count();
        Ok(Found {
            jobs: self.jobs,
            lost: lost + self.depth(queue).await?,
            unexpected: strange + dead,
            duplicated: ended.values().filter(|count| **count > 1).count(),
            kills: fleet.kills,
            stops: fleet.stops,
            repeated: begun.values().map(|count| count - 1).sum(),
            seconds: took.as_secs_f64(),
        })
    }

    /// Messages on a queue, held ones too.
    async fn depth(&self, queue: &str) -> Result<usize> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let asked =
            self.client.get_queue_attributes().queue_url(queue).set_attribute_names(Some(names.to_vec())).send();
        let asked = asked.await.map_err(|why| Error::failed(format!("{why:?}")))?;
        let count = |name| asked.attributes()?.get(name)?.parse::<usize>().ok();
        Ok(names.iter().filter_map(count).sum())
    }
}

async fn unended(records: &Records, left: Vec<usize>) -> Result<Vec<usize>> {
    let mut still = Vec::new();
    for n in left {
        if records.outcome(&format!("job-{n}")).await?.is_none() {
            still.push(n);
        }
    }
    Ok(still)
}

/// The worker processes.
struct Fleet<'a> {
    chaos: &'a Chaos,
    queue: String,
    random: Random,
    workers: Vec<Child>,
    /// Which are stopped, and until when.
    stopped: HashMap<usize, Instant>,
    started: usize,
    kills: usize,
    stops: usize,
}

impl<'a> Fleet<'a> {
    fn new(chaos: &'a Chaos, queue: &str) -> Self {
        Fleet {
            chaos,
            queue: queue.to_owned(),
            random: Random::new(7),
            workers: Vec::new(),
            stopped: HashMap::new(),
            started: 0,
            kills: 0,
            stops: 0,
        }
    }

    /// A worker as on a node of its own.
    fn start(&mut self) -> Result<Child> {
        let node = self.started;
        self.started += 1;
        let program = std::env::current_exe()?;
        let child = Command::new(program)
            .env("FOREBAY_CHAOS_ENDPOINT", &self.chaos.endpoint)
            .env("FOREBAY_CHAOS_QUEUE", &self.queue)
            .env("FOREBAY_CHAOS_FOLDER", &self.chaos.folder)
            .env("FOREBAY_WITNESS", self.chaos.folder.join("nodes").join(node.to_string()))
            .env("FOREBAY_CHAOS_NODE", node.to_string())
            .env("AWS_ACCESS_KEY_ID", "AKTEST")
            .env("AWS_SECRET_ACCESS_KEY", "SKTEST")
            .env("AWS_REGION", "us-east-1")
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn();
        child.context("starting a worker")
    }

    /// Kills a worker, or stops it for a while.
    fn strike(&mut self) -> Result<()> {
        let victim = (self.random.unit() * self.workers.len() as f64) as usize;
        if self.stopped.contains_key(&victim) || victim >= self.workers.len() {
            return Ok(());
        }
        if (self.kills + self.stops) % STOP_EVERY == STOP_EVERY - 1 {
            signal(&self.workers[victim], "-STOP")?;
            self.stopped.insert(victim, Instant::now() + STOPPED);
            self.stops += 1;
            return Ok(());
        }
        self.workers[victim].kill().context("killing a worker")?;
        self.workers[victim].wait().context("killing a worker")?;
        self.kills += 1;
        self.workers[victim] = self.start()?;
        Ok(())
    }

    fn wake_and_replace(&mut self) -> Result<()> {
        while self.workers.len() < WORKERS {
            let worker = self.start()?;
            self.workers.push(worker);
        }
        let now = Instant::now();
        let over: Vec<usize> =
            self.stopped.iter().filter(|(_, until)| **until < now).map(|(index, _)| *index).collect();
        for index in over {
            self.stopped.remove(&index);
            signal(&self.workers[index], "-CONT")?;
        }
        for index in 0..self.workers.len() {
            if let Some(status) = self.workers[index].try_wait()? {
                return Err(Error::failed(format_args!("a worker that nobody killed has ended: {status}")));
            }
        }
        Ok(())
    }

    /// Has all of them drain and end by themselves.
    async fn end(&mut self) -> Result<()> {
        for worker in &self.workers {
            signal(worker, "-CONT")?;
            signal(worker, "-TERM")?;
        }
        for mut worker in self.workers.drain(..) {
            let ended = tokio::task::spawn_blocking(move || worker.wait());
            let status = ended.await.map_err(|why| Error::failed(why.to_string()))??;
            if !status.success() {
                return Err(Error::failed(format_args!("a worker that was told to stop ended with {status}")));
            }
        }
        Ok(())
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

fn signal(worker: &Child, signal: &str) -> Result<()> {
    let status = Command::new("kill").arg(signal).arg(worker.id().to_string()).status().context("running kill")?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::failed(format_args!("kill {signal} failed for {}", worker.id()))),
    }
}

/// One worker process, until it is killed or told to stop.
fn work(endpoint: &str) -> Result<ExitCode> {
    let setting = |name| std::env::var(name).map_err(|_| Error::invalid(format_args!("{name} is not set")));
    let folder = PathBuf::from(setting("FOREBAY_CHAOS_FOLDER")?);
    let history = folder.join("history").join(setting("FOREBAY_CHAOS_NODE")?);
    let history = Arc::new(History::open(&history)?);
    let (begins, ends) = (history.clone(), history);
    let pipeline = Pipeline::new()
        .io("begin", 16, move |job: Job, n: u64| {
            let begins = begins.clone();
            async move {
                begins.note("begun", job.id())?;
                Ok(n)
            }
        })
        .gpu("device", Batching::items(8), || Ok(FakeDevice::new(Duration::from_millis(40), Duration::from_millis(5))));
    let queue = Sqs::new(setting("FOREBAY_CHAOS_QUEUE")?).endpoint(endpoint).region("us-east-1");
    let queue = queue.lease(LEASE).wait(Duration::from_secs(1));
    let store = Noted { inner: store::Folder::open(folder.join("store"))?, history: ends };
    let worker = Worker::new(pipeline).source(Committed::new(queue, store)).in_flight(16);
    forebay::telemetry::init()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(worker.run()))
}

/// A file of lines that one process appends to, each in one write.
struct History(File);

impl History {
    fn open(path: &Path) -> Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(History).context("opening the history")
    }

    fn note(&self, what: &str, id: &str) -> Result<()> {
        (&self.0).write_all(format!("{what} {id}\n").as_bytes()).context("writing the history")
    }
}

/// A store that writes down each end that it commits.
struct Noted {
    inner: store::Folder,
    history: Arc<History>,
}

impl Store for Noted {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.inner.get(key)
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: std::ops::Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        self.inner.get_range(key, range)
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        self.inner.head(key)
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let outcome = self.inner.put(key, bytes, mode).await?;
            let ended = key.as_str().strip_prefix("jobs/").and_then(|rest| rest.strip_suffix("/end"));
            if let (Some(id), Outcome::Stored(_)) = (ended, &outcome) {
                self.history.note("ended", id)?;
            }
            Ok(outcome)
        })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        self.inner.delete(key)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        self.inner.list(prefix, after, limit)
    }

    fn conditional(&self) -> Conditional {
        self.inner.conditional()
    }
}
