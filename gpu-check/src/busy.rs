//! The command `busy`: how busy the device is behind stages that really read and write.
//!
//! Owns a folder of documents and the pipeline that a worker walks them through: read, cut, embed, write, as the example
//! `embed` does. It measures in a window that opens when batches have run for a while, by forebay's own metrics and by
//! nvidia-smi beside them, and then drops the rest of the work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use forebay::source::folder::Folder;
use forebay::telemetry::{BATCH_FILL, BATCH_ITEMS, GPU_BUSY, GPU_IDLE, Snapshot, Telemetry};
use forebay::{Batching, Bytes, Classify, Context, Job, Pipeline, Result, Worker};
use forebay_models::{DeviceChoice, Embedder, TokenIds, Tokens, Weights};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::inputs;
use crate::report::Report;
use crate::smi::{Look, Smi};

/// Documents of different text; the others are links to these.
const DIFFERENT: usize = 32;
/// Words of a document: about 50 passages.
const WORDS: usize = 11_200;

/// How to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model's directory, as `gpu-check model` writes it.
    #[arg(long)]
    model: PathBuf,
    /// How long to measure, after a tenth of it that does not count.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Documents in the folder: more than can be done in that time.
    #[arg(long, default_value_t = 20_000)]
    documents: usize,
    /// Tokens of a batch at most.
    #[arg(long, default_value_t = 65_536)]
    batch_tokens: usize,
}

/// Runs the worker and measures.
pub async fn check(arguments: Arguments, telemetry: &Telemetry) -> Result<Report> {
    let weights = Weights::dir(&arguments.model)?;
    let folder = tempfile::tempdir().context("a folder for documents")?;
    let (inbox, outbox) = (folder.path().join("in"), folder.path().join("out"));
    documents(folder.path(), &inbox, inputs::vocabulary(&weights)?, arguments.documents)?;
    let source = Folder::open(&inbox, &outbox)?.suffix(".jsonl").by_path().once();
    let worker = Worker::with_codec(pipeline(weights, arguments.batch_tokens)?, path, |_, lines| Ok(lines));
    let worker = worker.source(source).in_flight(64).grace(Duration::from_secs(1));

    let smi = Smi::start();
    let seconds = Duration::try_from_secs_f64(arguments.seconds).or_invalid().context("--seconds")?;
    let window = tokio::select! {
        window = window(telemetry, &smi, seconds) => Some(window),
        report = worker.run_once() => report.map(|_| None)?,
    };
    let mut report = Report::new("busy");
    match window {
        Some(window) => window.note(&mut report),
        None => report.check("there was enough to do", false, arguments.documents, "more documents than were done"),
    }
    Ok(report)
}

/// What was measured from one moment to another.
struct Window {
    seconds: f64,
    before: Snapshot,
    after: Snapshot,
    looks: Vec<Look>,
}

async fn window(telemetry: &Telemetry, smi: &Smi, seconds: Duration) -> Window {
    while telemetry.snapshot().summary(BATCH_ITEMS, &[]).count == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(seconds / 10).await;
    smi.take();
    let (started, before) = (Instant::now(), telemetry.snapshot());
    sleep(seconds).await;
    let (after, seconds) = (telemetry.snapshot(), started.elapsed().as_secs_f64());
    Window { seconds, before, after, looks: smi.take() }
}

impl Window {
    fn note(&self, report: &mut Report) {
        let counted = |name| (self.after.counter(name, &[]) - self.before.counter(name, &[])) as f64 / 1e6;
        let (busy, idle) = (counted(GPU_BUSY), counted(GPU_IDLE));
        let (batches, items) = self.sum(BATCH_ITEMS);
        let (_, fills) = self.sum(BATCH_FILL);
        report.figure("seconds", self.seconds);
        report.figure("busy_percent", 100.0 * busy / (busy + idle));
        report.figure("mean_fill", fills / batches);
        report.figure("items_a_batch", items / batches);
        report.figure("passages_per_s", items / self.seconds);
        let mean = |of: fn(&Look) -> f64| self.looks.iter().map(of).sum::<f64>() / self.looks.len() as f64;
        let most = self.looks.iter().map(|look| look.used_mib).fold(f64::NAN, f64::max);
        report.figure("smi_looks", self.looks.len());
        report.figure("smi_busy_percent", mean(|look| look.busy_percent));
        report.figure("smi_watts", mean(|look| look.watts));
        report.figure("vram_mib", most);
        report.check("batches ran", batches > 0.0, batches, "some");
        let accounted = (busy + idle) / self.seconds;
        report.check("busy and idle are all of the time", (0.9..1.1).contains(&accounted), accounted, "0.9 to 1.1");
    }

    /// Of a histogram in the window: how many values, and their sum.
    fn sum(&self, name: &str) -> (f64, f64) {
        let [before, after] = [&self.before, &self.after].map(|snapshot| snapshot.summary(name, &[]));
        let sum = |summary: forebay::telemetry::Summary| summary.mean * summary.count as f64;
        ((after.count - before.count) as f64, sum(after) - sum(before))
    }
}

/// Some documents, and many names for each: a folder of thousands is made in no time.
fn documents(folder: &Path, inbox: &Path, vocabulary: usize, count: usize) -> Result<()> {
    let originals = folder.join("originals");
    fs::create_dir(&originals)?;
    fs::create_dir(inbox)?;
    let mut random = Rng::with_seed(23);
    for number in 0..DIFFERENT {
        fs::write(originals.join(number.to_string()), inputs::text(&mut random, vocabulary, WORDS))?;
    }
    for number in 0..count {
        let from = originals.join((number % DIFFERENT).to_string());
        fs::hard_link(from, inbox.join(format!("{number:06}.txt"))).context("linking documents")?;
    }
    Ok(())
}

fn pipeline(weights: Weights, batch_tokens: usize) -> Result<Pipeline<PathBuf, Bytes>> {
    let choice = DeviceChoice::from_env()?;
    let tokens = Tokens::open(&weights)?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let batching = Batching::items(batch_tokens).weight(batch_tokens).places(32);
    Ok(Pipeline::new()
        .io("read", 16, read)
        .cpu("cut", cpus.saturating_sub(4).max(1), move |_, text: String| cut(&tokens, &text))
        .gpu_each("embed", batching, move || Embedder::load(&weights, &choice.open()?))
        .cpu("write", (cpus / 4).max(1), |_, (texts, vectors)| write(texts, vectors)))
}

fn path(_: &Job, payload: Bytes) -> Result<PathBuf> {
    let path = String::from_utf8(payload.into()).or_invalid().context("the path")?;
    Ok(PathBuf::from(path))
}

async fn read(_: Job, path: PathBuf) -> Result<String> {
    tokio::task::spawn_blocking(move || fs::read_to_string(&path).with_context(|| path.display().to_string())).await?
}

fn cut(tokens: &Tokens, text: &str) -> Result<(Vec<String>, Vec<TokenIds>)> {
    let (mut texts, mut ids) = (Vec::new(), Vec::new());
    for passage in tokens.passages(text) {
        let passage = passage?;
        texts.push(passage.text.to_owned());
        ids.push(passage.ids);
    }
    Ok((texts, ids))
}

#[derive(Serialize)]
struct Line {
    text: String,
    vector: Vec<f32>,
}

fn write(texts: Vec<String>, vectors: Vec<Vec<f32>>) -> Result<Bytes> {
    let mut lines = Vec::new();
    for (text, vector) in texts.into_iter().zip(vectors) {
        serde_json::to_writer(&mut lines, &Line { text, vector })?;
        lines.push(b'\n');
    }
    Ok(lines.into())
}
