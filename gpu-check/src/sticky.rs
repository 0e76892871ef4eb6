//! The command `sticky`: a worker that loses its card ends with 70, and its job is free at once.
//!
//! Owns a worker in a child process whose model has the card store at the address 0 (on the CPU it says that it is lost),
//! and the parent that takes its job over. The job's lease is ten minutes, so who gets the job within half of one was
//! given it.

use std::fs;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use candle_core::Device;
use forebay::source::folder::Folder;
use forebay::{Batching, Bytes, Context, EXIT_NODE_FAULT, Error, Model, Pipeline, Result, Worker};
use forebay_models::DeviceChoice;
use tokio::process::Command;
use tokio::time::timeout;

use crate::report::Report;

const LEASE: Duration = Duration::from_secs(600);
/// How long the child may take to lose its card, and the parent to do the job.
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::from_secs(30);

/// Has a child lose its card, and does its job.
pub async fn check() -> Result<Report> {
    let folder = tempfile::tempdir().context("a folder for the job")?;
    let (inbox, outbox) = (folder.path().join("in"), folder.path().join("out"));
    fs::create_dir(&inbox)?;
    fs::write(inbox.join("job"), "a job")?;

    let mut child = Command::new(std::env::current_exe()?);
    child.arg("sticky-child").arg(&inbox).arg(&outbox).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = timeout(PATIENCE, child.spawn()?.wait_with_output()).await;
    let ended = ended.map_err(|_| Error::failed(format!("the worker still runs after {PATIENCE:?}")))??;
    let said = String::from_utf8_lossy(&ended.stderr);
    eprint!("{said}");

    let mut report = Report::new("sticky");
    let code = ended.status.code();
    report.check("the exit code", code == Some(i32::from(EXIT_NODE_FAULT)), code, EXIT_NODE_FAULT);
    report.check("no panic", !said.contains("panicked"), !said.contains("panicked"), "an error instead");
    if DeviceChoice::from_env()?.open()?.is_cuda() {
        let named = said.contains("CUDA_ERROR_ILLEGAL_ADDRESS");
        report.check("the log names the error", named, named, "CUDA_ERROR_ILLEGAL_ADDRESS");
    }

    let started = Instant::now();
    let pipeline = Pipeline::new().cpu("answer", 1, |_, _: Bytes| Ok(Bytes::from_static(b"done")));
    let source = Folder::open(&inbox, &outbox)?.lease(LEASE).once();
    let done = timeout(AT_ONCE, Worker::bytes(pipeline).source(source).run_once()).await;
    let took = started.elapsed().as_secs_f64();
    let done = done.map_or(Ok(0), |report| report.map(|report| report.done))?;
    report.check("another worker does the job", done == 1, done, 1);
    report.below("seconds until it had done it, of a lease of 600", took, AT_ONCE.as_secs_f64());
    let result = fs::read_to_string(outbox.join("job.out")).unwrap_or_default();
    report.check("its result", result == "done", result, "done");
    Ok(report)
}

/// The worker that loses its card.
pub async fn child(inbox: &Path, outbox: &Path) -> Result<ExitCode> {
    let choice = DeviceChoice::from_env()?;
    let pipeline = Pipeline::new().gpu("lose", Batching::items(1), move || Ok(Loser { device: choice.open()? }));
    let source = Folder::open(inbox, outbox)?.lease(LEASE);
    Ok(Worker::bytes(pipeline).source(source).run().await)
}

/// Loses its card at the first job.
struct Loser {
    device: Device,
}

impl Model for Loser {
    type Input = Bytes;
    type Output = Bytes;

    fn infer(&mut self, inputs: &[Bytes]) -> Result<Vec<Bytes>> {
        lose(&self.device)?;
        Ok(inputs.to_vec())
    }
}

fn lose(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::raw::store_nowhere(device);
    }
    Err(Error::fatal(format_args!("the card is lost, as played on {:?}", device.location())))
}
