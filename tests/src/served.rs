//! A worker process behind HTTP, which can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// A process of the program `served`. Dropped, it is killed.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    /// Starts it and waits until it has said where it listens.
    pub fn start(command: &mut Command) -> Process {
        let mut child = command.env("RUST_LOG", "off").stdout(Stdio::piped()).spawn().expect("it can be started");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut port).expect("it says its port");
        let port = port.trim().parse().expect("the port's number");
        Process { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
