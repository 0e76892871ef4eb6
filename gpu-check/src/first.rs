//! The command `first`: how soon a process that was just started gives its first answer.
//!
//! Measures from the start of `main`; whoever started the process adds what came before.

use std::path::Path;
use std::time::Instant;

use forebay::{Batching, Pipeline, Result};
use forebay_models::{DeviceChoice, Embedder, Tokens, Weights};

use crate::report::Report;

/// Loads the model in a pipeline, as a worker does, and embeds one text.
pub async fn check(model: &Path) -> Result<Report> {
    let started = Instant::now();
    let weights = Weights::dir(model)?;
    let choice = DeviceChoice::from_env()?;
    let tokens = Tokens::open(&weights)?;
    let pipeline = Pipeline::new()
        .cpu("tokenize", 1, move |_, text: &'static str| Ok(((), tokens.encode(&[text])?)))
        .gpu_each("embed", Batching::items(64), move || Embedder::load(&weights, &choice.open()?));
    let running = pipeline.start().await?;
    let ready = started.elapsed();
    let ((), vectors) = running.call("bababa bababe").await?;
    let answered = started.elapsed();

    let mut report = Report::new("first");
    report.figure("ready_s", ready.as_secs_f64());
    report.figure("answered_s", answered.as_secs_f64());
    let width = vectors.first().map_or(0, Vec::len);
    report.check("a vector came", width > 0, width, "some values");
    // What is left is to end: nobody waits for that.
    std::mem::forget(running);
    Ok(report)
}
