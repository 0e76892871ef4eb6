//! The command `serve`: embeds texts of one length whenever it is told to, to be measured beside others.
//!
//! Owns the protocol, which PyTorch's side speaks too. After loading it prints `{"ready": true, ...}`. Each line
//! `go SECONDS` on standard input has it embed for so long and print `{"items": N, "seconds": S}`; whatever else stands on
//! the line is for others. The end of standard input ends it. What had begun when the time was over is waited for, and
//! counted with its time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay::{Batching, BoxFuture, Classify, Context, Error, Pipeline, Result};
use forebay_models::{TokenIds, Tokens, Weights};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::inputs;
use crate::variant::Variant;

/// Tokens of a job: enough that handing it over costs little beside them.
const JOB_TOKENS: usize = 2048;
/// Full batches that are under way or wait: one runs, two are next, and one is tokenised.
const BATCHES: usize = 4;

/// What to serve.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model's directory, as `gpu-check model` writes it.
    #[arg(long)]
    model: PathBuf,
    /// Tokens of each text: one of 32, 128, 512.
    #[arg(long)]
    length: usize,
    /// How the embedder runs.
    #[arg(long, default_value = "packed")]
    variant: Variant,
    /// Tokens of a batch at most.
    #[arg(long, default_value_t = 65_536)]
    batch_tokens: usize,
    /// From token ids that were made beforehand, instead of from texts.
    #[arg(long)]
    ids: bool,
}

/// Runs the job of this number, and says how many vectors it gave.
type Run = Arc<dyn Fn(usize) -> BoxFuture<'static, Result<usize>> + Send + Sync>;

/// Loads the model and serves until standard input ends.
pub async fn serve(arguments: Arguments) -> Result<ExitCode> {
    let weights = Weights::dir(&arguments.model)?;
    let texts = inputs::read(&arguments.model, arguments.length)?;
    let tokens = Tokens::open(&weights)?.longest(arguments.length)?;
    let jobs: Vec<Vec<String>> = texts.chunks((JOB_TOKENS / arguments.length).max(1)).map(<[String]>::to_vec).collect();
    let variant = arguments.variant;
    let load = move || variant.load(&weights);
    let at_once = (BATCHES * arguments.batch_tokens).div_ceil(JOB_TOKENS);
    let batching = Batching::items(arguments.batch_tokens).weight(arguments.batch_tokens).places(at_once);

    let run: Run = if arguments.ids {
        let jobs: Vec<Vec<TokenIds>> = jobs.iter().map(|job| tokens.encode(job)).collect::<Result<_>>()?;
        let running = Arc::new(Pipeline::new().gpu_each("embed", batching, load).start().await?);
        Arc::new(move |number| {
            let (running, ids) = (running.clone(), jobs[number % jobs.len()].clone());
            Box::pin(async move { Ok(running.call(((), ids)).await?.1.len()) })
        })
    } else {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let tokenize = move |_: &_, number: usize| Ok(((), tokens.encode(&jobs[number % jobs.len()])?));
        let pipeline =
            Pipeline::new().cpu("tokenize", cpus.saturating_sub(2).max(1), tokenize).gpu_each("embed", batching, load);
        let running = Arc::new(pipeline.start().await?);
        Arc::new(move |number| {
            let running = running.clone();
            Box::pin(async move { Ok(running.call(number).await?.1.len()) })
        })
    };
    println!("{}", json!({ "ready": true, "name": format!("{variant:?}"), "batch_tokens": arguments.batch_tokens }));

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.context("reading what to do")? {
        let (items, took) = go(&run, seconds(&line)?, at_once).await?;
        println!("{}", json!({ "items": items, "seconds": took.as_secs_f64() }));
    }
    Ok(ExitCode::SUCCESS)
}

/// `go SECONDS ...`
fn seconds(line: &str) -> Result<Duration> {
    let mut words = line.split_whitespace();
    let time = (words.next() == Some("go")).then(|| words.next()).flatten().and_then(|text| text.parse().ok());
    let time = time.ok_or_else(|| Error::invalid(format_args!("`{line}` is not `go SECONDS`")))?;
    Duration::try_from_secs_f64(time).or_invalid().with_context(|| format!("`{line}`"))
}

/// Keeps so many jobs under way until the time is over.
async fn go(run: &Run, time: Duration, at_once: usize) -> Result<(usize, Duration)> {
    let (started, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let (run, next) = (run.clone(), next.clone());
        callers.spawn(async move {
            let mut items = 0;
            while started.elapsed() < time {
                // A counter that several tasks share; nothing else is ordered by it.
                items += run(next.fetch_add(1, Ordering::Relaxed)).await?;
            }
            Ok::<usize, Error>(items)
        });
    }
    let mut items = 0;
    while let Some(counted) = callers.join_next().await {
        items += counted??;
    }
    Ok((items, started.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(seconds("go 0.5 128 texts").unwrap(), Duration::from_millis(500));
        for line in ["", "stop", "go", "go away", "go -1"] {
            assert!(seconds(line).is_err(), "{line}");
        }
    }
}
