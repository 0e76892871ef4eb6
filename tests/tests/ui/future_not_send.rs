//! An async stage that holds on to what must stay on its thread.

use std::rc::Rc;

use forebay::{Job, Pipeline, Result};

async fn fetch(_job: Job, name: String) -> Result<usize> {
    let kept = Rc::new(name);
    std::future::ready(()).await;
    Ok(kept.len())
}

fn main() {
    let _ = Pipeline::new().io("fetch", 4, fetch);
}
