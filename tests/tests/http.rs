//! The source `Http` as its callers see it: answers, refusals, deadlines, callers who leave, hostile ones, a drain.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay::source::http::Http;
use forebay::{Batching, Error, Job, Pipeline, Report, Result, Worker};
use forebay_tests::{Client, Gate, Random, eventually, model, start, within};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::oneshot;

struct Served {
    address: SocketAddr,
    _ended: oneshot::Receiver<Result<Report>>,
}

fn http() -> (Http, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Http::on(listener).unwrap(), address)
}

/// Starts a worker behind HTTP; the server answers from here on.
fn serve(worker: Worker, set: impl FnOnce(Http) -> Http) -> Served {
    let (http, address) = http();
    Served { address, _ended: start(worker.source(set(http))) }
}

impl Served {
    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn ready(self) -> Self {
        let mut client = self.client().await;
        let ready = async {
            while client.get("/health/ready").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        within("the worker is ready", ready).await;
        self
    }
}

/// Counts how many items the device has seen, and waits at the gate before each batch.
fn doubling(gate: Gate, seen: Arc<AtomicUsize>) -> Pipeline<u64, u64> {
    Pipeline::new().gpu("double", Batching::items(4), move || {
        let (gate, seen) = (gate.clone(), seen.clone());
        Ok(model(move |numbers: &[u64]| {
            gate.pass();
            seen.fetch_add(numbers.len(), SeqCst);
            Ok(numbers.iter().map(|n| n * 2).collect())
        }))
    })
}

fn open() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_by_path_and_says_where_the_time_went() {
    let shout = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
    let worker = Worker::new(doubling(open(), Arc::default())).route("shout", shout);
    let served = serve(worker, |http| http.path("/double", "")).ready().await;
    let mut client = served.client().await;
    let answer = client.post("/double", "21").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "42"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let times = answer.header("server-timing").unwrap();
    for part in ["total;dur=", "double-wait;dur=", "double;dur="] {
        assert!(times.contains(part), "{times}");
    }
    assert_eq!(client.post("/shout", "\"a\"").await.text(), "\"A\"", "on the same connection");
    assert_eq!(client.post("/", "21").await.status, 404, "the first pipeline has a path of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_their_4xx_and_reach_no_device() {
    #[derive(serde::Deserialize)]
    struct Ask {
        items: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        count: u64,
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let pipeline = Pipeline::new().cpu("sum", 1, move |_, ask: Ask| {
        count.fetch_add(1, SeqCst);
        Ok(ask.items.iter().map(|item| item.count).sum::<u64>())
    });
    let served = serve(Worker::new(pipeline), |http| http.body(1000)).ready().await;
    let mut client = served.client().await;
    let json = "content-type: application/json\r\n";
    let large = format!("{{\"items\": [], \"more\": \"{}\"}}", "x".repeat(1000));
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("/", json, "{", 400, "EOF"),
        ("/", json, "{'items': []}", 400, "line 1"),
        ("/", json, "", 400, "EOF"),
        ("/", json, "{}", 422, "items"),
        ("/", json, "{\"items\": [{\"count\": 1}, {\"count\": \"2\"}]}", 422, "items[1].count"),
        ("/", json, "{\"items\": 7}", 422, "items"),
        ("/", json, "{\"items\": [{\"count\": -1}]}", 422, "items[0].count"),
        ("/", json, &large, 413, "1000"),
        ("/", "content-type: text/plain\r\n", "{}", 415, "application/json"),
        ("/", "content-type: application/json\r\ncontent-encoding: rot13\r\n", "{}", 415, "rot13"),
        ("/", "content-type: application/json\r\ncontent-encoding: gzip\r\n", "{}", 400, "body"),
        ("/", "content-type: application/json\r\nx-request-timeout: soon\r\n", "{}", 400, "x-request-timeout"),
        ("/nowhere", json, "{}", 404, "/nowhere"),
        ("/health/live", json, "{}", 405, "POST"),
    ];
    for (path, headers, body, status, says) in cases {
        let answer = client.post_with(path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, *status, "{path} {headers} {body:.40}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], *status);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem} does not say `{says}`");
        if answer.header("connection") == Some("close") {
            client = served.client().await;
        }
    }
    assert_eq!(seen.load(SeqCst), 0);
    assert_eq!(client.post("/", "{\"items\": [{\"count\": 3}]}").await.text(), "3");

    for broken in ["nonsense\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n"] {
        let mut client = served.client().await;
        client.send(broken.as_bytes()).await;
        assert_eq!(client.response().await.unwrap().status, 400, "{broken}");
        assert!(client.closed_within(Duration::from_secs(5)).await);
    }
    let mut client = served.client().await;
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nabsurd: {}\r\n\r\n", "x".repeat(1_000_000)).as_bytes()).await;
    assert_eq!(client.response().await.unwrap().status, 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_of_a_batch_gets_the_only_4xx() {
    let gate = Gate::new();
    let before = gate.clone();
    let pipeline = Pipeline::new().gpu("pick", Batching::items(6), move || {
        let gate = before.clone();
        Ok(model(move |numbers: &[i64]| {
            gate.pass();
            match numbers.iter().find(|n| **n < 0) {
                Some(bad) => Err(Error::invalid(format_args!("{bad} is negative"))),
                None => Ok(numbers.to_vec()),
            }
        }))
    });
    let served = serve(Worker::new(pipeline), |http| http).ready().await;
    let mut first = served.client().await;
    first.send_post("/", "", b"0").await;
    eventually("the first is in a batch of its own", || gate.waiting() == 1);
    let ask = |n: i64| async move {
        let answer = Client::connect(served.address).await.post("/", &n.to_string()).await;
        (answer.status, answer.text())
    };
    let six = tokio::spawn(join_all([1, 2, -3, 4, 5, 6].map(ask)));
    eventually("the six wait", || {
        let waiting = forebay_inside(served.address);
        waiting == 7
    });
    gate.open();
    let answers = within("all answers", six).await.unwrap();
    for (n, (status, text)) in [1, 2, -3, 4, 5, 6].into_iter().zip(answers) {
        match n {
            -3 => assert!(status == 422 && text.contains("-3 is negative"), "{status} {text}"),
            _ => assert_eq!((status, text), (200, n.to_string())),
        }
    }
}

/// Requests that are inside, as the server tells it.
fn forebay_inside(address: SocketAddr) -> usize {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map_while(|line| line.ok()).collect();
    let inside = lines.iter().find_map(|line| line.strip_suffix(" inside")).expect("it tells");
    inside.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_leave_before_their_batch_are_not_computed() {
    let (gate, seen) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let jobs = Arc::new(Mutex::new(Vec::<Job>::new()));
    let (before, count, noted) = (gate.clone(), seen.clone(), jobs.clone());
    let note = move |job: Job, n: u64| {
        noted.lock().unwrap().push(job);
        async move { Ok(n) }
    };
    let pipeline = Pipeline::new().io("note", 1000, note).gpu("double", Batching::items(4), move || {
        let (gate, seen) = (before.clone(), count.clone());
        Ok(model(move |numbers: &[u64]| {
            gate.pass();
            seen.fetch_add(numbers.len(), SeqCst);
            Ok(numbers.iter().map(|n| n * 2).collect())
        }))
    });
    let served = serve(Worker::new(pipeline), |http| http).ready().await;
    let mut first = served.client().await;
    first.send_post("/", "", b"1").await;
    eventually("the first is on the device", || gate.waiting() == 1);
    let mut leaving = Vec::new();
    for n in 0..200 {
        let mut client = served.client().await;
        client.send_post("/", "", n.to_string().as_bytes()).await;
        leaving.push(client);
    }
    eventually("all are at work", || jobs.lock().unwrap().len() == 201);
    drop(leaving);
    let called_off = || jobs.lock().unwrap().iter().filter(|job| job.is_cancelled()).count();
    eventually("all that have left are called off", || called_off() == 200);
    let mut last = served.client().await;
    last.send_post("/", "", b"5").await;
    eventually("one more is at work", || jobs.lock().unwrap().len() == 202);
    assert_eq!(forebay_inside(served.address), 2);
    gate.open();
    assert_eq!(within("the first", first.response()).await.unwrap().text(), "2");
    assert_eq!(within("the last", last.response()).await.unwrap().text(), "10");
    assert_eq!(seen.load(SeqCst), 2, "those who left are in no batch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_leave_at_random_moments_leave_nothing_behind() {
    let served = serve(Worker::new(doubling(open(), Arc::default())), |http| http).ready().await;
    let address = served.address;
    let callers = (0..20).map(|caller| {
        tokio::spawn(async move {
            let mut random = Random::new(caller);
            for n in 0..50u64 {
                let mut client = Client::connect(address).await;
                let body = n.to_string();
                let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let sent = random.below(request.len() + 1);
                client.send(&request.as_bytes()[..sent]).await;
                let patience = Duration::from_micros(random.below(2_000) as u64);
                let _ = tokio::time::timeout(patience, client.response()).await;
            }
        })
    });
    within("all callers", join_all(callers)).await;
    eventually("nobody is inside", || forebay_inside(address) == 0);
    assert_eq!(served.client().await.post("/", "4").await.text(), "8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_in_time_is_refused_or_ends_at_its_deadline() {
    let gate = Gate::new();
    let served = serve(Worker::new(doubling(gate.clone(), Arc::default())), |http| http).ready().await;
    let mut client = served.client().await;
    let start = Instant::now();
    let answer = client.post_with("/", "x-request-timeout: 0.3\r\n", b"1").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(start.elapsed() >= Duration::from_millis(300));
    gate.open();
    // The device has shown that it can take some 300 ms for a batch.
    eventually("the device is free again", || gate.waiting() == 0);
    let answer = within("an answer", client.post("/", "2")).await;
    assert_eq!(answer.status, 200);
    let answer = client.post_with("/", "x-request-timeout: 0.001\r\n", b"1").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_worker_from_start_to_end() {
    let loading = Gate::new();
    let (gate, device) = (loading.clone(), Gate::new());
    let before = device.clone();
    let pipeline = Pipeline::new().gpu("slow", Batching::items(1), move || {
        gate.pass();
        let device = before.clone();
        Ok(model(move |numbers: &[u64]| {
            device.pass();
            Ok(numbers.to_vec())
        }))
    });
    let (http, address) = http();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = tokio::spawn(async move {
        tokio::select! {
            report = Worker::new(pipeline).source(http).run_once() => drop(report),
            _ = stopped => {}
        }
    });
    let mut client = within("the server listens", async {
        loop {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Client::connect(address).await;
            }
        }
    })
    .await;
    let statuses = async |client: &mut Client| {
        let mut all = Vec::new();
        for probe in ["/health/live", "/health/startup", "/health/ready"] {
            all.push(client.get(probe).await.status);
        }
        all
    };
    assert_eq!(statuses(&mut client).await, [200, 503, 503], "while the model loads");
    assert_eq!(client.post("/", "1").await.status, 503);
    loading.open();
    within("ready", async { while statuses(&mut client).await != [200, 200, 200] {} }).await;

    let mut caller = Client::connect(address).await;
    caller.send_post("/", "", b"7").await;
    eventually("the job is on the device", || device.waiting() == 1);
    stop.send(()).unwrap();
    within("draining", async { while statuses(&mut client).await != [200, 200, 503] {} }).await;
    let refused = client.post("/", "8").await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    device.open();
    let answer = within("what was accepted is answered", caller.response()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "7"));
    within("the worker ends", worker).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_is_one_execution() {
    let (gate, seen) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let served = serve(Worker::new(doubling(gate.clone(), seen.clone())), |http| http).ready().await;
    let key = "idempotency-key: \"7\"\r\n";
    let mut first = served.client().await;
    first.send_post("/", key, b"21").await;
    eventually("it is on the device", || gate.waiting() == 1);
    let address = served.address;
    let posts = (0..100).map(|_| async move { Client::connect(address).await.post_with("/", key, b"21").await.status });
    let meanwhile = within("all others are answered", join_all(posts)).await;
    assert_eq!(meanwhile, vec![409; 100]);
    gate.open();
    assert_eq!(within("the first", first.response()).await.unwrap().text(), "42");
    let mut client = served.client().await;
    assert_eq!(client.post_with("/", key, b"21").await.text(), "42", "as it was answered before");
    assert_eq!(client.post_with("/", key, b"22").await.status, 422, "something else");
    assert_eq!(seen.load(SeqCst), 1);
    assert_eq!(client.post_with("/", key, b"x").await.status, 422);
    assert_eq!(client.post_with("/", "idempotency-key: \"8\"\r\n", b"x").await.status, 400, "a failure is forgotten");
    assert_eq!(client.post_with("/", "idempotency-key: \"8\"\r\n", b"1").await.text(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_asked_for_and_probes_are_not() {
    let worker = Worker::new(doubling(open(), Arc::default()));
    let served = serve(worker, |http| http.keys(["old", "new"])).ready().await;
    let mut client = served.client().await;
    assert_eq!(client.post("/", "1").await.status, 401);
    assert_eq!(client.get("/metrics").await.status, 401);
    assert_eq!(client.post_with("/", "authorization: Bearer older\r\n", b"1").await.status, 401);
    assert_eq!(client.post_with("/", "authorization: Bearer old\r\n", b"1").await.status, 200);
    assert_eq!(client.post_with("/", "x-api-key: new\r\n", b"1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_hold_no_more_bytes_than_set() {
    let gate = Gate::new();
    let before = gate.clone();
    let pipeline = Pipeline::new().cpu("size", 1, move |_, body: bytes::Bytes| {
        before.pass();
        Ok(body.len().to_string().into())
    });
    let served = serve(Worker::bytes(pipeline), |http| http.body(4096).held(10 * 1024)).ready().await;
    let mut inside = Vec::new();
    for _ in 0..2 {
        let mut client = served.client().await;
        client.send_post("/", "", &[0; 4096]).await;
        inside.push(client);
    }
    eventually("both are inside", || forebay_inside(served.address) == 2);
    let mut third = served.client().await;
    assert_eq!(third.post_with("/", "", &[0; 4096]).await.status, 503);
    third.send_post("/", "", &[0; 2048]).await;
    eventually("a smaller one fits", || forebay_inside(served.address) == 3);
    gate.open();
    for mut client in inside {
        assert_eq!(within("an answer", client.response()).await.unwrap().text(), "4096");
    }
    assert_eq!(within("an answer", third.response()).await.unwrap().text(), "2048");
    assert_eq!(third.post_with("/", "", &[0; 4096]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_dribbling_connections_are_cut() {
    let served = serve(Worker::new(doubling(open(), Arc::default())), |http| http).ready().await;
    let address = served.address;
    let start = Instant::now();
    let hostile = (0..150).map(|n| {
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let dribble: &[u8] = match n % 3 {
                0 => b"",
                1 => b"POST / HTTP/1.1\r\nhost: a\r\nx: ",
                _ => b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n",
            };
            client.send(dribble).await;
            while n % 3 > 0 && !client.closed_within(Duration::from_secs(1)).await {
                client.send(b"x").await;
                assert!(start.elapsed() < Duration::from_secs(30), "{n} is still connected");
            }
            assert!(client.closed_within(Duration::from_secs(30)).await, "{n} is still connected");
        })
    });
    let hostile = join_all(hostile.collect::<Vec<_>>());
    assert_eq!(served.client().await.post("/", "4").await.text(), "8");
    for joined in within_30(hostile).await {
        joined.unwrap();
    }
    assert_eq!(forebay_inside(address), 0);
}

async fn within_30<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("all are cut within 30 s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_under_load_loses_no_accepted_request() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_served")).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address: SocketAddr = format!("127.0.0.1:{}", port.trim()).parse().unwrap();
    let ready = async {
        while Client::connect(address).await.get("/health/ready").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within("ready", ready).await;
    let callers: Vec<_> = (0..40u64)
        .map(|n| {
            tokio::spawn(async move {
                let (mut done, mut refused) = (0, 0);
                while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                    let mut client = Client::over(stream);
                    client.send_post("/", "", n.to_string().as_bytes()).await;
                    match client.response().await {
                        Some(answer) if answer.status == 200 => {
                            assert_eq!(answer.text(), (2 * n).to_string());
                            done += 1;
                        }
                        Some(answer) => {
                            assert_eq!(answer.status, 503, "{}", answer.text());
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        // A connection that came after the end.
                        None => return (done, refused),
                    }
                }
                (done, refused)
            })
        })
        .collect();
    eventually("some are inside", || forebay_inside(address) > 20);
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let counts = within("all callers", join_all(callers)).await;
    let done: usize = counts.into_iter().map(|joined| joined.unwrap().0).sum();
    assert!(done >= 20, "{done} were answered");
}
