//! A job's folder, with attempts that are thought dead and are not.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

struct Bucket {
    memory: Memory,
    places: Places,
    scratch: tempfile::TempDir,
}

impl Bucket {
    async fn new(files: &[(&str, &str)]) -> Self {
        let memory = Memory::new();
        for (key, text) in files {
            let key = Key::new(*key).unwrap();
            assert!(memory.put(&key, Bytes::copy_from_slice(text.as_bytes()), Put::Create).await.is_ok());
        }
        let places = Places::new().bucket("b", memory.clone());
        Bucket { memory, places, scratch: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, limits: Limits) -> Result<JobFolder> {
        JobFolder::open(&self.places, &reference("s3://b/jobs/1/"), self.scratch.path(), limits).await
    }

    async fn keys(&self) -> Vec<String> {
        let store: &dyn Store = &self.memory;
        store.list_all("").await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
    }

    fn left(&self) -> usize {
        fs::read_dir(self.scratch.path()).unwrap().count()
    }
}

#[tokio::test]
async fn inputs_come_and_outputs_go() {
    let bucket = Bucket::new(&[
        ("jobs/1/input/a.txt", "a"),
        ("jobs/1/input/deep/er/b.txt", "b"),
        ("jobs/1/state/7", "state"),
        ("jobs/11/input/other.txt", "other"),
    ])
    .await;
    let folder = bucket.open(Limits::default()).await.unwrap();
    assert_eq!(fs::read_to_string(folder.input().join("a.txt")).unwrap(), "a");
    assert_eq!(fs::read_to_string(folder.input().join("deep/er/b.txt")).unwrap(), "b");
    assert_eq!(fs::read_dir(folder.input()).unwrap().count(), 2);
    assert_eq!(folder.state_key("7").unwrap().as_str(), "jobs/1/state/7");
    assert!(folder.state_key("../7").is_err());

    fs::create_dir(folder.output().join("sub")).unwrap();
    fs::write(folder.output().join("sub/r.json"), "{}").unwrap();
    fs::write(folder.output().join("r.txt"), "result").unwrap();
    assert_eq!(JobFolder::finished(&bucket.places, &reference("s3://b/jobs/1/")).await.unwrap(), None);
    let finished = folder.finish().await.unwrap();
    assert!(finished.ours);
    let names: Vec<_> = finished.output.files.iter().map(|file| (file.name.as_str(), file.len)).collect();
    assert_eq!(names, [("r.txt", 6), ("sub/r.json", 2)]);
    let first = &finished.output.files[0];
    assert_eq!(first.key, format!("jobs/1/output/{}/r.txt", finished.output.attempt));
    assert_eq!(bucket.places.get(&reference(format!("s3://b/{}", first.key)), 10).await.unwrap(), "result");
    let found = JobFolder::finished(&bucket.places, &reference("s3://b/jobs/1/")).await.unwrap();
    assert_eq!(found, Some(finished.output));
    drop(folder);
    assert_eq!(bucket.left(), 0);
}

#[tokio::test]
async fn of_two_attempts_one_makes_the_output_and_the_other_leaves_nothing() {
    let lost =
        [("jobs/1/input/a", "a"), ("jobs/1/output/attempt-dead/r", "half"), ("jobs/1/output/own", "not of ours")];
    let bucket = Bucket::new(&lost).await;
    let (zombie, successor) =
        (bucket.open(Limits::default()).await.unwrap(), bucket.open(Limits::default()).await.unwrap());
    for (folder, text) in [(&zombie, "zombie"), (&successor, "successor")] {
        fs::write(folder.output().join("r"), text).unwrap();
        fs::write(folder.output().join(text), text).unwrap();
    }
    let (a, b) = tokio::join!(zombie.finish(), successor.finish());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.ours, b.ours);
    assert_eq!(a.output, b.output);
    let who = if a.ours { "zombie" } else { "successor" };
    for file in &a.output.files {
        assert_eq!(bucket.places.get(&reference(format!("s3://b/{}", file.key)), 100).await.unwrap(), who);
    }
    let mut keys: Vec<String> = a.output.files.iter().map(|file| file.key.clone()).collect();
    keys.extend(["jobs/1/input/a", "jobs/1/output.json", "jobs/1/output/own"].map(str::to_owned));
    keys.sort();
    assert_eq!(bucket.keys().await, keys);
    // Much later it comes again, with yet another result.
    fs::write(zombie.output().join("r"), "late").unwrap();
    let late = zombie.finish().await.unwrap();
    assert_eq!((late.ours, &late.output), (false, &a.output));
    assert_eq!(bucket.keys().await, keys);
}

#[tokio::test]
async fn too_much_is_refused_and_nothing_stays() {
    let bucket = Bucket::new(&[("jobs/1/input/a", "aaaa"), ("jobs/1/input/b", "bbbb")]).await;
    let (files, bytes) = (Limits { files: 1, ..Limits::default() }, Limits { bytes: 7, ..Limits::default() });
    refused(bucket.open(files).await, Fault::Invalid, "more than 1 files");
    refused(bucket.open(bytes).await, Fault::Invalid, "more than 7 bytes");
    assert_eq!(bucket.left(), 0);
    let folder = bucket.open(Limits { files: 2, bytes: 8 }).await.unwrap();
    fs::write(folder.output().join("r"), "123456789").unwrap();
    refused(folder.finish().await, Fault::Invalid, "more than 8 bytes");
    for text in ["s3://b/jobs/1", "file:///jobs/1", "s3://other/jobs/1/"] {
        let opened = JobFolder::open(&bucket.places, &reference(text), bucket.scratch.path(), Limits::default()).await;
        refused(opened, Fault::Invalid, text);
    }
}

#[tokio::test]
async fn keys_that_get_in_each_others_way_are_refused() {
    for (first, second) in [("a", "a/b"), ("x", ".x.partial"), ("x", ".x.partial.log"), ("x", "C:x")] {
        let (first, second) = (format!("jobs/1/input/{first}"), format!("jobs/1/input/{second}"));
        let bucket = Bucket::new(&[(&first, "1"), (&second, "2")]).await;
        let opened = bucket.open(Limits::default()).await;
        assert_eq!(opened.unwrap_err().fault(), Fault::Invalid, "{first} {second}");
        assert_eq!(bucket.left(), 0);
    }
}

#[tokio::test]
async fn a_link_in_the_output_publishes_nothing() {
    let bucket = Bucket::new(&[]).await;
    for target in ["/etc/passwd", "/etc", ".."] {
        let folder = bucket.open(Limits::default()).await.unwrap();
        symlink(target, folder.output().join("r")).unwrap();
        refused(folder.finish().await, Fault::Invalid, "is no file");
    }
    assert!(bucket.keys().await.is_empty());
}
