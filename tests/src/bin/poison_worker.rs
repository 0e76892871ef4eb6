//! A worker with one committed result of each job, to be killed and to kill itself: `poison_worker IN OUT STORE`, or
//! `poison_worker STORE` for a queue of SQS that its environment names.
//!
//! An input that begins with `poison` aborts the process on the device thread, one that begins with `bad io` in an async
//! stage. Its result for any other is [`forebay_tests::worked`].

use std::process::ExitCode;
use std::time::Duration;

use forebay::source::committed::Committed;
use forebay::source::folder::Folder;
use forebay::source::sqs::Sqs;
use forebay::{Batching, Bytes, Error, Job, Model, Pipeline, Result, Worker, store};

struct Slow;

impl Model for Slow {
    type Input = Bytes;
    type Output = Bytes;

    fn infer(&mut self, inputs: &[Bytes]) -> Result<Vec<Bytes>> {
        // The work itself, so that jobs are in company when the process dies.
        std::thread::sleep(Duration::from_millis(10));
        if inputs.iter().any(|input| input.starts_with(b"poison")) {
            std::process::abort();
        }
        Ok(inputs.iter().map(|input| forebay_tests::worked(input).into()).collect())
    }
}

async fn fetch(_: Job, input: Bytes) -> Result<Bytes> {
    if input.starts_with(b"bad io") {
        // Once others are at work.
        tokio::time::sleep(Duration::from_millis(15)).await;
        std::process::abort();
    }
    Ok(input)
}

fn fed(worker: Worker, folders: &[String]) -> Result<Worker> {
    Ok(match folders {
        [inbox, outbox, store] => {
            let files = Folder::open(inbox, outbox)?.once().lease(Duration::from_secs(1));
            worker.source(Committed::new(files, store::Folder::open(store)?))
        }
        [store] => worker.source(Committed::new(Sqs::from_env()?, store::Folder::open(store)?)),
        _ => return Err(Error::invalid("usage: poison_worker [IN OUT] STORE")),
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let folders: Vec<String> = std::env::args().skip(1).collect();
    let pipeline = Pipeline::new().io("fetch", 4, fetch).gpu("slow", Batching::items(4), || Ok(Slow));
    let worker = forebay::telemetry::init().and_then(|_| fed(Worker::bytes(pipeline), &folders));
    match worker {
        Ok(worker) => worker.in_flight(8).run().await,
        Err(why) => {
            eprintln!("poison_worker: {why}");
            ExitCode::from(2)
        }
    }
}
