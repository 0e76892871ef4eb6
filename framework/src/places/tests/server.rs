//! A server that answers as a test wants it, and remembers what it was asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What is answered, after which the connection is closed.
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Bytes,
    /// Whether the body is repeated until the other side goes away.
    pub(super) endless: bool,
}

impl Answer {
    /// Status and headers, one behind the other, and a body.
    pub(super) fn new(head: &str, body: impl Into<Bytes>) -> Self {
        Answer { head: format!("HTTP/1.1 {head}\r\n\r\n").replace("; ", "\r\n"), body: body.into(), endless: false }
    }

    pub(super) fn endless(head: &str, body: impl Into<Bytes>) -> Self {
        Answer { endless: true, ..Self::new(head, body) }
    }
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    /// Bytes of bodies that the kernel has taken.
    pub(super) sent: Arc<AtomicU64>,
}

impl Server {
    pub(super) async fn new(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::over("127.0.0.1", None, answer).await
    }

    pub(super) async fn over(
        address: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, asked: Arc::default(), sent: Arc::default() };
        let (this, answer) = (server.clone(), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (this, answer, tls) = (this.clone(), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.exchange(stream, &*answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => this.exchange(stream, &*answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        server
    }

    /// A server of one file, with ranges and a strong ETag.
    pub(super) async fn of(body: Bytes, etag: &'static str) -> Self {
        Self::new(move |request| {
            let Some((first, last)) = range(request) else {
                return Answer::new(&format!("200 OK; content-length: {}; etag: {etag}", body.len()), body.clone());
            };
            let (len, last) = (body.len(), last.min(body.len() - 1));
            let head = format!(
                "206 Partial Content; content-length: {}; content-range: bytes {first}-{last}/{len}; etag: {etag}",
                last + 1 - first
            );
            Answer::new(&head, body.slice(first..=last))
        })
        .await
    }

    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answer: &(impl Fn(&str) -> Answer + ?Sized),
    ) -> Option<()> {
        let mut request = Vec::new();
        while !is_whole(&request) {
            if stream.read_buf(&mut request).await.ok()? == 0 {
                return None;
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        self.asked.lock().unwrap().push(request.clone());
        let Answer { head, body, endless } = answer(&request);
        stream.write_all(head.as_bytes()).await.ok()?;
        loop {
            stream.write_all(&body).await.ok()?;
            self.sent.fetch_add(body.len() as u64, Ordering::SeqCst);
            if !endless {
                break;
            }
        }
        stream.shutdown().await.ok()
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn url(&self) -> Reference {
        reference(format!("http://127.0.0.1:{}/in/a.bin?token=hunter2", self.port))
    }

    /// Places that lead to this server, and to no other.
    pub(super) fn places(&self) -> Places {
        Places::new().https(Https::new(self.guard()))
    }

    pub(super) fn guard(&self) -> Guard {
        Guard::new().plain_http().ports([self.port]).open_to(["127.0.0.0/8".parse().unwrap()])
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let len = header(head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    match header(head, "transfer-encoding") {
        Some(_) => body.ends_with("0\r\n\r\n"),
        None => body.len() >= len,
    }
}

pub(super) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
}

/// The first and last byte that are asked for.
pub(super) fn range(request: &str) -> Option<(usize, usize)> {
    let (first, last) = header(request, "range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
