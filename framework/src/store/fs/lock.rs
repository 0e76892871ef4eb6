//! The kernel's locks on files, which die with the process that holds them.
//!
//! What a lock stands for is the store's matter.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// A lock, until the file is dropped. Opened anew each time, so that it holds between threads too.
pub(super) fn hold(path: &Path, lock: fn(&File) -> io::Result<()>) -> io::Result<File> {
    let file = open_lock(path)?;
    loop {
        match lock(&file) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            locked => return locked.map(|()| file),
        }
    }
}
