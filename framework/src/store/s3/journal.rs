//! Which uploads this machine has begun: so that one which was cut off, even by a kill, goes on or is cleaned up.
//!
//! A file for each upload that is open: its first line says where to and what of, each other one a part that is there.
//! Whoever works on the upload holds the file's lock, which dies with its process. Nothing here is forced to disk: what is
//! lost with a machine is left to a rule of the bucket (see [`S3`](super::S3)).

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::bucket::{CHECK, Part};
use crate::error::{Context, Result};
use crate::store::Crc;

/// An upload that was cut off is resumed within this time; after it, it is cleaned up.
const RESUMED_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Journals looked at when one is sought, and when a store is opened.
const MOST: usize = 10_000;

/// Where an upload goes and what it is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The endpoint and the bucket.
    pub(super) place: String,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) write_id: String,
    /// Length of each part but the last.
    pub(super) part: u64,
    /// For how many milliseconds before it others were begun whose answers were lost.
    #[serde(default)]
    pub(super) lost_ms: Option<u64>,
    /// The file, where it is one; what else is uploaded cannot be resumed.
    pub(super) file: Option<FileId>,
}

/// A file as it was: if this is the same, its bytes are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileId {
    path: PathBuf,
    pub(super) len: u64,
    device: u64,
    inode: u64,
    written: (i64, i64),
    /// Of the file or of what is known of it: nobody can set it back.
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Line {
    number: u32,
    tag: String,
    len: u64,
    crc64nvme: u64,
}

/// An upload that this process works on. Kept when it is dropped, and removed by [`forget`](Journal::forget).
#[derive(Clone, Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Arc<Mutex<File>>,
    pub(super) head: Head,
}

impl FileId {
    /// Of an open file, which has that path.
    pub(super) fn of_open(file: &File, path: &Path) -> Result<Self> {
        Self::new(file.metadata().with_context(|| path.display().to_string())?, path)
    }

    fn of(path: &Path) -> Result<Self> {
        Self::new(fs::metadata(path)?, path)
    }

    fn new(found: fs::Metadata, path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)?;
        let (len, device, inode) = (found.len(), found.dev(), found.ino());
        let (written, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Ok(FileId { path, len, device, inode, written, changed })
    }

    /// Whether it is still the same.
    pub(super) fn is_there(&self) -> bool {
        FileId::of(&self.path).is_ok_and(|now| now == *self)
    }
}

impl Journal {
    pub(super) fn begin(folder: &Path, head: Head) -> Result<Self> {
        let make = || {
            fs::create_dir_all(folder)?;
            let path = folder.join(format!("{:016x}.upload", fastrand::u64(..)));
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            file.try_lock()?;
            let journal = Journal { path, file: Arc::new(Mutex::new(file)), head: head.clone() };
            journal.line(&head)?;
            Ok::<_, crate::Error>(journal)
        };
        make().with_context(|| format!("keeping a journal of uploads in {}", folder.display()))
    }

    /// The upload of this file to there that was cut off, with its parts; where there are several, any.
    pub(super) fn resume(folder: &Path, place: &str, key: &str, file: &FileId) -> Option<(Self, Vec<Part>)> {
        let mut cut_off = left(folder).filter_map(|path| open(&path));
        cut_off.find(|(journal, _)| {
            let head = &journal.head;
            head.place == place && head.key == key && head.file.as_ref() == Some(file)
        })
    }

    /// The uploads to there that nobody works on and that nobody will resume.
    pub(super) fn abandoned(folder: &Path, place: &str) -> Vec<Self> {
        let open = left(folder).filter_map(|path| open(&path).map(|(journal, _)| journal));
        open.filter(|journal| journal.head.place == place && !journal.is_resumable()).collect()
    }

    pub(super) fn note(&self, part: &Part) -> Result<()> {
        let Part { number, tag, crc } = part.clone();
        self.line(&Line { number, tag, len: crc.len, crc64nvme: crc.value })
    }

    /// The upload has ended.
    pub(super) fn forget(&self) {
        if let Err(why) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %why, "a journal of an upload is left behind");
        }
    }

    fn is_resumable(&self) -> bool {
        let age = fs::metadata(&self.path)
            .and_then(|found| found.modified())
            .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        age.is_ok_and(|age| age < RESUMED_WITHIN) && self.head.file.as_ref().is_some_and(FileId::is_there)
    }

    /// In one write, so that a kill leaves whole lines and at most a part of the last.
    fn line(&self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::End(0))?;
        Ok(file.write_all(&text)?)
    }
}

fn left(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST);
    names.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "upload"))
}

/// One that nobody else has. A line that is not whole ends it.
fn open(path: &Path) -> Option<(Journal, Vec<Part>)> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    file.try_lock().ok()?;
    let mut lines = BufReader::new(&file).lines().map_while(std::result::Result::ok);
    let head: Head = serde_json::from_str(&lines.next()?).ok()?;
    let mut parts: Vec<Part> = Vec::new();
    for Line { number, tag, len, crc64nvme } in lines.map_while(|line| serde_json::from_str(&line).ok()) {
        parts.retain(|part| part.number != number);
        parts.push(Part { number, tag, crc: Crc { algorithm: CHECK, value: crc64nvme, len } });
    }
    // It may have been forgotten between its being found and its being locked.
    path.exists().then(|| (Journal { path: path.to_owned(), file: Arc::new(Mutex::new(file)), head }, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(file: Option<FileId>) -> Head {
        let (place, key) = ("http://host bucket".to_owned(), "key".to_owned());
        Head { place, key, id: "id".to_owned(), write_id: "w".to_owned(), part: 10, lost_ms: None, file }
    }

    fn part(number: u32) -> Part {
        Part { number, tag: format!("tag-{number}"), crc: Crc { algorithm: CHECK, value: 7, len: 10 } }
    }

    #[test]
    fn what_was_cut_off_is_found_again_while_its_file_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, path) = (folder.path().join("journals"), folder.path().join("file"));
        fs::write(&path, "ten bytes.").unwrap();
        let file = FileId::of(&path).unwrap();
        let journal = Journal::begin(&dir, head(Some(file.clone()))).unwrap();
        journal.note(&part(1)).unwrap();
        journal.note(&part(2)).unwrap();
        let resume = |file| Journal::resume(&dir, "http://host bucket", "key", file);
        assert!(resume(&file).is_none(), "somebody works on it");
        let at = journal.path.clone();
        drop(journal);
        fs::write(&at, [fs::read(&at).unwrap(), b"{\"number\":3,\"ta".to_vec()].concat()).unwrap();
        let (again, parts) = resume(&file).unwrap();
        assert_eq!(parts, [part(1), part(2)]);
        drop(again);
        assert_eq!(Journal::abandoned(&dir, "http://host bucket").len(), 0);
        fs::write(&path, "now other bytes").unwrap();
        assert!(resume(&FileId::of(&path).unwrap()).is_none(), "the file is another");
        assert_eq!(Journal::abandoned(&dir, "http://elsewhere bucket").len(), 0);
        let abandoned = Journal::abandoned(&dir, "http://host bucket");
        assert_eq!(abandoned.len(), 1);
        abandoned[0].forget();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_never_resumed() {
        let folder = tempfile::tempdir().unwrap();
        drop(Journal::begin(folder.path(), head(None)).unwrap());
        assert_eq!(Journal::abandoned(folder.path(), "http://host bucket").len(), 1);
    }
}
