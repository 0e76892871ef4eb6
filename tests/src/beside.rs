//! A worker that runs beside the test.

use forebay::{Error, Report, Result, Worker};
use tokio::sync::oneshot;

/// Runs the worker once, on a thread of its own that enters this runtime: even one that hangs lets the test end.
pub async fn run_beside(worker: Worker) -> Result<Report> {
    start(worker).await.unwrap_or_else(|_| Err(Error::failed("the worker panicked")))
}

/// Starts the worker at once; the receiver gets what [`Worker::run_once`] gives.
pub fn start(worker: Worker) -> oneshot::Receiver<Result<Report>> {
    let (report, ended) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        // A test that gave up waiting does not listen.
        let _ = report.send(runtime.block_on(worker.run_once()));
    });
    ended
}
