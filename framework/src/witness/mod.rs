//! What is left on the local disk of a process that died at work: how a crash is told from a loss.
//!
//! A process that works keeps a [`Marker`] in a folder: which jobs it has, and which of them are on a thread. It goes
//! with a clean end. Whoever finds one whose process has gone ([`Witness::dead`]) learns from it which jobs were there
//! at a crash, and tells the store ([`crash`]). What is gone with its disk was seen by nobody, and is a loss.
//!
//! | file in `FOLDER/PROCESS/` | what it holds |
//! |---|---|
//! | `lock` | nothing; locked for as long as the process lives |
//! | `header` | which process of which program this is |
//! | `journal` | jobs that came and went, and began and ended work |
//! | `draining` | there if the process was told to stop: its end is no crash unless a supervisor says so |
//! | `cause` | how the process died, by the supervisor that saw it |

pub(crate) mod crash;
mod journal;
pub(crate) mod marker;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::error::{Context, Error, Result};
use crate::source::ends::{nonce, now};
use crash::Crash;
use journal::Presence;
use marker::Marker;

/// A folder of markers.
#[derive(Clone)]
pub(crate) struct Witness {
    folder: PathBuf,
    /// Tells this disk from others.
    worker: String,
    /// Tells this program from others that use the same folder.
    program: String,
}

/// What a marker says of its process.
#[derive(Serialize, Deserialize)]
struct Header {
    worker: String,
    process: String,
    program: String,
    pid: u32,
    /// The machine's start: a process of an earlier one was lost with it.
    boot: String,
    /// Who sees how it ends, and says so if it is a crash.
    supervisor: Option<Supervisor>,
}

/// A process, by its number and when it started: numbers are given again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Supervisor {
    pid: u32,
    started: Option<String>,
}

/// The marker of a process that has gone.
pub(crate) struct Dead {
    folder: PathBuf,
    header: Header,
    journal: Vec<(String, Presence)>,
    draining: bool,
    cause: Option<String>,
    /// Keeps other processes from telling of it too.
    _lock: File,
}

impl Witness {
    /// The markers in `folder`, which is made if it is missing. Blocks briefly.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn at(folder: &Path) -> Result<Self> {
        let cannot = || format!("the folder `{}`, where a worker keeps which jobs it has", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let worker = worker(folder).with_context(cannot)?;
        Ok(Witness { folder: folder.to_owned(), worker, program: program() })
    }

    /// This process's own marker, with the number of its supervisor if it has one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn mark(&self, supervisor: Option<u32>) -> Result<Marker> {
        let process = nonce();
        let header = Header {
            worker: self.worker.clone(),
            process: process.clone(),
            program: self.program.clone(),
            pid: std::process::id(),
            boot: boot(),
            supervisor: supervisor.map(Supervisor::of),
        };
        // Nobody sees it before it is whole and locked: it would be taken for a dead one.
        let hidden = self.folder.join(format!(".{process}"));
        let folder = self.folder.join(&process);
        let cannot = || format!("writing `{}`", folder.display());
        fs::create_dir(&hidden).with_context(cannot)?;
        fs::write(hidden.join("header"), serde_json::to_vec(&header)?).with_context(cannot)?;
        let lock = File::create(hidden.join("lock")).with_context(cannot)?;
        lock.try_lock().with_context(cannot)?;
        File::create(hidden.join("journal")).with_context(cannot)?;
        fs::rename(&hidden, &folder).with_context(cannot)?;
        Marker::new(folder, lock)
    }

    /// The markers of this program's processes that have gone. Blocks.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn dead(&self) -> Result<Vec<Dead>> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("reading `{}`", self.folder.display()))?;
        let visible = |path: &PathBuf| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."));
        let folders = entries.flatten().map(|entry| entry.path()).filter(|path| visible(path) && path.is_dir());
        let found = folders.filter_map(|folder| match Dead::read(folder.clone()) {
            Ok(dead) => dead,
            Err(why) => {
                warn!(folder = %folder.display(), error = %why, "what a process left behind cannot be read; remove it");
                None
            }
        });
        Ok(found.filter(|dead| dead.header.program == self.program && !dead.is_seen_to()).collect())
    }

    /// Writes down how process `pid` died, for whoever reads its marker; whether it had one.
    ///
    /// # Errors
    /// If the folder cannot be read, or the note not be written.
    pub(crate) fn note(&self, pid: u32, cause: &str) -> Result<bool> {
        let dead = self.dead()?;
        let mut its = dead.iter().filter(|dead| dead.header.pid == pid && dead.header.boot == boot()).peekable();
        let found = its.peek().is_some();
        for dead in its {
            let (path, whole) = (dead.folder.join("cause"), dead.folder.join("cause.new"));
            fs::write(&whole, cause)
                .and_then(|()| fs::rename(&whole, &path))
                .with_context(|| format!("writing `{}`", path.display()))?;
        }
        Ok(found)
    }
}

impl Dead {
    /// `None` if its process lives, or its marker was removed meanwhile.
    fn read(folder: PathBuf) -> Result<Option<Dead>> {
        let Some(lock) = unless_gone(File::open(folder.join("lock")))? else {
            return Ok(None);
        };
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        let Some(header) = unless_gone(fs::read(folder.join("header")))? else {
            return Ok(None);
        };
        let header = serde_json::from_slice(&header).context("its header")?;
        let journal = unless_gone(fs::read_to_string(folder.join("journal")))?.unwrap_or_default();
        let cause = unless_gone(fs::read_to_string(folder.join("cause")))?;
        let draining = folder.join("draining").exists();
        Ok(Some(Dead { journal: journal::replay(&journal), header, draining, cause, folder, _lock: lock }))
    }

    /// Another process is about to say how this one died.
    fn is_seen_to(&self) -> bool {
        let another = |its: &Supervisor| its.pid != std::process::id() && Supervisor::of(its.pid) == *its;
        let lives = |its: &Supervisor| its.started.is_some() && another(its);
        self.cause.is_none() && self.header.boot == boot() && self.header.supervisor.as_ref().is_some_and(lives)
    }

    /// The jobs that were there when the process crashed, and what is to be told of each; none if it was a loss.
    pub(crate) fn crashes(&self) -> Vec<(String, Crash)> {
        let Some(cause) = self.cause() else {
            debug!(process = self.header.process, "a process was lost; nothing is held against its jobs");
            return Vec::new();
        };
        let others = self.journal.len().saturating_sub(1);
        let crash = |presence: &Presence| Crash {
            worker: self.header.worker.clone(),
            process: self.header.process.clone(),
            told: now(),
            cause: cause.clone(),
            at_work: presence.is_at_work(),
            others,
        };
        self.journal.iter().map(|(id, presence)| (id.clone(), crash(presence))).collect()
    }

    fn cause(&self) -> Option<String> {
        let seen = self.cause.clone();
        let found = || "ended without a word and left its marker".to_owned();
        // A supervisor that did not say anything has died with it.
        let witnessed = self.header.supervisor.is_none() && !self.draining && self.header.boot == boot();
        seen.or_else(|| witnessed.then(found))
    }

    /// Removes the marker: all that it said has been told.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn bury(self) -> Result<()> {
        remove(&self.folder).with_context(|| format!("removing `{}`", self.folder.display()))
    }
}

impl Supervisor {
    fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // What comes before may hold anything: it is the program's name. The start is field 22, the first here is 3.
        let started = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(22 - 3));
        Supervisor { pid, started: started.map(str::to_owned) }
    }
}

/// Hidden first, so that nobody reads a marker that is half gone.
fn remove(folder: &Path) -> std::io::Result<()> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden = folder.with_file_name(format!(".{name}"));
    fs::rename(folder, &hidden)?;
    fs::remove_dir_all(hidden)
}

fn unless_gone<T>(read: std::io::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// The name of this disk, made once.
fn worker(folder: &Path) -> Result<String> {
    let (path, whole) = (folder.join("worker"), folder.join(format!(".worker-{}", nonce())));
    if !path.exists() {
        fs::write(&whole, nonce())?;
        // Whoever is second takes the name of the first.
        let named = fs::hard_link(&whole, &path);
        // Whatever came of it, the temporary name has served its turn.
        let _ = fs::remove_file(&whole);
        match named {
            Err(why) if why.kind() != ErrorKind::AlreadyExists => return Err(why.into()),
            _ => {}
        }
    }
    let name = fs::read_to_string(&path)?;
    match name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => Err(Error::failed(format_args!("`{}` holds no name; remove it", path.display()))),
        false => Ok(name),
    }
}

/// The same for each process of one program with the same arguments. Hashed, since arguments may hold secrets.
fn program() -> String {
    let mut hasher = DefaultHasher::new();
    // A program without a path is told by its arguments.
    std::env::current_exe().ok().hash(&mut hasher);
    std::env::args_os().skip(1).collect::<Vec<_>>().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Which start of the machine this is; the same text always where that is not known.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed(witness: &Witness, cause: Option<&str>) -> Vec<(String, bool, usize)> {
        let mut dead = witness.dead().unwrap();
        assert_eq!(dead.len(), 1, "one process has gone");
        let mut dead = dead.remove(0);
        dead.cause = cause.map(str::to_owned);
        let crashes = dead.crashes();
        dead.bury().unwrap();
        assert!(witness.dead().unwrap().is_empty());
        crashes.into_iter().map(|(id, crash)| (id, crash.at_work, crash.others)).collect()
    }

    fn job(id: &str, at_work: bool, others: usize) -> (String, bool, usize) {
        (id.to_owned(), at_work, others)
    }

    #[test]
    fn who_was_there_is_known_after_the_process_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::at(folder.path()).unwrap();
        let marker = witness.mark(None).unwrap();
        for id in ["done", "waits", "works\nhard"] {
            marker.came(id);
        }
        marker.works("done");
        marker.rests("done");
        marker.left("done");
        marker.works("works\nhard");
        assert!(witness.dead().unwrap().is_empty(), "its process lives");
        marker.dies();
        assert_eq!(crashed(&witness, None), [job("waits", false, 1), job("works\nhard", true, 1)]);
    }

    #[test]
    fn what_nobody_saw_is_a_loss() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::at(folder.path()).unwrap();
        let dies = |supervised: bool, draining| {
            let marker = witness.mark(supervised.then_some(u32::MAX)).unwrap();
            marker.came("job");
            if draining {
                marker.drains();
            }
            marker.dies();
        };
        dies(true, false);
        assert_eq!(crashed(&witness, None), [], "its supervisor died with it");
        dies(true, false);
        assert_eq!(crashed(&witness, Some("SIGABRT")), [job("job", false, 0)]);
        dies(false, true);
        assert_eq!(crashed(&witness, None), [], "it was told to stop, and killed when it did not");
        dies(true, true);
        assert_eq!(crashed(&witness, Some("SIGABRT")), [job("job", false, 0)]);
    }

    #[test]
    fn a_supervisor_notes_the_cause_for_its_own_child() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::at(folder.path()).unwrap();
        let marker = witness.mark(Some(std::process::id())).unwrap();
        marker.came("job");
        assert!(!witness.note(std::process::id(), "died").unwrap(), "it lives");
        marker.dies();
        assert!(!witness.note(1, "died").unwrap(), "it is another's");
        assert!(witness.note(std::process::id(), "died").unwrap());
        let dead = witness.dead().unwrap();
        assert_eq!(dead[0].crashes()[0].1.cause, "died");
    }

    #[test]
    fn who_has_a_supervisor_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::at(folder.path()).unwrap();
        let dies = |supervisor| witness.mark(Some(supervisor)).unwrap().dies();
        dies(std::os::unix::process::parent_id());
        assert!(witness.dead().unwrap().is_empty(), "its supervisor lives, and will say how it died");
        dies(std::process::id());
        dies(u32::MAX);
        assert_eq!(witness.dead().unwrap().len(), 2, "its supervisor asks, or has died too");
    }

    #[test]
    fn a_clean_end_leaves_nothing_and_the_disk_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = Witness::at(folder.path()).unwrap();
        let marker = first.mark(None).unwrap();
        marker.came("job");
        drop(marker);
        assert!(first.dead().unwrap().is_empty());
        let second = Witness::at(folder.path()).unwrap();
        assert_eq!(first.worker, second.worker);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["worker"]);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(first.worker, Witness::at(other.path()).unwrap().worker);
    }
}
