//! `forebay bench storage`: one bucket after the other, a file of random bytes up and down, and how long a small question
//! takes.
//!
//! The bytes are a file here and a file again after the download, and are compared with what the store says of them. What
//! fails is counted and does not end the rest.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use forebay::store::{Content, Key, Progress, Put, S3, Store, Transfers};
use forebay::{Context, Error, Result};
use humantime::format_rfc3339_seconds;
use tempfile::TempDir;

use super::{plot, table};
use crate::say::{self, whether};
use crate::size::size;
use crate::store::bar::Bar;
use crate::store::place::{InBucket, Where};
use crate::store::told_to_stop;

/// Small questions, of which the median counts; the first ones make connections.
const HEADS: usize = 21;
/// Below each place: what is moved, and what is kept with --save.
const OBJECTS: &str = ".forebay/bench";

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to measure. One that is elsewhere has its endpoint behind it: `s3://bucket@https://host`.
    #[arg(value_name = "s3://BUCKET/FOLDER", required = true)]
    places: Vec<Target>,
    #[command(flatten)]
    at: Where,
    /// Bytes that are moved each way.
    #[arg(long, default_value = "300MB", value_parser = size)]
    size: u64,
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The folder for the file, twice. By default among the temporary files.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the figures.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Puts table, JSON and plot into the first bucket, below `.forebay/bench/TIME/`.
    #[arg(long)]
    save: bool,
}

/// A bucket, perhaps at an endpoint of its own.
#[derive(Clone, Debug)]
struct Target {
    place: InBucket,
    endpoint: Option<String>,
}

impl std::str::FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, endpoint) = match text.split_once("@http") {
            Some((place, rest)) => (place, Some(format!("http{rest}"))),
            None => (text, None),
        };
        Ok(Target { place: place.parse()?, endpoint })
    }
}

/// What was measured at one place.
#[derive(Default)]
pub struct Figures {
    pub place: String,
    /// Of a small question on a connection that is there.
    pub rtt: Option<Duration>,
    pub up: Way,
    pub down: Way,
    /// Why it could not be measured further.
    pub failed: Vec<String>,
}

/// One direction.
#[derive(Default)]
pub struct Way {
    /// How long each took that did not fail.
    pub took: Vec<Duration>,
    pub failures: u32,
}

impl Way {
    /// The median of the rates.
    pub fn mbit_s(&self, bytes: u64) -> Option<f64> {
        let took = median(&self.took)?;
        Some(bytes as f64 * 8.0 / 1e6 / took.as_secs_f64().max(1e-6))
    }

    fn count(&mut self, ended: Result<Duration>) -> Result<()> {
        match ended {
            Ok(took) => {
                self.took.push(took);
                Ok(())
            }
            Err(why) => {
                self.failures += 1;
                Err(why)
            }
        }
    }
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// A place that is open, and what of it is to be removed.
struct Bench {
    store: S3,
    key: Key,
    file: PathBuf,
    back: PathBuf,
    size: u64,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        let begun = SystemTime::now();
        let folder = match &self.folder {
            Some(folder) => TempDir::new_in(folder),
            None => TempDir::new(),
        };
        let folder = folder.context("a folder for the file; say another one with --folder")?;
        let file = folder.path().join("random");
        let (path, size) = (file.clone(), self.size);
        tokio::task::spawn_blocking(move || fill(&path, size)).await.context("file thread")??;
        let mut all = Vec::new();
        let mut stop = std::pin::pin!(told_to_stop());
        for target in &self.places {
            eprintln!("{}", target.place);
            let (figures, stopped) = self.measure(target, &file, stop.as_mut()).await;
            all.push(figures);
            if stopped {
                break;
            }
        }
        let time = format_rfc3339_seconds(begun).to_string();
        let (text, json) = (table::text(&all, self.size), table::json(&all, self.size, &time));
        let svg = plot::svg(&all, self.size);
        print!("{text}");
        for (path, what) in [(&self.json, &json), (&self.plot, &svg)] {
            if let Some(path) = path {
                std::fs::write(path, what).with_context(|| format!("writing `{}`", path.display()))?;
            }
        }
        for why in all.iter().flat_map(|figures| &figures.failed) {
            eprintln!("forebay: {why}");
        }
        if self.save {
            self.put_away(&time, [("table.txt", text), ("figures.json", json), ("plot.svg", svg)]).await?;
        }
        Ok(whether(all.iter().all(|figures| figures.failed.is_empty())))
    }

    /// Also whether it was told to stop: what is there is removed before.
    async fn measure(
        &self,
        target: &Target,
        file: &Path,
        stop: Pin<&mut impl Future<Output = Result<()>>>,
    ) -> (Figures, bool) {
        let place = match &target.endpoint {
            Some(endpoint) => format!("{} at {endpoint}", target.place),
            None => target.place.to_string(),
        };
        let mut figures = Figures { place, ..Figures::default() };
        let mut bench = None;
        let measuring = async {
            match self.open(target, file).await {
                Ok(opened) => bench.insert(opened).run(self.rounds, &mut figures).await,
                Err(why) => figures.failed.push(why.to_string()),
            }
        };
        let stopped = tokio::select! {
            () = measuring => false,
            _ = stop => true,
        };
        if stopped {
            figures.failed.push(format!("{}: told to stop", figures.place));
        }
        if let Some(bench) = &bench
            && let Err(why) = bench.clean().await
        {
            figures.failed.push(format!("`{}` is left in {}: {why}", bench.key, target.place));
        }
        (figures, stopped)
    }

    async fn open(&self, target: &Target, file: &Path) -> Result<Bench> {
        let key = Key::new(format!("{OBJECTS}/{:016x}", fastrand::u64(..)))?;
        let (file, back) = (file.to_owned(), file.with_file_name("back"));
        Ok(Bench { store: self.store(target).await?, key, file, back, size: self.size })
    }

    async fn store(&self, target: &Target) -> Result<S3> {
        let at = match &target.endpoint {
            Some(endpoint) => self.at.at(endpoint),
            None => self.at.clone(),
        };
        at.writing(&target.place, &target.place.folder()?).await
    }

    async fn put_away(&self, time: &str, what: [(&str, String); 3]) -> Result<()> {
        let Some(target) = self.places.first() else { return Ok(()) };
        let store = self.store(target).await?;
        for (name, text) in what {
            let key = Key::new(format!("{OBJECTS}/{time}/{name}"))?;
            let _ = store.put(&key, text.into(), Put::Overwrite).await?;
            eprintln!("saved {key} in {}", target.place);
        }
        Ok(())
    }
}

impl Bench {
    async fn run(&self, rounds: u32, figures: &mut Figures) {
        for _ in 0..rounds {
            let up = self.timed("upload", self.upload()).await;
            if let Err(why) = figures.up.count(up) {
                figures.failed.push(why.context(&figures.place).to_string());
                continue;
            }
            if figures.rtt.is_none() {
                match self.rtt().await {
                    Ok(rtt) => figures.rtt = Some(rtt),
                    Err(why) => figures.failed.push(why.context(&figures.place).to_string()),
                }
            }
            let down = self.timed("download", self.download()).await;
            if let Err(why) = figures.down.count(down) {
                figures.failed.push(why.context(&figures.place).to_string());
            }
        }
    }

    async fn timed(&self, what: &str, transfer: impl Future<Output = Result<()>>) -> Result<Duration> {
        let begun = Instant::now();
        transfer.await.context(what)?;
        let took = begun.elapsed();
        let rate = say::bytes((self.size as f64 / took.as_secs_f64().max(1e-6)) as u64);
        eprintln!("  {what}: {:.1} s, {rate}/s", took.as_secs_f64());
        Ok(took)
    }

    async fn upload(&self) -> Result<()> {
        let progress = Progress::new();
        let _bar = Bar::show(&progress);
        let content = Content::file(&self.file).counted_in(&progress);
        let _ = self.store.write(&self.key, content, Put::Overwrite).await?;
        Ok(())
    }

    async fn download(&self) -> Result<()> {
        let progress = Progress::new();
        let _bar = Bar::show(&progress);
        let transfers = Transfers::new(self.store.clone()).counted_in(&progress);
        let fetched = transfers.fetch(&self.key, &self.back).await?;
        if fetched.len != self.size {
            return Err(Error::failed(format_args!("{} bytes came of {}", fetched.len, self.size)));
        }
        Ok(())
    }

    async fn rtt(&self) -> Result<Duration> {
        let mut took = Vec::with_capacity(HEADS);
        for _ in 0..HEADS {
            let begun = Instant::now();
            self.store.head(&self.key).await.context("asking something small")?;
            took.push(begun.elapsed());
        }
        median(&took).ok_or_else(|| Error::failed("nothing was asked"))
    }

    async fn clean(&self) -> Result<()> {
        let _ = std::fs::remove_file(&self.back);
        self.store.delete(&self.key).await
    }
}

/// Random bytes, which nobody on the way can make fewer.
fn fill(path: &Path, size: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let (mut random, mut piece, mut left) = (fastrand::Rng::new(), vec![0; 1 << 20], size);
    while left > 0 {
        let len = left.min(piece.len() as u64) as usize;
        random.fill(&mut piece[..len]);
        file.write_all(&piece[..len]).with_context(|| format!("{size} bytes for {}", path.display()))?;
        left -= len as u64;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_median() {
        let way = Way { took: [4, 1, 2].map(Duration::from_secs).to_vec(), failures: 1 };
        assert_eq!(way.mbit_s(1_000_000), Some(4.0));
        assert_eq!(Way::default().mbit_s(1), None);
    }
}
