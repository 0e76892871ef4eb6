//! What a request walks through.

use forebay::{Batching, Error, Pipeline};
use serde::{Deserialize, Serialize};

use crate::model::Tone;

/// What callers send.
#[derive(Deserialize)]
pub struct Ask {
    text: String,
}

/// What they get.
#[derive(Serialize)]
pub struct Answer {
    tone: f32,
}

pub fn pipeline() -> Pipeline<Ask, Answer> {
    Pipeline::new()
        .cpu("check", 1, |_, ask: Ask| match ask.text.trim() {
            "" => Err(Error::invalid("`text` is empty")),
            text => Ok(text.to_owned()),
        })
        // Up to 32 texts, of however many requests, are one batch.
        .gpu("tone", Batching::items(32), Tone::load)
        .cpu("answer", 1, |_, tone| Ok(Answer { tone }))
}
