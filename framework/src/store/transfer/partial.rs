//! A file that is on its way: its bytes so far, and which of them can be relied on.
//!
//! Beside the target `name` there is `.name.partial`, as long as the object is to be, and `.name.partial.log`, whose
//! first line says which version of what, and each other one a range that has come and its check. What the log says is
//! believed when the bytes agree with it, so neither a kill nor a lost page can make a wrong file. Nothing here is
//! forced to disk: whoever loses power downloads again.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::store::checksum::Counter;
use crate::store::{Algorithm, Checksum, Crc, Version};

/// What is being downloaded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) len: u64,
    pub(super) version: Version,
    pub(super) checksum: Option<Checksum>,
}

impl Plan {
    pub(super) fn algorithm(&self) -> Algorithm {
        self.checksum.map_or(Algorithm::Crc64Nvme, |checksum| checksum.algorithm())
    }

    /// Where counting has to start anew; 0 if nowhere.
    pub(super) fn part(&self) -> u64 {
        self.checksum.map_or(0, |checksum| checksum.part())
    }
}

#[derive(Debug)]
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    log_path: PathBuf,
    file: Arc<File>,
    log: Mutex<File>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    len: u64,
    version: String,
    check: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    start: u64,
    len: u64,
    crc: u64,
}

/// What an earlier attempt left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) version: Option<Version>,
    pub(super) ranges: Vec<Range<u64>>,
}

impl Partial {
    /// Opens what there is of `target`, or begins it; what an earlier attempt to download `name` left is told.
    pub(super) fn open(target: &Path, name: &str) -> Result<(Self, Left)> {
        let wrong = || Error::invalid(format_args!("{} is not the name of a file", target.display()));
        let last = target.file_name().and_then(|last| last.to_str()).ok_or_else(wrong)?;
        let path = target.with_file_name(format!(".{last}.partial"));
        let log_path = target.with_file_name(format!(".{last}.partial.log"));
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(path).with_context(|| format!("opening {}", path.display()))
        };
        let file = open(&path)?;
        // Whoever had the lock before may have finished, and then this is the finished file under its old name.
        if file.try_lock().is_err() || !is_at(&file, &path) {
            return Err(Error::transient(format_args!("{} is being downloaded by another process", target.display())));
        }
        let log = open(&log_path)?;
        let left = read(&file, &log, name);
        let partial = Partial { target: target.to_owned(), path, log_path, file: Arc::new(file), log: Mutex::new(log) };
        Ok((partial, left))
    }

    /// Makes room for another version, or for the first.
    pub(super) fn begin(&self, name: &str, plan: &Plan) -> Result<()> {
        // A file that was ever cut to nothing is written out by ext4 as soon as it is closed.
        if self.file.metadata()?.len() > 0 {
            self.file.set_len(0)?;
        }
        let free = rustix::fs::fstatvfs(&*self.file).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free.is_ok_and(|free| free < plan.len) {
            let (free, path, len) = (free.unwrap_or_default(), self.target.display(), plan.len);
            return Err(Error::transient(format_args!("{path} needs {len} bytes, but the disk has {free} left")));
        }
        self.file.set_len(plan.len)?;
        let log = self.log();
        if log.metadata()?.len() > 0 {
            log.set_len(0)?;
        }
        let (version, check) = (plan.version.as_str().to_owned(), plan.algorithm().name().to_owned());
        let head = Head { name: name.to_owned(), len: plan.len, version, check };
        write_line(&log, &head)
    }

    /// Where ranges are written; they do not get in each other's way.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Notes what has been written.
    pub(super) fn note(&self, range: &Range<u64>, crc: u64) -> Result<()> {
        write_line(&self.log(), &Line { start: range.start, len: range.end - range.start, crc })
    }

    /// Gives the file its name.
    pub(super) fn finish(&self) -> Result<()> {
        if !is_at(&self.file, &self.path) {
            return Err(Error::transient(format_args!("{} was taken away", self.path.display())));
        }
        let renamed = fs::rename(&self.path, &self.target);
        renamed.with_context(|| format!("naming {}", self.target.display()))?;
        let _ = fs::remove_file(&self.log_path);
        Ok(())
    }

    /// Forgets all that has come, since it is not what it should be. What is left of it has no name any more.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.log_path);
        let _ = fs::remove_file(&self.path);
    }

    /// Written a line at a time, so a panic elsewhere broke nothing.
    fn log(&self) -> std::sync::MutexGuard<'_, File> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `path` still names this very file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().and_then(|own| Ok(id(own) == id(fs::symlink_metadata(path)?))).unwrap_or(false)
}

/// Lines are appended in one write each: a kill leaves whole lines and at most a part of the last.
fn write_line(mut log: &File, line: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    std::io::Seek::seek(&mut log, std::io::SeekFrom::End(0))?;
    Ok(log.write_all(&text)?)
}

/// The ranges of the log that the file has. Anything that does not fit is as if it were not there.
fn read(file: &File, log: &File, name: &str) -> Left {
    let mut lines = BufReader::new(log).lines().map_while(std::result::Result::ok);
    let head = lines.next().and_then(|line| serde_json::from_str::<Head>(&line).ok());
    let Some(head) = head.filter(|head| head.name == name) else {
        return Left::default();
    };
    let Some(algorithm) = Algorithm::named(&head.check) else {
        return Left::default();
    };
    if !file.metadata().is_ok_and(|found| found.len() == head.len) {
        return Left::default();
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for line in lines.map_while(|line| serde_json::from_str::<Line>(&line).ok()) {
        let end = line.start.saturating_add(line.len);
        let range = line.start..end;
        if end <= head.len && count(file, &range, algorithm).is_ok_and(|crc| crc.value == line.crc) {
            ranges.push(range);
        }
    }
    ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
    let mut apart: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        if apart.last().is_none_or(|last| last.end <= range.start) {
            apart.push(range);
        }
    }
    Left { version: Some(Version::new(head.version)), ranges: apart }
}

/// The check of what the file has in `range`.
pub(super) fn count(file: &File, range: &Range<u64>, algorithm: Algorithm) -> Result<Crc> {
    let mut counter = Counter::new(algorithm);
    let mut buffer = vec![0; 256 << 10];
    let mut at = range.start;
    while at < range.end {
        let some = (range.end - at).min(buffer.len() as u64) as usize;
        let read = match file.read_at(&mut buffer[..some], at) {
            Ok(0) => return Err(Error::failed("the file is shorter than it should be")),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        counter.add(&buffer[..read]);
        at += read as u64;
    }
    Ok(counter.crc())
}

/// Writes buffers one behind the other.
pub(super) fn write(file: &File, mut at: u64, buffers: &[Bytes]) -> Result<()> {
    for buffer in buffers {
        file.write_all_at(buffer, at)?;
        at += buffer.len() as u64;
    }
    Ok(())
}
