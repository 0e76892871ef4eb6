//! A model of other items than the stage before gives.

use forebay::{Batching, Model, Pipeline, Result};

struct Lengths;

impl Model for Lengths {
    type Input = String;
    type Output = usize;

    fn infer(&mut self, texts: &[String]) -> Result<Vec<usize>> {
        Ok(texts.iter().map(String::len).collect())
    }
}

fn main() {
    let _ = Pipeline::<u32, u32>::new().gpu("lengths", Batching::items(8), || Ok(Lengths));
}
