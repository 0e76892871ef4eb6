//! A tiny model on disk: two layers, 32 values, a tokenizer of letters; weights from a generator, the same every time.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

pub(crate) const HIDDEN: usize = 32;

/// One tensor of a safetensors file: type, shape, bytes.
pub(crate) type Part = (&'static str, Vec<usize>, Vec<u8>);

/// Writes all three files.
pub(crate) fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    write(&dir.path().join("model.safetensors"), &tensors(""));
    dir
}

pub(crate) fn config() -> serde_json::Value {
    json!({
        "vocab_size": vocabulary().len(), "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 512,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "classifier_dropout": null, "model_type": "bert"
    })
}

/// The tensors of that configuration, their names after `prefix`.
pub(crate) fn tensors(prefix: &str) -> BTreeMap<String, Part> {
    let config = serde_json::from_value(config()).unwrap();
    let mut seed = 1u32;
    let parts = crate::bert::tensors(&config).into_iter().map(|(name, shape)| {
        let gain = name.ends_with("LayerNorm.weight");
        let bytes = (0..shape.iter().product::<usize>()).flat_map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed >> 8) as f32 / (1 << 24) as f32 - 0.5;
            (if gain { 1.0 + x } else { x * 0.5 }).to_le_bytes()
        });
        let bytes = bytes.collect();
        (format!("{prefix}{name}"), ("F32", shape, bytes))
    });
    parts.collect()
}

/// Writes a safetensors file.
pub(crate) fn write(path: &Path, parts: &BTreeMap<String, Part>) {
    let mut data = Vec::new();
    let mut header = serde_json::Map::new();
    for (name, (dtype, shape, bytes)) in parts {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
    }
    raw(path, &serde_json::Value::Object(header).to_string(), &data);
}

/// Writes a safetensors file with this header, whatever it says.
pub(super) fn raw(path: &Path, header: &str, data: &[u8]) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    std::fs::write(path, file).unwrap();
}

/// WordPiece over letters, with the truncation and padding of all-MiniLM-L6-v2's own file, which must not matter.
fn tokenizer() -> serde_json::Value {
    let vocabulary: BTreeMap<String, usize> = vocabulary().into_iter().enumerate().map(|(i, word)| (word, i)).collect();
    json!({
        "version": "1.0",
        "truncation": { "max_length": 128, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 128 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] } } },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary }
    })
}

fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "##ing", "lo", "##ng"].map(String::from).into();
    let characters = || ('a'..='z').chain('0'..='9');
    words.extend(characters().map(String::from));
    words.extend(characters().map(|c| format!("##{c}")));
    words.extend([".", ",", "!", "-", "é", "東"].map(String::from));
    words
}
