//! The fake on a loopback port, for other processes and other languages.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::FakeSqs;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// The largest request: ten times the largest batch, since JSON may need six bytes for one.
const LARGEST: usize = 10 * super::settings::LARGEST;

/// A fake SQS that listens until this is dropped.
pub struct Served {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Served {
    /// Where it listens, as an SDK wants it: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // With it go the connections, and the requests under way.
        self.task.abort();
    }
}

impl FakeSqs {
    /// Listens on a loopback port, 0 for a free one, in a task of this runtime. An error is that of the socket.
    pub async fn serve(&self, port: u16) -> io::Result<Served> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(self.clone(), listener));
        Ok(Served { address, task })
    }
}

async fn accept(fake: FakeSqs, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(fake.clone(), stream));
                }
                // As when there are no more file descriptors: one of those in use must end first.
                Err(_) if !connections.is_empty() => {
                    connections.join_next().await;
                }
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(fake: FakeSqs, stream: TcpStream) {
    // Small answers are not worth waiting for more.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| answer(fake.clone(), request));
    // An error is a caller that left, or a fault that breaks the connection: both are as they should be.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn answer(fake: FakeSqs, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failed> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
    let response = fake.handle(Request::from_parts(head, body)).await?;
    Ok(response.map(Full::new))
}
