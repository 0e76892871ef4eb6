//! A worker on a queue of SQS, set up by its environment alone: `sqs_worker`. A job's payload says for how many
//! milliseconds it works; each that is done is a line `done ID` on standard output.

use std::process::ExitCode;
use std::time::Duration;

use forebay::source::sqs::Sqs;
use forebay::{Error, Job, Pipeline, Result, Worker};
use tokio::time::sleep;

async fn work(job: Job, millis: u64) -> Result<u64> {
    sleep(Duration::from_millis(millis)).await;
    println!("done {}", job.id());
    Ok(millis)
}

#[tokio::main]
async fn main() -> ExitCode {
    let telemetry = forebay::telemetry::init();
    let source = telemetry.and_then(|_| Sqs::from_env());
    let pipeline = Pipeline::new().io("work", 8, work);
    match source.map(|source| Worker::new(pipeline).source(source)) {
        Ok(worker) => worker.run().await,
        Err(why) => {
            let why: Error = why;
            eprintln!("sqs_worker: {why}");
            ExitCode::FAILURE
        }
    }
}
