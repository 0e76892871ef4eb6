//! A job's folder in a bucket: `input/`, `state/` and `output/` below one prefix, which is all that the job names.
//!
//! It owns the way of the inputs to this node and of the outputs back. It promises that a job has one output: each attempt
//! uploads under a name of its own, and `output.json`, which can only be created, says whose stands. So an attempt that
//! was thought dead overwrites nothing, and what a lost one left half-way is never taken for a result. It writes nothing
//! to `state/`, which is for checkpoints.
//!
//! ```text
//! jobs/123/input/...                   downloaded
//! jobs/123/state/...                   checkpoints
//! jobs/123/output/attempt-<n>/...      what one attempt has made
//! jobs/123/output.json                 which attempt's files are the output, and which files these are
//! ```

use std::collections::HashSet;
use std::fs;
use std::future::ready;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::scratch::Scratch;
use super::{Places, Reference, local, send, within};
use crate::error::{Context, Error, Result};
use crate::store::blocking;
use crate::store::{Content, Key, Meta, Outcome, Put, Transfers};

/// Files that are moved at once, each of them in ranges.
const AT_ONCE: usize = 8;
/// Objects in one page of a list.
const PAGE: usize = 1000;
/// Directories in directories of an output.
const DEEPEST: usize = 32;
const ATTEMPT: &str = "attempt-";

/// How much a job's folder may have, in its inputs and again in its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files. Default 10,000.
    pub files: usize,
    /// Bytes in all of them. Default 50 GiB.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { files: 10_000, bytes: 50 << 30 }
    }
}

/// A job's folder, with its inputs on the local disk. What is local is removed when this is dropped.
///
/// ```
/// # use forebay::places::{JobFolder, Limits, Places, Reference};
/// # use forebay::store::{Content, Memory, Put};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let places = Places::new().bucket("bucket", Memory::new());
/// # places.send(&"s3://bucket/jobs/123/input/a.txt".parse()?, Content::bytes("a"), Put::Create).await?;
/// # let scratch = tempfile::tempdir()?;
/// # let scratch = scratch.path();
/// let reference: Reference = "s3://bucket/jobs/123/".parse()?;
/// let folder = JobFolder::open(&places, &reference, scratch, Limits::default()).await?;
/// let text = std::fs::read_to_string(folder.input().join("a.txt"))?;
/// std::fs::write(folder.output().join("b.txt"), text.to_uppercase())?;
/// let finished = folder.finish().await?;
/// assert_eq!(finished.output.files[0].name, "b.txt");
/// # forebay::Result::<()>::Ok(()) }).unwrap();
/// ```
pub struct JobFolder {
    transfers: Transfers,
    bucket: Prefix,
    scratch: Scratch,
    limits: Limits,
}

/// What a job has made: the content of `output.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Which attempt made it.
    pub attempt: String,
    /// Its files, in the order of their names.
    pub files: Vec<OutputFile>,
}

/// One file of an [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Its path below the local `output` folder.
    pub name: String,
    /// Its key in the bucket.
    pub key: String,
    /// Its length, in bytes.
    pub len: u64,
}

/// How a job's folder was finished.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "another attempt may have been first"]
pub struct Finished {
    /// The job's one output.
    pub output: Output,
    /// Whether this attempt made it. Otherwise another was first, and what this one had uploaded is removed again.
    pub ours: bool,
}

/// The keys of one job.
#[derive(Clone, Debug)]
struct Prefix(String);

impl Prefix {
    fn key(&self, rest: impl std::fmt::Display) -> Result<Key> {
        Key::new(format!("{}{rest}", self.0))
    }
}

impl JobFolder {
    /// Downloads all that is below `input/` of the job's folder, such as `s3://bucket/jobs/123/`, to a folder of its own
    /// below `scratch`, several files at once, and makes empty local folders for state and output.
    ///
    /// # Errors
    /// `Invalid` where the reference names no folder in a known bucket, there is more than the limits allow, or a key makes
    /// no path ([`Places`] follows no link and leaves no folder). Else as [`Places::fetch`].
    pub async fn open(
        places: &Places,
        reference: &Reference,
        scratch: impl Into<PathBuf>,
        limits: Limits,
    ) -> Result<Self> {
        let scratch = scratch.into();
        let open = async {
            let (transfers, prefix) = places.prefix(reference)?;
            let (transfers, bucket) = (transfers.clone(), Prefix(prefix.to_owned()));
            let scratch = blocking(move || {
                let scratch = Scratch::below(&scratch)?;
                for name in ["input", "state", "output"] {
                    fs::create_dir(scratch.path().join(name))?;
                }
                Ok(scratch)
            });
            let folder = JobFolder { transfers, bucket, scratch: scratch.await?, limits };
            folder.download().await.map(|()| folder)
        };
        open.await.context(reference)
    }

    /// What the job has made already, where an attempt has finished it.
    pub async fn finished(places: &Places, reference: &Reference) -> Result<Option<Output>> {
        let (transfers, prefix) = places.prefix(reference).context(reference)?;
        output(transfers, &Prefix(prefix.to_owned())).await.context(reference)
    }

    /// The local folder that has the inputs.
    pub fn input(&self) -> PathBuf {
        self.scratch.path().join("input")
    }

    /// A local folder for whatever is to be kept while the job runs. It is uploaded by nobody but the job's own checkpoints.
    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// The local folder whose files are uploaded at the end.
    pub fn output(&self) -> PathBuf {
        self.scratch.path().join("output")
    }

    /// The key of `name` below the job's `state/`, for checkpoints. `Invalid` as for [`Key::new`].
    pub fn state_key(&self, name: impl std::fmt::Display) -> Result<Key> {
        self.bucket.key(format_args!("state/{name}"))
    }

    async fn download(&self) -> Result<()> {
        let prefix = format!("{}input/", self.bucket.0);
        let found = self.list(&prefix).await?;
        can_be_files(&found)?;
        let root = self.input();
        let fetch = |meta: Meta| {
            let (root, prefix) = (root.clone(), prefix.len());
            async move {
                let name = Key::new(&meta.key.as_str()[prefix..])?;
                let path = blocking(move || local::make_below(&root, &name)).await?;
                // Its length when it was listed is what the limits have counted.
                self.transfers.clone().at_most(meta.len).fetch(&meta.key, path).await
            }
        };
        stream::iter(found).map(fetch).buffer_unordered(AT_ONCE).try_for_each(|_| ready(Ok(()))).await
    }

    /// All objects below `prefix`, as far as the limits allow.
    async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        let (mut found, mut bytes, mut after) = (Vec::new(), 0u64, None);
        loop {
            let page = within(self.transfers.store().list(prefix, after.as_ref(), PAGE)).await?;
            bytes = page.objects.iter().fold(bytes, |bytes, meta| bytes.saturating_add(meta.len));
            found.extend(page.objects);
            self.limits.check(found.len(), bytes)?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Uploads all files of the local output folder and makes them the job's output, if no other attempt has made its own.
    ///
    /// Called again after an error, it uploads anew. Where the store cannot make conditions, an attempt that is first and one
    /// that finishes in the same moment may each believe that its output stands; one does.
    ///
    /// # Errors
    /// `Invalid` where there is anything but files and directories in it, a name is none for a key, or there is more than
    /// the limits allow. Else what the store says.
    pub async fn finish(&self) -> Result<Finished> {
        if let Some(output) = output(&self.transfers, &self.bucket).await? {
            return Ok(Finished { output, ours: false });
        }
        let (root, limits) = (self.output(), self.limits);
        let files = blocking(move || files_below(&root, limits)).await?;
        let attempt = format!("{ATTEMPT}{:016x}", fastrand::u64(..));
        let prefix = format!("{}output/{attempt}/", self.bucket.0);
        let upload = |(name, len): (Key, u64)| {
            let (prefix, path) = (&prefix, self.output().join(name.as_str()));
            async move {
                let key = Key::new(format!("{prefix}{name}"))?;
                // The key is this call's own: where there is something, a try whose answer was lost was heard after all.
                let _ = send(&self.transfers, &key, Content::file(path), Put::Create).await?;
                Ok::<_, Error>(OutputFile { name: name.to_string(), key: key.to_string(), len })
            }
        };
        let mut files: Vec<OutputFile> =
            stream::iter(files).map(upload).buffer_unordered(AT_ONCE).try_collect().await?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let ours = Output { attempt, files };
        let key = self.bucket.key("output.json")?;
        let text = serde_json::to_vec(&ours).context("writing output.json")?;
        let created = within(send(&self.transfers, &key, Content::bytes(text), Put::Create)).await?;
        let output = match created {
            Outcome::Stored(_) => ours.clone(),
            Outcome::Conflict => output(&self.transfers, &self.bucket).await?.unwrap_or_else(|| ours.clone()),
        };
        let is_ours = output.attempt == ours.attempt;
        self.tidy(&output.attempt, &ours.attempt, is_ours).await;
        Ok(Finished { output, ours: is_ours })
    }

    /// Removes what attempts have left that made no output: all others' if ours stands, else our own. What cannot be
    /// removed is in nobody's way.
    async fn tidy(&self, stands: &str, ours: &str, all: bool) {
        let below = format!("{}output/", self.bucket.0);
        let prefix = if all { format!("{below}{ATTEMPT}") } else { format!("{below}{ours}/") };
        let Ok(found) = self.list(&prefix).await else { return };
        let keep = format!("{below}{stands}/");
        let remove = found.into_iter().filter(|meta| !meta.key.as_str().starts_with(&keep));
        let delete = |meta: Meta| async move {
            if let Err(why) = within(self.transfers.store().delete(&meta.key)).await {
                tracing::debug!(key = %meta.key, %why, "what an attempt left could not be removed");
            }
        };
        stream::iter(remove).for_each_concurrent(AT_ONCE, delete).await;
    }
}

impl std::fmt::Debug for JobFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobFolder({:?} in {})", self.bucket.0, self.scratch.path().display())
    }
}

impl Limits {
    fn check(&self, files: usize, bytes: u64) -> Result<()> {
        let Limits { files: most, bytes: most_bytes } = *self;
        if files > most {
            return Err(Error::invalid(format_args!("more than {most} files; raise Limits::files if that is right")));
        }
        if bytes > most_bytes {
            let why = format_args!("more than {most_bytes} bytes; raise Limits::bytes if that is right");
            return Err(Error::invalid(why));
        }
        Ok(())
    }
}

/// In a bucket there may be both `a` and `a/b`, on a disk not.
fn can_be_files(found: &[Meta]) -> Result<()> {
    let keys: HashSet<&str> = found.iter().map(|meta| meta.key.as_str()).collect();
    for key in &keys {
        let mut parents = key.match_indices('/').map(|(end, _)| &key[..end]);
        if let Some(parent) = parents.find(|parent| keys.contains(parent)) {
            return Err(Error::invalid(format_args!("{parent:?} is an object, and {key:?} wants it as a folder")));
        }
    }
    Ok(())
}

async fn output(transfers: &Transfers, bucket: &Prefix) -> Result<Option<Output>> {
    let key = bucket.key("output.json")?;
    let Some(found) = within(transfers.store().get(&key)).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&found.bytes).map(Some).with_context(|| format!("reading {key}"))
}

/// The files below a folder and their lengths. Anything that is neither file nor directory is refused: a link could lead
/// to what nobody wanted to publish.
fn files_below(root: &Path, limits: Limits) -> Result<Vec<(Key, u64)>> {
    let (mut found, mut bytes) = (Vec::new(), 0u64);
    let mut dirs = vec![(root.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| Error::invalid(format_args!("output: {name:?} is not UTF-8")))?;
            let (name, kind) = (format!("{prefix}{name}"), entry.file_type()?);
            if kind.is_dir() && depth < DEEPEST {
                dirs.push((entry.path(), format!("{name}/"), depth + 1));
                continue;
            }
            if !kind.is_file() {
                let why = format_args!("output: {name:?} is no file, or more than {DEEPEST} directories deep");
                return Err(Error::invalid(why));
            }
            let len = entry.metadata()?.len();
            bytes = bytes.saturating_add(len);
            found.push((Key::new(name)?, len));
            limits.check(found.len(), bytes).context("output")?;
        }
    }
    Ok(found)
}
