//! Answers of the source `Http` that come while the job runs, as server-sent events. What is true of WebSockets too is in
//! `http_websocket.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use forebay::{Event, Job, Pipeline, Worker};
use forebay_tests::{Client, EVENTS, Talker, chunk, inside, last_event, nobody_is_inside, rest, serve, within};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_come_while_the_job_runs() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http).await;
    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"7").await;
    let head = within("the head", client.head()).await.unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-store"));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    assert_eq!(chunk(&mut client).await, "event: progress\ndata: 0.25\n\n");
    assert_eq!(chunk(&mut client).await, "event: partial\ndata: 7\n\n");
    assert_eq!((talker.gate.waiting(), talker.gate.passed()), (1, 0), "the job still runs");
    assert_eq!(inside(served.address).await, "1 inside");
    talker.gate.open();
    assert_eq!(chunk(&mut client).await, "event: partial\ndata: two\ndata: lines\n\n");
    assert_eq!(last_event(&chunk(&mut client).await), "event: result\ndata: {\"n\":7}\n\n");
    assert_eq!(chunk(&mut client).await, "", "the answer ends");
    let plain = client.post("/", "8").await;
    assert_eq!((plain.status, plain.text().as_str()), (200, "{\"n\":8}"), "on the same connection");
    nobody_is_inside(served.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_answers_and_errors_are_events() {
    let talker = Talker::open();
    let served = serve(talker.worker(), |http| http.body(100).keys(["k"])).await;
    let mut client = Client::connect(served.address).await;
    for (headers, body, status) in [
        ("", "1", 401),
        ("x-api-key: k\r\ncontent-type: text/plain\r\n", "1", 415),
        ("x-api-key: k\r\nx-request-timeout: soon\r\n", "1", 400),
        ("x-api-key: k\r\n", "x".repeat(101).as_str(), 413),
    ] {
        let answer = client.post_with("/", &format!("{EVENTS}{headers}"), body.as_bytes()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    assert_eq!(talker.begun(), 0);
    let mut client = Client::connect(served.address).await;
    for (body, pieces, status) in [("-1", 3, 422), ("x", 0, 400), ("\"a\"", 0, 422)] {
        client.send_post("/", &format!("{EVENTS}x-api-key: k\r\n"), body.as_bytes()).await;
        assert_eq!(client.head().await.unwrap().status, 200);
        for _ in 0..pieces {
            let piece = chunk(&mut client).await;
            assert!(piece.starts_with("event: p"), "{piece}");
        }
        let end = chunk(&mut client).await;
        let problem = last_event(&end).strip_prefix("event: error\ndata: ").unwrap();
        let problem: Value = serde_json::from_str(problem).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(chunk(&mut client).await, "");
    }
    talker.gate.close();
    client.send_post("/", &format!("{EVENTS}x-api-key: k\r\nx-request-timeout: 0.3\r\n"), b"1").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    let pieces = rest(&mut client).await;
    assert!(pieces[2].contains("\"status\":504"), "{pieces:?}");
    assert_eq!(pieces.len(), 4, "{pieces:?}");
    talker.gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_told_in_base64() {
    let worker = Worker::bytes(Pipeline::new().cpu("half", 1, |job: &Job, input: Bytes| {
        job.emit(Event::Partial(input.slice(..2)));
        Ok(input)
    }));
    let served = serve(worker, |http| http).await;
    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"\xff\n\0\n").await;
    client.head().await.unwrap();
    assert_eq!(chunk(&mut client).await, "event: partial\ndata: /wo=\n\n");
    assert_eq!(last_event(&chunk(&mut client).await), "event: result\ndata: /woACg==\n\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_says_nothing_is_heard_to_live() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http.keep_alive(Duration::from_millis(20))).await;
    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"7").await;
    client.head().await.unwrap();
    let mut chunks = vec![];
    for _ in 0..6 {
        chunks.push(chunk(&mut client).await);
    }
    chunks.retain(|chunk| !chunk.starts_with("event: "));
    assert!(chunks.len() >= 4 && chunks.iter().all(|chunk| chunk == ":\n\n"), "{chunks:?}");
    talker.gate.open();
}
