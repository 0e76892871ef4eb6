//! Servers of others, started by the test that wants one on a free port, and ended with it. Those of S3 have an empty
//! bucket and know the account below.

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
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;

use crate::acceptor::Acceptor;

/// How long a server may take until it accepts connections.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Attempts at a start, as somebody else may take the free port first.
const STARTS: usize = 3;
/// Those that need a directory.
const KEEPS: [&str; 2] = ["garage", "s3s-fs"];

/// Who asks, as the servers of S3 know it: access key and secret key. `scripts/servers/start` has the same.
pub const S3_KEYS: (&str, &str) =
    ("GK666f7265626179666f726562", "666f7265626179666f7265626179666f7265626179666f7265626179666f7265");
/// The bucket that each of them has.
pub const S3_BUCKET: &str = "forebay";
/// Where they say they are.
pub const S3_REGION: &str = "us-east-1";

/// A server that runs until this is dropped, or the process ends.
pub struct Server {
    runs: Runs,
    address: SocketAddr,
    // Where it keeps what it is sent, if nobody named another place.
    _folder: Option<TempDir>,
}

enum Runs {
    /// Its standard input is open as long as this is: it ends with it, however this process ends.
    Process(Child),
    /// On a thread of this process.
    Within(Option<Acceptor>),
}

impl Server {
    /// Starts `moto` (S3 and SQS in memory), `fauxqs` (the same) or `garage` (S3), installing
    /// it first if it is not there; or `s3s-fs` (S3), which is part of this crate. `None` where `FOREBAY_SKIP_SERVERS` is
    /// set, for machines that cannot install them. Blocks until it answers. Panics if it cannot run, and says what to do.
    pub fn start(name: &str) -> Option<Server> {
        Self::start_in(name, None)
    }

    /// The same for tests that only `./test full` runs, as they need one that takes long to install: `garage`.
    /// `None` where `FOREBAY_ALL_SERVERS` is not set.
    pub fn start_if_full(name: &str) -> Option<Server> {
        if std::env::var_os("FOREBAY_ALL_SERVERS").is_none_or(|set| set.is_empty()) {
            let _ = writeln!(std::io::stderr(), "FOREBAY_ALL_SERVERS is not set: nothing was checked against {name}");
            return None;
        }
        Self::start(name)
    }

    /// The same as [`start`](Self::start) with a directory, in which all but `moto` keep what they are sent.
    pub fn start_in(name: &str, directory: Option<&Path>) -> Option<Server> {
        let folder = (directory.is_none() && KEEPS.contains(&name)).then(|| tempfile::tempdir().expect("a folder"));
        let kept = directory.or(folder.as_ref().map(TempDir::path));
        let (runs, address) = match (name, kept) {
            ("s3s-fs", Some(kept)) => serve_within(kept),
            _ => start_installed(name, kept)?,
        };
        Some(Server { runs, address, _folder: folder })
    }

    /// Where it listens, as an SDK wants it. In URLs of S3 the bucket stands in the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it at once, as by `kill -9`; returns when nobody listens there any more.
    pub fn kill(mut self) {
        self.end();
        let start = Instant::now();
        while TcpStream::connect(self.address).is_ok() {
            assert!(start.elapsed() < STARTED_WITHIN, "{} listens though it was killed", self.address);
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) {
        match &mut self.runs {
            Runs::Process(child) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
            Runs::Within(acceptor) => drop(acceptor.take()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn start_installed(name: &str, directory: Option<&Path>) -> Option<(Runs, SocketAddr)> {
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
    let started = (0..STARTS).find_map(|_| launch(name, directory));
    Some(started.unwrap_or_else(|| panic!("{name} does not start: try scripts/servers/start {name} 9999")))
}

fn launch(name: &str, directory: Option<&Path>) -> Option<(Runs, SocketAddr)> {
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
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = child.try_wait().ok().flatten().is_some();
        if ended || start.elapsed() > STARTED_WITHIN {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Some((Runs::Process(child), address))
}

/// s3s-fs, on a thread of its own.
fn serve_within(directory: &Path) -> (Runs, SocketAddr) {
    std::fs::create_dir_all(directory.join(S3_BUCKET)).expect("a folder for the bucket");
    let files = FileSystem::new(directory).expect("s3s-fs can use the folder");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(S3_KEYS.0, S3_KEYS.1));
    let service = service.build();
    let acceptor = Acceptor::start(|| {
        move |stream| {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
            // How a connection ends is the client's matter.
            async move { drop(connection.await) }
        }
    });
    let address = acceptor.address();
    (Runs::Within(Some(acceptor)), address)
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
