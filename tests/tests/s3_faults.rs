//! The proxy that does to requests what networks and object stores do: each fault shows as itself, reaches the server
//! or does not, and is counted; without one nothing is changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use forebay_tests::{Fault, OpenS3Faults, PATIENCE, Random, S3Faults};

const LENGTH: usize = 200_000;

/// A message as it came: its first line and headers, and its body.
type Message = (Vec<String>, Vec<u8>);

/// Reads a message; an error if it ends too early.
fn read(stream: &mut BufReader<TcpStream>, has_body: bool) -> std::io::Result<Message> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; if has_body { length.unwrap_or(0) } else { 0 }];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn content() -> Vec<u8> {
    let mut random = Random::new(5);
    (0..LENGTH).map(|_| random.bits() as u8).collect()
}

/// A server that answers everything with the same content, and tells what it was asked.
fn server() -> (SocketAddr, mpsc::Receiver<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (BufReader::new(stream.unwrap()), tell.clone());
            thread::spawn(move || {
                while let Ok(asked) = read(&mut stream, true) {
                    let head = asked.0[0].starts_with("HEAD");
                    // The test may be over.
                    let _ = tell.send(asked);
                    let mut answer =
                        format!("HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
                    answer.extend(if head { Vec::new() } else { content() });
                    if stream.get_mut().write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, told)
}

struct Asking(BufReader<TcpStream>);

impl Asking {
    fn of(proxy: &OpenS3Faults) -> Self {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Asking(BufReader::new(stream))
    }

    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Message> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: bucket\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        read(&mut self.0, method != "HEAD")
    }
}

fn any(_: &hyper::Method, _: &str) -> bool {
    true
}

/// A proxy where this happens to the next request, and its server.
fn proxy(fault: Fault) -> (OpenS3Faults, mpsc::Receiver<Message>) {
    let (server, told) = server();
    let proxy = S3Faults::to(server).stall(Duration::from_millis(300)).open();
    proxy.next(fault, any);
    (proxy, told)
}

#[test]
fn nothing_is_changed_but_by_a_fault() {
    let (server, told) = server();
    let proxy = S3Faults::to(server).open();
    let mut asking = Asking::of(&proxy);
    let (head, body) = asking.ask("GET", "/bucket/a%20b//c?x=%2F&y", &[]).unwrap();
    assert_eq!((head[0].as_str(), body), ("HTTP/1.1 200 OK", content()));
    assert!(head.contains(&"etag: \"x\"".to_owned()));
    let (asked, _) = told.recv().unwrap();
    assert_eq!(asked[0], "GET /bucket/a%20b//c?x=%2F&y HTTP/1.1");
    assert!(asked.contains(&"host: bucket".to_owned()));
    asking.ask("PUT", "/bucket/key", &content()).unwrap();
    assert_eq!(told.recv().unwrap().1, content());
    let (head, _) = asking.ask("HEAD", "/bucket/key", &[]).unwrap();
    assert!(head.contains(&format!("content-length: {LENGTH}")));
    assert_eq!(proxy.requests(), 3);
    assert_eq!(Fault::ALL.map(|fault| proxy.count(fault)), [0; 13]);
}

#[test]
fn a_reset_before_does_not_reach_the_server() {
    let (proxy, told) = proxy(Fault::ResetBefore);
    let why = Asking::of(&proxy).ask("GET", "/b/k", &[]).unwrap_err();
    assert_eq!(why.kind(), ErrorKind::ConnectionReset);
    assert!(told.try_recv().is_err());
    assert_eq!((proxy.count(Fault::ResetBefore), proxy.left()), (1, 0));
}

#[test]
fn a_reset_within_breaks_a_request_or_an_answer() {
    let (proxy, told) = proxy(Fault::ResetWithin);
    let why = Asking::of(&proxy).ask("PUT", "/b/k", &content()).unwrap_err();
    assert!(matches!(why.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{why}");
    assert!(told.try_recv().is_err(), "the server got it whole");
    proxy.next(Fault::ResetWithin, any);
    let why = Asking::of(&proxy).ask("GET", "/b/k", &[]).unwrap_err();
    assert_eq!(why.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.count(Fault::ResetWithin), 2);
}

#[test]
fn a_lost_reply_has_taken_effect() {
    let (proxy, told) = proxy(Fault::LostReply);
    let why = Asking::of(&proxy).ask("PUT", "/b/k", &content()).unwrap_err();
    assert_eq!(why.kind(), ErrorKind::ConnectionReset);
    assert_eq!(told.recv().unwrap().1, content());
    assert_eq!(proxy.count(Fault::LostReply), 1);
}

#[test]
fn refusals_are_documents_and_the_server_never_hears_of_the_request() {
    let (proxy, told) = proxy(Fault::SlowDown);
    let mut asking = Asking::of(&proxy);
    let (head, body) = asking.ask("PUT", "/b/k", &content()).unwrap();
    assert!(head[0].contains(" 503 ") && String::from_utf8(body).unwrap().contains("<Code>SlowDown</Code>"));
    proxy.next(Fault::ErrorIn200, |method, path| method == "POST" && path.contains("uploadId="));
    asking.ask("POST", "/b/k?uploads", &[]).unwrap();
    assert!(told.recv().unwrap().0[0].contains("?uploads"));
    let (head, body) = asking.ask("POST", "/b/k?uploadId=7", b"<CompleteMultipartUpload/>").unwrap();
    assert!(head[0].contains(" 200 ") && String::from_utf8(body).unwrap().contains("<Code>InternalError</Code>"));
    assert!(told.try_recv().is_err());
    assert_eq!((proxy.count(Fault::SlowDown), proxy.count(Fault::ErrorIn200)), (1, 1));
}

#[test]
fn a_truncated_answer_ends_early_and_in_order() {
    let (proxy, _told) = proxy(Fault::Truncated);
    let why = Asking::of(&proxy).ask("GET", "/b/k", &[]).unwrap_err();
    assert_eq!(why.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(proxy.count(Fault::Truncated), 1);
}

#[test]
fn what_stalls_goes_on_whole() {
    let (proxy, told) = proxy(Fault::Stalled);
    let start = Instant::now();
    let (_, body) = Asking::of(&proxy).ask("GET", "/b/k", &[]).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300) && body == content());
    told.recv().unwrap();
    proxy.next(Fault::Stalled, any);
    let start = Instant::now();
    Asking::of(&proxy).ask("PUT", "/b/k", &content()).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300) && told.recv().unwrap().1 == content());
    assert_eq!(proxy.count(Fault::Stalled), 2);
}

#[test]
fn one_bit_is_flipped() {
    let differ = |bytes: &[u8]| bytes.iter().zip(content()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    let (proxy, told) = proxy(Fault::FlippedAnswer);
    let (_, body) = Asking::of(&proxy).ask("GET", "/b/k", &[]).unwrap();
    assert_eq!((body.len(), differ(&body)), (LENGTH, 1));
    told.recv().unwrap();
    proxy.next(Fault::FlippedRequest, any);
    Asking::of(&proxy).ask("PUT", "/b/k", &content()).unwrap();
    let (_, stored) = told.recv().unwrap();
    assert_eq!((stored.len(), differ(&stored)), (LENGTH, 1));
    assert_eq!((proxy.count(Fault::FlippedAnswer), proxy.count(Fault::FlippedRequest)), (1, 1));
}

#[test]
fn chances_come_as_often_as_they_should_and_the_same_for_a_seed() {
    let (server, _told) = server();
    let counts = |seed| {
        let proxy = S3Faults::to(server).seed(seed).chance(Fault::SlowDown, 0.2).chance(Fault::ErrorIn200, 0.5).open();
        let mut asking = Asking::of(&proxy);
        for _ in 0..300 {
            asking.ask("HEAD", "/b/k", &[]).unwrap();
        }
        assert_eq!((proxy.requests(), proxy.count(Fault::ErrorIn200)), (300, 0));
        proxy.count(Fault::SlowDown)
    };
    let slow = counts(1);
    // 60 expected, with a deviation of 7.
    assert!((32..=88).contains(&slow), "{slow}");
    assert_eq!(counts(1), slow);
}
