//! Servers of others, started by the test that wants one on a free port, and ended with it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region};
use forebay::testing::fake_sqs::FakeSqs;

/// How long a server may take until it accepts connections.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Attempts at a start, as somebody else may take the free port first.
const STARTS: usize = 3;

/// A server that runs until this is dropped, or the process ends.
pub struct Server {
    // Its standard input is open as long as this is: it ends with it, however this process ends.
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts `moto` or `fauxqs`, installing it first if it is not there; `None` where `FOREBAY_SKIP_SERVERS` is set,
    /// for machines that cannot install them. Blocks until it answers. Panics, saying what to do, if it cannot run.
    pub fn start(name: &str) -> Option<Server> {
        Self::start_in(name, None)
    }

    /// The same with a directory in which `fauxqs` keeps its queues.
    pub fn start_in(name: &str, directory: Option<&Path>) -> Option<Server> {
        if std::env::var_os("FOREBAY_SKIP_SERVERS").is_some_and(|set| !set.is_empty()) {
            // Past the test harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "FOREBAY_SKIP_SERVERS is set: nothing was checked against {name}");
            return None;
        }
        let installed = Command::new(script("setup")).arg(name).stdin(Stdio::null()).status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "{name} cannot be installed: see what scripts/servers/setup says, or set FOREBAY_SKIP_SERVERS=1"
        );
        let server = (0..STARTS).find_map(|_| launch(name, directory));
        Some(server.unwrap_or_else(|| panic!("{name} does not start: try scripts/servers/start {name} 9999")))
    }

    /// Where it listens, as an SDK wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills it at once, as by `kill -9`.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch(name: &str, directory: Option<&Path>) -> Option<Server> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = free.local_addr().expect("the port's number");
    drop(free);
    let mut command = Command::new(script("start"));
    command.arg(name).arg(address.port().to_string()).args(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("scripts/servers/start can be run");
    // Somebody must read what it says, lest it wait for that.
    let said = BufReader::new(child.stderr.take().expect("a pipe"));
    let label = name.to_owned();
    thread::spawn(move || said.lines().map_while(Result::ok).for_each(|line| eprintln!("{label}: {line}")));
    let mut server = Server { child, address };
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = server.child.try_wait().ok().flatten().is_some();
        if ended || start.elapsed() > STARTED_WITHIN {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/servers").join(name)
}

/// A client of SQS at a port of this machine, without encryption, that calls once and never again.
pub fn sqs_client(endpoint: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

/// Serves the fake at a port of this machine, on a thread of its own, until the process ends; where it is.
pub fn serve_beside(fake: FakeSqs) -> String {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let served = fake.serve(0).await.expect("a free port");
            tell.send(served.endpoint()).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("the fake is served")
}
