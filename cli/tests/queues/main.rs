//! The commands for queues, as a process of their own against the fake SQS on a port, and against servers of others
//! where these are installed: what they do, what they say, and that nothing is lost or repeated by being killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead;
mod queue;
mod results;
mod resume;
mod servers;
mod submit;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use forebay::testing::fake_sqs::{FakeSqs, Served};
use forebay_tests::{Said, eventually};
use serde_json::Value;
use tempfile::TempDir;

/// A fake SQS on a port with a queue, its dead-letter queue, and a folder.
struct World {
    fake: FakeSqs,
    served: Served,
    jobs: String,
    dead: String,
    at: TempDir,
}

impl World {
    async fn new(fifo: bool) -> World {
        let fake = FakeSqs::new();
        let served = fake.serve(0).await.unwrap();
        let end = if fifo { ".fifo" } else { "" };
        let (jobs, dead) = (format!("jobs{end}"), format!("dead{end}"));
        let kind: &[(&str, &str)] = if fifo { &[("FifoQueue", "true")] } else { &[] };
        fake.create_queue(&dead, kind).unwrap();
        let policy = format!(
            r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{dead}","maxReceiveCount":"1000"}}"#
        );
        let attributes: Vec<_> = kind.iter().copied().chain([("RedrivePolicy", policy.as_str())]).collect();
        fake.create_queue(&jobs, &attributes).unwrap();
        World { fake, served, jobs, dead, at: tempfile::tempdir().unwrap() }
    }

    fn url(&self, queue: &str) -> String {
        format!("{}/000000000000/{queue}", self.served.endpoint())
    }

    /// A command about the queue of jobs.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = forebay(self.at.path(), arguments);
        command.env("FOREBAY_SQS_QUEUE", self.url(&self.jobs));
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::spawn(&mut self.command(arguments))
    }

    /// As `nohup` does.
    fn start_ignoring_hangup(&self, arguments: &[&str]) -> Running {
        let told = self.command(arguments);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(told.get_program()).args(told.get_args());
        command.env_clear().envs(told.get_envs().filter_map(|(key, value)| Some((key, value?))));
        Running::spawn(command.current_dir(self.at.path()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A file of so many lines.
    fn write_lines(&self, name: &str, count: usize) {
        self.write(name, (1..=count).map(|n| format!("{{\"n\": {n}}}\n")).collect::<String>());
    }

    /// How often the envelopes of a queue name each id.
    fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for envelope in self.envelopes() {
            *ids.entry(envelope["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        ids
    }

    fn envelopes(&self) -> Vec<Value> {
        let messages = self.fake.messages(&self.jobs);
        messages.iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }

    fn count(&self) -> usize {
        let depth = self.fake.depth(&self.jobs).unwrap();
        depth.visible + depth.in_flight + depth.delayed
    }
}

/// The program with nothing of this process's environment.
fn forebay(within: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .current_dir(within)
        .env_clear()
        .env("FOREBAY_SQS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// A command at work; killed with its child if the test ends before it does.
struct Running(Child);

impl Running {
    fn spawn(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The shell's own `kill`, since a program of that name is not everywhere.
    fn signal(&self, signal: &str) {
        shell(&format!("kill -{signal} {}", self.0.id()));
    }

    /// The process that does the work of a submit.
    fn child(&self) -> u32 {
        child_of(self.0.id()).expect("it has a child")
    }

    /// Kills the process that was started, and that one only. The number of its child.
    fn kill_parent(mut self) -> u32 {
        let child = self.child();
        self.0.kill().unwrap();
        self.was_killed();
        child
    }

    /// Kills both at once: the child has no time for anything after its parent's end.
    fn kill(mut self) {
        let (parent, child) = (self.0.id(), self.child());
        shell(&format!("kill -STOP {child} && kill -KILL {parent} {child}"));
        self.was_killed();
        eventually("the child is dead", || !lives(child));
    }

    fn was_killed(&mut self) {
        let status = self.0.wait().unwrap();
        assert_eq!(status.code(), None, "it was killed, and had not ended before");
    }

    fn ended(mut self) -> Said {
        use std::io::Read;
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        Said { code: self.0.wait().unwrap().code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and is nobody's parent once it was waited for.
        if let Some(child) = child_of(self.0.id()) {
            shell(&format!("kill -KILL {child}; true"));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

/// The state and the parent of a process.
fn state(process: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn child_of(parent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|number| state(*number).is_some_and(|(_, its)| its == parent))
}

/// An orphan that has ended may never be waited for.
fn lives(process: u32) -> bool {
    state(process).is_some_and(|(state, _)| !["Z", "X"].contains(&state.as_str()))
}
