//! Requests as jobs, held against what every source promises.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::pipeline::outlook::Outlook;
use crate::source::vitals::Pulse;
use crate::source::{Delivery, Phase, RouteInfo};
use crate::testing::source::{self, Bench, Ended};

/// One server, whose requests are the queue.
struct Requests {
    http: Arc<Mutex<Http>>,
    address: SocketAddr,
    pulse: Pulse,
    /// The status that each request is answered with.
    callers: HashMap<String, JoinHandle<u16>>,
}

/// What all of the bench's sources share; a job goes by the name that its caller gave as the trace.
struct Shared(Arc<Mutex<Http>>);

impl Source for Shared {
    fn name(&self) -> &'static str {
        "http"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let mut received = self.0.lock().await.receive(max).await?;
        for delivery in &mut received {
            delivery.id = delivery.meta.trace.clone().unwrap_or_default();
        }
        Ok(received)
    }
}

impl Requests {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut http = Http::on(listener).unwrap().deadline(Duration::from_secs(3));
        let pulse = Pulse::new(vec![RouteInfo::new(String::new(), None, "application/octet-stream")]);
        http.start(pulse.vitals()).unwrap();
        pulse.vitals().routes()[0].set_outlook(Outlook::default());
        pulse.set(Phase::Ready);
        Requests { http: Arc::new(Mutex::new(http)), address, pulse, callers: HashMap::new() }
    }
}

impl Bench for Requests {
    type Source = Shared;

    async fn reset(&mut self) {
        let old = std::mem::replace(self, Requests::new());
        old.pulse.set(Phase::Draining);
    }

    fn source(&mut self) -> Shared {
        Shared(self.http.clone())
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        let length = payload.len();
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ntraceparent: {name}\r\ncontent-length: {length}\r\n\r\n");
        let request = [head.as_bytes(), payload].concat();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let caller = tokio::spawn(async move {
            let mut line = [0; 12];
            stream.read_exact(&mut line).await.unwrap();
            String::from_utf8_lossy(&line[9..]).parse().unwrap()
        });
        self.callers.insert(name.to_owned(), caller);
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        match self.callers.remove(name).unwrap().await.unwrap() {
            200..300 => Some(Ended::Done),
            400..500 => Some(Ended::Rejected),
            status => panic!("{name} was answered with {status}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    source::once(&mut Requests::new()).await;
}
