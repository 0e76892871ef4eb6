//! Fine-tunes the embedder on pairs of texts: jobs that take long, and go on where they were when a worker is killed.
//!
//! Every file in a folder is a job that says where its pairs are, and how to train:
//!
//! ```sh
//! ./quickstart            # installs the weights, or name a folder or an https:// or s3:// URL in FOREBAY_WEIGHTS
//! mkdir -p /tmp/tune/jobs
//! echo '{"pairs": "file://'$PWD'/examples/data/pairs.jsonl", "settings": {"epochs": 50}}' > /tmp/tune/jobs/first.json
//! cargo run --release -p forebay-examples --bin finetune -- \
//!     /tmp/tune/jobs /tmp/tune/out --pairs examples/data --state /tmp/tune/state
//! ```
//!
//! In `/tmp/tune/out`, `first.json.safetensors` is then the trained layer, `first.json.tuned.json` says what it is good for.

mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use forebay::checkpoint::Saving;
use forebay::places::{Places, Reference};
use forebay::source::folder::Folder;
use forebay::{Bytes, Classify, Context, Pipeline, Result, Stepping, Worker, store};
use forebay_models::DeviceChoice;
use forebay_models::finetune::{Pair, Pairs, Settings, Summary, Task, Tuned, Tuner};
use serde::Deserialize;

use weights::EncoderFiles;

/// The longest file of pairs, in bytes.
const PAIRS_BYTES: u64 = 256 << 20;

/// A job.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// A file of JSON lines, `{"anchor": "...", "positive": "..."}`.
    pairs: Reference,
    #[serde(default)]
    settings: Settings,
}

/// Fine-tunes the embedder on pairs of texts.
#[derive(Parser)]
struct Arguments {
    /// Where the jobs are, a JSON file each.
    jobs: PathBuf,
    /// Where results go.
    out: PathBuf,
    /// The folder that pairs may be read from; jobs name files in it as file:///path.
    #[arg(long)]
    pairs: PathBuf,
    /// Where the states of jobs under way are kept. Once they are done it may be removed.
    #[arg(long)]
    state: PathBuf,
    /// Seconds between two saves of a job's state. By default as often as pays.
    #[arg(long)]
    save_every: Option<f64>,
    /// Seconds after which a job that a dead worker held is taken over.
    #[arg(long, default_value_t = 20.0)]
    lease: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    finetune(Arguments::parse()).await.unwrap_or_else(|why| {
        eprintln!("finetune: {why}");
        why.exit_code()
    })
}

async fn finetune(arguments: Arguments) -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let seconds = |value: f64, name| Duration::try_from_secs_f64(value).or_invalid().context(name);
    let source = Folder::open(&arguments.jobs, &arguments.out)?.suffix(".tuned.json").once();
    let source = source.lease(seconds(arguments.lease, "--lease")?);
    let mut saving = Saving::to(store::Folder::open(&arguments.state)?);
    if let Some(interval) = arguments.save_every {
        saving = saving.every(seconds(interval, "--save-every")?);
    }
    let pairs = arguments.pairs.canonicalize().or_invalid().with_context(|| arguments.pairs.display().to_string())?;
    let pipeline = pipeline(Places::new().folder(pairs), saving, arguments.out)?;
    let report = Worker::new(pipeline).source(source).run_once().await?;
    println!("{} jobs done, {} failed", report.done, report.rejected);
    Ok(ExitCode::from(u8::from(report.rejected > 0)))
}

/// Reads the pairs, tokenises them, trains on them, and keeps the trained layer.
fn pipeline(places: Places, saving: Saving, out: PathBuf) -> Result<Pipeline<Ask, Summary>> {
    let device = DeviceChoice::from_env()?;
    let files = Arc::new(EncoderFiles::from_env()?);
    let tokenizer = files.clone();
    Ok(Pipeline::new()
        .io("read", 2, move |_, ask: Ask| read(places.clone(), ask))
        .cpu("tokenize", 1, move |_, (settings, text): (Settings, Bytes)| {
            let pairs = Pair::lines(str::from_utf8(&text).or_invalid().context("the pairs")?)?;
            Ok(Task { settings, pairs: Pairs::tokenize(tokenizer.tokens(), &pairs)? })
        })
        .gpu_steps("train", Stepping::jobs(1).saving(saving), move || Tuner::load(files.weights()?, &device.open()?))
        .io("keep", 2, move |job, tuned: Tuned| {
            let to = out.join(format!("{}.safetensors", job.id()));
            async move { tokio::task::spawn_blocking(move || keep(&tuned, &to)).await? }
        }))
}

async fn read(places: Places, ask: Ask) -> Result<(Settings, Bytes)> {
    ask.settings.check().context("settings")?;
    Ok((ask.settings, places.get(&ask.pairs, PAIRS_BYTES).await?))
}

/// Copies the trained layer to where it is to stay. Whoever looks sees all of it or nothing.
fn keep(tuned: &Tuned, to: &Path) -> Result<Summary> {
    let part = to.with_extension(format!("{}.part", std::process::id()));
    let copy = || {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::write(&part, fs::read(&tuned.file)?)?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, to)
    };
    copy().with_context(|| format!("keeping {}", to.display()))?;
    Ok(tuned.summary.clone())
}
