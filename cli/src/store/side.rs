//! One side of a copy of many: the files below a folder here, or the objects below a prefix. Both are walked in byte
//! order of their names, page by page, so that two sides can be compared without either being held in memory.
//!
//! It owns how names become paths: nothing is ever written or removed outside of the folder, whatever keys say and
//! whatever symbolic links lie in the way. Symbolic links, what is neither file nor folder, names that are no keys and
//! the hidden files of unfinished downloads are left out, and said to be.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use forebay::store::{Checksum, Comparison, Key, Meta, S3, Store};
use forebay::{Context, Error, Result};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// Objects that are asked for in one request, and files that are found ahead.
const PAGE: usize = 1000;
/// What a file is read by.
const PIECE: usize = 1 << 20;
/// Names that were left out and are said.
const SHOWN: usize = 10;

/// A place with many files or objects.
pub enum Side {
    Folder(PathBuf),
    Bucket {
        store: S3,
        /// Of the keys in this store: empty, or ending with a slash.
        prefix: String,
    },
}

/// A file or an object.
#[derive(Clone, Debug)]
pub struct Item {
    /// Below the side, with slashes: a key.
    pub name: Key,
    pub len: u64,
    pub modified: SystemTime,
}

/// What a side has, one by one.
pub struct Walk {
    next: Next,
    last: Option<Key>,
    /// What cannot be told or taken: how many, and the first few.
    pub left_out: (usize, Vec<String>),
}

enum Next {
    Folder(mpsc::Receiver<Result<Found>>),
    Bucket { store: S3, prefix: String, page: VecDeque<Meta>, after: Option<Key>, ended: bool },
}

enum Found {
    Item(Item),
    LeftOut(String),
}

impl Side {
    pub fn walk(&self) -> Walk {
        let next = match self {
            Side::Folder(root) => {
                let (found, receiver) = mpsc::channel(PAGE);
                let root = root.clone();
                spawn_blocking(move || {
                    if let Err(why) = walk(&root, "", &found) {
                        // Nobody listens any more if it was told to stop.
                        let _ = found.blocking_send(Err(why));
                    }
                });
                Next::Folder(receiver)
            }
            Side::Bucket { store, prefix } => Next::Bucket {
                store: store.clone(),
                prefix: prefix.clone(),
                page: VecDeque::new(),
                after: None,
                ended: false,
            },
        };
        Walk { next, last: None, left_out: (0, Vec::new()) }
    }

    /// What is there of this name.
    pub async fn look(&self, name: &Key) -> Result<Option<Item>> {
        match self {
            Side::Folder(root) => {
                let found = match fs::metadata(root.join(name.as_str())) {
                    Ok(found) => found,
                    Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                        return Ok(None);
                    }
                    Err(why) => return Err(why.into()),
                };
                Ok(Some(Item { name: name.clone(), len: found.len(), modified: found.modified()? }))
            }
            Side::Bucket { store, prefix } => {
                let found = store.head(&key(prefix, name)?).await?;
                Ok(found.map(|found| Item { name: name.clone(), len: found.len, modified: found.modified }))
            }
        }
    }

    /// What the store says of an object's bytes; a folder says nothing.
    pub async fn checksum(&self, name: &Key) -> Result<Option<Checksum>> {
        match self {
            Side::Folder(_) => Ok(None),
            Side::Bucket { store, prefix } => {
                Ok(store.head(&key(prefix, name)?).await?.and_then(|found| found.checksum))
            }
        }
    }

    pub async fn delete(&self, name: &Key) -> Result<()> {
        match self {
            Side::Folder(root) => Ok(fs::remove_file(inside(root, name)?)?),
            Side::Bucket { store, prefix } => store.delete(&key(prefix, name)?).await,
        }
    }
}

/// A name's key in the store.
pub fn key(prefix: &str, name: &Key) -> Result<Key> {
    Key::new(format!("{prefix}{name}"))
}

impl Walk {
    /// The next, in byte order of the names.
    pub async fn next(&mut self) -> Result<Option<Item>> {
        let item = loop {
            match self.next.next().await? {
                None => return Ok(None),
                Some(Found::Item(item)) if is_partial(item.name.as_str()) => {}
                Some(Found::Item(item)) => break item,
                Some(Found::LeftOut(what)) => {
                    self.left_out.0 += 1;
                    if self.left_out.1.len() < SHOWN {
                        self.left_out.1.push(what);
                    }
                }
            }
        };
        // Who relies on the order deletes what is missing from it.
        if self.last.as_ref().is_some_and(|last| *last >= item.name) {
            return Err(Error::failed(format_args!(
                "`{}` is listed out of order: this cannot be relied on",
                item.name
            )));
        }
        self.last = Some(item.name.clone());
        Ok(Some(item))
    }
}

impl Next {
    async fn next(&mut self) -> Result<Option<Found>> {
        match self {
            Next::Folder(found) => found.recv().await.transpose(),
            Next::Bucket { store, prefix, page, after, ended } => loop {
                if let Some(meta) = page.pop_front() {
                    let name = Key::new(meta.key.as_str().strip_prefix(prefix.as_str()).unwrap_or_default())?;
                    return Ok(Some(Found::Item(Item { name, len: meta.len, modified: meta.modified })));
                }
                if *ended {
                    return Ok(None);
                }
                let listed = store.list(prefix, after.as_ref(), PAGE).await?;
                *ended = listed.next.is_none();
                (*page, *after) = (listed.objects.into(), listed.next);
            },
        }
    }
}

/// Tells everything below `root/below` in byte order; ends when nobody listens.
fn walk(root: &Path, below: &str, found: &mpsc::Sender<Result<Found>>) -> Result<()> {
    if found.is_closed() {
        return Ok(());
    }
    let folder = root.join(below);
    let mut entries = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading the folder `{}`", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let Ok(mut name) = entry.file_name().into_string() else {
            let _ = found.blocking_send(Ok(Found::LeftOut(format!("{} (not UTF-8)", entry.path().display()))));
            continue;
        };
        // So that `a.b` comes before what is in `a`, as among keys.
        if kind.is_dir() {
            name.push('/');
        }
        entries.push((name, kind));
    }
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (entry, kind) in entries {
        let name = format!("{below}{entry}");
        if kind.is_dir() {
            walk(root, &name, found)?;
            continue;
        }
        let told = match (kind.is_file(), Key::new(name.as_str())) {
            (false, _) => Found::LeftOut(format!("{name} (a symbolic link, or no file)")),
            (true, Err(why)) => Found::LeftOut(why.to_string()),
            (true, Ok(key)) => match fs::metadata(root.join(&name)) {
                Ok(meta) => Found::Item(Item { name: key, len: meta.len(), modified: meta.modified()? }),
                Err(why) if why.kind() == ErrorKind::NotFound => continue,
                Err(why) => return Err(Error::from(why).context(name)),
            },
        };
        if found.blocking_send(Ok(told)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether it is the name of a download that is not finished.
fn is_partial(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.starts_with('.') && (last.ends_with(".partial") || last.ends_with(".partial.log"))
}

/// The path of that name, which is inside of the folder: nothing on the way is a symbolic link, nor what is there.
pub fn inside(root: &Path, name: &Key) -> Result<PathBuf> {
    let mut path = root.to_owned();
    let last = name.segments().count() - 1;
    for (number, segment) in name.segments().enumerate() {
        path.push(segment);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(why) if why.kind() == ErrorKind::NotFound => continue,
            Err(why) => return Err(Error::from(why).context(path.display())),
        };
        let is_right = if number == last { found.is_file() } else { found.is_dir() };
        if !is_right {
            let what = match (found.is_symlink(), found.is_dir()) {
                (true, _) => "a symbolic link",
                (_, true) => "a folder",
                _ => "no folder",
            };
            return Err(Error::invalid(format_args!("`{}` is {what}: move it away", path.display())));
        }
    }
    Ok(path)
}

/// The same, in a folder that is there.
pub fn place(root: &Path, name: &Key) -> Result<PathBuf> {
    let path = inside(root, name)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making the folder `{}`", folder.display()))?;
    }
    Ok(path)
}

/// Whether a file's bytes are those that the store means.
pub async fn holds(path: PathBuf, checksum: Checksum) -> Result<bool> {
    let count = move || {
        let mut file = fs::File::open(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let (mut comparison, mut piece) = (Comparison::with(checksum), vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(comparison.holds()),
                Ok(len) => comparison.add(&piece[..len]),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(Error::from(why).context(path.display())),
            }
        }
    };
    spawn_blocking(count).await.context("file thread")?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn names(root: &Path) -> (Vec<String>, usize) {
        let mut walk = Side::Folder(root.to_owned()).walk();
        let mut names = Vec::new();
        while let Some(item) = walk.next().await.unwrap() {
            names.push(item.name.to_string());
        }
        (names, walk.left_out.0)
    }

    #[tokio::test]
    async fn files_come_in_the_order_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["a/b/c", "a/b.c", "a.b", "a0", "a/b0", "z", ".z.partial", "a/.q.partial.log"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        symlink("/etc", root.join("link")).unwrap();
        fs::write(root.join("a\\b"), "no key").unwrap();
        let want = ["a.b", "a/b.c", "a/b/c", "a/b0", "a0", "z"].map(str::to_owned).to_vec();
        assert_eq!(names(root).await, (want, 2));
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        symlink(outside.path(), root.join("out")).unwrap();
        fs::create_dir(root.join("in")).unwrap();
        symlink(outside.path().join("file"), root.join("in/file")).unwrap();
        let at = |name: &str| place(root, &Key::new(name).unwrap());
        for wrong in ["out/a", "out", "out/a/b", "in/file", "in/file/a", "in"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        assert_eq!(at("in/new/a").unwrap(), root.join("in/new/a"));
        assert!(root.join("in/new").is_dir());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
