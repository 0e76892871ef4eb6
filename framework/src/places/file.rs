//! Files below folders that were allowed, read and written.
//!
//! It owns `file://`. What is read is one file that was opened once; what is written takes its name when it is whole, as
//! in a store. Which names lead where is the matter of `local.rs`.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::local;
use crate::error::{Context, Error, Result};
use crate::store::blocking;
use crate::store::content::pieces;
use crate::store::transfer::Origin;
use crate::store::{Checksum, Content, Key, Opened, Outcome, Put, Reading, Version};

/// A file below a root, which may not exist yet.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) root: PathBuf,
    pub(super) key: Key,
}

impl Local {
    fn open(&self) -> Result<Option<(File, u64, Version, SystemTime)>> {
        let Some(file) = local::open_below(&self.root, &self.key)? else {
            return Ok(None);
        };
        let found = file.metadata()?;
        let (len, changed) = (found.len(), (found.mtime(), found.mtime_nsec()));
        let version = Version::new(format!("{}-{}-{len}-{}.{}", found.dev(), found.ino(), changed.0, changed.1));
        Ok(Some((file, len, version, found.modified()?)))
    }

    /// Its length, where it is there.
    pub(super) async fn len(&self) -> Result<Option<u64>> {
        let this = self.clone();
        Ok(blocking(move || this.open()).await?.map(|(_, len, ..)| len))
    }

    /// Writes the file if `mode` allows it; directories on the way are made.
    pub(super) async fn write(&self, content: Content, mode: Put) -> Result<Outcome> {
        if matches!(mode, Put::Match(_)) {
            return Err(Error::invalid("a file cannot be replaced on condition"));
        }
        let this = self.clone();
        let mut new = blocking(move || New::create(&this)).await?;
        let (mut body, progress) = content.pieces().await?;
        while let Some(piece) = body.try_next().await? {
            let moved = piece.len() as u64;
            new = blocking(move || Ok(new.file.write_all(&piece).map(|()| new)?)).await?;
            progress.moved(moved);
        }
        let name = self.key.clone();
        blocking(move || new.commit(&name, &mode)).await
    }
}

impl Origin for Local {
    fn name(&self) -> String {
        format!("file://{}", self.root.join(self.key.as_str()).display())
    }

    fn read<'a>(&'a self, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        let this = self.clone();
        Box::pin(async move {
            let Some((file, len, version, modified)) = blocking(move || this.open()).await? else {
                return Ok(Opened::Missing);
            };
            if of.is_some_and(|of| *of != version) {
                return Ok(Opened::Changed);
            }
            let range = range.start.min(len)..range.end.min(len);
            let body = pieces(file, 0, range.clone()).boxed();
            Ok(Opened::Found(Reading { len, version, checksum: None, modified, range, body }))
        })
    }

    fn checksum<'a>(&'a self, _: &'a Version) -> BoxFuture<'a, Result<Option<Checksum>>> {
        Box::pin(async { Ok(None) })
    }
}

/// A file without its name yet, removed unless it gets it.
struct New {
    dir: std::os::fd::OwnedFd,
    file: File,
    name: String,
}

impl New {
    fn create(place: &Local) -> Result<Self> {
        local::check(&place.key)?;
        let (dir, _) = local::parent(&place.root, &place.key, true)?;
        let name = format!(".forebay-{:016x}.partial", fastrand::u64(..));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o666)).context("making a file")?;
        Ok(New { dir, file: file.into(), name })
    }

    fn commit(self, key: &Key, mode: &Put) -> Result<Outcome> {
        self.file.sync_all()?;
        let found = self.file.metadata()?;
        let name = key.segments().last().unwrap_or_default();
        let named = match mode {
            Put::Create => rustix::fs::linkat(&self.dir, &self.name, &self.dir, name, AtFlags::empty()),
            _ => rustix::fs::renameat(&self.dir, &self.name, &self.dir, name),
        };
        match named {
            Err(Errno::EXIST) => return Ok(Outcome::Conflict),
            named => named.with_context(|| format!("naming {key:?}"))?,
        }
        rustix::fs::fsync(&self.dir)?;
        Ok(Outcome::Stored(Version::new(format!("{}-{}", found.dev(), found.ino()))))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}
