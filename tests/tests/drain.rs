//! I6: after SIGTERM a worker ends within its grace and the time to settle, whatever user code does, and what it held
//! is free again at once. Its exit code tells a platform to start elsewhere only after a fault of the node.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::{Batching, Bytes, EXIT_NODE_FAULT, Error, Fault, Pipeline, Worker};
use forebay_tests::{eventually, model, run_beside, within};

/// Grace (0.3 s), the time to settle (10 s), and plenty for a busy machine.
const WITHIN: Duration = Duration::from_secs(25);

/// A worker process; killed if the test ends before it does.
struct Drained {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

/// What it said, and its exit code; `None` if it had to be killed.
struct End {
    said: HashMap<String, String>,
    code: Option<i32>,
}

impl End {
    fn is(&self, key: &str, value: &str) {
        assert_eq!(self.said.get(key).map(String::as_str), Some(value), "{key}: {:?}, {:?}", self.said, self.code);
    }

    fn seconds(&self) -> u64 {
        self.said["seconds"].parse().unwrap()
    }
}

impl Drained {
    fn start(scenario: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_drained"))
            .arg(scenario)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Drained { child, output }
    }

    /// Waits until its jobs are where the scenario wants them. It ends by itself if they never are.
    fn ready(mut self) -> Self {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self
    }

    fn terminate(self) -> Self {
        // The shell's own `kill`, since a program of that name is not everywhere.
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self
    }

    fn ended(mut self) -> End {
        let start = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            if start.elapsed() > WITHIN {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let said = text.lines().filter_map(|line| line.split_once('='));
        End { said: said.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(), code }
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All three jobs are given back, and nobody waits for the stage that hangs.
fn gives_everything_back(scenario: &str) {
    let end = Drained::start(scenario).ready().terminate().ended();
    end.is("report", "0 done, 3 given back, 0 rejected, 0 lost");
    end.is("leased", "0");
    end.is("waiting", "3");
    assert!(end.seconds() <= 20, "{scenario}: {} s", end.seconds());
}

#[test]
fn a_hanging_io_stage() {
    gives_everything_back("io");
}

#[test]
fn an_io_stage_that_blocks_its_thread() {
    gives_everything_back("blocking-io");
}

#[test]
fn a_hanging_cpu_stage() {
    gives_everything_back("cpu");
}

#[test]
fn a_hanging_model() {
    gives_everything_back("gpu");
}

#[test]
fn a_stage_that_heeds_cancellation() {
    gives_everything_back("heeds");
}

#[test]
fn a_second_signal_ends_the_grace() {
    let worker = Drained::start("again").ready().terminate();
    std::thread::sleep(Duration::from_millis(500));
    let end = worker.terminate().ended();
    end.is("report", "0 done, 3 given back, 0 rejected, 0 lost");
    end.is("waiting", "3");
}

#[test]
fn what_was_taken_is_finished_and_nothing_more_is_taken() {
    let end = Drained::start("finishes").ready().terminate().ended();
    end.is("leased", "0");
    let done: usize = end.said["done"].parse().unwrap();
    // Eight were there; three were in flight at the signal, and perhaps some had been done before it.
    assert!((3..8).contains(&done), "{:?}", end.said);
    end.is("waiting", &(8 - done).to_string());
    end.is("report", &format!("{done} done, 0 given back, 0 rejected, 0 lost"));
}

#[test]
fn a_source_that_does_not_hear_verdicts() {
    let end = Drained::start("settle-hangs").ready().terminate().ended();
    end.is("broken", "0");
    assert!(end.seconds() <= 20, "{} s", end.seconds());
}

#[test]
fn the_sources_end_though_a_rejected_job_hangs() {
    Drained::start("deadline").ended().is("report", "0 done, 0 given back, 1 rejected, 0 lost");
}

#[test]
fn run_ends_with_0_after_a_signal() {
    assert_eq!(Drained::start("run-stopped").ready().terminate().ended().code, Some(0));
}

#[test]
fn the_process_ends_though_a_thread_hangs() {
    assert_eq!(Drained::start("run-hanging-cpu").ready().terminate().ended().code, Some(0));
}

#[test]
fn a_worker_that_cannot_start_stays_up_until_it_is_stopped() {
    let mut worker = Drained::start("run-not-ready").ready();
    assert_eq!(worker.child.try_wait().unwrap(), None);
    assert_eq!(worker.terminate().ended().code, Some(0));
}

#[test]
fn a_fault_of_the_node_has_its_own_exit_code() {
    assert_eq!(Drained::start("run-fatal").ended().code, Some(EXIT_NODE_FAULT.into()));
    assert_eq!(Drained::start("run-no-node").ended().code, Some(EXIT_NODE_FAULT.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_fault_gives_everything_back() {
    let queue = Memory::new();
    (0..10).for_each(|n| queue.push(format!("job-{n}"), "x"));
    queue.push("ill", "ill");
    let pipeline = Pipeline::new().io("wait", 16, async |_, x: Bytes| Ok(x)).gpu("device", Batching::items(16), || {
        Ok(model(|inputs: &[Bytes]| match inputs.iter().any(|input| input == "ill") {
            true => Err(Error::fatal("illegal address")),
            false => Ok(inputs.to_vec()),
        }))
    });
    let worker = Worker::bytes(pipeline).source(queue.clone()).grace(Duration::from_secs(3_600));
    let why = within("the worker ends", run_beside(worker)).await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert!(why.to_string().contains("illegal address"), "{why}");
    assert_eq!((queue.leased(), queue.rejected()), (0, 0));
    assert_eq!(queue.done() as usize + queue.waiting(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_fault_of_one_job_does_not_wait_for_others() {
    let queue = Memory::new();
    (0..10).for_each(|n| queue.push(format!("job-{n}"), "x"));
    let hanging = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counts = hanging.clone();
    let pipeline = Pipeline::new().io("wait", 16, move |_, x: Bytes| {
        let hanging = counts.clone();
        async move {
            if x == "ill" {
                return Err(Error::fatal("the disk is gone"));
            }
            hanging.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::pending().await
        }
    });
    let worker = Worker::bytes(pipeline).source(queue.clone()).grace(Duration::from_secs(3_600));
    let ended = forebay_tests::start(worker);
    eventually("ten hang", || hanging.load(std::sync::atomic::Ordering::SeqCst) == 10);
    queue.push("ill", "ill");
    let why = within("the worker ends", ended).await.unwrap().unwrap_err();
    assert_eq!((why.fault(), why.to_string().as_str()), (Fault::Fatal, "stage `wait`: the disk is gone"));
    assert_eq!((queue.leased(), queue.waiting(), queue.done()), (0, 11, 0));
}

/// Tells whether a value is `Send`, as a value instead of a failure to compile.
struct Probe<T>(std::marker::PhantomData<T>);

impl<T: Send> Probe<T> {
    fn is_send(&self) -> bool {
        true
    }
}

#[allow(dead_code, reason = "used where the value is not `Send`")]
trait Otherwise {
    fn is_send(&self) -> bool {
        false
    }
}

impl<T> Otherwise for Probe<T> {}

#[test]
fn a_worker_can_run_in_a_task_of_its_own() {
    fn probe<T>(_: &T) -> Probe<T> {
        Probe(std::marker::PhantomData)
    }
    let worker = || Worker::bytes(Pipeline::new()).source(Memory::new());
    assert!(probe(&worker()).is_send());
    assert!(probe(&worker().run()).is_send(), "`tokio::spawn(worker.run())` does not compile");
    assert!(probe(&worker().run_once()).is_send(), "`tokio::spawn(worker.run_once())` does not compile");
}
