//! A loader that gives something that is no model.

use forebay::{Batching, Pipeline};

struct Weights;

fn main() {
    let _ = Pipeline::<String, String>::new().gpu("embed", Batching::items(8), || Ok(Weights));
}
