//! The whole of forebay in one small file: a model, a pipeline, a worker, and a queue in memory.
//!
//! `cargo run --release -p forebay-examples --bin hello`

use std::process::ExitCode;

use forebay::source::memory::Memory;
use forebay::{Batching, Bytes, Job, Model, Pipeline, Result, Verdict, Worker};

/// Says how many letters each word has. A real model would hold weights on a device.
struct Letters;

impl Model for Letters {
    type Input = String;
    type Output = usize;

    fn infer(&mut self, words: &[String]) -> Result<Vec<usize>> {
        Ok(words.iter().map(|word| word.chars().count()).collect())
    }
}

/// One job becomes many items, which are batched with other jobs' items.
fn words(_: &Job, text: String) -> Result<(String, Vec<String>)> {
    let words = text.split_whitespace().map(str::to_owned).collect();
    Ok((text, words))
}

/// The items' outputs come back together, in their order.
fn summary(_: &Job, (text, lengths): (String, Vec<usize>)) -> Result<String> {
    let longest = lengths.iter().max().copied().unwrap_or(0);
    Ok(format!("{text:?} has {} words, the longest of {longest} letters", lengths.len()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let pipeline = Pipeline::new()
        .cpu("words", 1, words)
        .gpu_each("letters", Batching::items(32), || Ok(Letters))
        .cpu("summary", 1, summary);
    println!("{pipeline}");

    let queue = Memory::new();
    for (id, text) in [("first", "the basin that keeps a turbine at full flow"), ("second", "forebay")] {
        let payload = format!("{text:?}");
        queue.push(id, payload);
    }
    queue.close();

    let code = Worker::new(pipeline).source(queue.clone()).run().await;
    for settled in queue.settled() {
        let result = match settled.verdict {
            Verdict::Done(result) => result,
            other => Bytes::from(format!("{other:?}")),
        };
        println!("{}: {}", settled.id, String::from_utf8_lossy(&result));
    }
    code
}
