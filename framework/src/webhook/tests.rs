//! The sender against receivers and resolvers of all kinds, good and bad, on loopback.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, pending};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::net::tricks::{Rogue, Witness};

mod ssrf;

const NOW: u64 = 1_700_000_000;
const BODY: &[u8] = br#"{"type":"job.done"}"#;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn secrets() -> Vec<Secret> {
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="]
        .map(|text| Secret::new(text).unwrap())
        .into()
}

/// Lets plain http through, to this port.
fn guard(port: u16) -> Guard {
    Guard::new().plain_http().ports([port])
}

fn open(network: &str) -> [Network; 1] {
    [network.parse().unwrap()]
}

/// A sender to a receiver on loopback.
fn sender(port: u16) -> Webhook {
    Webhook::new(guard(port).open_to(open("127.0.0.0/8")), secrets()).unwrap()
}

async fn send(webhook: &Webhook, url: &str) -> Result<Sent> {
    webhook.send(url, "msg_1", NOW, Bytes::from_static(BODY)).await
}

fn why(sent: Result<Sent>) -> String {
    match sent.unwrap() {
        Sent::Again { why, .. } => why.to_string(),
        other => panic!("{other:?}"),
    }
}

/// A receiver that answers every request with the same bytes, and says at which address it got which request.
struct Receiver {
    port: u16,
    requests: UnboundedReceiver<(IpAddr, String)>,
}

impl Receiver {
    async fn new(address: &str, answer: impl Into<String>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, requests) = unbounded_channel();
        let answer = answer.into();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let at = stream.local_addr().unwrap().ip();
                let request = match &tls {
                    None => exchange(stream, &answer).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => exchange(stream, &answer).await,
                        Err(_) => None,
                    },
                };
                request.map(|request| tell.send((at, request)));
            }
        });
        Receiver { port, requests }
    }

    async fn answering(answer: impl Into<String>) -> Self {
        Self::new("127.0.0.1", answer, None).await
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> Option<String> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    stream.write_all(answer.as_bytes()).await.ok()?;
    String::from_utf8(request).ok()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let length = header(&text, "content-length").and_then(|length| length.parse::<usize>().ok());
    text.split_once("\r\n\r\n").is_some_and(|(_, body)| Some(body.len()) == length)
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_does_not_answer() {
    let receiver = Receiver::new("127.0.0.2", OK, None).await;
    let url = format!("http://twice.example:{}/", receiver.port);
    let webhook = sender(receiver.port).resolver(Rogue::new(&[&["127.0.0.3", "127.0.0.2"]]));
    assert!(matches!(send(&webhook, &url).await.unwrap(), Sent::Delivered));
    let webhook = sender(receiver.port).resolver(Rogue::new(&[&["127.0.0.3"], &[]]));
    assert!(why(send(&webhook, &url).await).contains("refused"));
    assert!(why(send(&webhook, &url).await).contains("no address"));
}

#[tokio::test]
async fn a_message_arrives_whole_and_verifies() {
    let mut receiver = Receiver::answering(OK).await;
    let webhook = sender(receiver.port);
    assert!(matches!(send(&webhook, &format!("{}?a=b", receiver.url())).await.unwrap(), Sent::Delivered));
    let (_, request) = receiver.requests.recv().await.unwrap();
    assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "content-type"), Some("application/json"));
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), BODY);
    let headers = Headers {
        id: header(&request, ID).unwrap(),
        timestamp: header(&request, TIMESTAMP).unwrap(),
        signature: header(&request, SIGNATURE).unwrap(),
    };
    assert_eq!((headers.id, headers.timestamp), ("msg_1", "1700000000"));
    for secret in secrets() {
        verify(&[secret], headers, BODY, NOW, TOLERANCE).unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_signed_is_not_sent() {
    let witness = Witness::new().await;
    let url = format!("http://127.0.0.1:{}/", witness.port());
    for id in ["", "a.b", "a\r\nx: y"] {
        let refused = sender(witness.port()).send(&url, id, NOW, Bytes::new()).await.unwrap_err();
        assert_eq!(refused.fault(), Fault::Invalid);
    }
    assert!(Webhook::new(Guard::new(), []).is_err());
    witness.saw_nothing().await;
}

#[tokio::test]
async fn the_answer_decides_what_is_next() {
    let cases = [
        ("200 OK", "delivered"),
        ("204 No Content", "delivered"),
        ("299 Odd", "delivered"),
        ("300 Multiple Choices", "again"),
        ("304 Not Modified", "again"),
        ("400 Bad Request", "again"),
        ("404 Not Found", "again"),
        ("410 Gone", "gone"),
        ("429 Too Many Requests", "again"),
        ("500 Internal Server Error", "again"),
        ("502 Bad Gateway", "again"),
        ("503 Service Unavailable", "again"),
    ];
    for (status, expected) in cases {
        let receiver = Receiver::answering(format!("HTTP/1.1 {status}\r\nretry-after: 7\r\n\r\n")).await;
        match send(&sender(receiver.port), &receiver.url()).await.unwrap() {
            Sent::Delivered => assert_eq!(expected, "delivered", "{status}"),
            Sent::Gone => assert_eq!(expected, "gone", "{status}"),
            Sent::Again { after, why } => {
                assert_eq!(expected, "again", "{status}");
                assert_eq!(after, Some(Duration::from_secs(7)));
                assert!(why.to_string().ends_with(&status[..3]), "{why}");
            }
        }
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let witness = Witness::new().await;
    for status in [301, 302, 303, 307, 308] {
        let to = format!("http://127.0.0.1:{}/", witness.port());
        let answer =
            format!("HTTP/1.1 {status} Go\r\nlocation: {to}\r\nrefresh: 0; url={to}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::answering(answer).await;
        let guard = guard(witness.port()).ports([receiver.port]).open_to(open("127.0.0.0/8"));
        let webhook = Webhook::new(guard, secrets()).unwrap();
        assert!(why(send(&webhook, &receiver.url()).await).contains(&status.to_string()));
    }
    witness.saw_nothing().await;
}

#[tokio::test]
async fn whatever_keeps_us_waiting_meets_the_deadline() {
    struct Silent;
    impl Resolve for Silent {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
            Box::pin(pending())
        }
    }
    // The kernel takes the connection, and nobody ever answers it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut webhook = sender(port).resolver(Silent);
    webhook.deadline = Duration::from_millis(50);
    for host in ["127.0.0.1", "silent.example"] {
        let why = why(send(&webhook, &format!("http://{host}:{port}/")).await);
        assert!(why.ends_with("no answer within 50ms"), "{why}");
    }
    // Half an answer counts once its head is there; the deadline ends the wait for the rest.
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = receiver.local_addr().unwrap().port();
    let half = async {
        let (mut stream, _) = receiver.accept().await.unwrap();
        exchange(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        stream
    };
    let mut webhook = sender(port);
    webhook.deadline = Duration::from_secs(1);
    let url = format!("http://127.0.0.1:{port}/");
    let (sent, _kept_open) = tokio::join!(send(&webhook, &url), half);
    assert!(matches!(sent.unwrap(), Sent::Delivered));
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(8 << 20));
    let receiver = Receiver::answering(endless).await;
    assert!(matches!(send(&sender(receiver.port), &receiver.url()).await.unwrap(), Sent::Delivered));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(8 << 20));
    let receiver = Receiver::answering(endless).await;
    assert!(why(send(&sender(receiver.port), &receiver.url()).await).contains("too large"));
    let receiver = Receiver::answering("SSH-2.0-OpenSSH\r\n\r\n").await;
    why(send(&sender(receiver.port), &receiver.url()).await);
}

#[tokio::test]
async fn https_wants_a_certificate_for_the_name_from_a_known_root() {
    let own = rcgen::generate_simple_self_signed(["receiver.example".to_string()]).unwrap();
    let certificate: CertificateDer<'static> = own.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut receiver = Receiver::new("127.0.0.1", OK, Some(Arc::new(server).into())).await;
    let rogue = Rogue::new(&[&["127.0.0.1"]]);
    let url = |host: &str| format!("https://{host}:{}/", receiver.port);

    let mut webhook = sender(receiver.port).resolver(rogue.clone());
    let unknown = why(send(&webhook, &url("receiver.example")).await);
    assert!(unknown.contains("certificate") && unknown.contains("UnknownIssuer"), "{unknown}");

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    webhook.client = client(webhook.guard.clone(), Arc::new(rogue), tls);
    assert!(matches!(send(&webhook, &url("receiver.example")).await.unwrap(), Sent::Delivered));
    for host in ["other.example", "127.0.0.1"] {
        assert!(why(send(&webhook, &url(host)).await).contains("not valid for name"));
    }
    receiver.requests.recv().await.unwrap();
    assert!(receiver.requests.try_recv().is_err());
}

#[test]
fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
    let day = Some(86400);
    let cases = [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("86400", day),
        ("86401", day),
        ("18446744073709551615", day),
        ("99999999999999999999", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("Tue, 14 Nov 2023 22:13:20 GMT", Some(0)), // NOW
        ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)),
        ("Tue, 14 Nov 2023 22:12:20 GMT", Some(0)),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", Some(60)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", day),
    ];
    for (text, expected) in cases {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        assert_eq!(retry_after(&headers, NOW), expected.map(Duration::from_secs), "{text}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), NOW), None);
}

#[test]
fn the_schedule_is_that_of_the_specification() {
    let hours = |hours: u64| hours * 3600;
    let expected = [5, 300, 1800, hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
    for (attempt, seconds) in (1..ATTEMPTS).zip(expected) {
        assert_eq!(pause(attempt), Duration::from_secs(seconds), "{attempt}");
    }
    let whole: Duration = (1..ATTEMPTS).map(pause).sum();
    assert_eq!(whole, Duration::from_secs(hours(75) + 35 * 60 + 5), "the last line of its table");
    assert_eq!(pause(0), Duration::from_secs(5));
    assert_eq!(pause(u32::MAX), Duration::from_secs(hours(24)));
}
