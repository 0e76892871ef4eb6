//! Folders on the local disk that are gone with their handle.
//!
//! It owns the folders `forebay-...` below a place for scratch. What a killed process left there is removed when the
//! next folder is made: each holds a lock, which is the kernel's and dies with the process.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Error, Result};

const PREFIX: &str = "forebay-";
pub(crate) const LOCK: &str = ".lock";
/// How often it is tried to remove a folder.
const TRIES: usize = 10;

/// A folder of its own, for this process's user alone, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _alive: File,
}

impl Scratch {
    /// Makes one below `root`, which is made if missing. Blocks.
    pub(crate) fn below(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        sweep(root);
        let make = || {
            let id = fastrand::u64(..);
            // Under another name until its lock is held, so that nobody takes it for a dead one's.
            let (new, path) = (root.join(format!(".new-{id:016x}")), root.join(format!("{PREFIX}{id:016x}")));
            DirBuilder::new().mode(0o700).create(&new)?;
            let alive = File::create_new(new.join(LOCK))?;
            alive.lock()?;
            fs::rename(&new, &path)?;
            Ok::<_, Error>(Scratch { path, _alive: alive })
        };
        make().with_context(|| format!("making a folder below {}", root.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread may be about to make a file here, for somebody who does not wait for it any more. By its old name it
        // finds the folder no more; what it had begun by then is caught by trying again.
        let gone = self.path.with_extension("gone");
        let removed = fs::rename(&self.path, &gone).and_then(|()| {
            let tries = (1..TRIES).map(|_| fs::remove_dir_all(&gone)).find(Result::is_ok);
            tries.unwrap_or_else(|| fs::remove_dir_all(&gone))
        });
        if let Err(error) = removed {
            tracing::warn!(path = %gone.display(), %error, "scratch could not be removed");
        }
    }
}

/// Removes what dead processes left. Whatever fails is left to the next time.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let dead = || match File::open(entry.path().join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            // It had one when it got its name, so it was being removed.
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        if ours && dead() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A file that was downloaded. It is removed when its last handle is dropped.
#[derive(Clone, Debug)]
pub struct TempFile {
    pub(super) scratch: Arc<Scratch>,
    pub(super) len: u64,
}

impl TempFile {
    /// What the file is called in its folder.
    pub(super) const NAME: &str = "data";

    /// Where it is. It has a name of ours: nothing of the reference is in it.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join(Self::NAME)
    }

    /// Its length, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_handle_and_those_of_the_dead_with_the_next() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("scratch");
        let count = || fs::read_dir(&root).unwrap().count();
        let alive = Scratch::below(&root).unwrap();
        let dead = root.join("forebay-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::create_dir(root.join("others")).unwrap();
        let next = Scratch::below(&root).unwrap();
        assert!(alive.path().exists() && next.path().exists() && !dead.exists());
        assert_eq!(count(), 3);
        drop((alive, next));
        assert_eq!(count(), 1);
    }
}
