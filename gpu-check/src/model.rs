//! Models of random weights, with a tokenizer and texts: what the checks and PyTorch both load.
//!
//! Owns their shapes and what their values are drawn from. It promises the same bytes for the same shape and seed, and
//! a directory that sentence-transformers reads as it reads those of a hub. Nobody should ask such a model for meaning.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;
use fastrand::Rng;
use forebay::{Context, Result};
use serde_json::{Map, Value, json};

use crate::inputs::{self, LENGTHS, SPECIAL};
use crate::report::Report;

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Two layers of 64 values, for machines without a card.
    Tiny,
    /// all-MiniLM-L6-v2: 6 layers of 384 values.
    Minilm,
    /// BERT-large: 24 layers of 1,024 values.
    BertLarge,
}

struct Size {
    width: usize,
    layers: usize,
    heads: usize,
    vocabulary: usize,
    texts: usize,
}

const LONGEST: usize = 512;

impl Shape {
    fn size(self) -> Size {
        match self {
            Shape::Tiny => Size { width: 64, layers: 2, heads: 2, vocabulary: 600, texts: 64 },
            Shape::Minilm => Size { width: 384, layers: 6, heads: 12, vocabulary: 30_522, texts: 2048 },
            Shape::BertLarge => Size { width: 1024, layers: 24, heads: 16, vocabulary: 30_522, texts: 2048 },
        }
    }
}

/// Writes weights, configuration, tokenizer and texts to `dir`.
pub fn write(dir: &Path, shape: Shape, seed: u64) -> Result<Report> {
    let size = shape.size();
    fs::create_dir_all(dir.join("1_Pooling")).with_context(|| dir.display().to_string())?;
    fs::create_dir_all(dir.join("2_Normalize")).with_context(|| dir.display().to_string())?;
    for (name, content) in files(&size) {
        put(&dir.join(name), content.to_string().as_bytes())?;
    }
    for length in LENGTHS {
        let mut random = Rng::with_seed(seed.wrapping_add(length as u64));
        let texts = (0..size.texts).map(|_| inputs::text(&mut random, size.vocabulary, length));
        put(&inputs::file(dir, length), texts.collect::<Vec<_>>().join("\n").as_bytes())?;
    }
    // Last, so that a directory that holds weights is whole.
    let (path, part) = (dir.join("model.safetensors"), dir.join("model.safetensors.part"));
    let bytes = weights(&part, &size, seed).with_context(|| part.display().to_string())?;
    fs::rename(&part, &path).with_context(|| path.display().to_string())?;
    let mut report = Report::new("model");
    report.figure("shape", format!("{shape:?}"));
    report.figure("bytes", bytes);
    report.check("the model is written", true, dir.display().to_string(), "a directory");
    Ok(report)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// All files but weights and texts.
fn files(size: &Size) -> [(&'static str, Value); 8] {
    [
        ("config.json", config(size)),
        ("tokenizer.json", tokenizer(size)),
        (
            "tokenizer_config.json",
            json!({ "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST, "pad_token": "[PAD]",
                "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]" }),
        ),
        (
            "special_tokens_map.json",
            json!({ "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]" }),
        ),
        ("modules.json", modules()),
        ("sentence_bert_config.json", json!({ "max_seq_length": LONGEST, "do_lower_case": false })),
        ("config_sentence_transformers.json", json!({ "__version__": { "sentence_transformers": "2.0.0" } })),
        (
            "1_Pooling/config.json",
            json!({ "word_embedding_dimension": size.width, "pooling_mode_cls_token": false,
                "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false,
                "pooling_mode_mean_sqrt_len_tokens": false }),
        ),
    ]
}

fn modules() -> Value {
    let module = |index: usize, path: &str, kind: &str| json!({ "idx": index, "name": index.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    json!([module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")])
}

fn config(size: &Size) -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": size.vocabulary, "hidden_size": size.width,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "intermediate_size": 4 * size.width,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": LONGEST, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "classifier_dropout": null
    })
}

/// WordPiece as BERT has it, over whole words.
fn tokenizer(size: &Size) -> Value {
    let words = (0..size.vocabulary - SPECIAL.len()).map(inputs::word);
    let vocabulary: Map<String, Value> =
        SPECIAL.map(str::to_owned).into_iter().chain(words).enumerate().map(|(id, word)| (word, id.into())).collect();
    let special = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let of = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [special("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, special("[SEP]")],
            "pair": [special("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, special("[SEP]"),
                { "Sequence": { "id": "B", "type_id": 1 } }, { "SpecialToken": { "id": "[SEP]", "type_id": 1 } }],
            "special_tokens": { "[CLS]": of("[CLS]", 2), "[SEP]": of("[SEP]", 3) } },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary }
    })
}

/// Names and shapes of all tensors. The pooler is there for PyTorch, which would make one of its own and say so.
fn tensors(size: &Size) -> Vec<(String, Vec<usize>)> {
    let (width, inner) = (size.width, 4 * size.width);
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![size.vocabulary, width]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![LONGEST, width]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, width]),
    ];
    let mut linears = vec![("pooler.dense".to_owned(), width, width)];
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..size.layers).map(|i| format!("encoder.layer.{i}")) {
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linears.push((format!("{layer}.{name}"), width, width));
        }
        linears.push((format!("{layer}.intermediate.dense"), inner, width));
        linears.push((format!("{layer}.output.dense"), width, inner));
        norms.push(format!("{layer}.attention.output.LayerNorm"));
        norms.push(format!("{layer}.output.LayerNorm"));
    }
    for (name, to, from) in linears {
        tensors.push((format!("{name}.weight"), vec![to, from]));
        tensors.push((format!("{name}.bias"), vec![to]));
    }
    for name in norms {
        tensors.push((format!("{name}.weight"), vec![width]));
        tensors.push((format!("{name}.bias"), vec![width]));
    }
    tensors
}

/// Writes a safetensors file: the length of the header, the header, the values. How many bytes it has.
fn weights(path: &Path, size: &Size, seed: u64) -> Result<u64> {
    let tensors = tensors(size);
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let from = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (number, (name, shape)) in tensors.iter().enumerate() {
        let (middle, scale) = distribution(name, shape);
        let mut random = Rng::with_seed(seed.wrapping_mul(1 << 20).wrapping_add(number as u64));
        for _ in 0..shape.iter().product::<usize>() {
            file.write_all(&(middle + scale * normal(&mut random)).to_le_bytes())?;
        }
    }
    file.flush()?;
    Ok((8 + header.len() + end) as u64)
}

/// Mean and deviation of a tensor's values. Linear layers keep the size of what goes through them, so that attention is
/// far from even and every layer counts; norms and biases differ from one and none, so that a missing one shows.
fn distribution(name: &str, shape: &[usize]) -> (f32, f32) {
    match (name, shape) {
        (name, _) if name.ends_with("LayerNorm.weight") => (1.0, 0.1),
        (name, _) if name.ends_with(".bias") => (0.0, 0.1),
        (name, _) if name.starts_with("embeddings.") => (0.0, 0.05),
        (_, [.., from]) => (0.0, (1.0 / *from as f32).sqrt()),
        _ => (0.0, 0.02),
    }
}

/// Nearly normal, of mean 0 and variance 1: the sum of four even values, all from one draw.
fn normal(random: &mut Rng) -> f32 {
    let bits = random.u64(..);
    let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
    (sum as f32 / 65_536.0 - 2.0) * 3f32.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_nearly_normal() {
        let mut random = Rng::with_seed(7);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(normal(&mut random))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn texts_have_the_tokens_that_they_should() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Shape::Tiny, 1).unwrap();
        let weights = forebay_models::Weights::dir(dir.path()).unwrap();
        let tokens = forebay_models::Tokens::open(&weights).unwrap().longest(600).unwrap();
        for length in LENGTHS {
            let texts = inputs::read(dir.path(), length).unwrap();
            let ids = tokens.encode(&texts).unwrap();
            assert!(ids.len() == 64 && ids.iter().all(|ids| ids.len() == length));
            assert!(ids.iter().all(|ids| !ids.as_slice().contains(&1)), "no word is unknown");
        }
    }
}
