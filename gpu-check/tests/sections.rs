//! Every command of gpu-check on the CPU, on a tiny model: what each checks holds, and what does not is noticed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A tiny model, made once for all tests.
fn model() -> PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let made = MODEL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-check-{}", std::process::id()));
        let (code, said) = run(&["model", &dir.display().to_string(), "--shape", "tiny"], &[]);
        assert_eq!((code, &said["passed"]), (0, &Value::Bool(true)), "{said}");
        dir
    });
    made.clone()
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    program.env("FOREBAY_DEVICE", "cpu").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    program
}

/// The exit code, and the last line.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, Value) {
    let ended = program().args(arguments).envs(environment.iter().copied()).output().unwrap();
    let (out, said) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8_lossy(&ended.stderr));
    assert!(!said.contains("panicked"), "{said}");
    let last = out.lines().last().unwrap_or_else(|| panic!("nothing was printed: {said}"));
    (ended.status.code().unwrap(), serde_json::from_str(last).unwrap())
}

/// The section's line, after it passed.
fn passes(arguments: &[&str]) -> Value {
    let (code, said) = run(arguments, &[]);
    assert_eq!((code, &said["passed"]), (0, &Value::Bool(true)), "{said:#}");
    assert!(!said["checks"].as_array().unwrap().is_empty());
    said
}

fn with_model(section: &str) -> Value {
    passes(&[section, "--model", &model().display().to_string()])
}

#[test]
fn the_device_is_described() {
    assert!(passes(&["device"])["figures"]["tflops"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_device_that_is_not_there_is_not_passed() {
    let (code, said) = run(&["device"], &[("FOREBAY_DEVICE", "cuda:0")]);
    assert!(code == 2 || code == 70, "{code}");
    assert_eq!(said["passed"], Value::Null, "{said}");
    assert!(said["why"].as_str().unwrap().len() > 20, "{said}");
}

#[test]
fn the_packed_encoder_is_held_against_the_fused_one() {
    let said = with_model("parity");
    let names: Vec<_> =
        said["checks"].as_array().unwrap().iter().map(|check| check["what"].as_str().unwrap()).collect();
    assert!(names.contains(&"f32, packed, a batch: 1 - cosine"), "{names:?}");
    assert_eq!(names.len(), 12);
}

#[test]
fn dynamics_and_training_are_repeated() {
    passes(&["dynamics"]);
    with_model("finetune");
}

#[test]
fn batches_that_do_not_fit_are_answered_all_the_same() {
    assert!(with_model("memory")["figures"]["out_of_memory"].as_u64().unwrap() > 0);
}

#[test]
fn a_lost_card_ends_the_process_and_frees_the_job() {
    passes(&["sticky"]);
}

#[test]
fn what_cannot_work_is_refused() {
    let said = with_model("bad");
    assert!(said["checks"].as_array().unwrap().len() >= 8);
}

#[test]
fn the_first_answer_comes() {
    assert!(with_model("first")["figures"]["answered_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_window_of_work_is_measured() {
    let model = model().display().to_string();
    let given = ["--model", &model, "--seconds", "1", "--documents", "5000", "--batch-tokens", "4096"];
    let said = passes(&[&["busy"], &given[..]].concat());
    let busy = said["figures"]["busy_percent"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&busy) && said["figures"]["passages_per_s"].as_f64().unwrap() > 0.0, "{said}");
}

#[test]
fn too_few_documents_are_noticed() {
    let model = model().display().to_string();
    let (code, said) = run(&["busy", "--model", &model, "--seconds", "600", "--documents", "1"], &[]);
    assert_eq!((code, &said["passed"]), (1, &Value::Bool(false)), "{said}");
}

#[test]
fn texts_and_ids_are_embedded_on_demand() {
    for more in [&["--ids"][..], &[], &["--variant", "padded"]] {
        let mut child = program();
        child.args(["serve", "--length", "32", "--batch-tokens", "4096", "--model"]).arg(model()).args(more);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut hear = || serde_json::from_str::<Value>(&from.next().unwrap().unwrap()).unwrap();
        assert_eq!(hear()["ready"], Value::Bool(true));
        for _ in 0..2 {
            writeln!(to, "go 0.05 128 texts").unwrap();
            let answer = hear();
            assert!(answer["items"].as_u64().unwrap() > 0 && answer["seconds"].as_f64().unwrap() >= 0.05, "{answer}");
        }
        drop(to);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_model_is_the_same_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, seed: &str| {
        let dir = folder.path().join(name);
        passes(&["model", &dir.display().to_string(), "--shape", "tiny", "--seed", seed]);
        fs::read(dir.join("model.safetensors")).unwrap()
    };
    let first = made("first", "1");
    assert!(first == made("again", "1"), "the same seed");
    assert!(first != made("other", "2"), "another seed");
}
