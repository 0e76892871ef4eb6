//! Whether transfers arrive whole where much goes wrong: 10,000 of them through a proxy that resets connections, loses
//! replies, answers `SlowDown`, truncates, stalls for a minute, flips bits and puts an error into a 200.
//!
//! Half go up to Garage and half come down, 8 at once, of sizes from 1 KB to 64 MB of which each order is as frequent;
//! of those that go up, every fourth is a stream. What came down is compared with what it should be; what went up is
//! read back past the proxy, compared and deleted. The contents are those of 100 files, over and over: the server
//! stores each once. In the end the server is asked for uploads that were left open. `FOREBAY_TRANSFERS` says how many.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::store::{Content, Key, Opened, Outcome, Put, S3, Store, Transfers};
use forebay::{Classify, Context, Error, Result};
use forebay_benches::result;
use forebay_tests::{Fault, Random, S3_BUCKET, S3_KEYS, S3_REGION, S3Faults, Server};
use futures_util::{StreamExt, stream};
use serde_json::json;

const TRANSFERS: usize = 10_000;
const AT_ONCE: usize = 8;
const FILES: usize = 100;
const SIZES: (f64, f64) = (1e3, 64e6);
/// How likely each fault is, for each request that it can happen to.
const CHANCES: [(Fault, f64); 9] = [
    (Fault::ResetBefore, 0.005),
    (Fault::ResetWithin, 0.01),
    (Fault::LostReply, 0.005),
    (Fault::SlowDown, 0.02),
    (Fault::Truncated, 0.01),
    (Fault::Stalled, 0.005),
    (Fault::FlippedAnswer, 0.001),
    (Fault::FlippedRequest, 0.001),
    (Fault::ErrorIn200, 0.02),
];
const STALL: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let set = std::env::var("FOREBAY_TRANSFERS").ok().filter(|text| !text.is_empty());
    let transfers = set.map(|text| text.parse::<usize>().or_invalid()).transpose().context("FOREBAY_TRANSFERS")?;
    let transfers = transfers.unwrap_or(TRANSFERS);
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let chance = |proxy: S3Faults, (fault, chance)| proxy.chance(fault, chance);
    let proxy = CHANCES.into_iter().fold(S3Faults::to(server.address()).stall(STALL), chance).open();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    let (trial, open) = runtime.block_on(async {
        let direct = open(&server.endpoint(), folder.path()).await?;
        let files = files(folder.path())?;
        let send = |file: &PathBuf| (Key::new(format!("files/{}", name(file))), Content::file(file));
        for (key, content) in files.iter().map(send) {
            stored(direct.write(&key?, content, Put::Overwrite).await?)?;
        }
        let faulty = Transfers::new(open(&proxy.endpoint(), folder.path()).await?);
        let trial =
            Arc::new(Trial { direct, faulty, files, folder: folder.path().to_owned(), ended: Ended::default() });
        let all = stream::iter(0..transfers).for_each_concurrent(AT_ONCE, |number| {
            let trial = trial.clone();
            async move {
                if tokio::spawn(async move { trial.transfer(number).await }).await.is_err() {
                    println!("transfer {number} panicked");
                }
            }
        });
        all.await;
        let open = trial.direct.open_uploads().await?;
        Ok::<_, Error>((trial, open))
    })?;
    let ended = &trial.ended;
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    for (fault, _) in CHANCES {
        println!("{:>7} times {fault:?}", proxy.count(fault));
    }
    let faults: u64 = Fault::ALL.into_iter().map(|fault| proxy.count(fault)).sum();
    println!(
        "{} requests, {} MB, {:.0} s",
        proxy.requests(),
        count(&ended.bytes) / 1_000_000,
        start.elapsed().as_secs_f64()
    );
    result(json!({
        "transfers": transfers,
        // Every one ends as whole, failed or corrupt.
        "failed": transfers - count(&ended.whole) - count(&ended.corrupt),
        "corrupt": count(&ended.corrupt),
        "open_multiparts": open,
        "faults": faults,
    }));
    Ok(())
}

async fn open(endpoint: &str, folder: &Path) -> Result<S3> {
    let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).region(S3_REGION);
    store.keys(S3_KEYS.0, S3_KEYS.1).uploads(folder.join("uploads")).open().await
}

fn stored(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Stored(_) => Ok(()),
        other => Err(Error::failed(format_args!("what replaces anything was answered {other:?}"))),
    }
}

/// Makes the files that are moved.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut random = Random::new(64);
    let mut files = Vec::new();
    for number in 0..FILES {
        let share = (number as f64 + 0.5) / FILES as f64;
        let mut left = (SIZES.0 * (SIZES.1 / SIZES.0).powf(share)) as usize;
        let path = folder.join(number.to_string());
        let mut file = File::create(&path)?;
        while left > 0 {
            let piece: Vec<u8> = (0..1 << 17).flat_map(|_| random.bits().to_le_bytes()).take(left).collect();
            file.write_all(&piece)?;
            left -= piece.len();
        }
        files.push(path);
    }
    Ok(files)
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Trial {
    /// Past the proxy.
    direct: S3,
    faulty: Transfers,
    files: Vec<PathBuf>,
    folder: PathBuf,
    ended: Ended,
}

#[derive(Default)]
struct Ended {
    whole: AtomicUsize,
    corrupt: AtomicUsize,
    bytes: AtomicUsize,
}

impl Trial {
    async fn transfer(&self, number: usize) {
        let file = &self.files[Random::new(number as u64).below(self.files.len())];
        let done = if number.is_multiple_of(2) { self.up(number, file).await } else { self.down(number, file).await };
        let bytes = std::fs::metadata(file).map_or(0, |meta| meta.len() as usize);
        self.ended.bytes.fetch_add(bytes, Ordering::Relaxed);
        match done {
            Ok(true) => drop(self.ended.whole.fetch_add(1, Ordering::Relaxed)),
            Ok(false) => {
                println!("transfer {number}, {bytes} bytes: what arrived is something else");
                self.ended.corrupt.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => println!("transfer {number}, {bytes} bytes: {why}"),
        }
    }

    /// Whether what arrived is what was sent.
    async fn up(&self, number: usize, file: &Path) -> Result<bool> {
        let key = Key::new(format!("up/{number}"))?;
        let content = match number % 8 {
            0 => Content::stream(pieces(file)?),
            _ => Content::file(file),
        };
        stored(self.faulty.send(&key, content, Put::Overwrite).await?)?;
        let length = std::fs::metadata(file)?.len();
        let Opened::Found(mut reading) = self.direct.read(&key, 0..u64::MAX, None).await? else { return Ok(false) };
        let (mut file, mut same, mut count) = (File::open(file)?, reading.len == length, 0);
        while let Some(piece) = reading.body.next().await {
            let piece = piece?;
            let mut wanted = vec![0; piece.len()];
            same = same && file.read_exact(&mut wanted).is_ok() && wanted == piece;
            count += piece.len() as u64;
        }
        self.direct.delete(&key).await?;
        Ok(same && count == length)
    }

    async fn down(&self, number: usize, file: &Path) -> Result<bool> {
        let came = self.folder.join(format!("came-{number}"));
        self.faulty.fetch(&Key::new(format!("files/{}", name(file)))?, &came).await?;
        let same = std::fs::read(&came)? == std::fs::read(file)?;
        std::fs::remove_file(&came)?;
        Ok(same)
    }
}

/// A file as a stream of which nobody knows the length.
fn pieces(file: &Path) -> Result<impl futures_util::Stream<Item = Result<Bytes>> + Send + 'static> {
    let file = File::open(file)?;
    let next = |mut file: File| async move {
        let mut piece = vec![0; 1 << 18];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Bytes::from(piece)), file))
            }
            Err(why) => Some((Err(why.into()), file)),
        }
    };
    Ok(stream::unfold(file, next))
}
