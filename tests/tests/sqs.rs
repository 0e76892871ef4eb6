//! The source `Sqs` at servers that others wrote, where it keeps the contract of every source, and as a process of its
//! own that is set up by its environment, told to stop, and killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use forebay::source::Queue;
use forebay::source::deferred::Deferred;
use forebay::source::http::Http;
use forebay::source::sqs::Sqs;
use forebay::store::Memory;
use forebay::testing::fake_sqs::FakeSqs;
use forebay::testing::source::{self, Bench, Ended};
use forebay::{Pipeline, Worker};
use forebay_tests::{PATIENCE, Server, eventually, sqs_client, start, within};

/// A queue at a server, with its dead-letter queue.
struct Queues {
    client: Client,
    fifo: bool,
    number: usize,
    url: String,
    dead: String,
}

impl Queues {
    async fn new(endpoint: &str, fifo: bool) -> Self {
        let mut queues =
            Queues { client: sqs_client(endpoint), fifo, number: 0, url: String::new(), dead: String::new() };
        queues.reset().await;
        queues
    }

    async fn create(&self, what: &str, redrive: Option<String>) -> String {
        let name = format!("{what}-{}{}", self.number, if self.fifo { ".fifo" } else { "" });
        let mut create = self.client.create_queue().queue_name(name);
        if self.fifo {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        if let Some(policy) = redrive {
            create = create.attributes(QueueAttributeName::RedrivePolicy, policy);
        }
        create.send().await.unwrap().queue_url.unwrap()
    }

    async fn attributes(&self, url: &str) -> std::collections::HashMap<QueueAttributeName, String> {
        let asked = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        asked.send().await.unwrap().attributes.unwrap_or_default()
    }

    /// How many messages a queue has, hidden or not.
    async fn count(&self, url: &str) -> usize {
        let attributes = self.attributes(url).await;
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        names.iter().filter_map(|name| attributes.get(name)?.parse::<usize>().ok()).sum()
    }

    fn sqs(&self) -> Sqs {
        Sqs::from_client(self.client.clone(), &self.url)
    }
}

impl Bench for Queues {
    type Source = Sqs;

    async fn reset(&mut self) {
        self.number += 1;
        self.dead = self.create("dead", None).await;
        let arn = self.attributes(&self.dead).await[&QueueAttributeName::QueueArn].clone();
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"1000"}}"#);
        self.url = self.create("jobs", Some(policy)).await;
    }

    fn source(&mut self) -> Sqs {
        self.sqs().lease(Duration::from_secs(2)).wait(Duration::from_secs(1))
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        self.sqs().queue().push(name, payload.to_vec().into()).await.unwrap();
    }

    async fn ended(&mut self, _: &str) -> Option<Ended> {
        match (self.count(&self.url).await, self.count(&self.dead).await) {
            (0, 0) => Some(Ended::Done),
            (0, _) => Some(Ended::Rejected),
            _ => None,
        }
    }
}

#[tokio::test]
async fn conforms_at_moto() {
    if let Some(server) = Server::start("moto") {
        source::all(&mut Queues::new(&server.endpoint(), false).await).await;
        source::all(&mut Queues::new(&server.endpoint(), true).await).await;
    }
}

#[tokio::test]
async fn conforms_at_fauxqs() {
    if let Some(server) = Server::start("fauxqs") {
        source::all(&mut Queues::new(&server.endpoint(), false).await).await;
        source::all(&mut Queues::new(&server.endpoint(), true).await).await;
    }
}

#[tokio::test]
async fn conforms_at_the_fakes_port() {
    let served = FakeSqs::new().serve(0).await.unwrap();
    source::all(&mut Queues::new(&served.endpoint(), false).await).await;
}

/// Deferred jobs over SQS: handed in over HTTP, on the queue before the caller is answered, and done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_jobs_are_kept_on_a_queue() {
    for fifo in [false, true] {
        let served = FakeSqs::new().serve(0).await.unwrap();
        let queues = Queues::new(&served.endpoint(), fifo).await;
        let later = Deferred::new(queues.sqs(), queues.sqs().queue(), Memory::new());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let http = Http::on(listener).unwrap().deferred(&later);
        let shout = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
        drop(start(Worker::new(shout).source(http).source(later)));
        let mut caller = forebay_tests::Client::connect(address).await;
        let later = "content-type: application/json\r\nprefer: respond-async\r\n";
        let mut jobs = Vec::new();
        for n in 0..10 {
            let answer = caller.post_with("/", later, format!("\"job {n}\"").as_bytes()).await;
            assert_eq!(answer.status, 202, "{}", answer.text());
            jobs.push(answer.header("location").unwrap().to_owned());
        }
        let done = async {
            for (n, job) in jobs.iter().enumerate() {
                let said = format!("JOB {n}");
                while !caller.get(job).await.text().contains(&said) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            while queues.count(&queues.url).await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("all jobs are done, and off the queue", done).await;
    }
}

/// A worker process; killed if the test ends before it does.
struct Process {
    child: Child,
    done: Arc<Mutex<BTreeMap<String, usize>>>,
    said: Arc<Mutex<String>>,
}

impl Process {
    fn start(endpoint: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sqs_worker"));
        command
            .env_clear()
            .env("FOREBAY_SQS_QUEUE", format!("{endpoint}/000000000000/jobs-1"))
            .env("FOREBAY_SQS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (done, said) = (Arc::<Mutex<BTreeMap<String, usize>>>::default(), Arc::<Mutex<String>>::default());
        let (counts, words) = (done.clone(), said.clone());
        let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(id) = line.strip_prefix("done ") {
                    *counts.lock().unwrap().entry(id.to_owned()).or_default() += 1;
                }
            }
        });
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                words.lock().unwrap().push_str(&line);
            }
        });
        Process { child, done, said }
    }

    fn done(&self) -> usize {
        self.done.lock().unwrap().values().sum()
    }

    fn said(&self, words: &str) -> bool {
        self.said.lock().unwrap().contains(words)
    }

    fn terminate(&self) {
        // The shell's own `kill`, since a program of that name is not everywhere.
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the process does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fake on a port with a queue of jobs.
async fn world() -> (FakeSqs, forebay::testing::fake_sqs::Served, Queues) {
    let fake = FakeSqs::new();
    let served = fake.serve(0).await.unwrap();
    let queues = Queues::new(&served.endpoint(), false).await;
    (fake, served, queues)
}

async fn push(queues: &Queues, count: usize, millis: u64) {
    let queue = queues.sqs().queue();
    for n in 0..count {
        queue.push(&format!("job-{n}"), millis.to_string().into()).await.unwrap();
    }
}

fn visible(fake: &FakeSqs) -> usize {
    let messages = fake.messages("jobs-1");
    let now = tokio::time::Instant::now();
    messages.iter().filter(|message| message.hidden_until.is_none_or(|until| until <= now)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_queue_and_end_with_0() {
    let (fake, served, queues) = world().await;
    push(&queues, 200, 5).await;
    let mut workers = [(); 2].map(|()| Process::start(&served.endpoint(), &[]));
    eventually("all jobs are done", || workers.iter().map(Process::done).sum::<usize>() == 200);
    eventually("all are settled", || fake.messages("jobs-1").is_empty());
    assert!(workers.iter().all(|worker| worker.done() > 0), "both work");
    for worker in &mut workers {
        worker.terminate();
        assert_eq!(worker.ended(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_gives_back_at_once_what_it_cannot_finish() {
    let (fake, served, queues) = world().await;
    push(&queues, 30, 3_600_000).await;
    let mut worker = Process::start(&served.endpoint(), &[("FOREBAY_GRACE", "0"), ("FOREBAY_IN_FLIGHT", "20")]);
    eventually("it is full", || visible(&fake) == 10);
    let told = Instant::now();
    worker.terminate();
    eventually("all can be received again", || visible(&fake) == 30);
    assert!(told.elapsed() < Duration::from_secs(1), "after {:?}", told.elapsed());
    assert_eq!(worker.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_comes_again_when_its_lease_ends() {
    let (fake, served, queues) = world().await;
    push(&queues, 8, 300).await;
    let short = [("FOREBAY_SQS_LEASE", "2"), ("FOREBAY_SQS_WAIT", "1")];
    let mut first = Process::start(&served.endpoint(), &short);
    eventually("it holds them all", || visible(&fake) == 0);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = Process::start(&served.endpoint(), &short);
    eventually("all jobs are done", || fake.messages("jobs-1").is_empty());
    assert_eq!(first.done() + second.done(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_work_stays_up_and_says_why() {
    let (_fake, served, queues) = world().await;
    push(&queues, 1, 1).await;
    let elsewhere = format!("{}/000000000000/missing", served.endpoint());
    let cases: [(&str, &str, &str); 4] = [
        ("FOREBAY_SQS_QUEUE", &elsewhere, "there is no such queue"),
        ("AWS_ACCESS_KEY_ID", "", "no AWS credentials"),
        ("FOREBAY_SQS_ENDPOINT", "http://127.0.0.1:9", "cannot be reached"),
        ("FOREBAY_SQS_DEAD_LETTERS", &elsewhere, "dead-letter queue"),
    ];
    for (key, value, says) in cases {
        let mut worker = Process::start(&served.endpoint(), &[(key, value)]);
        eventually(says, || worker.said(says));
        assert_eq!(worker.child.try_wait().unwrap(), None, "{key}: it stays up");
        worker.terminate();
        assert_eq!(worker.ended(), Some(0), "{key}");
    }
}
