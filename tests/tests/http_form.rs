//! Forms over HTTP: parts as they were posted, and a problem document for each way in which a form is wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};

use forebay::source::http::Http;
use forebay::{Form, Pipeline, Worker};
use forebay_tests::{Client, start, within};
use serde_json::{Value, json};

const FORM: &str = "content-type: multipart/form-data; boundary=X-Y\r\n";

/// Answers what it got: of each part its name, its file's, its type, and its bytes.
fn told(stage: &'static str) -> Pipeline<Form, Value> {
    Pipeline::new().io(stage, 10, async |_, form: Form| {
        let title = form.need("title")?.text()?.to_owned();
        let part = |part: forebay::Part| json!([part.name, part.file_name, part.content_type, part.bytes.to_vec()]);
        Ok(json!({ "title": title, "parts": form.into_iter().map(part).collect::<Vec<_>>() }))
    })
}

async fn serve(worker: Worker) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody need listen to the worker's end.
    drop(start(worker.source(Http::on(listener).unwrap().body(100_000))));
    let mut client = Client::connect(address).await;
    let ready = async { while client.get("/health/ready").await.status != 200 {} };
    within("the worker is ready", ready).await;
    address
}

/// A part with these headers, beside `content-disposition: form-data`.
fn part(disposition: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!("--X-Y\r\ncontent-disposition: form-data{disposition}\r\n\r\n");
    [head.as_bytes(), bytes, b"\r\n"].concat()
}

const END: &[u8] = b"--X-Y--\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_and_a_file_come_as_they_were_posted() {
    let address = serve(Worker::form(told("first")).route_form("other", told("second"))).await;
    let file = b"\x89PNG\r\n\x00\xff--X-";
    let body = [
        part("; name=\"title\"", "caf\u{e9}".as_bytes()),
        part("; name=\"empty\"", b""),
        part("; name=\"image\"; filename=\"a.png\"\r\ncontent-type: image/png", file),
        END.to_vec(),
    ];
    for path in ["/", "/other"] {
        let answer = Client::connect(address).await.post_with(path, FORM, &body.concat()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let parts = json!([
            ["title", null, null, "caf\u{e9}".as_bytes()],
            ["empty", null, null, []],
            ["image", "a.png", "image/png", file],
        ]);
        let got: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(got, json!({ "title": "caf\u{e9}", "parts": parts }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_form_is_named() {
    let address = serve(Worker::form(told("tell"))).await;
    let title = part("; name=\"title\"", b"a");
    let good = [&title[..], END].concat();
    let many = |count: usize| [title.repeat(count), END.to_vec()].concat();
    let long = "n".repeat(257);
    let named = |disposition: &str| [&part(disposition, b"a")[..], END].concat();
    let cases: &[(&str, Vec<u8>, u16, &str)] = &[
        (FORM, good.clone(), 200, ""),
        (FORM, many(128), 200, ""),
        (FORM, many(129), 422, "more than 128 parts"),
        ("content-type: multipart/form-data\r\n", good.clone(), 400, "boundary not found"),
        ("content-type: multipart/form-data; boundary=Z\r\n", good.clone(), 400, "part 1 of the form"),
        ("", good.clone(), 400, "Content-Type"),
        ("content-type: application/json\r\n", b"{}".to_vec(), 415, "multipart/form-data"),
        (FORM, Vec::new(), 400, "part 1 of the form"),
        (FORM, good[..good.len() - END.len() - 2].to_vec(), 400, "the part `title`"),
        (FORM, title.clone(), 400, "the part `title`"),
        (FORM, [&title[..], &title[..30]].concat(), 400, "part 2 of the form"),
        (FORM, END.to_vec(), 422, "the form has no part `title`"),
        (FORM, named("; name=\"other\""), 422, "the form has no part `title`"),
        (FORM, named(""), 422, "part 1 of the form has no name"),
        (FORM, named(&format!("; name=\"{long}\"")), 422, "a name of 257 bytes"),
        (FORM, named(&format!("; name=\"title\"; filename=\"{long}\"")), 422, "a name of 257 bytes"),
        (FORM, [&part("; name=\"title\"", b"\xff")[..], END].concat(), 422, "the part `title`: invalid utf-8"),
        (FORM, [&part("; name=\"title\"", &[0; 100_000])[..], END].concat(), 413, "100000"),
    ];
    for (headers, body, status, says) in cases {
        let answer = Client::connect(address).await.post_with("/", headers, body).await;
        assert_eq!(answer.status, *status, "{headers}: {}", answer.text());
        if *status != 200 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["status"], *status);
            assert!(problem["detail"].as_str().unwrap().contains(says), "{problem} does not say `{says}`");
        }
    }
}
