//! Jobs whose callers do not wait: taken in over HTTP, asked after at any replica, cancelled, told by webhooks; and
//! what becomes of them when their worker is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use forebay::source::deferred::Deferred;
use forebay::source::http::Http;
use forebay::webhook::Webhook;
use forebay::{Event, Pipeline, Worker};
use forebay_tests::{Client, Gate, Hook, Process, eventually, start, within};
use serde_json::{Value, json};

const LATER: &str = "content-type: application/json\r\nprefer: respond-async\r\n";

/// A replica: an HTTP server and, if it has a pipeline that `works`, a worker.
fn replica(folder: &Path, webhook: Option<Webhook>, pipeline: Pipeline<u64, u64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let later = Deferred::folder(folder).unwrap();
    let later = match webhook {
        Some(webhook) => later.webhook(webhook),
        None => later,
    };
    let http = Http::on(listener).unwrap().deferred(&later);
    drop(start(Worker::new(pipeline).source(http).source(later)));
    address
}

/// Doubles numbers, half-way at the gate; counts how often.
fn doubling(gate: &Gate, runs: &Arc<AtomicUsize>) -> Pipeline<u64, u64> {
    let (gate, runs) = (gate.clone(), runs.clone());
    Pipeline::new().cpu("double", 4, move |job, n: u64| {
        runs.fetch_add(1, SeqCst);
        job.emit(Event::Progress(0.5));
        while !gate.is_open() && !job.is_cancelled() {
            std::thread::yield_now();
        }
        if n == 13 { Err(forebay::Error::invalid("thirteen is not doubled")) } else { Ok(2 * n) }
    })
}

async fn hand_in(client: &mut Client, headers: &str, body: &str) -> (String, Value) {
    let answer = client.post_with("/", &format!("{LATER}{headers}"), body.as_bytes()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.header("preference-applied"), Some("respond-async"));
    let status: Value = serde_json::from_slice(&answer.body).unwrap();
    let address = answer.header("location").unwrap().to_owned();
    assert_eq!(address, format!("/jobs/{}", status["id"].as_str().unwrap()));
    (address, status)
}

async fn status(client: &mut Client, address: &str) -> Value {
    let answer = client.get(address).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn until(client: &mut Client, address: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let status = status(client, address).await;
            if reached(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    within("the job comes as far as that", wait).await
}

async fn delete(client: &mut Client, address: &str) -> Value {
    client.send(format!("DELETE {address} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await;
    let answer = client.response().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_taken_in_seen_at_work_and_fetched_at_any_replica() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, runs) = (Gate::new(), Arc::default());
    let first = replica(folder.path(), None, doubling(&gate, &runs));
    let second = replica(folder.path(), None, doubling(&gate, &runs));
    let (mut here, mut there) = (Client::connect(first).await, Client::connect(second).await);
    let (address, status) = hand_in(&mut here, "", "21").await;
    assert!(["queued", "running"].contains(&status["state"].as_str().unwrap()), "{status}");

    let at_work = until(&mut there, &address, |status| status["progress"] == 0.5).await;
    assert_eq!((&at_work["state"], &at_work["attempt"]), (&json!("running"), &json!(1)));
    let early = there.get(&format!("{address}/result")).await;
    assert_eq!((early.status, early.header("content-type")), (409, Some("application/problem+json")));

    gate.open();
    let done = until(&mut there, &address, |status| status["state"] == "done").await;
    assert_eq!((&done["result"], &done["progress"]), (&json!(42), &json!(1.0)), "{done}");
    let result = there.get(done["result_url"].as_str().unwrap()).await;
    assert_eq!((result.text().as_str(), result.header("content-type")), ("42", Some("application/json")));
    assert_eq!(runs.load(SeqCst), 1);

    let (address, _) = hand_in(&mut here, "", "13").await;
    let failed = until(&mut here, &address, |status| status["state"] == "failed").await;
    assert_eq!(failed["error"]["fault"], "invalid");
    assert!(failed["error"]["detail"].as_str().unwrap().contains("thirteen"), "{failed}");
    for unknown in ["/jobs/0123456789abcdef0123456789abcdef", "/jobs/../asked", "/jobs/x"] {
        assert_eq!(here.get(unknown).await.status, 404, "{unknown}");
    }
    // What is over has left the queue, on disk too.
    let queue = || std::fs::read_dir(folder.path().join("queue")).unwrap().count();
    eventually("the queue is empty", || queue() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_cancelled_while_it_waits_and_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, runs) = (Gate::new(), Arc::default());
    let address = replica(folder.path(), None, doubling(&gate, &runs));
    let mut client = Client::connect(address).await;
    let (job, _) = hand_in(&mut client, "", "1").await;
    until(&mut client, &job, |status| status["state"] == "running").await;
    assert_eq!(delete(&mut client, &job).await["state"], "cancelled");
    assert_eq!(delete(&mut client, &job).await["state"], "cancelled", "once more changes nothing");
    // The stage ends only because it is told: the gate is still closed.
    let (next, _) = hand_in(&mut client, "", "2").await;
    until(&mut client, &next, |status| status["progress"] == 0.5).await;
    gate.open();
    until(&mut client, &next, |status| status["state"] == "done").await;
    assert_eq!(delete(&mut client, &next).await["state"], "done", "what is done is not cancelled");
    assert_eq!(status(&mut client, &job).await["state"], "cancelled");
    assert_eq!(client.get(&format!("{job}/result")).await.status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_makes_one_job() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runs = Arc::default();
    gate.open();
    let replicas: Vec<_> = (0..2).map(|_| replica(folder.path(), None, doubling(&gate, &runs))).collect();
    let posts = (0..100).map(|n| {
        let address = replicas[n % 2];
        async move {
            let mut client = Client::connect(address).await;
            hand_in(&mut client, "idempotency-key: \"order-7\"\r\n", "5").await.0
        }
    });
    let jobs = within("all are answered", futures_util::future::join_all(posts)).await;
    assert!(jobs.iter().all(|job| *job == jobs[0]));
    let mut client = Client::connect(replicas[0]).await;
    until(&mut client, &jobs[0], |status| status["state"] == "done").await;
    assert_eq!(hand_in(&mut client, "idempotency-key: \"order-7\"\r\n", "5").await.1["result"], 10);
    assert_eq!(runs.load(SeqCst), 1);
    let other = client.post_with("/", &format!("{LATER}idempotency-key: \"order-7\"\r\n"), b"6").await;
    assert_eq!(other.status, 422, "{}", other.text());
    let (another, _) = hand_in(&mut client, "idempotency-key: \"order-8\"\r\n", "5").await;
    assert_ne!(another, jobs[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_in_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    gate.open();
    let runs = Arc::default();
    let address = replica(folder.path(), None, doubling(&gate, &runs));
    let mut client = Client::connect(address).await;
    let refused = client.post_with("/", &format!("{LATER}x-webhook-url: https://example.com/\r\n"), b"1").await;
    assert_eq!(refused.status, 422, "no secrets, no webhooks: {}", refused.text());
    let refused = client.post_with("/", "prefer: respond-async\r\ncontent-type: text/plain\r\n", b"1").await;
    assert_eq!(refused.status, 415);
    let inside = replica(folder.path(), Some(Hook::sender()), doubling(&gate, &runs));
    let mut client = Client::connect(inside).await;
    let refused = client.post_with("/", &format!("{LATER}x-webhook-url: https://169.254.169.254/\r\n"), b"1").await;
    assert_eq!(refused.status, 422, "not into our own network: {}", refused.text());
    assert!(refused.text().contains("x-webhook-url"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_carries_the_result_and_is_tried_again_under_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    gate.open();
    let hook = Hook::refusing(1);
    let address = replica(folder.path(), Some(Hook::sender()), doubling(&gate, &Arc::default()));
    let mut client = Client::connect(address).await;
    let (job, first) = hand_in(&mut client, &format!("x-webhook-url: {}\r\n", hook.url()), "4").await;
    let id = format!("msg_{}", first["id"].as_str().unwrap());
    // The first pause is 5 s.
    eventually("it was sent twice", || hook.told().len() == 2);
    for (message, body) in &hook.told() {
        assert_eq!((message, &body["type"], &body["data"]["result"]), (&id, &json!("job.done"), &json!(8)), "{body}");
        assert_eq!(body["data"]["id"], first["id"]);
    }
    let delivered = until(&mut client, &job, |status| status["webhook"]["outcome"] == "delivered").await;
    assert_eq!(delivered["webhook"]["attempts"], 2);
    assert!(!delivered.to_string().contains("token"), "the URL is the caller's secret: {delivered}");
}

fn process(folder: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_served"));
    Process::start(command.env("FOREBAY_TEST_JOBS", folder).env("FOREBAY_TEST_SECRET", Hook::SECRET))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_finishes_what_a_killed_one_took_in() {
    const JOBS: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::refusing(0);
    let first = process(folder.path());
    let mut client = Client::connect(first.address).await;
    let mut jobs = BTreeMap::new();
    for n in 0..JOBS {
        let (address, status) =
            hand_in(&mut client, &format!("x-webhook-url: {}\r\n", hook.url()), &n.to_string()).await;
        jobs.insert(format!("msg_{}", status["id"].as_str().unwrap()), (address, n));
    }
    // Some are done, some told, some at work, some wait.
    eventually("the first are told", || hook.told().len() >= 3);
    drop(first);
    let second = process(folder.path());
    let mut client = Client::connect(second.address).await;
    for (address, n) in jobs.values() {
        let done = until(&mut client, address, |status| status["state"] == "done").await;
        assert_eq!(done["result"], 2 * n);
    }
    let arrived = || hook.told().iter().map(|(id, _)| id.clone()).collect::<std::collections::BTreeSet<_>>();
    eventually("every webhook has arrived", || arrived().len() == JOBS as usize);
    for (id, body) in &hook.told() {
        assert_eq!(body["data"]["result"], 2 * jobs[id].1, "under its own id, each time");
    }
    assert!(hook.told().len() < 2 * JOBS as usize, "only what was under way comes twice");
}
