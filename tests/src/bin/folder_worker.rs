//! A worker on a shared folder, to be killed: `folder_worker IN OUT`. Its result for a file is [`forebay_tests::worked`].

use std::process::ExitCode;
use std::time::Duration;

use forebay::source::folder::Folder;
use forebay::{Batching, Bytes, Model, Pipeline, Result, Worker};

struct Slow;

impl Model for Slow {
    type Input = Bytes;
    type Output = Bytes;

    fn infer(&mut self, inputs: &[Bytes]) -> Result<Vec<Bytes>> {
        // The work itself, so that kills find jobs in every state.
        std::thread::sleep(Duration::from_millis(5));
        Ok(inputs.iter().map(|input| forebay_tests::worked(input).into()).collect())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut folders = std::env::args_os().skip(1);
    let (Some(inbox), Some(outbox)) = (folders.next(), folders.next()) else {
        eprintln!("usage: folder_worker IN OUT");
        return ExitCode::from(2);
    };
    let pipeline = Pipeline::new().gpu("slow", Batching::items(4), || Ok(Slow));
    let source = Folder::open(inbox, outbox).map(|folder| folder.once().lease(Duration::from_millis(700)));
    let outcome = match source {
        Ok(source) => Worker::bytes(pipeline).source(source).in_flight(4).run_once().await,
        Err(why) => Err(why),
    };
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("folder_worker: {why}");
            ExitCode::FAILURE
        }
    }
}
