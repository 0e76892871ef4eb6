//! The lock upon a journal: one process at a time works with it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use forebay::{Context, Error, Result};

/// How long it is waited for a journal that another process has: longer than batches on their way are tried.
pub const LOCKED: Duration = Duration::from_secs(200);
/// How long that is waited without a word.
const SILENT: Duration = Duration::from_secs(1);
/// The pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The file, which no other process has. One whose parent was killed is waited for: its last jobs are on their way yet.
pub fn open_locked(path: &Path, patience: Duration) -> Result<File> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.context("it cannot be opened or made; name another with --journal")?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(file),
            // Who had it has removed it meanwhile.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(why)) => return Err(why.into()),
        }
        if begun.elapsed() >= patience {
            return Err(Error::invalid("another `forebay submit` is at work with it: wait for its end"));
        }
        if !said && begun.elapsed() >= SILENT {
            said = true;
            eprintln!("another `forebay submit` has the journal: waiting up to {} s for its end", patience.as_secs());
        }
        sleep(LOOK_EVERY);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (here, there) = (file.metadata(), fs::metadata(path));
    here.is_ok_and(|here| there.is_ok_and(|there| (here.dev(), here.ino()) == (there.dev(), there.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_waited_for_but_not_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let first = open_locked(&path, Duration::ZERO).unwrap();
        let (begun, patience) = (Instant::now(), Duration::from_millis(120));
        let why = open_locked(&path, patience).unwrap_err().to_string();
        assert!(why.contains("another `forebay submit` is at work") && begun.elapsed() >= patience, "{why}");
        // What the first one removes is not what the second one has then.
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || open_locked(&path, LOCKED).unwrap()
        });
        fs::remove_file(&path).unwrap();
        drop(first);
        assert!(is_at(&waiting.join().unwrap(), &path));
    }
}
