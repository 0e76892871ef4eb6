//! A worker behind the source `Http`, within the test's process, and what can be seen of it from outside: whether it is
//! ready, and how many requests are inside.

use std::net::{SocketAddr, TcpListener};

use forebay::source::http::Http;
use forebay::{Report, Result, Worker};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::{Client, start, within};

/// A worker that has been started.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    _ended: oneshot::Receiver<Result<Report>>,
}

/// A source that listens, and where.
pub fn http() -> (Http, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the port's number");
    (Http::on(listener).expect("a listener"), address)
}

/// Starts the worker behind HTTP and waits until it is ready.
pub async fn serve(worker: Worker, set: impl FnOnce(Http) -> Http) -> Served {
    let (http, address) = http();
    let served = Served { address, _ended: start(worker.source(set(http))) };
    is_ready(address, 200).await;
    served
}

/// Waits until it says so of its readiness.
pub async fn is_ready(address: SocketAddr, status: u16) {
    let mut client = within("the server listens", async {
        loop {
            if let Ok(stream) = TcpStream::connect(address).await {
                return Client::over(stream);
            }
        }
    })
    .await;
    within("readiness", async { while client.get("/health/ready").await.status != status {} }).await;
}

/// What it says of how many requests are inside, as in `1 inside`.
pub async fn inside(address: SocketAddr) -> String {
    let text = Client::connect(address).await.get("/health/ready").await.text();
    text.trim().rsplit("; ").next().unwrap_or_default().to_owned()
}

/// Waits until all requests have been answered or have left.
pub async fn nobody_is_inside(address: SocketAddr) {
    within("nobody is inside", async { while inside(address).await != "0 inside" {} }).await;
}
