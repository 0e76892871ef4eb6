//! Conversations with the source `Http` over WebSockets, as callers see them; and what is true of server-sent events too:
//! slow readers, callers who leave, drains, and limits that do not apply.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay::source::http::Http;
use forebay::{Event, Job, Pipeline, Worker};
use forebay_tests::{
    Client, EVENTS, Gate, Talker, chunk, eventually, http, inside, is_ready, last_event, nobody_is_inside, rest, serve,
    within,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket with further headers, each with its line end.
async fn converse(address: SocketAddr, path: &str, headers: &str) -> std::result::Result<Socket, WsError> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    for line in headers.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        request
            .headers_mut()
            .insert(tokio_tungstenite::tungstenite::http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await?;
    Ok(client_async(request, stream).await?.0)
}

async fn receive(socket: &mut Socket) -> Message {
    within("a message", socket.next()).await.expect("the connection stands").unwrap()
}

/// The next event, as its name and data.
async fn hear(socket: &mut Socket) -> (String, Value) {
    let message = receive(socket).await;
    let mut event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap_or_else(|_| panic!("{message:?}"));
    (event["event"].as_str().unwrap().to_owned(), event["data"].take())
}

async fn ping(socket: &mut Socket, what: &'static str) {
    socket.send(Message::Ping(what.into())).await.unwrap();
}

fn event(name: &str, data: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), data.into())
}

/// Talks without end, as long as somebody listens.
fn babble(jobs: &Arc<Mutex<Vec<Job>>>) -> Worker {
    let jobs = jobs.clone();
    Worker::bytes(Pipeline::new().cpu("babble", 1, move |job, _: Bytes| {
        jobs.lock().unwrap().push(job.clone());
        while !job.is_cancelled() {
            job.emit(Event::Partial(vec![0; 64 << 10].into()));
            // As a stage would that makes something; the pieces come far faster than they are read.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Bytes::new())
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_too_slowly_is_cut_off_and_the_job_called_off() {
    let jobs = Arc::new(Mutex::new(Vec::<Job>::new()));
    let served = serve(babble(&jobs), |http| http.socket("/", "")).await;
    let called_off = || jobs.lock().unwrap().iter().filter(|job| job.is_cancelled()).count();

    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"x").await;
    eventually("the job is called off", || called_off() == 1);
    nobody_is_inside(served.address).await;
    client.head().await.unwrap();
    let cut = within("the connection ends", async {
        while let Some(chunk) = client.chunk().await {
            assert!(chunk.starts_with("event: partial\n"), "{chunk}");
        }
    });
    cut.await;

    let mut socket = converse(served.address, "/", "").await.unwrap();
    socket.send(Message::binary("x")).await.unwrap();
    eventually("the job is called off", || called_off() == 2);
    nobody_is_inside(served.address).await;
    let close = within("the close", async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Close(frame) => return frame.unwrap().code,
                Message::Binary(_) => {}
                other => panic!("{other}"),
            }
        }
    });
    assert_eq!(close.await, CloseCode::Policy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_calls_the_job_off() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http.socket("/talk", "")).await;
    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"7").await;
    client.head().await.unwrap();
    chunk(&mut client).await;
    drop(client);
    eventually("the job is called off", || talker.called_off() == 1);
    talker.gate.admit(1);

    let mut socket = converse(served.address, "/talk", "").await.unwrap();
    socket.send(Message::text("1")).await.unwrap();
    socket.send(Message::text("2")).await.unwrap();
    hear(&mut socket).await;
    drop(socket);
    eventually("the job is called off", || talker.called_off() == 2);
    nobody_is_inside(served.address).await;

    let mut socket = converse(served.address, "/talk", "").await.unwrap();
    talker.gate.admit(1);
    socket.send(Message::text("3")).await.unwrap();
    eventually("the third is at work", || talker.begun() == 3);
    socket.close(None).await.unwrap();
    eventually("the job is called off", || talker.called_off() == 3);
    assert_eq!(talker.begun(), 3, "what waited behind is not begun");
    talker.gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_goes_in_while_output_comes_out() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http.socket("/talk", "")).await;
    let mut socket = converse(served.address, "/talk", "").await.unwrap();
    socket.send(Message::text("1")).await.unwrap();
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
    assert_eq!(hear(&mut socket).await, event("partial", "1"));
    socket.send(Message::text("x")).await.unwrap();
    socket.send(Message::binary("-2")).await.unwrap();
    socket.send(Message::text("3")).await.unwrap();
    ping(&mut socket, "read").await;
    assert_eq!(receive(&mut socket).await, Message::Pong("read".into()), "all were read");
    assert_eq!((talker.gate.waiting(), talker.begun()), (1, 1), "and the first is still at work");
    talker.gate.open();
    assert_eq!(hear(&mut socket).await, event("partial", "two\nlines"));
    assert_eq!(hear(&mut socket).await, event("result", json!({"n": 1})));
    let (name, problem) = hear(&mut socket).await;
    assert_eq!((name.as_str(), &problem["status"]), ("error", &400.into()), "{problem}");
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
    assert_eq!(hear(&mut socket).await, event("partial", "-2"));
    assert_eq!(hear(&mut socket).await, event("partial", "two\nlines"));
    let (name, problem) = hear(&mut socket).await;
    assert_eq!((name.as_str(), &problem["status"]), ("error", &422.into()), "{problem}");
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
    assert_eq!(hear(&mut socket).await, event("partial", "3"));
    assert_eq!(hear(&mut socket).await, event("partial", "two\nlines"));
    assert_eq!(hear(&mut socket).await, event("result", json!({"n": 3})));
    socket.close(None).await.unwrap();
    assert!(matches!(receive(&mut socket).await, Message::Close(_)));
    nobody_is_inside(served.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_conversation_know_it_and_keep_its_order() {
    let worker = Worker::new(Pipeline::new().io("who", 64, |job: Job, n: u64| async move {
        let labels = &job.meta().labels;
        Ok(json!([n, labels.get(Http::SESSION), labels.get(Http::PATH), job.meta().content_type]))
    }));
    let served = serve(worker, |http| http.socket("/who", "")).await;
    let mut sessions = vec![];
    for _ in 0..2 {
        let mut socket = converse(served.address, "/who", "").await.unwrap();
        for n in 0..100 {
            socket.feed(Message::text(n.to_string())).await.unwrap();
        }
        socket.flush().await.unwrap();
        for n in 0..100 {
            let (name, data) = hear(&mut socket).await;
            assert_eq!(
                (name.as_str(), &data[0], &data[2], &data[3]),
                ("result", &n.into(), &"/who".into(), &Value::Null)
            );
            sessions.push(data[1].as_str().unwrap().to_owned());
        }
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_does_not_end_the_conversation() {
    let gate = Gate::new();
    let before = gate.clone();
    let worker = Worker::bytes(Pipeline::new().cpu("echo", 1, move |_, input: Bytes| {
        before.pass();
        Ok(input)
    }));
    let served = serve(worker, |http| http.body(4096).held(10 * 1024).socket("/", "")).await;
    let mut socket = converse(served.address, "/", "").await.unwrap();
    // The first is at work, the second waits; together they hold 8 KiB.
    for size in [4096, 4096, 4096, 4097, 8192, 1024] {
        socket.send(Message::binary(vec![1; size])).await.unwrap();
    }
    ping(&mut socket, "read").await;
    assert_eq!(receive(&mut socket).await, Message::Pong("read".into()));
    gate.open();
    for size in [4096, 4096] {
        assert_eq!(receive(&mut socket).await.into_data().len(), size);
    }
    for status in [503, 413, 413] {
        let (name, problem) = hear(&mut socket).await;
        assert_eq!((name.as_str(), &problem["status"]), ("error", &status.into()), "{problem}");
    }
    assert_eq!(receive(&mut socket).await.into_data().len(), 1024);
    socket.send(Message::binary(vec![1; 8193])).await.unwrap();
    let close = receive(&mut socket).await;
    assert!(matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Size), "{close:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_faster_than_is_worked_is_not_read_from() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http.socket("/", "")).await;
    let mut socket = converse(served.address, "/", "").await.unwrap();
    // One at work, 64 that wait, and one in hand.
    for _ in 0..66 {
        socket.send(Message::text("1")).await.unwrap();
    }
    ping(&mut socket, "full").await;
    hear(&mut socket).await;
    hear(&mut socket).await;
    let pong = tokio::time::timeout(Duration::from_millis(200), socket.next()).await;
    assert!(pong.is_err(), "{pong:?}");
    talker.gate.admit(1);
    let (mut results, mut ponged) = (0, None);
    talker.gate.open();
    while results < 66 {
        match receive(&mut socket).await {
            Message::Pong(_) => ponged = Some(results),
            message => results += usize::from(message.to_text().unwrap().contains("\"result\"")),
        }
    }
    assert!(ponged.is_some_and(|results| results >= 1), "{ponged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_a_key_and_speaks_websocket_may_converse() {
    let served = serve(Talker::open().worker(), |http| http.keys(["k"]).socket("/", "")).await;
    let refused = |outcome: std::result::Result<Socket, WsError>| match outcome.err() {
        Some(WsError::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(converse(served.address, "/", "").await), 401);
    assert_eq!(refused(converse(served.address, "/?key=k", "").await), 401);
    assert_eq!(refused(converse(served.address, "/", "x-api-key: k\r\nx-request-timeout: soon").await), 400);
    let mut socket = converse(served.address, "/", "x-api-key: k").await.unwrap();
    socket.send(Message::text("1")).await.unwrap();
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
    let mut client = Client::connect(served.address).await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-api-key: k\r\n\r\n").await;
    let refused = client.response().await.unwrap();
    assert_eq!((refused.status, refused.header("upgrade")), (426, Some("websocket")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_was_read_and_closes() {
    let talker = Talker::default();
    let (http, address) = http();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = talker.worker().source(http.socket("/", ""));
    tokio::spawn(async move {
        tokio::select! {
            report = worker.run_once() => drop(report),
            _ = stopped => {}
        }
    });
    is_ready(address, 200).await;
    let mut idle = converse(address, "/", "").await.unwrap();
    let mut socket = converse(address, "/", "").await.unwrap();
    let mut client = Client::connect(address).await;
    client.send_post("/", EVENTS, b"1").await;
    eventually("the stream is at work", || talker.begun() == 1);
    socket.send(Message::text("2")).await.unwrap();
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
    assert_eq!(hear(&mut socket).await, event("partial", "2"));
    socket.send(Message::text("3")).await.unwrap();
    ping(&mut socket, "read").await;
    assert_eq!(receive(&mut socket).await, Message::Pong("read".into()));
    within("both are inside", async { while inside(address).await != "2 inside" {} }).await;
    stop.send(()).unwrap();
    is_ready(address, 503).await;
    let close = receive(&mut idle).await;
    assert!(matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Away), "{close:?}");
    socket.send(Message::text("4")).await.unwrap();
    talker.gate.open();
    assert_eq!(client.head().await.unwrap().status, 200);
    let chunks = rest(&mut client).await;
    assert_eq!(last_event(&chunks[3]), "event: result\ndata: {\"n\":1}\n\n", "{chunks:?}");
    assert_eq!(hear(&mut socket).await, event("partial", "two\nlines"));
    assert_eq!(hear(&mut socket).await, event("result", json!({"n": 2})));
    let (name, problem) = hear(&mut socket).await;
    assert_eq!((name.as_str(), &problem["status"]), ("error", &503.into()), "it had not begun: {problem}");
    assert_eq!(problem["retry_after"], 1);
    let close = receive(&mut socket).await;
    assert!(matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Away), "{close:?}");
    within("the worker ends", async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_pinged_and_silent_ones_cut() {
    let served =
        serve(Talker::open().worker(), |http| http.keep_alive(Duration::from_millis(50)).socket("/", "")).await;
    let mut silent = Client::connect(served.address).await;
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    silent.send(upgrade.as_bytes()).await;
    assert_eq!(silent.head().await.unwrap().status, 101);
    let mut socket = converse(served.address, "/", "").await.unwrap();
    // As long as three silences; reading answers pings.
    for _ in 0..8 {
        assert_eq!(receive(&mut socket).await, Message::Ping(Bytes::new()));
    }
    assert!(silent.closed_within(Duration::from_secs(5)).await);
    socket.send(Message::text("1")).await.unwrap();
    assert!(matches!(receive(&mut socket).await, Message::Text(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_limit_of_plain_requests_cuts_what_is_idle() {
    let talker = Talker::default();
    let served = serve(talker.worker(), |http| http.socket("/", "")).await;
    let mut client = Client::connect(served.address).await;
    client.send_post("/", EVENTS, b"1").await;
    client.head().await.unwrap();
    let mut socket = converse(served.address, "/", "").await.unwrap();
    // Longer than a head may take to come, and an answer to be taken.
    tokio::time::sleep(Duration::from_secs(27)).await;
    talker.gate.open();
    let chunks = rest(&mut client).await;
    assert!(chunks.iter().any(|chunk| chunk == ":\n\n"), "{chunks:?}");
    assert!(chunks.iter().any(|chunk| chunk.contains("event: result")), "{chunks:?}");
    socket.send(Message::text("1")).await.unwrap();
    assert_eq!(hear(&mut socket).await, event("progress", 0.25));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_taken_or_leads_nowhere_is_a_wrong_setting() {
    let set: [fn(Http) -> Http; 4] = [
        |http| http.socket("/metrics", ""),
        |http| http.socket("/health/live", ""),
        |http| http.socket("/a", "").socket("/a", ""),
        |http| http.socket("/a", "nowhere"),
    ];
    for set in set {
        let why = Talker::open().worker().source(set(http().0)).run_once().await.unwrap_err();
        assert_eq!(why.fault(), forebay::Fault::Invalid, "{why}");
    }
}
