//! Objects in a bucket of Amazon S3, or of any store that speaks its protocol.
//!
//! ```no_run
//! use forebay::store::{Content, Key, Put, S3, Store};
//!
//! # async fn upload() -> forebay::Result<()> {
//! let results = S3::at("s3://results/team-a").region("eu-central-1").open().await?;
//! let report = Content::file("/data/report.pdf");
//! results.write(&Key::new("2030/report.pdf")?, report, Put::Create).await?;
//! # Ok(()) }
//! ```
//!
//! # What is asked before anything is relied on
//! Opening a bucket writes a few bytes below `.forebay-probe/` and deletes them. It finds out whether the store looks at
//! checksums, and of which kind, and whether conditional writes are atomic: twelve writers race to create one object, twice,
//! and exactly one has to win. Where they are not, [`Put::Create`] and [`Put::Match`] are refused and
//! [`conditional`](Store::conditional) says `None`. Where nothing may be written, the bucket is only read.
//!
//! # Integrity
//! Uploads carry a CRC-64/NVME that the store compares and keeps, computed while the bytes are sent; to stores that do not
//! take it so, it is sent before them; to those that know none, an MD5 of each part, and the CRC in the object's metadata
//! unless the content is a stream. Downloads by [`Transfers`](super::Transfers) are compared with what the store keeps, of
//! whichever program: CRC-64/NVME, CRC-32C and CRC-32, of the whole or of parts. An ETag is a version here and never a
//! check.
//!
//! # TLS
//! Certificates are those that Mozilla's authorities have signed, or the authorities in the PEM file that `AWS_CA_BUNDLE`
//! names.
//!
//! # What interruptions leave behind
//! An upload in parts that is cut off is finished by the next one of the same file to the same key from the same machine,
//! or cleaned up when a bucket is opened next; it is noted in a folder for that. What a lost machine leaves is beyond that:
//! give the bucket a rule that aborts incomplete multipart uploads after some days.
//!
//! # Permissions
//! `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject`, `s3:AbortMultipartUpload` and `s3:ListMultipartUploadParts` on the
//! objects; `s3:ListBucket` and `s3:ListBucketMultipartUploads` on the bucket. Without `s3:ListBucket`, AWS answers that a
//! missing object is forbidden.

mod bucket;
mod fault;
mod feed;
mod journal;
mod multipart;
mod part;
mod probe;
mod provider;
mod send;
mod settings;
mod upload;
mod watch;
mod wire;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::time::sleep;
use tracing::debug;

use super::transfer::{Budget, Lanes, MOVES_WITHIN};
use super::{
    Conditional, Content, Key, Meta, Misconfigured, Object, Opened, Outcome, Page, Put, Reading, Store, Version,
    blocking,
};
use crate::error::{Context, Error, Fault, Result};
use bucket::{Bucket, Facts};
use fault::Means;
use journal::Journal;
use provider::Integrity;
pub use provider::Provider;
pub use settings::S3Settings;

/// Most that [`Store::get`] takes into memory.
const GET_MOST: usize = 1 << 30;
/// Pages of a list that are read for one, where they hold nothing that is a key.
const EMPTY_PAGES: usize = 1000;

/// Objects in a bucket, below a prefix. A clone is another handle on the same connections.
#[derive(Clone)]
pub struct S3 {
    inner: Arc<Inner>,
}

struct Inner {
    bucket: Bucket,
    /// What every key begins with: empty, or ending with a slash.
    prefix: String,
    integrity: Integrity,
    conditional: Conditional,
    /// Nothing could be written when it was opened.
    denied: bool,
    read_only: bool,
    /// Of uploads; downloads have others.
    lanes: Lanes,
    journals: PathBuf,
    /// The endpoint and the bucket, as journals name them.
    place: String,
}

impl S3 {
    /// The bucket and the prefix that `url` names, as in `s3://bucket` or `s3://bucket/some/prefix`, to be
    /// [opened](S3Settings::open).
    pub fn at(url: impl Into<String>) -> S3Settings {
        S3Settings::new(url.into())
    }

    /// The bucket that the environment names: `FOREBAY_S3`, as in `s3://bucket/prefix`, which must be set;
    /// `FOREBAY_S3_ENDPOINT`, `FOREBAY_S3_REGION`, `FOREBAY_S3_PROVIDER` and `FOREBAY_S3_UPLOADS`. See [`S3Settings`].
    ///
    /// # Errors
    /// A setting that is missing or not what it should be.
    pub fn from_env() -> Result<S3Settings> {
        S3Settings::from_env()
    }

    /// Ends uploads in parts below this prefix that were begun longer ago than `age` by this machine's clock, whoever
    /// began them, and says how many. For what lost machines left behind: `age` should be longer than any upload takes,
    /// and than clocks differ.
    pub async fn abort_uploads(&self, age: Duration) -> Result<usize> {
        self.inner.may_write()?;
        let Inner { bucket, prefix, .. } = &*self.inner;
        let mut ended = 0;
        for upload in self.inner.asked(|| bucket.uploads(prefix)).await.context("listing open uploads")? {
            if SystemTime::now().duration_since(upload.begun).is_ok_and(|open| open >= age) {
                self.inner.asked(|| bucket.abort(&upload.key, &upload.id)).await.context("ending an open upload")?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// How many uploads in parts are open below this prefix, up to a thousand.
    pub async fn open_uploads(&self) -> Result<usize> {
        let Inner { bucket, prefix, .. } = &*self.inner;
        Ok(self.inner.asked(|| bucket.uploads(prefix)).await.context("listing open uploads")?.len())
    }
}

impl Inner {
    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Asks as often as the budget allows.
    async fn asked<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let mut budget = Budget::default();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(why) => sleep(budget.spend(why, 0)?).await,
            }
        }
    }

    /// One attempt.
    async fn read(&self, key: &Key, range: Range<u64>, of: Option<&Version>) -> Result<Opened> {
        let (full, whole) = (self.full(key), range == (0..u64::MAX));
        if range.start > range.end {
            return Err(Error::invalid(format_args!("range {range:?} of {key}")));
        }
        if range.is_empty() {
            return self.nothing(key, range, of).await;
        }
        let answer = match self.bucket.get(&full, (!whole).then_some(&range), of).await {
            Ok(answer) => answer,
            Err(why) => match fault::means(&why) {
                Some(Means::Missing) => return Ok(Opened::Missing),
                Some(Means::Condition) => return Ok(Opened::Changed),
                Some(Means::BeyondEnd) => return self.nothing(key, range, of).await,
                _ => return Err(why),
            },
        };
        // Not every store looks at the condition.
        if of.is_some_and(|of| *of != answer.facts.version) {
            return Ok(Opened::Changed);
        }
        let Facts { len, version, checksum, modified, .. } = answer.facts;
        if range.start > len {
            return Err(Error::invalid(format_args!("range {range:?} of {key}, which has {len} bytes")));
        }
        Ok(Opened::Found(Reading { len, version, checksum, modified, range: answer.range, body: answer.body }))
    }

    /// A range without bytes: S3 has no such thing.
    async fn nothing(&self, key: &Key, range: Range<u64>, of: Option<&Version>) -> Result<Opened> {
        let Some(facts) = self.bucket.head(&self.full(key), false).await? else {
            return Ok(Opened::Missing);
        };
        if of.is_some_and(|of| *of != facts.version) {
            return Ok(Opened::Changed);
        }
        let meta = meta(key.clone(), facts);
        let range = meta.clamp(range)?;
        if !range.is_empty() {
            return Err(Error::transient(format_args!("{key} has bytes where the store says that it ends")));
        }
        let Meta { len, version, checksum, modified, .. } = meta;
        Ok(Opened::Found(Reading { len, version, checksum, modified, range, body: stream::empty().boxed() }))
    }

    /// All bytes of a range in memory, tried again.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Option<Object>> {
        let mut budget = Budget::default();
        loop {
            match self.get_once(key, range.clone()).await {
                Ok(object) => return Ok(object),
                Err(why) => sleep(budget.spend(why, 0)?).await,
            }
        }
    }

    async fn get_once(&self, key: &Key, range: Range<u64>) -> Result<Option<Object>> {
        let Opened::Found(reading) = self.read(key, range.clone(), None).await? else {
            return Ok(None);
        };
        let (len, version, checksum) = (reading.len, reading.version.clone(), reading.checksum);
        let meta = Meta { key: key.clone(), len, version, modified: reading.modified, checksum };
        let (asked, given) = (meta.clamp(range)?, reading.range.clone());
        let bytes = reading.moving(MOVES_WITHIN).collect(GET_MOST).await?;
        if given == (0..len) && checksum.is_some_and(|checksum| !checksum.holds_all(&bytes)) {
            return Err(Error::transient(format_args!("{key} came damaged")));
        }
        if given.start > asked.start || given.end < asked.end {
            return Err(Error::transient(format_args!(
                "the answer has {given:?} of {key}, but {asked:?} was asked for"
            )));
        }
        let skip = usize::try_from(asked.start - given.start)?;
        let bytes = bytes.slice(skip..skip + usize::try_from(asked.end - asked.start)?);
        Ok(Some(Object { meta, bytes }))
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page> {
        if limit == 0 {
            return Err(Error::invalid("the limit is 0"));
        }
        let full = format!("{}{prefix}", self.prefix);
        let mut from = after.map(|after| self.full(after));
        match from.as_deref() {
            // Not every store puts these two together as it should.
            Some(after) if after < full.as_str() => from = None,
            Some(after) if !after.starts_with(&full) => return Ok(Page::default()),
            _ => {}
        }
        for _ in 0..EMPTY_PAGES {
            let (found, more) = self.asked(|| self.bucket.list(&full, from.as_deref(), limit)).await?;
            from = found.last().map(|(key, _)| key.clone());
            let keys = found.into_iter().filter_map(|(name, facts)| {
                // What no key can spell, such as the `folder/` of some consoles, is not from here.
                let key = Key::new(name.strip_prefix(&self.prefix)?).ok()?;
                Some(meta(key, facts))
            });
            let objects: Vec<Meta> = keys.collect();
            if !more || from.is_none() {
                return Ok(Page { objects, next: None });
            }
            if let Some(last) = objects.last() {
                let next = Some(last.key.clone());
                return Ok(Page { objects, next });
            }
        }
        Err(Error::failed(format_args!("{EMPTY_PAGES} pages of {full:?} hold no key")))
    }

    fn allows(&self, mode: &Put) -> Result<()> {
        self.may_write()?;
        if *mode == Put::Overwrite || self.conditional != Conditional::None {
            return Ok(());
        }
        let name = &self.bucket.name;
        if self.denied {
            let advice = format!(
                "nothing could be written to `{name}` when it was opened, so whether {mode:?} can be relied on is not \
                 known: give this worker's keys the permission, and start it anew"
            );
            return Err(Error::new(Fault::Invalid, Misconfigured { advice, said: None }));
        }
        Err(Error::invalid(format_args!(
            "`{name}` has no conditional writes that can be relied on, but {mode:?} is one"
        )))
    }

    fn may_write(&self) -> Result<()> {
        let name = &self.bucket.name;
        if self.read_only {
            return Err(Error::invalid(format_args!("`{name}` was opened to be read only")));
        }
        Ok(())
    }

    /// Ends the uploads that were cut off and that nobody will finish.
    async fn clean_up(&self) {
        let (folder, place) = (self.journals.clone(), self.place.clone());
        let abandoned = blocking(move || Ok(Journal::abandoned(&folder, &place))).await;
        for journal in abandoned.unwrap_or_default() {
            match self.bucket.abort(&journal.head.key, &journal.head.id).await {
                Ok(()) => journal.forget(),
                Err(why) => debug!(key = journal.head.key, %why, "an upload that was cut off is still open"),
            }
        }
    }
}

fn meta(key: Key, facts: Facts) -> Meta {
    let Facts { len, version, modified, checksum, .. } = facts;
    Meta { key, len, version, modified, checksum }
}

fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { bucket, prefix, integrity, conditional, .. } = &*self.inner;
        let mut shown = f.debug_struct("S3");
        shown.field("bucket", &bucket.name).field("prefix", prefix);
        shown.field("integrity", integrity).field("conditional", conditional).finish_non_exhaustive()
    }
}

impl Store for S3 {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move { self.inner.get(key, 0..u64::MAX).await.context(format_args!("getting {key}")) })
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move { self.inner.get(key, range).await.context(format_args!("getting a range of {key}")) })
    }

    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move { self.inner.read(key, range, of).await.context(format_args!("reading {key}")) })
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        let full = self.inner.full(key);
        Box::pin(async move {
            let facts = self.inner.asked(|| self.inner.bucket.head(&full, true)).await;
            Ok(facts.context(format_args!("looking at {key}"))?.map(|facts| meta(key.clone(), facts)))
        })
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.inner.allows(&mode)?;
            let put = self.inner.upload(&self.inner.full(key), Content::bytes(bytes), &mode).await;
            put.context(format_args!("putting {key}"))
        })
    }

    fn write<'a>(&'a self, key: &'a Key, content: Content, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.inner.allows(&mode)?;
            let written = self.inner.upload(&self.inner.full(key), content, &mode).await;
            written.context(format_args!("writing {key}"))
        })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        let full = self.inner.full(key);
        Box::pin(async move {
            self.inner.may_write()?;
            self.inner.asked(|| self.inner.bucket.delete(&full)).await.context(format_args!("deleting {key}"))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { self.inner.list(prefix, after, limit).await.context(format_args!("listing {prefix:?}")) })
    }

    fn conditional(&self) -> Conditional {
        self.inner.conditional
    }
}
