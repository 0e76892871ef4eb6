//! Files for the start: whole, once, and only where there is room.

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::*;
use crate::store::{Meta, Object, Opened, Page, Version};

/// A store that counts, that can break off, and that can claim any length.
#[derive(Clone, Default)]
struct Odd {
    memory: Memory,
    reads: Arc<AtomicUsize>,
    /// Ranges that are given whole before the others hang for ever.
    gives: Arc<AtomicUsize>,
    claims: Option<u64>,
    /// What has to be open before anything is read.
    gate: Option<Arc<Semaphore>>,
}

impl Store for Odd {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.memory.get(key)
    }
    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        self.memory.get_range(key, range)
    }
    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let gives = self.gives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let mut opened = self.memory.read(key, range, of).await?;
            if let (Opened::Found(reading), false) = (&mut opened, gives) {
                reading.body = stream::pending().boxed();
            }
            Ok(opened)
        })
    }
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        Box::pin(async move {
            let mut meta = self.memory.head(key).await?;
            if let (Some(meta), Some(len)) = (&mut meta, self.claims) {
                meta.len = len;
            }
            Ok(meta)
        })
    }
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        self.memory.put(key, bytes, mode)
    }
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        self.memory.delete(key)
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        self.memory.list(prefix, after, limit)
    }
    fn conditional(&self) -> Conditional {
        self.memory.conditional()
    }
}

async fn odd(files: &[(&str, &Bytes)]) -> (Odd, Places) {
    let odd = Odd { gives: Arc::new(usize::MAX.into()), ..Odd::default() };
    for (key, bytes) in files {
        let _ = odd.put(&Key::new(*key).unwrap(), (*bytes).clone(), Put::Create).await.unwrap();
    }
    let places = Places::new().bucket("models", odd.clone());
    (odd, places)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_is_there_and_as_it_should_be_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (weights, config) = (noise(1 << 20), Bytes::from_static(b"{}"));
    let (odd, places) = odd(&[("w", &weights), ("c", &config)]).await;
    let progress = Progress::new();
    let assets = Assets::below(dir.path().join("cache"))
        .file("sub/config.json", reference("s3://models/c"))
        .pinned("weights", reference("s3://models/w"), sha256(&weights).to_uppercase())
        .counted_in(&progress);
    let folder = assets.fetch(&places).await.unwrap();
    assert_eq!(fs::read(folder.join("weights")).unwrap(), weights);
    assert_eq!(fs::read(folder.join("sub/config.json")).unwrap(), config);
    assert_eq!((progress.done(), progress.total()), ((1 << 20) + 2, (1 << 20) + 2));
    let reads = odd.reads.load(Ordering::SeqCst);
    assets.fetch(&places).await.unwrap();
    assert_eq!(odd.reads.load(Ordering::SeqCst), reads);

    // A bit that tips over is noticed, in both kinds; another reference is another file.
    for name in ["weights", "sub/config.json"] {
        let mut bytes = fs::read(folder.join(name)).unwrap();
        bytes[1] ^= 1;
        fs::write(folder.join(name), bytes).unwrap();
    }
    assets.fetch(&places).await.unwrap();
    assert_eq!(fs::read(folder.join("weights")).unwrap(), weights);
    assert_eq!(fs::read(folder.join("sub/config.json")).unwrap(), config);
    assert_eq!(odd.reads.load(Ordering::SeqCst), 2 * reads);
    assert!(fs::read_to_string(folder.join("sub/.config.json.fetched")).unwrap().contains(&sha256(b"s3://models/c")));
    let other = Assets::below(&folder).file("sub/config.json", reference("s3://models/w"));
    other.fetch(&places).await.unwrap();
    assert_eq!(fs::read(folder.join("sub/config.json")).unwrap(), weights);
}

#[tokio::test]
async fn wrong_bytes_get_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_, places) = odd(&[("w", &noise(1000))]).await;
    let assets = Assets::below(dir.path()).pinned("weights", reference("s3://models/w"), sha256(b"others"));
    refused(assets.fetch(&places).await, Fault::Invalid, "but should have");
    assert!(!dir.path().join("weights").exists());
    for name in ["../weights", "/weights", "a/../../weights", ".weights.partial"] {
        let assets = Assets::below(dir.path()).file(name, reference("s3://models/w"));
        refused(assets.fetch(&places).await, Fault::Invalid, "");
    }
    assert!(!dir.path().parent().unwrap().join("weights").exists());
}

#[tokio::test]
async fn of_two_workers_on_one_disk_one_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let weights = noise(1 << 20);
    let (odd, places) = odd(&[("w", &weights)]).await;
    let assets = Assets::below(dir.path()).file("weights", reference("s3://models/w"));
    let both = tokio::join!(assets.fetch(&places), assets.fetch(&places));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(odd.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_fetch_that_was_cut_off_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let weights = noise(25_000_000);
    let (odd, places) = odd(&[("w", &weights)]).await;
    odd.gives.store(2, Ordering::SeqCst);
    let progress = Progress::new();
    let assets = Assets::below(dir.path()).pinned("weights", reference("s3://models/w"), sha256(&weights));
    // It is dropped, as a kill would end it, once two ranges are there and noted.
    let log = dir.path().join(".weights.new.partial.log");
    let noted = async {
        while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = assets.fetch(&places) => panic!("it cannot come to an end"),
        () = noted => {}
    }
    odd.gives.store(usize::MAX, Ordering::SeqCst);
    let assets = assets.counted_in(&progress);
    let folder = loop {
        match assets.fetch(&places).await {
            Ok(folder) => break folder,
            // A write that was under way on a thread still holds the file.
            Err(why) => assert!(why.to_string().contains("being downloaded"), "{why}"),
        }
    };
    assert_eq!(fs::read(folder.join("weights")).unwrap(), weights);
    assert_eq!(progress.total(), 25_000_000);
    assert!(progress.kept() >= 8 << 20, "{} bytes were kept", progress.kept());
}

#[tokio::test]
async fn room_is_looked_for_before_the_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (odd, _) = odd(&[("a", &noise(10)), ("b", &noise(10))]).await;
    let free = rustix::fs::statvfs(dir.path()).unwrap();
    // Each of them would fit, both do not.
    let claims = Some(free.f_bavail * free.f_frsize / 10 * 6);
    let places = Places::new().bucket("models", Odd { claims, ..odd.clone() });
    let assets = Assets::below(dir.path()).file("a", reference("s3://models/a")).file("b", reference("s3://models/b"));
    refused(assets.fetch(&places).await, Fault::Invalid, "2 files need");
    assert_eq!(odd.reads.load(Ordering::SeqCst), 0);
}

struct Echo(u64);

impl crate::Model for Echo {
    type Input = u64;
    type Output = u64;

    fn infer(&mut self, inputs: &[u64]) -> Result<Vec<u64>> {
        Ok(inputs.iter().map(|input| input + self.0).collect())
    }
}

#[tokio::test]
async fn a_model_loads_them_on_its_own_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (_, places) = odd(&[("w", &noise(1000))]).await;
    let assets = Assets::below(dir.path()).file("weights", reference("s3://models/w"));
    let load = move || Ok(Echo(fs::metadata(assets.fetch_blocking(&places)?.join("weights"))?.len()));
    let pipeline = crate::Pipeline::new().gpu("echo", crate::Batching::items(1), load);
    assert_eq!(pipeline.start().await.unwrap().call(1).await.unwrap(), 1001);
}

#[cfg(feature = "http")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_before_they_are_there() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let dir = tempfile::tempdir().unwrap();
    let (odd, _) = odd(&[("w", &noise(1000))]).await;
    let gate = Arc::new(Semaphore::new(0));
    let places = Places::new().bucket("models", Odd { gate: Some(Arc::clone(&gate)), ..odd.clone() });
    let assets = Assets::below(dir.path()).file("weights", reference("s3://models/w"));
    let load = move || Ok(Echo(fs::metadata(assets.fetch_blocking(&places)?.join("weights"))?.len()));
    let pipeline = crate::Pipeline::new().gpu("echo", crate::Batching::items(1), load);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let http = crate::source::http::Http::on(listener).unwrap();
    let worker = tokio::spawn(crate::Worker::new(pipeline).source(http).run_once());
    let ask = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    while odd.reads.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let ready = ask("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("starting"), "{ready}");
    assert!(ask("/health/live").await.starts_with("HTTP/1.1 200"));
    gate.add_permits(1);
    while !ask("/health/ready").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    worker.abort();
}
