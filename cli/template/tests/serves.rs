//! The service as its callers see it: started, asked, told to stop.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

struct Service {
    child: Child,
    port: u16,
}

impl Service {
    /// Starts the program on a free port and waits until it is ready.
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let mut command = Command::new(env!("CARGO_BIN_EXE_NAME"));
        let child = command.env("PORT", port.to_string()).spawn();
        let mut service = Service { child: child.expect("the program starts"), port };
        let start = Instant::now();
        while service.ask("GET", "/health/ready", "").is_none_or(|(status, _)| status != 200) {
            assert_eq!(service.ended(), None, "it ended by itself");
            assert!(start.elapsed() < PATIENCE, "it is not ready");
            // Before it is asked again.
            sleep(Duration::from_millis(20));
        }
        service
    }

    /// Status and body of an answer; `None` where nobody listens.
    fn ask(&self, method: &str, path: &str, json: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = json.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + json).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Whether it is healthy, as the HEALTHCHECK of the Dockerfile asks.
    fn healthy(&self) -> bool {
        let mut check = Command::new(env!("CARGO_BIN_EXE_NAME"));
        check.arg("health").env("PORT", self.port.to_string()).status().expect("the program starts").success()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// What a platform does before it takes the node away.
    fn terminate(mut self) -> ExitStatus {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("there is a kill").success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that passed has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn answers_refuses_and_ends_with_0() {
    let service = Service::start();
    let ask = |json: &str| service.ask("POST", "/tone", json).expect("an answer");
    assert!(service.healthy());
    assert_eq!(ask(r#"{"text": "what a happy day"}"#), (200, r#"{"tone":1.0}"#.to_owned()));
    assert_eq!(ask(r#"{"text": "bad good"}"#), (200, r#"{"tone":0.0}"#.to_owned()));
    assert_eq!(ask(r#"{"text": " "}"#).0, 422, "no text");
    assert_eq!(ask(r#"{"text": "#).0, 400, "no JSON");
    assert_eq!(service.terminate().code(), Some(0));
}
