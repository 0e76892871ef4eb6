//! What `embed` says to bad input: each problem is named with its file and what to do, and the other documents are
//! done all the same. Needs FOREBAY_WEIGHTS, which `./test` sets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn weights() -> PathBuf {
    let set = std::env::var_os("FOREBAY_WEIGHTS");
    set.expect("set FOREBAY_WEIGHTS to a folder with the weights of all-MiniLM-L6-v2, as ./test does").into()
}

fn embed(weights: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed"));
    command.env("FOREBAY_WEIGHTS", weights).args(arguments).output().expect("embed starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with one good document.
fn folder() -> (tempfile::TempDir, String, String) {
    let at = tempfile::tempdir().expect("a folder for the test");
    let [inbox, outbox] = ["in", "out"].map(|name| at.path().join(name).display().to_string());
    fs::create_dir(&inbox).expect("the inbox");
    fs::write(format!("{inbox}/good.txt"), "A turbine turns. The basin before it keeps it at full flow.")
        .expect("a file");
    (at, inbox, outbox)
}

#[test]
fn bad_documents_are_named_and_the_others_are_done() {
    let (_at, inbox, outbox) = folder();
    fs::write(format!("{inbox}/empty.txt"), "").expect("a file");
    fs::write(format!("{inbox}/latin1.txt"), b"caf\xe9").expect("a file");
    std::os::unix::fs::symlink("/no/such/file", format!("{inbox}/unreadable.txt")).expect("a link");
    let huge = fs::File::create(format!("{inbox}/huge.txt")).expect("a file");
    huge.set_len(200_000_000).expect("its length");

    let output = embed(&weights(), &["folder", &inbox, &outbox]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "some documents failed: {said} {}", text(&output.stderr));
    for (file, problem, advice) in [
        ("empty.txt", "is empty", "fill it or take it out"),
        ("latin1.txt", "is not UTF-8 text", "convert it"),
        ("unreadable.txt", "cannot read", "check that it exists and may be read"),
        ("huge.txt", "has 190.7 MiB, more than the limit of 16.0 MiB", "split it, or raise --max-bytes"),
    ] {
        let lines: Vec<&str> =
            said.lines().filter(|line| line.starts_with("failed: ") && line.contains(file)).collect();
        assert_eq!(lines.len(), 1, "one line about {file} in: {said}");
        assert!(lines[0].contains(problem) && lines[0].contains(advice), "{}", lines[0]);
        assert!(Path::new(&format!("{outbox}/{file}.failed.json")).exists(), "{file} leaves a file that says why");
    }
    assert!(said.contains("documents   1 (4 failed), 1 passages in all"), "{said}");

    let output = embed(&weights(), &["search", &outbox, "What keeps a turbine at full flow?"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("good.txt [0.."), "{}", text(&output.stdout));
    let vectors = fs::read(format!("{outbox}/vectors.safetensors")).expect("the vectors");
    let vectors = safetensors::SafeTensors::deserialize(&vectors).expect("they are whole");
    assert_eq!(vectors.tensor("vectors").expect("the tensor").shape(), [1, 384]);
}

#[test]
fn what_keeps_it_from_starting_is_said() {
    let (at, inbox, outbox) = folder();
    let good = weights();
    let truncated = at.path().join("truncated");
    fs::create_dir(&truncated).expect("a folder");
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(good.join(file), truncated.join(file)).expect("a copy");
    }
    let whole = fs::read(good.join("model.safetensors")).expect("the weights");
    fs::write(truncated.join("model.safetensors"), &whole[..whole.len() / 2]).expect("half of it");
    let missing = at.path().join("missing");
    let cases: [(&Path, &[&str], &[&str]); 4] = [
        (&missing, &[&inbox, &outbox], &["missing"]),
        (&truncated, &[&inbox, &outbox], &["model.safetensors", "truncated"]),
        (
            &good,
            &[&inbox, &outbox, "--stage", "raed.limit=3"],
            &["there is no stage `raed`", "read, cut, embed, write"],
        ),
        (&good, &["/no/such/inbox", &outbox], &["`/no/such/inbox` is not a folder"]),
    ];
    for (weights, arguments, words) in cases {
        let output = embed(weights, &[&["folder"], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` should be in: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}
