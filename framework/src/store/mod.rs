//! Bytes by key: where inputs, results and checkpoints live between one worker and the next.
//!
//! This module owns the [`Store`] trait and the words it speaks in. It promises that every store means the same by
//! a key, a version and a lost race; the suite in `testing::store` holds each of them to it. It deliberately knows
//! nothing of checkpoints. What is small goes through memory (`get`, `put`), what may be large is a stream (`read`,
//! `write`); [`Transfers`] moves whole files, fast and in parts.

mod checksum;
pub(crate) mod content;
mod fs;
mod memory;
pub(crate) mod progress;
mod reading;
#[cfg(feature = "s3")]
pub mod s3;
pub mod transfer;

use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};

use crate::error::{Context, Error, Result};

pub use checksum::{Algorithm, Checksum, Comparison, Crc};
pub use content::Content;
pub use fs::Folder;
pub use memory::Memory;
pub use progress::Progress;
pub use reading::{Opened, Reading};
#[cfg(feature = "s3")]
pub use s3::{Provider, S3, S3Settings};
pub use transfer::Transfers;

/// What an operator has to set right before a store takes anything: its keys, its bucket. Found with [`Error::find`].
#[derive(Debug)]
#[cfg_attr(not(feature = "s3"), allow(dead_code, reason = "for stores over a network"))]
pub(crate) struct Misconfigured {
    pub(crate) advice: String,
    /// What the store said.
    pub(crate) said: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)
    }
}

impl std::error::Error for Misconfigured {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.said.as_ref()?)
    }
}

/// Named objects in one flat space, each replaced as a whole.
///
/// What every implementation promises:
///
/// - A write is atomic, and durable once it is answered: readers see the old object or the new one, never a mixture.
/// - Reads and lists that begin after a write was answered see it.
/// - A missing object is an answer (`Ok(None)`), and so is a lost race ([`Outcome::Conflict`]). Errors are for faults.
/// - An *error* from `put` or `delete`, or its future dropped half-way, leaves the outcome unknown: the write may have
///   happened, or may still. A store that repeats a request by itself must not take its own first try for a rival:
///   before it answers `Conflict` it has to read back whose write is there. A caller that needs to know puts an
///   identity of its own into the bytes and reads them back.
///
/// Sharing: any number of tasks, and as far as the store's medium reaches, of processes.
pub trait Store: Send + Sync + 'static {
    /// The whole object, or `None` where there is none.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>>;

    /// The bytes from `range.start` up to `range.end`, cut at the object's end; `meta` still describes all of it.
    ///
    /// `Invalid` if the range is reversed, or begins beyond the end ([`Meta::clamp`] decides that for every store).
    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>>;

    /// Opens the bytes of `range`, cut at the object's end, as a stream; `of` asks for one version of the object, so that
    /// parts which are read one after another fit together.
    ///
    /// A store may give more than was asked for, up to the whole object: [`Reading::range`] tells. Missing objects and
    /// other versions are answers ([`Opened`]); `Invalid` as for [`get_range`](Self::get_range). An error in the middle of
    /// the stream ends it; a stream that ends by itself has given all bytes of the range.
    ///
    /// Default: [`get_range`](Self::get_range), in one piece.
    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            let Some(object) = self.get_range(key, range.clone()).await? else {
                return Ok(Opened::Missing);
            };
            if of.is_some_and(|of| *of != object.meta.version) {
                return Ok(Opened::Changed);
            }
            object.into_reading(range).map(Opened::Found)
        })
    }

    /// What [`get`](Self::get) would say of the object, without its bytes.
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>>;

    /// Writes the object if `mode` allows it.
    ///
    /// A mode that the store cannot keep atomic ([`conditional`](Self::conditional)) is refused as `Invalid`.
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>>;

    /// Writes an object of any size if `mode` allows it, from a file, a buffer or a stream, without holding all of it in
    /// memory where the store's medium lets it. Else as [`put`](Self::put). Content that is not what it should be (a file
    /// that changes or cannot be read, a stream that fails) is an error, and then nothing was written.
    ///
    /// Default: [`put`](Self::put), of all of it.
    fn write<'a>(&'a self, key: &'a Key, content: Content, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let progress = content.progress.clone();
            let bytes = content.collect().await?;
            let len = bytes.len() as u64;
            progress.expect(len);
            let outcome = self.put(key, bytes, mode).await?;
            progress.moved(len);
            Ok(outcome)
        })
    }

    /// Removes the object; it is no error that there is none.
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>>;

    /// The first objects, at most `limit` and in byte order of their keys, whose keys begin with the string `prefix`
    /// and come after `after` (which need not exist). A slash means nothing here: `a` is a prefix of `ab`.
    ///
    /// `Invalid` if `limit` is 0. The store may answer with fewer than `limit`; only [`Page::next`] tells the end.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>>;

    /// How far [`Put::Create`] and [`Put::Match`] can be trusted here.
    fn conditional(&self) -> Conditional;
}

/// Conveniences. They stand outside the trait so that no store can give them another meaning.
impl dyn Store + '_ {
    /// Every object whose key begins with `prefix`, page by page into one vector. For prefixes known to be small.
    pub async fn list_all(&self, prefix: &str) -> Result<Vec<Meta>> {
        let mut page = self.list(prefix, None, PAGE).await?;
        let mut all = page.objects;
        while let Some(after) = page.next {
            page = self.list(prefix, Some(&after), PAGE).await?;
            all.append(&mut page.objects);
        }
        Ok(all)
    }

    /// Deletes every object whose key begins with `prefix`, one by one, and says how many. Not atomic.
    pub async fn delete_all(&self, prefix: &str) -> Result<usize> {
        let found = self.list_all(prefix).await?;
        for meta in &found {
            self.delete(&meta.key).await?;
        }
        Ok(found.len())
    }
}

/// Runs what may block on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("file thread")?
}

/// Objects in one request of `list_all`: what S3 gives at most.
const PAGE: usize = 1000;

/// A shared store is a store.
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        (**self).get(key)
    }
    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        (**self).get_range(key, range)
    }
    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        (**self).read(key, range, of)
    }
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        (**self).head(key)
    }
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        (**self).put(key, bytes, mode)
    }
    fn write<'a>(&'a self, key: &'a Key, content: Content, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        (**self).write(key, content, mode)
    }
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        (**self).delete(key)
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        (**self).list(prefix, after, limit)
    }
    fn conditional(&self) -> Conditional {
        (**self).conditional()
    }
}

/// An object's name: segments with slashes between them, checked once, here, so that no store has to.
///
/// Both `a` and `a/b` may exist. Keys are compared byte by byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Longest key, in bytes of UTF-8.
    pub const MAX_LEN: usize = 1024;
    /// Longest segment, in bytes of UTF-8: what a file system takes as a name.
    pub const MAX_SEGMENT: usize = 255;

    /// Checks a key. `Invalid` if it is longer than [`MAX_LEN`](Self::MAX_LEN), holds a backslash or a control
    /// character (NUL is one; an S3 listing could not spell the others), or has a segment that is empty (so also a
    /// slash at either end), is `.` or `..`, or is longer than [`MAX_SEGMENT`](Self::MAX_SEGMENT).
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self> {
        let key = key.into();
        match Self::defect(&key) {
            None => Ok(Self(key)),
            // Shortened, since a refused key can be of any length; quoted with escapes, since it can hold anything.
            Some(why) => {
                let start: String = key.chars().take(80).collect();
                Err(Error::invalid(format_args!("store key {start:?}: {why}")))
            }
        }
    }

    /// This key, a slash, and `rest`; `rest` may have several segments. `Invalid` as for [`new`](Self::new).
    pub fn join(&self, rest: impl fmt::Display) -> Result<Self> {
        Self::new(format!("{self}/{rest}"))
    }

    /// The key as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is between the slashes; at least one segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    fn defect(key: &str) -> Option<&'static str> {
        if key.len() > Self::MAX_LEN {
            return Some("longer than 1024 bytes");
        }
        if key.contains('\\') {
            return Some("holds a backslash");
        }
        if key.contains(char::is_control) {
            return Some("holds a control character");
        }
        key.split('/').find_map(|segment| match segment {
            "" => Some("empty, or has an empty segment"),
            "." | ".." => Some("has a segment `.` or `..`"),
            long if long.len() > Self::MAX_SEGMENT => Some("has a segment longer than 255 bytes"),
            _ => None,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Sound because a key orders and hashes as its string does; lets maps of keys be searched by prefix.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which write an object is from. Opaque: only equality means something, and only between versions of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// For implementers: whatever text the store tells writes apart by.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text given to [`new`](Self::new).
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a store knows of an object besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub key: Key,
    /// Length of the whole object, in bytes.
    pub len: u64,
    /// The write it is from.
    pub version: Version,
    /// About when that write was, by the store's clock and with the store's precision.
    pub modified: SystemTime,
    /// What the store says of its bytes, where it does; a list says nothing.
    pub checksum: Option<Checksum>,
}

impl Meta {
    /// The part of `range` that the object has. `Invalid` if the range is reversed or begins beyond the object's end;
    /// to begin *at* the end is allowed and gives nothing.
    pub fn clamp(&self, range: Range<u64>) -> Result<Range<u64>> {
        if range.start > range.end || range.start > self.len {
            let Self { key, len, .. } = self;
            return Err(Error::invalid(format_args!("range {range:?} of {key}, which has {len} bytes")));
        }
        Ok(range.start..range.end.min(self.len))
    }
}

/// Bytes that were read, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Describes the whole object, also where only a range of it was asked for.
    pub meta: Meta,
    /// All of it, or the range.
    pub bytes: Bytes,
}

impl Object {
    fn into_reading(self, asked: Range<u64>) -> Result<Reading> {
        let range = self.meta.clamp(asked)?;
        let Meta { len, version, checksum, modified, .. } = self.meta;
        let body = stream::iter((!self.bytes.is_empty()).then_some(Ok(self.bytes))).boxed();
        Ok(Reading { len, version, checksum, modified, range, body })
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In byte order of their keys; may be empty though the list goes on.
    pub objects: Vec<Meta>,
    /// What to give as `after` for the next page; `None` at the end of the list.
    pub next: Option<Key>,
}

/// When a put may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Always.
    Overwrite,
    /// Only if there is no such object.
    Create,
    /// Only if the object is still of this version; never if it is gone.
    Match(Version),
}

/// How a put ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conditional put may have lost its race"]
pub enum Outcome {
    /// Written and durable, as this version.
    Stored(Version),
    /// Not written: the condition did not hold.
    Conflict,
}

impl Outcome {
    /// The new version, or `None` for a conflict.
    pub fn stored(self) -> Option<Version> {
        match self {
            Self::Stored(version) => Some(version),
            Self::Conflict => None,
        }
    }
}

/// How far a store's conditional puts can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// Not at all: `Create` and `Match` are refused, and fencing has to come from elsewhere.
    None,
    /// Atomic, but a version stands for the *bytes*, as an S3 ETag does: writing equal bytes again may bring an old
    /// version back. Enough for callers that never write the same bytes twice.
    ByContent,
    /// Atomic, and no two writes share a version.
    ByWrite,
}
