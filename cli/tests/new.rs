//! What `forebay new` makes builds, is formatted and passes its own test; what keeps it from making anything is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn forebay(within: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.current_dir(within).env_remove("FOREBAY_PATH").args(arguments).output().expect("forebay starts")
}

fn refused(within: &Path, arguments: &[&str]) -> String {
    let output = forebay(within, arguments);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

/// Always the same folder, and built beside the workspace's own: so everything that has not changed since the last
/// run is there already.
#[test]
fn a_new_project_passes_its_own_test() {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let project = tmp.join("forebay-new");
    if let Err(why) = fs::remove_dir_all(&project) {
        assert_eq!(why.kind(), std::io::ErrorKind::NotFound, "{why}");
    }
    let path = checkout().to_str().expect("text");
    let made = forebay(tmp, &["new", "forebay-new", "--path", path]);
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success() && said.contains("cd forebay-new"), "{made:?}");
    // The same versions, so that nothing need be fetched.
    fs::copy(checkout().join("Cargo.lock"), project.join("Cargo.lock")).expect("a copy");
    for arguments in [&["fmt", "--check"][..], &["test", "--offline"]] {
        let target = tmp.parent().expect("tmp is in the target folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(&project).env("CARGO_TARGET_DIR", target).args(arguments);
        let output = cargo.output().expect("cargo starts");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    for (file, _) in files(&project) {
        let text = fs::read_to_string(&file).expect("text");
        assert!(!text.contains("NAME") && !text.contains("WHERE"), "{} is filled in", file.display());
    }
}

/// Every file under a folder and what is in it, in order.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push((path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    all.sort();
    all
}

#[test]
fn without_a_checkout_it_takes_the_published_crate() {
    let at = tempfile::tempdir().expect("a folder");
    fs::create_dir(at.path().join("worker")).expect("a folder that is empty");
    assert!(forebay(at.path(), &["new", "worker"]).status.success());
    let manifest = fs::read_to_string(at.path().join("worker/Cargo.toml")).expect("the manifest");
    assert!(manifest.contains("name = \"worker\"\n"), "{manifest}");
    let line = format!("forebay = {{ version = \"{}\", features = [\"http\"] }}\n", env!("CARGO_PKG_VERSION"));
    assert!(manifest.contains(&line), "{manifest}");
}

#[test]
fn what_exists_is_left_as_it_is() {
    let at = tempfile::tempdir().expect("a folder");
    fs::create_dir(at.path().join("full")).expect("a folder");
    fs::write(at.path().join("full/notes"), "mine").expect("a file");
    fs::write(at.path().join("file"), "mine").expect("a file");
    let before = files(at.path());
    let said = refused(at.path(), &["new", "full"]);
    assert!(said.contains("`full` exists and is not empty"), "{said}");
    assert!(refused(at.path(), &["new", "file"]).contains("cannot use `file`"));
    assert_eq!(files(at.path()), before);
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_made() {
    let at = tempfile::tempdir().expect("a folder");
    let long = "a".repeat(65);
    for name in ["", "1st", "-x", "a/b", "a b", "wörker", "..", &long] {
        let said = refused(at.path(), &["new", "--", name]);
        assert!(said.contains("cannot name a package: begin with a letter"), "{name}: {said}");
    }
    for name in ["test", "forebay", "match", "deps"] {
        assert!(refused(at.path(), &["new", name]).contains("means something else"), "{name}");
    }
    let said = refused(at.path(), &["new", "worker", "--path", "/no/such"]);
    assert!(said.contains("there is no /no/such/framework/Cargo.toml"), "{said}");
    assert!(refused(Path::new("/proc"), &["new", "worker"]).contains("cannot make `worker`"));
    assert!(fs::read_dir(at.path()).expect("a folder").next().is_none());
}
