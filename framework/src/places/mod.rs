//! What a job names instead of carrying it: references, and the places that they may lead to.
//!
//! [`Places`] is the list of what references may name: buckets, folders, and hosts that a guard lets through. Nothing
//! else is reachable, whoever writes the reference. [`Download`] and [`Upload`] are stages for it, [`JobFolder`] is a
//! job's own folder in a bucket, and [`Assets`] are files that have to be there before the first job. All of them move
//! bytes by the engine of [`transfer`](crate::store::transfer); nothing here knows what is in a file.
//!
//! ```
//! use forebay::places::{Download, Places, Reference, Upload};
//! use forebay::store::{Content, Memory};
//! use forebay::{Job, Pipeline, Result};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let places = Places::new().bucket("inputs", Memory::new()).bucket("results", Memory::new());
//! # places.send(&"s3://inputs/a.txt".parse()?, Content::bytes("three words here"), forebay::store::Put::Create).await?;
//! let pipeline = Pipeline::new()
//!     .io("download", 16, Download::from(places.clone()).to_memory(64 << 20))
//!     .cpu("words", 2, |job: &Job, text: bytes::Bytes| {
//!         let words = text.split(|byte| *byte == b' ').count();
//!         Ok((format!("s3://results/{}.txt", job.id()).parse()?, Content::bytes(words.to_string())))
//!     })
//!     .io("upload", 16, Upload::to(places).create());
//!
//! let running = pipeline.start().await?;
//! let input: Reference = "s3://inputs/a.txt".parse()?;
//! let uploaded = running.call(input).await?;
//! assert_eq!(uploaded.to, "s3://results/call.txt");
//! # Result::<()>::Ok(()) }).unwrap();
//! ```

mod assets;
mod download;
mod file;
#[cfg(feature = "https")]
mod https;
mod job_folder;
mod local;
#[cfg(feature = "https")]
mod pace;
#[cfg(feature = "https")]
mod page;
mod reference;
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::error::{Context, Error, Result};
#[cfg(feature = "https")]
pub use crate::net::{Guard, Network, Resolve};
#[cfg(feature = "https")]
use crate::store::transfer::Origin;
use crate::store::transfer::{Fetched, fetch_from, get_from};
use crate::store::{Conditional, Content, Key, Outcome, Progress, Put, Store, Transfers};
use file::Local;
use reference::To;

pub use assets::Assets;
pub use download::Download;
#[cfg(feature = "https")]
pub use https::Https;
pub use job_folder::{Finished, JobFolder, Limits, Output};
pub use reference::Reference;
pub use scratch::TempFile;
pub use upload::{Upload, Uploaded};

/// Longest wait for one request, other than for the bytes of an object.
const WITHIN: Duration = Duration::from_secs(60);

/// What references may name. Nothing else is reachable; empty at first. Cheap to clone.
///
/// Whoever may send jobs can have everything read that is here, and have new objects made; what is there already is
/// replaced only where the program says so. So give a bucket or folder of its own to what others must not see.
#[derive(Clone, Default)]
pub struct Places {
    buckets: Arc<BTreeMap<String, Transfers>>,
    folders: Arc<Vec<PathBuf>>,
    #[cfg(feature = "https")]
    https: Option<Https>,
}

impl Places {
    /// No place at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// `s3://name/...` are the objects of `store`, whatever store that is. Where it shows a part of a bucket only, keys are
    /// counted from there.
    pub fn bucket(mut self, name: impl Into<String>, store: impl Store) -> Self {
        Arc::make_mut(&mut self.buckets).insert(name.into(), Transfers::new(store));
        self
    }

    /// `file:///path/...` are the files below the directory `path`, which has to be absolute and may itself be a symbolic
    /// link. Below it none is followed, and only regular files are read.
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.folders).push(path.into());
        self
    }

    /// `https://...` is what a [`Guard`] lets through, or an [`Https`] with other limits. Requires the feature `https`.
    #[cfg(feature = "https")]
    pub fn https(mut self, https: impl Into<Https>) -> Self {
        self.https = Some(https.into());
        self
    }

    /// Checks all of a reference that can be checked without asking anybody, so that a job can be refused early.
    ///
    /// # Errors
    /// `Invalid` where it names no place that is known here, or a URL that the guard refuses.
    pub fn check(&self, reference: &Reference) -> Result<()> {
        self.find(reference).map(drop).context(reference)
    }

    /// Downloads what a reference names into memory, `most` bytes at the most.
    ///
    /// # Errors
    /// `Invalid` where another try would be refused too: the place is not known, there is nothing, it is too long, the
    /// server contradicts itself. `Transient` where store, server or link failed as often as the budget of tries allows.
    /// No error shows a query.
    pub async fn get(&self, reference: &Reference, most: u64) -> Result<Bytes> {
        self.get_inner(reference, most).await.context(reference)
    }

    async fn get_inner(&self, reference: &Reference, most: u64) -> Result<Bytes> {
        match self.find(reference)? {
            Place::Object(transfers, key) => transfers.get(key, most).await,
            Place::File(local) => get_from(local, most).await,
            #[cfg(feature = "https")]
            Place::Url(https) => {
                let page = || https.page(reference.expose(), reference.to_string());
                let ranges = https.bounded(get_from(page()?, most));
                match ranges.await {
                    Err(why) if why.find::<page::NoLength>().is_some() => https.bounded(page()?.collect(most)).await,
                    done => done,
                }
            }
        }
    }

    /// Downloads what a reference names into the file `to`, as [`Transfers::fetch`] does: resumed where an earlier attempt
    /// was cut off, and named `to` when it is whole. Errors as for [`get`](Self::get).
    pub async fn fetch(&self, reference: &Reference, to: impl AsRef<Path>, most: u64) -> Result<Fetched> {
        self.fetch_inner(reference, to.as_ref(), most, &Progress::new()).await.context(reference)
    }

    async fn fetch_inner(&self, reference: &Reference, to: &Path, most: u64, progress: &Progress) -> Result<Fetched> {
        match self.find(reference)? {
            Place::Object(transfers, key) => transfers.clone().at_most(most).counted_in(progress).fetch(key, to).await,
            Place::File(local) => fetch_from(local, to, most, progress).await,
            #[cfg(feature = "https")]
            Place::Url(https) => {
                let page = || https.page(reference.expose(), reference.to_string());
                let ranges = https.bounded(fetch_from(page()?, to, most, progress));
                match ranges.await {
                    Err(why) if why.find::<page::NoLength>().is_some() => {
                        https.bounded(page()?.collect_into(to, most, progress)).await
                    }
                    done => done,
                }
            }
        }
    }

    /// Uploads `content` to where a reference names, if `mode` allows it.
    ///
    /// Where a place cannot make conditions, [`Put::Create`] looks first whether there is something, and then writes: a
    /// rival in between is replaced. A URL is written by PUT with `If-None-Match`, which not every server heeds, and where
    /// `Conflict` may be about an earlier try of this same upload whose answer was lost.
    ///
    /// # Errors
    /// As for [`get`](Self::get), and whatever the content fails with.
    pub async fn send(&self, reference: &Reference, content: Content, mode: Put) -> Result<Outcome> {
        self.send_inner(reference, content, mode).await.context(reference)
    }

    async fn send_inner(&self, reference: &Reference, content: Content, mode: Put) -> Result<Outcome> {
        match self.find(reference)? {
            Place::Object(transfers, key) => send(transfers, key, content, mode).await,
            Place::File(local) => local.write(content, mode).await,
            #[cfg(feature = "https")]
            Place::Url(https) => {
                let url = https.check(reference.expose())?;
                https.bounded(https.put(&url, content, &mode)).await
            }
        }
    }

    /// How long what a reference names is; `None` where that is not said.
    async fn len(&self, reference: &Reference) -> Result<Option<u64>> {
        let missing = || Error::invalid("there is no such object");
        match self.find(reference)? {
            Place::Object(transfers, key) => Ok(Some(transfers.store().head(key).await?.ok_or_else(missing)?.len)),
            Place::File(local) => Ok(Some(local.len().await?.ok_or_else(missing)?)),
            #[cfg(feature = "https")]
            Place::Url(https) => match https.page(reference.expose(), reference.to_string())?.read(0..1, None).await {
                Ok(opened) => Ok(Some(opened.found().ok_or_else(missing)?.len)),
                Err(why) if why.find::<page::NoLength>().is_some() => Ok(None),
                Err(why) => Err(why),
            },
        }
    }

    /// Whether there is something where a reference names.
    pub(crate) async fn exists(&self, reference: &Reference) -> Result<bool> {
        let look = async {
            match self.find(reference)? {
                Place::Object(transfers, key) => Ok::<_, Error>(within(transfers.store().head(key)).await?.is_some()),
                Place::File(local) => Ok(local.len().await?.is_some()),
                #[cfg(feature = "https")]
                Place::Url(_) => Err(Error::invalid("a URL cannot be looked at without reading it")),
            }
        };
        look.await.context(reference)
    }

    /// The store of a reference to a folder of a bucket, and the folder's key.
    pub(crate) fn folder_key(&self, reference: &Reference) -> Result<(Arc<dyn Store>, Key)> {
        let found = self
            .prefix(reference)
            .and_then(|(transfers, prefix)| Ok((transfers.store().clone(), Key::new(prefix.trim_end_matches('/'))?)));
        found.context(reference)
    }

    /// The bucket of a reference to a prefix, and the prefix.
    fn prefix<'a>(&'a self, reference: &'a Reference) -> Result<(&'a Transfers, &'a str)> {
        match &reference.to {
            To::Prefix { bucket, prefix } => Ok((self.store(bucket)?, prefix)),
            _ => Err(Error::invalid("names no folder of a bucket; write s3://bucket/folder/")),
        }
    }

    fn store(&self, bucket: &str) -> Result<&Transfers> {
        let unknown = || Error::invalid("a bucket that this worker does not know; name it with Places::bucket");
        self.buckets.get(bucket).ok_or_else(unknown)
    }

    fn find<'a>(&'a self, reference: &'a Reference) -> Result<Place<'a>> {
        match &reference.to {
            To::Object { bucket, key } => Ok(Place::Object(self.store(bucket)?, key)),
            To::Prefix { .. } => Err(Error::invalid("names a folder, not one object")),
            To::File(path) => {
                let below = |root: &PathBuf| Some((root.clone(), path.strip_prefix(root).ok()?.to_str()?));
                let found = self.folders.iter().filter(|root| root.is_absolute()).find_map(below);
                let unknown =
                    || Error::invalid("not below a folder that this worker knows; name it with Places::folder");
                let (root, rest) = found.ok_or_else(unknown)?;
                Ok(Place::File(Local { root, key: Key::new(rest)? }))
            }
            #[cfg(feature = "https")]
            To::Url => {
                let unknown = || Error::invalid("this worker follows no URLs; allow it with Places::https");
                let https = self.https.as_ref().ok_or_else(unknown)?;
                https.check(reference.expose())?;
                Ok(Place::Url(https))
            }
            #[cfg(not(feature = "https"))]
            To::Url => Err(Error::invalid("this worker follows no URLs: it is built without the feature `https`")),
        }
    }
}

/// Where one reference leads.
enum Place<'a> {
    Object(&'a Transfers, &'a Key),
    File(Local),
    #[cfg(feature = "https")]
    Url(&'a Https),
}

/// Writes an object; what a store cannot do on condition is looked up first.
async fn send(transfers: &Transfers, key: &Key, content: Content, mode: Put) -> Result<Outcome> {
    if mode != Put::Create || transfers.store().conditional() != Conditional::None {
        return transfers.send(key, content, mode).await;
    }
    match within(transfers.store().head(key)).await? {
        Some(_) => Ok(Outcome::Conflict),
        None => transfers.send(key, content, Put::Overwrite).await,
    }
}

/// One request, other than for the bytes of an object.
async fn within<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("no answer within {WITHIN:?}")));
    timeout(WITHIN, request).await.unwrap_or_else(late)
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Places");
        shown.field("buckets", &self.buckets.keys()).field("folders", &self.folders);
        #[cfg(feature = "https")]
        shown.field("https", &self.https);
        shown.finish()
    }
}
