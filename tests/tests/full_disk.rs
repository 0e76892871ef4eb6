//! A full disk, of the store and of the worker: a state that cannot be saved or brought back is said with its job and its
//! place, the last whole state stands, and once there is room all goes on.
//!
//! The disks are two small file systems in memory, mounted in a namespace of the test's own. Where that is not allowed
//! the test says so and leaves it out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use forebay::checkpoint::{Checkpoints, Snapshot, Workplace};
use forebay::store::{Folder, Key};
use forebay::{Fault, Job};
use forebay_tests::Random;

/// Set where the disks are mounted: their folder.
const MOUNTED: &str = "FOREBAY_TEST_DISKS";
const MOUNT: &str = r#"
mkdir "$0/store" "$0/scratch" && mount -t tmpfs -o size=2m tmpfs "$0/store" && mount -t tmpfs -o size=2m tmpfs "$0/scratch""#;

#[test]
fn a_full_disk_is_said_and_the_last_state_stands() {
    if let Some(disks) = std::env::var_os(MOUNTED) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        return runtime.block_on(on_small_disks(&PathBuf::from(disks)));
    }
    let within = |script: String| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(folder.path());
        (command.env(MOUNTED, folder.path()).stdin(Stdio::null()).output(), folder)
    };
    if !within(MOUNT.to_owned()).0.is_ok_and(|output| output.status.success()) {
        println!("left out: no file system may be mounted here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let (ran, _folder) = within(format!("{MOUNT} && exec {} --nocapture", this.display()));
    let ran = ran.unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

async fn on_small_disks(disks: &Path) {
    let (store, scratch) = (disks.join("store"), disks.join("scratch"));
    let first = noise(1, 500_000);
    let mut worker = open(&store, &scratch).await;
    let path = worker.1.folder().unwrap().join("file");
    fs::write(&path, &first).unwrap();
    worker.0.save(Snapshot::new().file("file")).await.unwrap();

    let ballast = fill(&store);
    fs::write(&path, noise(2, 500_000)).unwrap();
    let why = worker.0.save(Snapshot::new().file("file")).await.unwrap_err();
    println!("{why}");
    assert_eq!(why.fault(), Fault::Transient, "another node may have room");
    for said in ["state 2 of job full", "No space left on device", "jobs/full/state/"] {
        assert!(why.to_string().contains(said), "`{said}` in {why}");
    }
    drop(worker);
    fs::remove_file(ballast).unwrap();

    let mut successor = open(&store, &scratch).await;
    let ballast = fill(&scratch);
    let why = successor.0.restore().await.unwrap_err();
    println!("{why}");
    assert_eq!(why.fault(), Fault::Transient);
    for said in ["state 1 of job full", "No space left on device", "scratch", "/file:"] {
        assert!(why.to_string().contains(said), "`{said}` in {why}");
    }
    fs::remove_file(ballast).unwrap();
    assert!(successor.0.restore().await.unwrap().is_some());
    assert!(fs::read(successor.1.folder().unwrap().join("file")).unwrap() == first, "the last whole state");
    fs::write(successor.1.folder().unwrap().join("file"), noise(3, 500_000)).unwrap();
    successor.0.save(Snapshot::new().file("file")).await.unwrap();
}

async fn open(store: &Path, scratch: &Path) -> (Checkpoints, Workplace) {
    let place = Workplace::new(&Job::new("full"), Some(scratch));
    let key = Key::new("jobs/full/state").unwrap();
    (Checkpoints::open(Arc::new(Folder::open(store).unwrap()), &key, &place, "file 1").await.unwrap(), place)
}

/// Writes a file until there is no room for a byte.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("ballast");
    let mut file = File::create(&path).unwrap();
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(why) if why.kind() == ErrorKind::StorageFull => return path,
            Err(why) => panic!("{why}"),
        }
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(len).collect()
}
