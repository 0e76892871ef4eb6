//! A stage that takes what the stage before does not give.

use forebay::{Job, Pipeline, Result};

async fn fetch(_job: Job, name: String) -> Result<Vec<u8>> {
    Ok(name.into_bytes())
}

fn parse(_job: &Job, text: String) -> Result<usize> {
    Ok(text.len())
}

fn main() {
    let _ = Pipeline::new().io("fetch", 4, fetch).cpu("parse", 2, parse);
}
