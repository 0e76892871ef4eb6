//! A plain HTTP/1.1 client that sends exactly the bytes that a test wants sent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Status line and headers as they came, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Client::over(stream)
    }

    /// Speaks over a connection.
    pub fn over(stream: TcpStream) -> Client {
        Client { stream, read: Vec::new() }
    }

    /// Posts JSON and waits for the answer.
    pub async fn post(&mut self, path: &str, json: &str) -> Response {
        self.post_with(path, "content-type: application/json\r\n", json.as_bytes()).await
    }

    /// Posts a body with further headers, each with its line end.
    pub async fn post_with(&mut self, path: &str, headers: &str, body: &[u8]) -> Response {
        self.send_post(path, headers, body).await;
        self.response().await.expect("an answer")
    }

    /// Posts and does not wait.
    pub async fn send_post(&mut self, path: &str, headers: &str, body: &[u8]) {
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {}\r\n\r\n", body.len());
        self.send(head.as_bytes()).await;
        self.send(body).await;
    }

    /// Asks and waits for the answer.
    pub async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await;
        self.response().await.expect("an answer")
    }

    /// Sends bytes. That the server has closed is seen by whoever reads.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next answer; `None` if the connection ends before.
    pub async fn response(&mut self) -> Option<Response> {
        let mut response = self.head().await?;
        let length: usize = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.read.len() < length {
            self.more().await?;
        }
        response.body = self.read.drain(..length).collect();
        Some(response)
    }

    /// The head of an answer whose body comes in chunks.
    pub async fn head(&mut self) -> Option<Response> {
        let end = self.find(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&self.read[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        self.read.drain(..end + 4);
        Some(Response { status, head, body: Vec::new() })
    }

    /// The next chunk of such a body, empty for the last; `None` if the connection ends before.
    pub async fn chunk(&mut self) -> Option<String> {
        let line = self.find(b"\r\n").await?;
        let length = usize::from_str_radix(std::str::from_utf8(&self.read[..line]).ok()?, 16).ok()?;
        let (start, end) = (line + 2, line + 2 + length);
        while self.read.len() < end + 2 {
            self.more().await?;
        }
        let chunk = String::from_utf8_lossy(&self.read[start..end]).into_owned();
        self.read.drain(..end + 2);
        Some(chunk)
    }

    async fn find(&mut self, pattern: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.read.windows(pattern.len()).position(|bytes| bytes == pattern) {
                return Some(at);
            }
            self.more().await?;
        }
    }

    /// Waits until the server has closed the connection; whether it did within that time.
    pub async fn closed_within(&mut self, time: Duration) -> bool {
        let closed = async { while self.more().await.is_some() {} };
        tokio::time::timeout(time, closed).await.is_ok()
    }

    async fn more(&mut self) -> Option<()> {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        self.read.extend_from_slice(&piece[..count]);
        Some(())
    }
}
