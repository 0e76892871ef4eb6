//! What a container's health check asks, as its own program asks it: so no image needs one that speaks HTTP.
//!
//! It believes a status and nothing else, within [`WITHIN`], and reads no more than [`LONGEST`] of what comes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Context, Error, Result};

/// How long the server has to answer. It answers probes from memory, on a thread of its own.
const WITHIN: Duration = Duration::from_secs(3);
/// What is read of an answer, in bytes. Those of probes are a line long.
const LONGEST: u64 = 4096;

const ASK: &[u8] = b"GET /health/startup HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Whether the server at this port of the machine says that its worker has started.
pub(super) async fn started(port: u16) -> Result<()> {
    let late = |_| Error::transient(format_args!("port {port} gave no answer within {} s", WITHIN.as_secs()));
    let answer = timeout(WITHIN, ask(port)).await.map_err(late)??;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some(status) => Err(Error::transient(format_args!("port {port} answered {status}: {}", body.trim()))),
        None => Err(Error::transient(format_args!("port {port} gave no answer of HTTP"))),
    }
}

async fn ask(port: u16) -> Result<String> {
    let own = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let mut stream = TcpStream::connect(&own[..]).await.with_context(|| format!("connecting to port {port}"))?;
    stream.write_all(ASK).await.with_context(|| format!("asking port {port}"))?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await.with_context(|| format!("reading from port {port}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of a server that reads the question and says this.
    async fn told(answer: &'static str) -> Result<()> {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let answered = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut question = vec![0; ASK.len()];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(question, ASK);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let told = started(port).await;
        answered.await.unwrap();
        told
    }

    #[tokio::test]
    async fn only_200_is_a_yes_and_a_no_comes_with_its_reason() {
        assert!(told("HTTP/1.1 200 OK\r\n\r\nok; 0 inside\n").await.is_ok());
        let no = told("HTTP/1.1 503 Service Unavailable\r\n\r\nstarting; 0 inside\n").await.unwrap_err().to_string();
        assert!(no.contains("503: starting; 0 inside"), "{no}");
        for wrong in ["", "200", "HTTP/1.1", "HTTP/1.1 2000 OK\r\n\r\n"] {
            assert!(told(wrong).await.is_err(), "`{wrong}` is no 200");
        }
    }

    #[tokio::test]
    async fn nobody_listens() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        drop(server);
        let no = started(port).await.unwrap_err().to_string();
        assert!(no.contains(&format!("port {port}")), "{no}");
    }

    /// With time that jumps there is nothing else to wait for.
    #[tokio::test(start_paused = true)]
    async fn who_never_answers_is_not_waited_for() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let no = started(server.local_addr().unwrap().port()).await.unwrap_err().to_string();
        assert!(no.contains("within 3 s"), "{no}");
    }
}
