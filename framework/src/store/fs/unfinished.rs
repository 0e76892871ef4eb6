//! What is not an object yet, or never became one: files under temporary names, and what dead sessions have left of them.
//!
//! It owns each file that is being written, and sees to it that none outlives its write, or the next opening of the store
//! if the process is killed. What is in them it does not know.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A file under its temporary name, which goes with this value: after a rename there is none any more, after a link
/// there is a second one, after a failure it is rubbish.
pub(super) struct Unfinished {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// The number of its write.
    pub(super) write: u64,
}

impl Unfinished {
    pub(super) fn create(path: PathBuf, write: u64) -> io::Result<Self> {
        let file = File::create_new(&path)?;
        Ok(Self { path, file, write })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the sessions that nobody holds the lock of. One that cannot be removed is left: it harms nothing.
pub(super) fn remove_leftovers(tmp: &Path) -> io::Result<()> {
    for session in fs::read_dir(tmp)? {
        let session = session?.path();
        let alive = OpenOptions::new().write(true).open(session.join("lock"));
        if !alive.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock))) {
            let _ = fs::remove_dir_all(session);
        }
    }
    Ok(())
}
