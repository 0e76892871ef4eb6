//! I18: on a node that is unfit a worker asks for no job, tells the platform which figure falls short of which threshold,
//! and ends with the code for that; what no other node would mend costs no node. As processes, beside a metadata service
//! that keeps every call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use forebay::EXIT_NODE_FAULT;
use forebay_tests::PATIENCE;

/// The metadata service: each request to it, whole.
struct Metadata {
    address: SocketAddr,
    calls: Receiver<String>,
}

impl Metadata {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, calls) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut call = String::new();
                while !call.ends_with("\r\n\r\n") {
                    stream.read_line(&mut call).unwrap();
                }
                let length = call.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.unwrap().parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                call.push_str(&String::from_utf8(body).unwrap());
                stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                if tell.send(call).is_err() {
                    return;
                }
            }
        });
        Metadata { address, calls }
    }
}

/// A worker process; killed if the test ends before it does.
struct Worker {
    child: Child,
    /// Its log, line by line.
    log: Receiver<String>,
    /// What of it was read.
    read: String,
}

/// How it ended.
struct End {
    code: Option<i32>,
    /// How often it asked for jobs.
    asked: usize,
    log: String,
}

impl Worker {
    fn start(link: &str, metadata: Option<&Metadata>, set: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fit_worker"));
        // A proxy that nobody listens at: whoever asks it hears nothing of the service.
        let nowhere = "http://127.0.0.1:1";
        command.arg(link).env("HTTP_PROXY", nowhere).env("http_proxy", nowhere).env("ALL_PROXY", nowhere);
        command.env("RUST_LOG", "info").env_remove("SALAD_MACHINE_ID").envs(set.iter().copied());
        if let Some(metadata) = metadata {
            command.env("FOREBAY_NODE_METADATA", format!("http://{}", metadata.address));
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Worker { child, log, read: String::new() }
    }

    /// Waits until its log says this.
    fn says(&mut self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap();
            self.read += &line;
            self.read.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    fn terminate(&self) {
        // The shell's own `kill`, since a program of that name is not everywhere.
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn ended(mut self) -> End {
        let start = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the worker does not end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let log = self.log.iter().fold(std::mem::take(&mut self.read), |log, line| log + &line + "\n");
        End { code, asked: log.lines().filter(|line| *line == "asked").count(), log }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const UNFIT: Option<i32> = Some(EXIT_NODE_FAULT as i32);

/// More than any disk has.
const NO_DISK: (&str, &str) = ("FOREBAY_NODE_DISK", "18000000000000000000");

#[test]
fn an_unfit_node_is_given_back_with_every_reason_and_takes_no_job() {
    let metadata = Metadata::new();
    let set = [("FOREBAY_NODE_LATENCY", "20"), ("FOREBAY_NODE_TRIES", "1"), NO_DISK];
    let worker = Worker::start("slow", Some(&metadata), &set);
    let call = metadata.calls.recv_timeout(PATIENCE).unwrap();
    // So the platform takes it away.
    worker.terminate();
    let end = worker.ended();
    assert_eq!((end.code, end.asked), (UNFIT, 0), "{}", end.log);
    assert!(metadata.calls.try_recv().is_err(), "one call");

    assert!(call.starts_with("POST /v1/reallocate HTTP/1.1\r\n"), "{call}");
    assert!(call.contains("\r\nmetadata: true\r\n") && !call.to_lowercase().contains("x-forwarded"), "{call}");
    let (_, body) = call.split_once("\r\n\r\n").unwrap();
    let reason = serde_json::from_str::<serde_json::Value>(body).unwrap()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("latency of the bucket: 6") && reason.contains(" ms, wanted at most 20 "), "{reason}");
    assert!(reason.contains("; free disk at "), "{reason}");
    assert!(reason.ends_with(" bytes, wanted at least 18000000000000000000 (FOREBAY_NODE_DISK)"), "{reason}");
    let told = reason.strip_prefix("forebay: ").unwrap();
    assert!(end.log.contains(&format!("worker ends: this node is unfit error={told}")), "{}", end.log);
}

#[test]
fn elsewhere_the_exit_code_says_it_alone() {
    let end = Worker::start("slow", None, &[("FOREBAY_NODE_LATENCY", "20"), ("FOREBAY_NODE_TRIES", "1")]).ended();
    assert_eq!((end.code, end.asked), (UNFIT, 0), "{}", end.log);
    let said = " ms, wanted at most 20 (FOREBAY_NODE_LATENCY)";
    assert!(end.log.lines().any(|line| line.contains("worker ends") && line.contains(said)), "{}", end.log);
}

#[test]
fn wrong_keys_cost_no_node() {
    let metadata = Metadata::new();
    let mut worker = Worker::start("keys", Some(&metadata), &[("FOREBAY_NODE_TRIES", "1")]);
    let line = worker.says("not ready");
    assert!(line.contains("the bucket refuses this worker's keys or settings: InvalidAccessKeyId"), "{line}");
    assert!(line.contains("it would be no better on another node"), "{line}");
    assert_eq!(worker.child.try_wait().unwrap(), None, "it stays up");
    worker.terminate();
    let end = worker.ended();
    assert_eq!((end.code, end.asked), (Some(0), 0), "{}", end.log);
    assert!(metadata.calls.try_recv().is_err());
}

/// More than any driver is, where there is one.
#[test]
fn a_node_without_the_driver_that_is_wanted_is_left() {
    let end = Worker::start("good", None, &[("FOREBAY_NODE_GPU_DRIVER", "99999"), ("FOREBAY_NODE_TRIES", "1")]).ended();
    assert_eq!((end.code, end.asked), (UNFIT, 0), "{}", end.log);
    let said = |line: &str| line.contains("worker ends") && line.contains("error=driver of the cards: ");
    let line = end.log.lines().find(|line| said(line)).expect(&end.log);
    assert!(line.contains(", wanted at least 99999 (FOREBAY_NODE_GPU_DRIVER)"), "{line}");
}

#[test]
fn a_threshold_that_the_program_cannot_look_at_costs_no_node() {
    let mut worker = Worker::start("good", None, &[("FOREBAY_NODE_GPU_COPY", "1"), ("FOREBAY_NODE_TRIES", "1")]);
    let line = worker.says("not ready");
    assert!(line.contains("unknown, since this program measures no device (Fitness::device)"), "{line}");
    assert_eq!(worker.child.try_wait().unwrap(), None, "it stays up");
    worker.terminate();
    let end = worker.ended();
    assert_eq!((end.code, end.asked), (Some(0), 0), "{}", end.log);
}

#[test]
fn a_fit_node_is_worked_on() {
    let mut worker = Worker::start("good", None, &[("FOREBAY_NODE_LATENCY", "60000"), ("FOREBAY_NODE_UPLOAD", "1")]);
    let line = worker.says("this node is fit");
    assert!(line.contains("Mbit/s") && line.contains("free memory"), "{line}");
    worker.says("asked");
    worker.terminate();
    let end = worker.ended();
    assert_eq!((end.code, end.asked), (Some(0), 1), "{}", end.log);
}

#[test]
fn a_wrong_setting_is_named() {
    let end = Worker::start("good", None, &[("FOREBAY_NODE_UPLOAD", "fast")]).ended();
    assert_eq!((end.code, end.asked), (Some(1), 0));
    assert!(
        end.log.contains("FOREBAY_NODE_UPLOAD is `fast`, but should be a whole number, 1 to 100000"),
        "{}",
        end.log
    );
}
