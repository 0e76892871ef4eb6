//! Finds the passages that are nearest to a question.

use std::path::Path;
use std::process::ExitCode;

use forebay::{Error, Model, Result};
use forebay_models::{DeviceChoice, Embedder, Tokens, Weights};

use crate::document::Line;
use crate::index;

pub fn search(weights: &dyn Fn() -> Result<Weights>, out: &Path, question: &str, top: usize) -> Result<ExitCode> {
    let weights = weights()?;
    let mut lines = index::read(out)?;
    if lines.is_empty() {
        let out = out.display();
        return Err(Error::invalid(format_args!("`{out}` holds no passages; fill it with `embed folder IN {out}`")));
    }
    let ids = Tokens::open(&weights)?.encode(&[question])?;
    let vectors = Embedder::load(&weights, &DeviceChoice::from_env()?.open()?)?.infer(&ids)?;
    let vector = vectors.first().ok_or_else(|| Error::failed("the model gave no vector"))?;
    // Vectors have length 1, so their product is the cosine between them.
    let cosine = |line: &Line| line.vector.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    lines.sort_by(|a, b| cosine(b).total_cmp(&cosine(a)));
    println!("{question}");
    for line in lines.iter().take(top) {
        let text = line.text.split_whitespace().collect::<Vec<_>>().join(" ");
        println!("\n{:.3}  {} [{}..{}]\n{text}", cosine(line), line.id, line.range.start, line.range.end);
    }
    Ok(ExitCode::SUCCESS)
}
