//! Embeddings from a queue of Amazon SQS: each message is a list of texts, and becomes a list of vectors, once, whatever
//! happens to the workers. Start it on as many machines as you like.
//!
//! ```sh
//! ./quickstart            # installs the weights, or name a folder or an https:// or s3:// URL in FOREBAY_WEIGHTS
//! export FOREBAY_SQS_QUEUE=https://sqs.eu-central-1.amazonaws.com/123456789012/texts
//! cargo run --release -p forebay-examples --features sqs --bin embed_queue
//! aws sqs send-message --queue-url $FOREBAY_SQS_QUEUE --message-body '["a cat", "a dog"]'
//! ```
//!
//! Results go to the folder that `FOREBAY_RESULTS` names (`results`), which all workers have to share; and, if
//! `FOREBAY_RESULTS_QUEUE` is the URL of a queue, there too.

mod weights;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use forebay::source::committed::Committed;
use forebay::source::sqs::Sqs;
use forebay::{Pipeline, Result, Worker, store};
use forebay_models::{DeviceChoice, Embedder};

use weights::EncoderFiles;

/// A job's memory is taken on one thread and given back on another, at which it is quick.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("embed_queue: {why}");
            why.exit_code()
        }
    }
}

async fn serve() -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let device = DeviceChoice::from_env()?;
    let files = Arc::new(EncoderFiles::from_env()?);
    let tokenizer = files.clone();
    let pipeline = Pipeline::new()
        .cpu("tokenize", 1, move |_, texts: Vec<String>| Ok(((), tokenizer.tokens().encode(&texts)?)))
        .gpu_each("embed", Embedder::batching(device), move || Embedder::load(files.weights()?, &device.open()?))
        .cpu("answer", 1, |_, ((), vectors): ((), Vec<Vec<f32>>)| Ok(vectors));
    let results = std::env::var_os("FOREBAY_RESULTS").map_or_else(|| PathBuf::from("results"), PathBuf::from);
    let mut source = Committed::new(Sqs::from_env()?, store::Folder::open(results)?);
    if let Ok(queue) = std::env::var("FOREBAY_RESULTS_QUEUE") {
        source = source.results_to(Sqs::new(queue).queue().bare());
    }
    Ok(Worker::new(pipeline).source(source).run().await)
}
