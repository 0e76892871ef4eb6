//! The BERT encoder twice: as the CPU wants it, and as a card does. Both take sequences of any lengths end to end.
//!
//! This file has what the two share: the tensors that a model consists of.

pub(crate) mod card;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod packing;
mod steps;
pub(crate) mod transfer;

use candle_transformers::models::bert::Config;

/// Names and shapes of the tensors that a model of this configuration consists of.
pub(crate) fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let mut tensors = Vec::new();
    let tables = [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ];
    for (table, rows) in tables {
        tensors.push((format!("embeddings.{table}_embeddings.weight"), vec![rows, width]));
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..config.num_hidden_layers).map(|i| format!("encoder.layer.{i}")) {
        let linears = [
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ];
        for (name, to, from) in linears {
            tensors.push((format!("{layer}.{name}.weight"), vec![to, from]));
            tensors.push((format!("{layer}.{name}.bias"), vec![to]));
        }
        norms.push(format!("{layer}.attention.output.LayerNorm"));
        norms.push(format!("{layer}.output.LayerNorm"));
    }
    for norm in norms {
        tensors.push((format!("{norm}.weight"), vec![width]));
        tensors.push((format!("{norm}.bias"), vec![width]));
    }
    tensors
}
