//! The command `memory`: batches that do not fit the card are halved, and an item that never fits fails alone.
//!
//! Owns two scenes in the real engine. First nearly all of the card's memory is taken after the model was loaded, so that
//! a full batch does not fit: every item is to be answered, once and right, and again after the memory is back. Then one
//! item wants more than the card has. On the CPU a model that counts tokens plays the card.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Device;
use fastrand::Rng;
use forebay::telemetry::Telemetry;
use forebay::{Admit, Batching, Error, Fault, Model, OutOfMemory, Pipeline, Result, Running};
use forebay_models::{DeviceChoice, Embedder, TokenIds, Weights};
use futures_util::future::join_all;

use crate::ballast::{Ballast, card, take};
use crate::inputs;
use crate::parity::worst;
use crate::report::Report;

/// By name, since an engine that does not halve has none of these.
const OUT_OF_MEMORY: &str = "forebay_batch_out_of_memory_total";
const CEILING: &str = "forebay_batch_ceiling";

/// Jobs that the inputs come in.
const JOBS: usize = 16;
/// An input of so many tokens stands for one that wants more memory than there is.
const GREEDY: usize = 1;
/// Bytes that a token needs at the widest moment, for each value of a hidden state: queries, keys, values, and the wide
/// layer before and after its function, in half precision.
const BYTES_A_VALUE: usize = 24;
/// The part of a full batch's memory that is left.
const LEFT: usize = 6;

type Embedding = Running<((), Vec<TokenIds>), ((), Vec<Vec<f32>>)>;

/// Plays both scenes.
pub async fn check(model: &Path, telemetry: &Telemetry) -> Result<Report> {
    let weights = Weights::dir(model)?;
    let choice = DeviceChoice::from_env()?;
    let device = choice.open()?;
    let batch = if device.is_cuda() { 65_536 } else { 4096 };
    let lengths: Vec<usize> = (0..2 * batch / 128).map(|n| [64, 96, 160, 192][n % 4]).collect();
    let vocabulary = inputs::vocabulary(&weights)?;
    let inputs = inputs::ids(&mut Rng::with_seed(17), vocabulary, &lengths);
    let mut alone = Embedder::load(&weights, &device)?;
    let expected = inputs.chunks(64).map(|part| alone.infer(part)).collect::<Result<Vec<_>>>()?.concat();
    drop(alone);

    let mut report = Report::new("memory");
    report.figure("batch_tokens", batch);
    let ran_out = Arc::new(AtomicU64::new(0));
    let batching = Batching::items(batch).weight(batch).places(4 * JOBS);
    let running = if device.is_cuda() {
        let weights = weights.clone();
        embedding(batching.clone(), move || Embedder::load(&weights, &choice.open()?)).await?
    } else {
        let make = Greedy::maker(&weights, choice, batch / LEFT, &ran_out);
        embedding(batching.clone(), make).await?
    };
    let needed = batch * hidden(&weights)? * BYTES_A_VALUE;
    let ballast = device.is_cuda().then(|| Ballast::leaving((needed / LEFT) as u64, &device)).transpose()?;
    if let Some(ballast) = &ballast {
        report.figure("left_bytes", ballast.left());
        report.check("a full batch does not fit", ballast.left() < needed as u64, ballast.left(), needed);
    }
    short(&mut report, "short of memory", &running, &inputs, &expected).await;
    let snapshot = telemetry.snapshot();
    let counted = snapshot.counter(OUT_OF_MEMORY, &[]).max(ran_out.load(Ordering::Relaxed));
    report.figure("out_of_memory", counted);
    report.figure("ceiling", snapshot.gauge(CEILING, &[]));
    report.check("batches ran out of memory", counted > 0, counted, "at least one");
    drop(ballast);
    short(&mut report, "with the memory back", &running, &inputs, &expected).await;
    stop(running).await?;

    greedy(&mut report, &weights, choice, &inputs, batching).await?;
    Ok(report)
}

/// One item among others wants more than there is.
async fn greedy(
    report: &mut Report,
    weights: &Weights,
    choice: DeviceChoice,
    inputs: &[TokenIds],
    batching: Batching,
) -> Result<()> {
    let make = Greedy::maker(weights, choice, usize::MAX, &Arc::default());
    let running = embedding(batching, make).await?;
    let good = inputs[..8].to_vec();
    let bad = vec![TokenIds::new(vec![4; GREEDY])];
    let (well, failed) = tokio::join!(running.call(((), good.clone())), running.call(((), bad)));
    let answered = well.as_ref().map_or(0, |(_, vectors)| vectors.len());
    report.check("items beside one that never fits", answered == good.len(), answered, good.len());
    let why = failed.err();
    let named = why.as_ref().is_some_and(|why| why.fault() == Fault::Failed && why.find::<OutOfMemory>().is_some());
    let said = why.map_or("an answer".to_owned(), |why| why.to_string());
    report.check("an item that never fits fails alone", named, said, "out of memory, as a failure of its own");
    let after = running.call(((), good.clone())).await.map_or(0, |(_, vectors)| vectors.len());
    report.check("the worker goes on after it", after == good.len(), after, good.len());
    stop(running).await
}

async fn embedding<M>(batching: Batching, load: impl Fn() -> Result<M> + Send + Sync + 'static) -> Result<Embedding>
where
    M: Model<Input = TokenIds, Output = Vec<f32>>,
{
    Pipeline::new().gpu_each("embed", batching, load).start().await
}

async fn stop(running: Embedding) -> Result<()> {
    Ok(tokio::task::spawn_blocking(move || running.stop()).await?)
}

/// Has all inputs embedded as several jobs at once, and looks at every answer.
async fn short(report: &mut Report, when: &str, running: &Embedding, inputs: &[TokenIds], expected: &[Vec<f32>]) {
    let parts: Vec<_> = inputs.chunks(inputs.len().div_ceil(JOBS)).collect();
    let jobs = join_all(parts.iter().map(|part| running.call(((), part.to_vec())))).await;
    let mut vectors = Vec::new();
    let mut failures = Vec::new();
    for (job, part) in jobs.into_iter().zip(parts) {
        match job {
            Ok((_, answers)) if answers.len() == part.len() => vectors.extend(answers),
            Ok((_, answers)) => failures.push(format!("{} answers to {} items", answers.len(), part.len())),
            Err(why) => failures.push(why.to_string()),
        }
    }
    let said = failures.first().cloned().unwrap_or_else(|| format!("{} of {}", vectors.len(), inputs.len()));
    report.check(
        format_args!("{when}: all items answered, each once"),
        vectors.len() == inputs.len(),
        said,
        inputs.len(),
    );
    report.below(format_args!("{when}: 1 - cosine"), worst(&vectors, expected), 1e-3);
}

/// How many values a hidden state has.
fn hidden(weights: &Weights) -> Result<usize> {
    let config: serde_json::Value = weights.config()?;
    let width = config["hidden_size"].as_u64();
    width.map(|width| width as usize).ok_or_else(|| Error::failed("config.json says no hidden_size"))
}

/// The embedder, for inputs of which some want more memory than there is. On a card it asks the card for it.
struct Greedy {
    embedder: Embedder,
    device: Device,
    /// Tokens of a batch that fit, where a card is played.
    most: usize,
    ran_out: Arc<AtomicU64>,
}

impl Greedy {
    fn maker(
        weights: &Weights,
        choice: DeviceChoice,
        most: usize,
        ran_out: &Arc<AtomicU64>,
    ) -> impl Fn() -> Result<Self> + Send + Sync + 'static {
        let (weights, ran_out) = (weights.clone(), ran_out.clone());
        move || {
            let device = choice.open()?;
            let embedder = Embedder::load(&weights, &device)?;
            Ok(Self { embedder, device, most, ran_out: ran_out.clone() })
        }
    }

    fn out_of_memory(&self, tokens: usize) -> Error {
        self.ran_out.fetch_add(1, Ordering::Relaxed);
        Error::new(Fault::Failed, OutOfMemory::new(format_args!("{tokens} tokens, and {} fit", self.most)))
    }
}

impl Model for Greedy {
    type Input = TokenIds;
    type Output = Vec<f32>;

    fn infer(&mut self, inputs: &[TokenIds]) -> Result<Vec<Vec<f32>>> {
        let tokens = inputs.iter().map(TokenIds::len).sum();
        if tokens > self.most {
            return Err(self.out_of_memory(tokens));
        }
        if inputs.iter().any(|input| input.len() == GREEDY) {
            if !self.device.is_cuda() {
                return Err(self.out_of_memory(tokens));
            }
            take(card(&self.device)?.memory()?.total, &self.device)?;
        }
        self.embedder.infer(inputs)
    }

    fn weight(input: &TokenIds) -> usize {
        Embedder::weight(input)
    }

    fn admit(&mut self, input: &TokenIds) -> Admit {
        self.embedder.admit(input)
    }
}
