//! Everything that may be wrong with a model's files, and what is said about it.

use std::path::Path;

use candle_core::DType;
use serde_json::json;

use super::tiny;
use crate::{Device, Embedder, Tokens, Weights};

/// The message of a directory that must be refused.
fn refused(dir: &Path) -> String {
    Weights::dir(dir).unwrap_err().to_string()
}

/// The message of a model that must not load.
fn unloadable(dir: &Path) -> String {
    let weights = Weights::dir(dir).unwrap();
    Embedder::load(&weights, &Device::Cpu).map(drop).unwrap_err().to_string()
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn a_whole_model_loads() {
    let dir = tiny::model();
    let weights = Weights::dir(dir.path()).unwrap();
    Embedder::load(&weights, &Device::Cpu).unwrap();
    Tokens::open(&weights).unwrap();
}

#[test]
fn the_bytes_that_a_model_takes_are_known_before_it_is_loaded() {
    let dir = tiny::model();
    let weights = Weights::dir(dir.path()).unwrap();
    let held: usize = tiny::tensors("").values().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(weights.bytes(DType::F32), held as u64);
    assert_eq!(weights.bytes(DType::F16), held as u64 / 2);
}

#[test]
fn tensors_may_stand_under_the_prefix_bert() {
    let dir = tiny::model();
    tiny::write(&dir.path().join("model.safetensors"), &tiny::tensors("bert."));
    Embedder::load(&Weights::dir(dir.path()).unwrap(), &Device::Cpu).unwrap();
}

#[test]
fn a_missing_directory_is_named() {
    says(&refused(Path::new("/nowhere/model")), &["/nowhere/model", "does not exist", "model.safetensors"]);
    let dir = tiny::model();
    says(&refused(&dir.path().join("config.json")), &["config.json", "is not a directory"]);
}

#[test]
fn a_missing_or_empty_file_is_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let dir = tiny::model();
        let path = dir.path().join(file);
        std::fs::write(&path, "").unwrap();
        says(&refused(dir.path()), &[file, "is empty", "download it again"]);
        std::fs::remove_file(&path).unwrap();
        says(&refused(dir.path()), &[file, "is missing", "download it again"]);
        std::fs::create_dir(&path).unwrap();
        says(&refused(dir.path()), &[file, "is not a file"]);
    }
}

#[test]
fn truncated_weights_are_found_wherever_they_break_off() {
    let dir = tiny::model();
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    for length in [1, 7, 8, 9, 63, 64, 65, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        says(&refused(dir.path()), &["model.safetensors", "is truncated", "download it again"]);
    }
}

#[test]
fn an_lfs_pointer_is_not_taken_for_weights() {
    let dir = tiny::model();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa51172d142c89\nsize 90868376\n";
    std::fs::write(dir.path().join("model.safetensors"), pointer).unwrap();
    says(&refused(dir.path()), &["model.safetensors", "Git LFS pointer", "git lfs pull"]);
}

#[test]
fn other_files_are_not_taken_for_weights() {
    let dir = tiny::model();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, "PK\u{3}\u{4} something else entirely, a zip file perhaps").unwrap();
    says(&refused(dir.path()), &["model.safetensors", "is not a safetensors file"]);
    std::fs::write(&path, [0xff; 100]).unwrap();
    says(&refused(dir.path()), &["is not a safetensors file"]);
    tiny::raw(&path, "{ no json", &[]);
    says(&refused(dir.path()), &["header that is not JSON"]);
    tiny::raw(&path, "{}", &[]);
    says(&refused(dir.path()), &["holds no tensors"]);
}

#[test]
fn ranges_are_checked_without_overflow() {
    let dir = tiny::model();
    let path = dir.path().join("model.safetensors");
    let header = |shape: serde_json::Value, offsets: serde_json::Value| {
        json!({ "t": { "dtype": "F32", "shape": shape, "data_offsets": offsets } }).to_string()
    };
    for (shape, offsets, message) in [
        (json!([4]), json!([0, 17]), "is truncated: tensor t"),
        (json!([4]), json!([0, u64::MAX]), "is truncated: tensor t"),
        (json!([1]), json!([8, 4]), "ends before it begins"),
        (json!([3]), json!([0, 16]), "does not fit its 16 bytes"),
        (json!([u64::MAX, u64::MAX]), json!([0, 16]), "does not fit its 16 bytes"),
        (json!([1u64 << 62, 1]), json!([0, 0]), "does not fit its 0 bytes"),
        (json!([-1]), json!([0, 16]), "describes tensor t"),
        (json!([4]), json!([0]), "describes tensor t"),
    ] {
        tiny::raw(&path, &header(shape, offsets), &[0; 16]);
        says(&refused(dir.path()), &["model.safetensors", message]);
    }
}

#[test]
fn a_tensor_of_another_type_or_shape_is_named() {
    let name = "encoder.layer.1.output.dense.weight";
    let dir = tiny::model();
    let path = dir.path().join("model.safetensors");
    let with = |change: &dyn Fn(&mut tiny::Part)| {
        let mut parts = tiny::tensors("");
        change(parts.get_mut(name).unwrap());
        tiny::write(&path, &parts);
        unloadable(dir.path())
    };
    says(&with(&|part| part.0 = "I32"), &["model.safetensors", name, "I32 [32, 64]", "expected floating point"]);
    says(&with(&|part| part.1 = vec![64, 32]), &[name, "F32 [64, 32]", "[32, 64]"]);

    let mut parts = tiny::tensors("");
    parts.remove(name);
    tiny::write(&path, &parts);
    says(&unloadable(dir.path()), &["model.safetensors", "has no tensor", name]);
}

#[test]
fn a_configuration_of_something_else_is_named() {
    let dir = tiny::model();
    let path = dir.path().join("config.json");
    std::fs::write(&path, "{ \"model_type\": \"other\" }").unwrap();
    says(&unloadable(dir.path()), &["config.json", "is not the configuration", "missing field"]);
    let mut config = tiny::config();
    config["num_attention_heads"] = json!(0);
    std::fs::write(&path, config.to_string()).unwrap();
    says(&unloadable(dir.path()), &["config.json", "attention heads"]);
}

#[test]
fn a_file_that_is_no_tokenizer_is_named() {
    let dir = tiny::model();
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let weights = Weights::dir(dir.path()).unwrap();
    let message = Tokens::open(&weights).map(drop).unwrap_err().to_string();
    says(&message, &["tokenizer.json", "not a tokenizer", "again"]);
}
