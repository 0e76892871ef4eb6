//! A metadata service that keeps every call, and the client that makes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Method, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::*;

/// One call as it came.
#[derive(Clone, Debug)]
pub(in crate::node) struct Call {
    pub(in crate::node) method: Method,
    pub(in crate::node) path: String,
    pub(in crate::node) headers: HeaderMap,
    pub(in crate::node) body: Value,
}

/// The service: it answers with these statuses in turn, and with 204 after them.
#[derive(Clone)]
pub(in crate::node) struct Fake {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Fake {
    pub(in crate::node) async fn new(statuses: impl IntoIterator<Item = u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake { port: listener.local_addr().unwrap().port(), calls: Arc::default() };
        let statuses = Arc::new(Mutex::new(VecDeque::from_iter(statuses)));
        let calls = fake.calls.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (calls, statuses) = (calls.clone(), statuses.clone());
                let answer = service_fn(move |request| answer(request, calls.clone(), statuses.clone()));
                tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        fake
    }

    pub(in crate::node) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(in crate::node) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// What stands in the calls to be given another node; there are no other calls.
    pub(in crate::node) fn reasons(&self) -> Vec<String> {
        let reason = |call: Call| {
            assert_eq!((call.method, call.path.as_str()), (Method::POST, "/v1/reallocate"));
            call.body["reason"].as_str().unwrap().to_owned()
        };
        self.calls().into_iter().map(reason).collect()
    }
}

/// Refuses what the real service refuses.
async fn answer(
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<Call>>>,
    statuses: Arc<Mutex<VecDeque<u16>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap_or_default();
    let proxied = head.headers.keys().any(|name| name.as_str().starts_with("x-forwarded-"));
    let reason = |body: &Value| body["reason"].as_str().map(|reason| reason.chars().count());
    let status = match () {
        () if head.headers.get("metadata").is_none_or(|value| value != "true") || proxied => 403,
        () if !reason(&body).is_some_and(|len| (1..=1000).contains(&len)) => 400,
        () => statuses.lock().unwrap().pop_front().unwrap_or(204),
    };
    let (method, path) = (head.method, head.uri.path().to_owned());
    calls.lock().unwrap().push(Call { method, path, headers: head.headers, body });
    let problem = r#"{"title": "Sorry", "detail": "not today"}"#;
    let body = if status >= 400 { Bytes::from(problem) } else { Bytes::new() };
    Ok(Response::builder().status(status).body(Full::new(body)).unwrap())
}

#[tokio::test]
async fn the_call_is_as_the_service_wants_it() {
    let fake = Fake::new([]).await;
    Metadata::new(&fake.url()).unwrap().reallocate("too slow").await.unwrap();
    assert_eq!(fake.reasons(), ["too slow"]);
    let headers = &fake.calls()[0].headers;
    assert_eq!(headers["metadata"], "true");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["host"], format!("127.0.0.1:{}", fake.port));
    assert!(!headers.keys().any(|name| name.as_str().contains("forwarded") || name.as_str() == "via"));
}

#[tokio::test]
async fn any_success_is_one() {
    for status in [200, 201, 204] {
        let fake = Fake::new([status]).await;
        Metadata::new(&fake.url()).unwrap().reallocate("slow").await.unwrap();
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn there_are_three_tries_unless_it_says_no() {
    for (statuses, calls, ends) in [
        (vec![500], 2, Ok(())),
        (vec![503, 429], 3, Ok(())),
        (vec![500, 500, 502], 3, Err((Fault::Transient, "502 Bad Gateway: not today"))),
        (vec![500, 400], 2, Err((Fault::Invalid, "400 Bad Request: not today"))),
        (vec![403], 1, Err((Fault::Invalid, "403 Forbidden: not today"))),
        (vec![301], 1, Err((Fault::Invalid, "301 Moved Permanently"))),
    ] {
        let fake = Fake::new(statuses).await;
        let ended = Metadata::new(&fake.url()).unwrap().reallocate("slow").await;
        assert_eq!(fake.calls().len(), calls);
        match (ends, ended) {
            (Ok(()), Ok(())) => {}
            (Err((fault, said)), Err(why)) => {
                assert_eq!(why.fault(), fault);
                assert_eq!(why.to_string(), format!("the metadata service answered with {said}"));
            }
            (ends, ended) => panic!("{ends:?}, {ended:?}"),
        }
    }
}

#[tokio::test]
async fn a_long_reason_is_cut_between_characters() {
    let fake = Fake::new([]).await;
    Metadata::new(&fake.url()).unwrap().reallocate(&"größe".repeat(500)).await.unwrap();
    assert_eq!(fake.reasons(), ["größe".repeat(200)]);
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let why = Metadata::new(&url).unwrap().reallocate("slow").await.unwrap_err();
    assert!(why.to_string().starts_with("reaching the metadata service: "), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_silent_is_given_up() {
    // The kernel takes the connections, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let began = tokio::time::Instant::now();
    let why = Metadata::new(&url).unwrap().reallocate("slow").await.unwrap_err();
    assert_eq!(why.to_string(), "no answer within 5 s");
    assert!(began.elapsed() < Duration::from_secs(16));
}

#[test]
fn its_url_is_plain() {
    for url in ["http://169.254.169.254", "http://[::1]:8080/", "http://imds:80"] {
        Metadata::new(url).unwrap();
    }
    for url in ["https://169.254.169.254", "169.254.169.254", "http://h/v1", "http://h?a", "", "not a url"] {
        assert_eq!(Metadata::new(url).unwrap_err().fault(), Fault::Invalid, "{url}");
    }
}
