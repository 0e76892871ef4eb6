//! Tests that need model files: a tiny BERT with made-up weights, written to a temporary directory.

#![allow(clippy::unwrap_used)]

mod embed;
mod passages;
pub(crate) mod tiny;
mod weights;
