//! Paths below a root, where names come from outside.
//!
//! It owns how a key becomes a file below a folder. It promises that nothing outside of the folder is read, made or
//! written, whatever the key: names are checked, and directories are opened one by one, so that no symbolic link is
//! followed. The root itself is its owner's and may be a link.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::store::Key;

/// Refuses what is a key, but no name for a file: a drive letter in front, or a name that a download uses beside a file.
pub(super) fn check(key: &Key) -> Result<()> {
    let drive = |name: &str| matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    let hidden = |name: &str| name.starts_with('.') && (name.ends_with(".partial") || name.ends_with(".partial.log"));
    if key.segments().any(drive) {
        return Err(Error::invalid(format_args!("{key:?}: a name begins with a drive letter")));
    }
    if key.segments().any(hidden) {
        return Err(Error::invalid(format_args!("{key:?}: a name is that of an unfinished download")));
    }
    Ok(())
}

/// The path of a file below `root`, named by a key that may come from anywhere. Its directories are made. Blocks.
///
/// # Errors
/// `Invalid` where the key is no path ([`Key::new`] refuses the most), a symbolic link or file is in the way, or a
/// directory or link has the file's name.
pub(super) fn make_below(root: &Path, key: &Key) -> Result<PathBuf> {
    check(key)?;
    let (dir, name) = parent(root, key, true)?;
    match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() => {}
        Ok(_) => return Err(Error::invalid(format_args!("{key:?}: its name is taken by what is no file"))),
        Err(error) => return Err(error).with_context(|| format!("looking at {key:?}")),
    }
    Ok(root.join(key.as_str()))
}

/// Opens a file below `root` to be read. `None` where there is none; `Invalid` where it is no regular file, or a symbolic
/// link is in the way. Blocks, but for no FIFO and no device.
pub(super) fn open_below(root: &Path, key: &Key) -> Result<Option<File>> {
    check(key)?;
    let opened = parent(root, key, false).and_then(|(dir, name)| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|error| in_the_way(key, error))
    });
    let file = match opened {
        Ok(opened) => File::from(opened),
        Err(why) if why.find::<Errno>() == Some(&Errno::NOENT) => return Ok(None),
        Err(why) => return Err(why),
    };
    if !file.metadata()?.is_file() {
        return Err(Error::invalid(format_args!("{key:?} is not a regular file")));
    }
    Ok(Some(file))
}

/// The directory of a file below `root`, reached without following a link, and the file's own name.
pub(super) fn parent<'a>(root: &Path, key: &'a Key, make: bool) -> Result<(OwnedFd, &'a str)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir =
        rustix::fs::open(root, flags, Mode::empty()).with_context(|| format!("opening {}", root.display()))?;
    let mut segments = key.segments().peekable();
    let mut name = "";
    while let Some(segment) = segments.next() {
        if segments.peek().is_none() {
            name = segment;
            break;
        }
        let open = || rustix::fs::openat(&dir, segment, flags | OFlags::NOFOLLOW, Mode::empty());
        let next = match open() {
            Err(Errno::NOENT) if make => {
                match rustix::fs::mkdirat(&dir, segment, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(in_the_way(key, error)),
                }
                open()
            }
            opened => opened,
        };
        dir = next.map_err(|error| in_the_way(key, error))?;
    }
    Ok((dir, name))
}

fn in_the_way(key: &Key, error: Errno) -> Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::MLINK | Errno::ISDIR => {
            Error::invalid(format_args!("{key:?}: a symbolic link, or what is no directory or file, is in the way"))
        }
        // Its owner may mend these.
        error => Error::from(error).context(format_args!("opening {key:?}")),
    }
}
