//! Embeds every document of a folder, and answers questions from them.
//!
//! `embed folder IN OUT` cuts each file of IN into passages, embeds them with a BERT-like model, and writes each
//! document's passages with their vectors to OUT as JSON lines, and all vectors as one safetensors file. Kill it and
//! start it again: it goes on where it was. Start several: they share the work. `embed search OUT "question"` finds
//! the nearest passages. The weights are the folder named by FOREBAY_WEIGHTS, and the model runs where FOREBAY_DEVICE
//! says: by default on the first card, if the program was built for cards, and else on the CPU.

mod document;
mod index;
mod search;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use forebay::source::folder::Folder;
use forebay::telemetry::{JOBS, Telemetry};
use forebay::{Bytes, Classify, Context, Error, Pipeline, Result, Worker};
use forebay_models::{DeviceChoice, Embedder, Tokens, Weights};
use indicatif::{ProgressBar, ProgressStyle};

use document::Reader;

/// Embeds a folder of documents, and answers questions from it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Embed every document of a folder.
    Folder(FolderArguments),
    /// Find the passages that are nearest to a question.
    Search {
        /// Where `embed folder` wrote its results.
        out: PathBuf,
        /// The question, in words.
        question: String,
        /// How many passages to show.
        #[arg(long, default_value_t = 3)]
        top: usize,
    },
}

#[derive(clap::Args)]
struct FolderArguments {
    /// Where the documents are, as UTF-8 text; folders below it are looked into.
    input: PathBuf,
    /// Where results go.
    out: PathBuf,
    /// Sizes of stages, as in `read.limit=8 embed.items=32`. May be given several times.
    #[arg(long, value_name = "STAGE.OPTION=NUMBER")]
    stage: Vec<String>,
    /// The largest document that is read, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    max_bytes: u64,
    /// Seconds after which a document that a dead worker held is taken over.
    #[arg(long, default_value_t = 20.0)]
    lease: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Folder(arguments) => embed_folder(arguments).await,
        Command::Search { out, question, top } => search::search(&weights, &out, &question, top),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("embed: {why}");
        why.exit_code()
    })
}

async fn embed_folder(arguments: FolderArguments) -> Result<ExitCode> {
    let telemetry = forebay::telemetry::init_at(forebay::telemetry::Level::WARN)?;
    let lease = Duration::try_from_secs_f64(arguments.lease).or_invalid().context("--lease")?;
    let source = Folder::open(&arguments.input, &arguments.out)?.suffix(".jsonl").by_path().once().lease(lease);
    let total = source.open_files()?;
    let weights = Arc::new(weights()?);
    let pipeline = pipeline(weights, arguments.max_bytes)?.configure(&arguments.stage.join(" "))?;
    eprintln!("{total} documents to do: {pipeline}");

    let worker = Worker::with_codec(pipeline, document::path, |_, lines| Ok(lines)).source(source).in_flight(32);
    let start = Instant::now();
    let progress = tokio::spawn(show_progress(telemetry.clone(), total as u64));
    let report = worker.run_once().await;
    progress.abort();
    let report = report?;
    let passages = index::write(&arguments.out)?;
    println!("{}", summary::Summary { telemetry, report, passages, took: start.elapsed() });
    let failed = summary::failures(&arguments.out)?;
    failed.iter().for_each(|failure| println!("failed: {failure}"));
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

/// Reads a document, cuts it into passages, embeds them, and writes them down.
fn pipeline(weights: Arc<Weights>, max_bytes: u64) -> Result<Pipeline<PathBuf, Bytes>> {
    let device = DeviceChoice::from_env()?;
    let tokens = Tokens::open(&weights)?;
    let reader = Reader { max_bytes };
    Ok(Pipeline::new()
        .io("read", 8, move |job, path| reader.read(job, path))
        .sized(|document| document.text.len())
        .cpu("cut", 2, move |_, document| document::cut(&tokens, document))
        .gpu_each("embed", Embedder::batching(device), move || Embedder::load(&weights, &device.open()?))
        .cpu("write", 1, |_, (passages, vectors)| document::write(passages, vectors)))
}

fn weights() -> Result<Weights> {
    let folder = std::env::var_os("FOREBAY_WEIGHTS").ok_or_else(|| {
        Error::invalid(
            "FOREBAY_WEIGHTS is not set; let it name a folder with config.json, tokenizer.json and \
             model.safetensors (./quickstart fetches one into .weights)",
        )
    })?;
    Weights::dir(PathBuf::from(folder))
}

/// A bar on a terminal, nothing elsewhere.
async fn show_progress(telemetry: Telemetry, total: u64) {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} documents, {elapsed} (about {eta} to go)");
    let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let snapshot = telemetry.snapshot();
        let count = |verdict| snapshot.counter(JOBS, &[("verdict", verdict)]);
        bar.set_position(count("done") + count("reject"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
