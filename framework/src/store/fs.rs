//! A store in a directory, for one machine's processes to share: a disk, a mounted volume.
//!
//! It owns everything below its root and promises that a kill between any two of its steps leaves each object old or
//! new and whole. It deliberately gives no access to the objects as plain files: each begins with a header of 32
//! bytes, because nothing that a file system keeps by itself (inode, times) tells two quick writes apart.
//!
//! ```text
//! root/objects/<n>/...   objects whose keys have n segments, the key as path below; one tree per depth, so that
//!                        `a` (a file in tree 1) and `a/b` (in a directory `a` in tree 2) do not collide
//! root/tmp/<session>/    unfinished writes of one open `Folder`, and `lock`, held for as long as it lives
//! root/lock              held while names change (exclusive) or are listed (shared)
//! ```
//!
//! Both locks are the kernel's and die with their process, so there is no stale lock to break. A write is prepared
//! in full, on disk, before the lock is taken; under it only names change.

mod lock;
mod unfinished;
mod walk;

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};

use super::content::pieces;
use super::{Conditional, Content, Key, Meta, Object, Opened, Outcome, Page, Put, Reading, Store, Version};
use crate::error::{Context, Error, Fault, Result};
use lock::{hold, open_lock};
use unfinished::{Unfinished, remove_leftovers};
use walk::Walk;

/// First bytes of every object file; the digit is the layout's version.
const MAGIC: [u8; 8] = *b"forebay1";
/// Magic, then session, number of the write within it, and length of the object, each a little-endian u64.
const HEADER: usize = 32;

/// Objects as files below one directory. A clone is another handle on the same open folder.
///
/// Any number of `Folder`s, in any number of processes, may be open on one directory. The file system has to have
/// hard links and working locks, and names that keep their case and bytes: a local one of Linux does, NFS does if its
/// locks are on. A process that is *stopped* (not killed) in the middle of a rename holds up the others' writes.
#[derive(Clone, Debug)]
pub struct Folder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: PathBuf,
    lock: PathBuf,
    tmp: PathBuf,
    /// Names this open folder: no other that is alive on the same root has it.
    session: u64,
    writes: AtomicU64,
    /// Tells others, by being locked, that `tmp` is in use.
    _alive: File,
}

impl Folder {
    /// Opens the store in the directory `root`, made if missing, and removes what dead processes left unfinished.
    ///
    /// Blocks for some file operations: meant for start-up.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let inner = Inner::open(root).context(format_args!("opening the store in {}", root.display()))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` on a thread that may block. Once begun it goes on to its end even if the caller stops waiting.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        let result = done.context("file thread").flatten();
        result.map_err(|error| match error.find::<io::Error>().map(io::Error::kind) {
            // Nothing that the job did, and another node has another disk.
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => error.with_fault(Fault::Transient),
            _ => error,
        })
    }
}

impl Inner {
    fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        // The root itself may be a link, if its owner likes; nothing below it may.
        let root = fs::canonicalize(root)?;
        let (objects, lock, tmp) = (root.join("objects"), root.join("lock"), root.join("tmp"));
        fs::create_dir_all(&objects)?;
        fs::create_dir_all(&tmp)?;
        let names = hold(&lock, File::lock)?;
        remove_leftovers(&tmp)?;
        // Under the lock, so that nobody takes the new session for a dead one before it has its own lock.
        let session = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
        let tmp = tmp.join(format!("{session:016x}"));
        fs::create_dir(&tmp)?;
        let alive = open_lock(&tmp.join("lock"))?;
        alive.try_lock()?;
        drop(names);
        File::open(&root)?.sync_all()?;
        // The root may be new too. Whoever made a parent that we may not even read has to see to it.
        if let Some(parent) = root.parent().and_then(|parent| File::open(parent).ok()) {
            parent.sync_all()?;
        }
        Ok(Self { objects, lock, tmp, session, writes: AtomicU64::new(0), _alive: alive })
    }

    /// Where a key's object is. No key can spell a way out of its tree; a symbolic link that someone put there
    /// could, so it is refused.
    fn path(&self, key: &Key) -> Result<PathBuf> {
        let mut path = self.objects.join(key.segments().count().to_string());
        for segment in key.segments() {
            path.push(segment);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    return Err(Error::failed(format_args!("{} is a symbolic link", path.display())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(path)
    }

    /// The object's file, positioned behind the header. Renames replace whole files, so what is read from it later
    /// is of the same write, whatever has happened to the name since.
    fn find(&self, key: &Key) -> Result<Option<(File, Meta)>> {
        let path = self.path(key)?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut header = Vec::with_capacity(HEADER);
        Read::by_ref(&mut file).take(HEADER as u64).read_to_end(&mut header)?;
        let found = file.metadata()?;
        let whole = |len: u64| len.checked_add(HEADER as u64) == Some(found.len());
        let Some([session, write, len]) = parse(&header).filter(|&[_, _, len]| whole(len)) else {
            return Err(Error::failed(format_args!("{} is damaged, or not of this store", path.display())));
        };
        let version = version(session, write);
        let modified = found.modified()?;
        Ok(Some((file, Meta { key: key.clone(), len, version, modified, checksum: None })))
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let Some((mut file, meta)) = self.find(key)? else {
            return Ok(None);
        };
        let part = meta.clamp(range.unwrap_or(0..meta.len))?;
        file.seek(SeekFrom::Start(HEADER as u64 + part.start))?;
        let mut bytes = vec![0; usize::try_from(part.end - part.start)?];
        file.read_exact(&mut bytes)?;
        Ok(Some(Object { meta, bytes: bytes.into() }))
    }

    fn put(&self, key: &Key, bytes: &[u8], mode: &Put) -> Result<Outcome> {
        let mut new = self.begin()?;
        new.file.write_all(bytes)?;
        self.commit(key, new, bytes.len() as u64, mode)
    }

    /// A file of the next version, to be written behind its header.
    fn begin(&self) -> Result<Unfinished> {
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let mut new = Unfinished::create(self.tmp.join(version(self.session, write).as_str()), write)?;
        new.file.seek(SeekFrom::Start(HEADER as u64))?;
        Ok(new)
    }

    /// Makes a file that has its `len` bytes the object, if `mode` allows it.
    fn commit(&self, key: &Key, mut new: Unfinished, len: u64, mode: &Put) -> Result<Outcome> {
        let version = version(self.session, new.write);
        new.file.seek(SeekFrom::Start(0))?;
        new.file.write_all(&MAGIC)?;
        for number in [self.session, new.write, len] {
            new.file.write_all(&number.to_le_bytes())?;
        }
        new.file.sync_all()?;

        let names = hold(&self.lock, File::lock)?;
        let path = self.path(key)?;
        if let Put::Match(expected) = mode {
            let current = self.find(key)?.map(|(_, meta)| meta.version);
            if current.as_ref() != Some(expected) {
                return Ok(Outcome::Conflict);
            }
        }
        let dir = path.parent().unwrap_or(&self.objects);
        fs::create_dir_all(dir)?;
        match mode {
            Put::Overwrite | Put::Match(_) => fs::rename(&new.path, &path)?,
            // A link never replaces anything, so here the file system itself decides who is first.
            Put::Create => match fs::hard_link(&new.path, &path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Ok(Outcome::Conflict);
                }
                linked => linked?,
            },
        }
        drop(names);
        self.sync(dir)?;
        Ok(Outcome::Stored(version))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let names = hold(&self.lock, File::lock)?;
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Directories that are empty now go too: a key per job would leave one per job for ever. Not the tree's own.
        let parents = path.ancestors().skip(1).take(key.segments().count() - 1);
        for dir in parents {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        drop(names);
        // Also if nothing was there: whoever deleted it may not have come as far as this yet.
        self.sync(path.parent().unwrap_or(&self.objects))
    }

    /// Makes the names in `dir` durable, and the names of `dir` and its parents, whoever made them. Directories that
    /// a delete took away meanwhile are passed over: their own parent is synced, and tells that they are gone.
    fn sync(&self, dir: &Path) -> Result<()> {
        for dir in dir.ancestors().take_while(|dir| dir.starts_with(&self.objects)) {
            match File::open(dir) {
                Ok(dir) => dir.sync_all()?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page> {
        if limit == 0 {
            return Err(Error::invalid("the limit is 0"));
        }
        // Some file systems lose or repeat names that are replaced while a directory is read.
        let _names = hold(&self.lock, File::lock_shared)?;
        let mut walk = Walk::new(prefix, after, limit.saturating_add(1));
        for tree in fs::read_dir(&self.objects)? {
            let tree = tree?;
            if let Some(depth) = tree.file_name().to_str().and_then(|name| name.parse().ok()) {
                walk.tree(tree.path(), depth)?;
            }
        }
        let mut keys = walk.into_keys();
        let more = keys.len() > limit;
        keys.truncate(limit);
        let next = if more { keys.last().cloned() } else { None };
        let metas = keys.iter().map(|key| Ok(self.find(key)?.map(|(_, meta)| meta)));
        let objects = metas.filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok(Page { objects, next })
    }
}

impl Store for Folder {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        let of = key.clone();
        let work = move |inner: &Inner| inner.read(&of, None);
        Box::pin(async move { self.run(work).await.context(format_args!("getting {key}")) })
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        let of = key.clone();
        let work = move |inner: &Inner| inner.read(&of, Some(range));
        Box::pin(async move { self.run(work).await.context(format_args!("getting a range of {key}")) })
    }

    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        let (found, of) = (key.clone(), of.cloned());
        let work = move |inner: &Inner| {
            let Some((file, meta)) = inner.find(&found)? else {
                return Ok(Opened::Missing);
            };
            if of.is_some_and(|of| of != meta.version) {
                return Ok(Opened::Changed);
            }
            let range = meta.clamp(range)?;
            let body = pieces(file, HEADER as u64, range.clone()).boxed();
            let Meta { len, version, checksum, modified, .. } = meta;
            Ok(Opened::Found(Reading { len, version, checksum, modified, range, body }))
        };
        Box::pin(async move { self.run(work).await.context(format_args!("reading {key}")) })
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        let of = key.clone();
        let work = move |inner: &Inner| Ok(inner.find(&of)?.map(|(_, meta)| meta));
        Box::pin(async move { self.run(work).await.context(format_args!("looking at {key}")) })
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        let of = key.clone();
        let work = move |inner: &Inner| inner.put(&of, &bytes, &mode);
        Box::pin(async move { self.run(work).await.context(format_args!("putting {key}")) })
    }

    fn write<'a>(&'a self, key: &'a Key, content: Content, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        let write = async move {
            let mut new = self.run(Inner::begin).await?;
            let (mut body, progress) = content.pieces().await?;
            let mut len = 0;
            while let Some(piece) = body.try_next().await? {
                let moved = piece.len() as u64;
                new = self.run(move |_| Ok(new.file.write_all(&piece).map(|()| new)?)).await?;
                progress.moved(moved);
                len += moved;
            }
            let of = key.clone();
            self.run(move |inner| inner.commit(&of, new, len, &mode)).await
        };
        Box::pin(async move { write.await.context(format_args!("writing {key}")) })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        let of = key.clone();
        let work = move |inner: &Inner| inner.delete(&of);
        Box::pin(async move { self.run(work).await.context(format_args!("deleting {key}")) })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        let (of, from) = (prefix.to_owned(), after.cloned());
        let work = move |inner: &Inner| inner.list(&of, from.as_ref(), limit);
        Box::pin(async move { self.run(work).await.context(format_args!("listing {prefix:?}")) })
    }

    fn conditional(&self) -> Conditional {
        Conditional::ByWrite
    }
}

impl Drop for Inner {
    /// Tidiness only: what stays is removed by the next [`Folder::open`].
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.tmp);
    }
}

/// The three numbers of a whole header.
fn parse(header: &[u8]) -> Option<[u64; 3]> {
    let numbers = header.strip_prefix(&MAGIC)?;
    let ([session, write, len], []) = numbers.as_chunks() else {
        return None;
    };
    Some([session, write, len].map(|number| u64::from_le_bytes(*number)))
}

/// The one spelling of a version, which is also its file's temporary name.
fn version(session: u64, write: u64) -> Version {
    Version::new(format!("{session:016x}{write:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    fn key(key: &str) -> Key {
        Key::new(key).expect("a good key")
    }

    fn open(root: &tempfile::TempDir) -> Folder {
        Folder::open(root.path()).expect("a store in a new directory")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn keeps_the_contract() {
        let root = tempfile::tempdir().expect("a temporary directory");
        store::all(Arc::new(open(&root))).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn folders_on_one_directory_race_fairly() {
        let root = tempfile::tempdir().expect("a temporary directory");
        store::races(&[Arc::new(open(&root)), Arc::new(open(&root))]).await;
    }

    #[tokio::test]
    async fn deletes_leave_no_directories_and_puts_no_temporaries() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let folder = open(&root);
        for name in ["a/b/c", "a/b/d", "a"] {
            let _ = folder.put(&key(name), Bytes::new(), Put::Create).await.expect("a put");
        }
        folder.delete(&key("a/b/c")).await.expect("a delete");
        assert!(root.path().join("objects/3/a/b/d").is_file());
        folder.delete(&key("a/b/d")).await.expect("a delete");
        assert!(!root.path().join("objects/3/a").exists());
        assert!(root.path().join("objects/1/a").is_file());
        let names: Vec<_> = fs::read_dir(&folder.inner.tmp).expect("own session").flatten().collect();
        assert_eq!(names.len(), 1, "only the lock is left of {names:?}");
    }

    #[tokio::test]
    async fn opening_removes_dead_sessions_and_no_living_one() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let living = open(&root);
        let dead = root.path().join("tmp/0000000000000000");
        let unborn = root.path().join("tmp/0000000000000001");
        for dir in [&dead, &unborn] {
            fs::create_dir(dir).expect("a session's directory");
            fs::write(dir.join("unfinished"), MAGIC).expect("half an object");
        }
        fs::write(dead.join("lock"), "").expect("a lock that nobody holds");
        drop(open(&root));
        assert!(!dead.exists() && !unborn.exists());
        assert!(living.inner.tmp.exists());
        let _ = living.put(&key("k"), Bytes::from("v"), Put::Create).await.expect("it still works");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn symbolic_links_below_the_root_lead_nowhere() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let outside = tempfile::tempdir().expect("a temporary directory");
        let folder = open(&root);
        let tree = root.path().join("objects/2");
        fs::create_dir(&tree).expect("a tree");
        std::os::unix::fs::symlink(outside.path(), tree.join("way")).expect("a link");
        let out = key("way/out");
        assert!(folder.put(&out, Bytes::from("v"), Put::Overwrite).await.is_err());
        assert!(folder.put(&out, Bytes::from("v"), Put::Create).await.is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("the outside").count(), 0);
        fs::write(outside.path().join("out"), "secret").expect("a file outside");
        assert!(folder.get(&out).await.is_err());
        assert!(folder.delete(&out).await.is_err());
        assert!(outside.path().join("out").exists());
        assert!(folder.list("", None, 10).await.expect("a list").objects.is_empty());
    }

    #[tokio::test]
    async fn damage_is_an_error_and_not_an_object() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let folder = open(&root);
        let _ = folder.put(&key("k"), Bytes::from("value"), Put::Create).await.expect("a put");
        let path = root.path().join("objects/1/k");
        let whole = fs::read(&path).expect("the file");
        for len in [0, HEADER - 1, HEADER, whole.len() - 1] {
            fs::write(&path, &whole[..len]).expect("a truncated file");
            assert!(folder.get(&key("k")).await.is_err(), "{len} bytes of {}", whole.len());
        }
        // The way back: an overwrite does not look at what it replaces.
        let _ = folder.put(&key("k"), Bytes::from("new"), Put::Overwrite).await.expect("a put");
        let object = folder.get(&key("k")).await.expect("a get").expect("the object");
        assert_eq!(object.bytes, "new");
    }
}
