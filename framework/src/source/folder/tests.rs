use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::testing::source::{self, Bench, Ended};

struct FolderBench {
    at: tempfile::TempDir,
}

impl FolderBench {
    fn new() -> Self {
        FolderBench { at: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }
}

impl Bench for FolderBench {
    type Source = Folder;

    async fn reset(&mut self) {
        *self = FolderBench::new();
        fs::create_dir(self.path("in")).unwrap();
    }

    fn source(&mut self) -> Folder {
        let folder = Folder::open(self.path("in"), self.path("out")).unwrap();
        folder.lease(Duration::from_millis(600)).set(|shared| shared.look_every = Duration::from_millis(20))
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        let temporary = self.path("in").join(format!(".{}", name.replace('/', "-")));
        fs::write(&temporary, payload).unwrap();
        fs::rename(temporary, self.path("in").join(name)).unwrap();
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        let is = |suffix| self.path("out").join(format!("{name}{suffix}")).exists();
        match (is(".done.json"), is(".failed.json")) {
            (true, false) => {
                assert_eq!(fs::read(self.path("out").join(format!("{name}.out"))).unwrap(), b"result");
                Some(Ended::Done)
            }
            (false, true) => Some(Ended::Rejected),
            (false, false) => None,
            (true, true) => panic!("{name} both done and failed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    source::all(&mut FolderBench::new()).await;
}

#[tokio::test]
async fn once_ends_when_all_have_ended() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    bench.push("a", b"x").await;
    fs::create_dir(bench.path("in").join("sub")).unwrap();
    bench.push("sub/b", b"y").await;
    let mut folder = bench.source().once();
    assert_eq!(folder.open_files().unwrap(), 2);
    let mut ids = Vec::new();
    loop {
        let received = folder.receive(8).await.unwrap();
        if received.is_empty() {
            break;
        }
        for delivery in received {
            delivery.receipt.settle(&crate::Verdict::Done("result".into())).await.unwrap();
            ids.push(delivery.id);
        }
    }
    assert_eq!(ids, ["a", "sub/b"]);
    assert_eq!(bench.ended("sub/b").await, Some(Ended::Done));
    assert!(bench.source().once().receive(8).await.unwrap().is_empty(), "done files are not done again");
}

#[tokio::test]
async fn a_changed_file_is_done_again() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    for content in [&b"x"[..], b"longer"] {
        bench.push("a", content).await;
        let mut folder = bench.source().once();
        let received = folder.receive(8).await.unwrap();
        assert_eq!(&received[0].payload[..], content);
        received[0].receipt.settle(&crate::Verdict::Done("result".into())).await.unwrap();
        assert!(folder.receive(8).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_result_whose_record_is_missing_is_recorded_and_not_done_again() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    bench.push("a", b"x").await;
    let mut died = bench.source();
    assert_eq!(died.receive(8).await.unwrap().len(), 1);
    fs::write(bench.path("out").join("a.out"), "result").unwrap();
    drop(died);
    assert!(bench.source().once().receive(8).await.unwrap().is_empty());
    assert_eq!(bench.ended("a").await, Some(Ended::Done));
}

#[tokio::test]
async fn a_result_of_an_older_state_is_not_taken_for_that_of_a_newer() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    bench.push("a", b"old").await;
    let mut died = bench.source();
    assert_eq!(died.receive(8).await.unwrap().len(), 1);
    fs::write(bench.path("out").join("a.out"), "of the old").unwrap();
    drop(died);
    bench.push("a", b"newer").await;
    let received = bench.source().once().receive(8).await.unwrap();
    assert_eq!((&received[0].payload[..], received[0].attempt), (&b"newer"[..], 2));
    received[0].receipt.settle(&crate::Verdict::Done("result".into())).await.unwrap();
    assert_eq!(bench.ended("a").await, Some(Ended::Done));
}

#[tokio::test]
async fn what_was_claimed_and_not_given_out_is_given_back() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    for name in ["a", "b", "c"] {
        bench.push(name, b"x").await;
    }
    let mut first = bench.source();
    // Claims up to three, and gives out one.
    let looking = tokio::time::timeout(Duration::ZERO, first.receive(3)).await;
    assert!(looking.is_err());
    assert_eq!(first.receive(1).await.unwrap().len(), 1);
    drop(first);
    let mut second = bench.source();
    let mut given_back = Vec::new();
    while given_back.len() < 2 {
        given_back.extend(second.receive(8).await.unwrap());
    }
    let mut ids: Vec<&str> = given_back.iter().map(|delivery| &delivery.id[..]).collect();
    // They are given back at once, and either may be seen first.
    ids.sort_unstable();
    assert_eq!(ids, ["b", "c"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_says_why() {
    let mut bench = FolderBench::new();
    bench.reset().await;
    std::os::unix::fs::symlink("/nowhere", bench.path("in").join("broken")).unwrap();
    assert!(bench.source().once().receive(8).await.unwrap().is_empty());
    let why = fs::read_to_string(bench.path("out").join("broken.failed.json")).unwrap();
    assert!(why.contains("cannot read") && why.contains("in/broken"), "{why}");
}

#[test]
fn a_missing_inbox_is_said() {
    let why = Folder::open("/no/such/folder", "/tmp").err().unwrap();
    assert_eq!(why.to_string(), "`/no/such/folder` is not a folder; name one with the files to work on");
}
