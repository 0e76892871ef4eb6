//! Files that a worker needs before its first job: weights, tokenizers, indexes.
//!
//! It owns a folder on the local disk that outlives the process. It promises that each file there is whole and what it
//! should be, that the disk has room before the first byte is fetched, and that of several workers on one disk one
//! fetches. It never looks whether a reference has changed: other weights have another name, or another SHA-256.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, interval, interval_at, sleep};
use tracing::info;

use super::{Places, Reference, local};
use crate::error::{Context, Error, Result};
use crate::store::blocking;
use crate::store::{Key, Progress};
use crate::telemetry::AssetMeter;

/// How often it is measured how far it is.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How often it is said.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How often a worker looks whether another is done.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time for all files, unless set.
const WITHIN: Duration = Duration::from_secs(6 * 3600);

/// Files to be there before the first job, in a folder of the local disk.
///
/// Fetch them where a model is loaded: the worker is not ready until then, its probes say so, and metrics and a line of
/// the log every 5 s say how far it is. A download that was cut off, even by a kill, goes on where it was.
///
/// ```no_run
/// use forebay::places::{Assets, Places};
/// # use forebay::{Batching, Model, Pipeline, Result};
/// # struct Whisper;
/// # impl Whisper { fn load(_: &std::path::Path) -> Result<Self> { Ok(Whisper) } }
/// # impl Model for Whisper {
/// #     type Input = u32;
/// #     type Output = u32;
/// #     fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> { Ok(inputs.to_vec()) }
/// # }
/// # fn example(places: Places) -> Result<Pipeline<u32, u32>> {
/// let assets = Assets::below("/cache/whisper-v3")
///     .file("config.json", "s3://models/whisper-v3/config.json".parse()?)
///     .pinned("model.safetensors", "s3://models/whisper-v3/model.safetensors".parse()?, "9b1c…");
/// let pipeline = Pipeline::new().gpu("whisper", Batching::items(16), move || {
///     let folder = assets.fetch_blocking(&places)?;
///     Whisper::load(&folder)
/// });
/// # Ok(pipeline) }
/// ```
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
    files: Vec<Asset>,
    progress: Progress,
    within: Duration,
}

#[derive(Clone, Debug)]
struct Asset {
    name: String,
    from: Reference,
    /// In hexadecimal.
    sha256: Option<String>,
}

/// What was fetched, in `.name.fetched` beside the file: what it has to be found as again.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The SHA-256 of the reference, which may hold a secret.
    from: String,
    len: u64,
    sha256: String,
}

impl Assets {
    /// None yet, to be kept in `folder`, which is made if missing.
    pub fn below(folder: impl Into<PathBuf>) -> Self {
        Assets { folder: folder.into(), files: Vec::new(), progress: Progress::new(), within: WITHIN }
    }

    /// The file `name` (a path below the folder) is what `from` leads to. It is checked against what the store says of its
    /// bytes, where it does, and whenever it is found again against what it was when it was fetched. A presigned URL is
    /// another one each time: pin such a file, or it is fetched at each start.
    pub fn file(mut self, name: impl Into<String>, from: Reference) -> Self {
        self.files.push(Asset { name: name.into(), from, sha256: None });
        self
    }

    /// As [`file`](Self::file), and its SHA-256 has to be this, in hexadecimal. So weights should be named that decide over
    /// somebody's money.
    pub fn pinned(mut self, name: impl Into<String>, from: Reference, sha256: impl Into<String>) -> Self {
        let sha256 = Some(sha256.into().to_ascii_lowercase());
        self.files.push(Asset { name: name.into(), from, sha256 });
        self
    }

    /// Counts in `progress` what is downloaded.
    pub fn counted_in(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// Gives up after this long. Default 6 hours.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Fetches what is not there yet, and gives the folder. Files that are there are read once, to compare them, and their
    /// places are not asked.
    ///
    /// # Errors
    /// `Invalid` where the disk has no room for all that is missing, a name is no path, or bytes are not those of the
    /// SHA-256 that they should have. Else as for [`Places::fetch`].
    pub async fn fetch(&self, places: &Places) -> Result<PathBuf> {
        let late = |_| Err(Error::transient(format_args!("not done within {:?}", self.within)));
        let fetched = tokio::time::timeout(self.within, self.fetch_all(places)).await.unwrap_or_else(late);
        fetched.with_context(|| format!("fetching what has to be in {}", self.folder.display()))?;
        Ok(self.folder.clone())
    }

    /// As [`fetch`](Self::fetch), for a thread that may block, such as that which loads a model.
    pub fn fetch_blocking(&self, places: &Places) -> Result<PathBuf> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("starting a runtime")?.block_on(self.fetch(places))
    }

    async fn fetch_all(&self, places: &Places) -> Result<()> {
        let folder = self.folder.clone();
        blocking(move || Ok(fs::create_dir_all(folder)?)).await?;
        // One lock for the folder: whoever comes later finds all files there.
        let _lock = self.lock().await?;
        let mut missing = Vec::new();
        for asset in &self.files {
            let (folder, asset_) = (self.folder.clone(), asset.clone());
            if !blocking(move || asset_.is_there(&folder)).await? {
                missing.push(asset);
            }
        }
        self.check_room(places, &missing).await?;
        let began = Instant::now();
        let fetching = async {
            for asset in &missing {
                self.fetch_one(places, asset).await?;
            }
            Ok(())
        };
        tokio::pin!(fetching);
        let meter = AssetMeter::new();
        let (mut measure, mut say) = (interval(MEASURE_EVERY), interval_at(began + SAY_EVERY, SAY_EVERY));
        let done = loop {
            tokio::select! {
                done = &mut fetching => break done,
                _ = measure.tick() => meter.set(self.progress.done(), self.progress.total()),
                _ = say.tick() => self.say(began),
            }
        };
        meter.set(self.progress.done(), self.progress.total());
        done
    }

    fn say(&self, began: Instant) {
        let (done, total, kept) = (self.progress.done(), self.progress.total(), self.progress.kept());
        let per_s = (done.saturating_sub(kept)) as f64 / began.elapsed().as_secs_f64();
        let (folder, mb_per_s) = (self.folder.display(), (per_s / 1e5).round() / 10.0);
        info!(%folder, done, total, mb_per_s, "not ready: fetching files");
    }

    async fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let mut waited = false;
        loop {
            let path = path.clone();
            let locked = blocking(move || {
                let lock = File::options().create(true).write(true).truncate(false).open(&path)?;
                Ok(lock.try_lock().is_ok().then_some(lock))
            });
            if let Some(lock) = locked.await.context("locking the folder")? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut waited, true) {
                info!(folder = %self.folder.display(), "not ready: another worker fetches the files");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the disk has room for all that is missing, less what earlier attempts have brought of it.
    async fn check_room(&self, places: &Places, missing: &[&Asset]) -> Result<()> {
        let mut needed = 0u64;
        for asset in missing {
            let len = places.len(&asset.from).await.context(&asset.from)?.unwrap_or_default();
            let (folder, name) = (self.folder.clone(), asset.key()?);
            let there = blocking(move || {
                let path = local::make_below(&folder, &name)?;
                Ok(fs::metadata(partial(&path)).map_or(0, |found| std::os::unix::fs::MetadataExt::blocks(&found) * 512))
            });
            needed = needed.saturating_add(len.saturating_sub(there.await?));
        }
        let disk = rustix::fs::statvfs(&self.folder).context("asking the disk how much room it has")?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed > free {
            let (files, folder) = (missing.len(), self.folder.display());
            let why = format_args!("{files} files need {needed} bytes, but the disk of {folder} has {free} left");
            return Err(Error::invalid(why));
        }
        Ok(())
    }

    async fn fetch_one(&self, places: &Places, asset: &Asset) -> Result<()> {
        let (folder, name) = (self.folder.clone(), asset.key()?);
        let path = blocking(move || local::make_below(&folder, &name)).await?;
        // Under another name until it is compared.
        let new = path.with_file_name(format!("{}.new", file_name(&path)));
        info!(from = %asset.from, to = %path.display(), "fetching");
        places.fetch_inner(&asset.from, &new, u64::MAX, &self.progress).await.context(&asset.from)?;
        let asset = asset.clone();
        blocking(move || asset.put_in_place(&new, &path)).await
    }
}

impl Asset {
    fn key(&self) -> Result<Key> {
        let key = Key::new(self.name.as_str())?;
        local::check(&key).map(|()| key)
    }

    fn reference_hash(&self) -> String {
        hex(Sha256::digest(self.from.expose()))
    }

    /// Whether the file is there, and is what it should be.
    fn is_there(&self, folder: &Path) -> Result<bool> {
        let key = self.key()?;
        let Some(file) = local::open_below(folder, &key)? else {
            return Ok(false);
        };
        let len = file.metadata()?.len();
        let record = fs::read(record(&folder.join(key.as_str()))).ok();
        let record: Option<Record> = record.and_then(|text| serde_json::from_slice(&text).ok());
        let fits = |record: &Record| record.from == self.reference_hash() && record.len == len;
        let wanted = match &self.sha256 {
            Some(sha256) => sha256.clone(),
            None => match record.filter(fits) {
                Some(record) => record.sha256,
                None => return Ok(false),
            },
        };
        Ok(hash(file)? == wanted)
    }

    /// Gives a file that was fetched its name, if it is what it should be.
    fn put_in_place(&self, new: &Path, path: &Path) -> Result<()> {
        let file = File::open(new).with_context(|| format!("opening {}", new.display()))?;
        let len = file.metadata()?.len();
        let sha256 = hash(&file)?;
        if let Some(wanted) = self.sha256.as_ref().filter(|wanted| **wanted != sha256) {
            fs::remove_file(new)?;
            let from = &self.from;
            return Err(Error::invalid(format_args!("{from} has the SHA-256 {sha256}, but should have {wanted}")));
        }
        file.sync_all()?;
        fs::rename(new, path)?;
        let text = serde_json::to_vec(&Record { from: self.reference_hash(), len, sha256 })?;
        // Without it the file is fetched again, so it need not be there at the same moment.
        Ok(fs::write(record(path), text)?)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn record(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.fetched", file_name(path)))
}

/// What the engine calls a file that is on its way.
fn partial(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new.partial", file_name(path)))
}

fn hash(mut file: impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hex(hash.finalize()))
}

fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
