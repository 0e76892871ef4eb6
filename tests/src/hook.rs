//! A receiver of webhooks on this machine, which checks every signature.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay::webhook::{Guard, Headers, Secret, TOLERANCE, Webhook, verify};
use serde_json::Value;

/// A receiver of webhooks.
pub struct Hook {
    url: String,
    told: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hook {
    /// What it shares with those who send to it.
    pub const SECRET: &str = "whsec_Zm9yZWJheSdzIHNlY3JldCBmb3IgaXRzIHRlc3Rz";

    /// A receiver that refuses so many messages with 503 before it takes any.
    pub fn refusing(count: usize) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the port's number");
        let hook = Hook { url: format!("http://{address}/hook?token=secret"), told: Arc::default() };
        let told = hook.told.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let message = receive(&mut BufReader::new(&stream));
                told.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                let status = if number < count { "503 Service Unavailable" } else { "204 No Content" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).expect("the sender waits for an answer");
            }
        });
        hook
    }

    /// Where it is; its query is the receiver's secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The id and the body of every message so far.
    pub fn told(&self) -> Vec<(String, Value)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends to this machine, in the clear: for tests only.
    pub fn sender() -> Webhook {
        let loopback = "127.0.0.0/8".parse().expect("a network");
        let guard = Guard::new().open_to([loopback]).ports(1024..=65535).plain_http();
        Webhook::new(guard, [Hook::secret()]).expect("a sender with a secret")
    }

    fn secret() -> Secret {
        Secret::new(Hook::SECRET).expect("a secret")
    }
}

/// A message that is signed as it should be.
fn receive(stream: &mut impl BufRead) -> (String, Value) {
    let (headers, body) = read(stream);
    let header = |name: &str| headers[name].as_str();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = header("webhook-id");
    let signed = Headers { id, timestamp: header("webhook-timestamp"), signature: header("webhook-signature") };
    verify(&[Hook::secret()], signed, &body, now, TOLERANCE).expect("a good signature");
    (id.to_owned(), serde_json::from_slice(&body).expect("JSON"))
}

fn read(stream: &mut impl BufRead) -> (BTreeMap<String, String>, Vec<u8>) {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a request");
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers["content-length"].parse().expect("a length");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a whole body");
    (headers, body)
}
