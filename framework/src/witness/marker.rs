//! The marker of this process: the way in for jobs that come, go on a thread, and leave.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::journal::{Entry, Journal};
use super::remove;
use crate::error::{Context, Result};

/// What this process leaves behind if it dies. Dropped, it is gone: a clean end.
pub(crate) struct Marker {
    folder: PathBuf,
    // A mutex, since the threads of all stages write it, each for about a microsecond.
    journal: Mutex<Journal>,
    failed: AtomicBool,
    /// `None` once the process is to look dead.
    lock: Option<File>,
}

impl Marker {
    pub(super) fn new(folder: PathBuf, lock: File) -> Result<Self> {
        let journal =
            Journal::open(&folder).with_context(|| format!("opening the journal in `{}`", folder.display()))?;
        Ok(Marker { folder, journal: Mutex::new(journal), failed: AtomicBool::new(false), lock: Some(lock) })
    }

    /// A job is handed to the worker.
    pub(crate) fn came(&self, id: &str) {
        self.note(Entry::Came, id);
    }

    /// The job is not here any more.
    pub(crate) fn left(&self, id: &str) {
        self.note(Entry::Left, id);
    }

    /// A thread begins to work on the job.
    pub(crate) fn works(&self, id: &str) {
        self.note(Entry::Works, id);
    }

    /// The thread has ended its work on it.
    pub(crate) fn rests(&self, id: &str) {
        self.note(Entry::Rests, id);
    }

    /// The process was told to stop: if it does not in time, whoever told it will kill it.
    pub(crate) fn drains(&self) {
        self.say(File::create(self.folder.join("draining")).map(drop));
    }

    fn note(&self, entry: Entry, id: &str) {
        let noted = self.journal.lock().unwrap_or_else(PoisonError::into_inner).note(entry, id);
        self.say(noted);
    }

    /// What cannot be written is said once: it may be each job's.
    fn say(&self, written: std::io::Result<()>) {
        if let Err(why) = written
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let folder = self.folder.display();
            warn!(%folder, error = %why, "cannot write down which jobs are at work; a crash may be taken for a loss");
        }
    }

    #[cfg(test)]
    pub(crate) fn dies(mut self) {
        self.lock = None;
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(why) = remove(&self.folder)
        {
            warn!(folder = %self.folder.display(), error = %why, "this process's marker cannot be removed");
        }
    }
}
