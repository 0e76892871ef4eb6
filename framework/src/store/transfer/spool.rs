//! Uploads that nobody waits for: handed over to a folder on disk, and uploaded from there in their own time.
//!
//! It owns the folder. What was handed over outlives the process: the next one on the same folder goes on with it. Two
//! uploads to one key keep their order. The folder has a bound, and whoever hands over waits where it is reached. It
//! deliberately promises nothing for a node that is lost: work is done when its result is in the store, not in a spool.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::Transfers;
use super::retry::pause;
use crate::error::{Context, Error, Fault, Result};
use crate::store::{Content, Key, Misconfigured, Outcome, Put, blocking};
use crate::telemetry::SpoolMeter;

/// Uploads at once; large ones share their link among their parts besides.
const AT_ONCE: usize = 4;
/// Failures in a row, of any uploads, after which the store itself is the trouble,
const TROUBLE: u32 = 8;
/// and then so long is between two tries.
const IN_TROUBLE: Duration = Duration::from_secs(1);
/// Bytes in the folder by default.
const BOUND: u64 = 10 << 30;

/// How far a spool is behind.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Backlog {
    /// Uploads that were handed over and have not ended.
    pub uploads: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
    /// Uploads that have ended well since the spool was opened.
    pub done: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Bytes a second while uploads were under way since the spool was opened; 0 before the first.
    pub throughput: f64,
    /// Tries that have failed; each is made again.
    pub failures: u64,
    /// Uploads that the store will never take, which were put aside in the folder `rejected`. A store that takes nothing
    /// until somebody sets its keys or its bucket right is waited for instead.
    pub rejected: u64,
}

/// A folder of uploads under way. A clone is another handle; when the last is dropped, uploading stops, and goes on when
/// the folder is opened again.
///
/// ```
/// use forebay::store::{Key, Memory, Put, Transfers, transfer::Spool};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let folder = tempfile::tempdir()?;
/// let spool = Spool::open(folder.path().join("spool"), Transfers::new(Memory::new()))?;
/// spool.bytes(&Key::new("frames/1")?, "a frame", Put::Overwrite).await?;
/// // ... work on ...
/// spool.flushed().await;
/// assert_eq!(spool.backlog().done, 1);
/// # forebay::Result::<()>::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    _uploading: Arc<Uploading>,
}

struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    /// Something was handed over, or has ended.
    changed: Notify,
    meter: SpoolMeter,
    bound: u64,
    _lock: File,
}

#[derive(Default)]
struct State {
    /// Of each key in the order in which they were handed over; a key is here while one of it is under way, too.
    waiting: HashMap<Key, VecDeque<Entry>>,
    /// Keys of which none is under way, each when it is its turn.
    turns: VecDeque<Key>,
    under_way: Vec<SystemTime>,
    /// Of all that is in the folder, and of what is being put there.
    bytes: u64,
    next: u64,
    backlog: Backlog,
    /// Since when uploads are under way, and how long they were before.
    since: Option<Instant>,
    worked: Duration,
    /// Failures since the last success.
    failures_in_a_row: u32,
    /// Nothing is tried before.
    rests_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    key: Key,
    create: bool,
    len: u64,
    since: SystemTime,
    failures: u32,
    /// Not tried again before.
    rests_until: Option<Instant>,
}

/// An entry as the folder has it.
#[derive(Serialize, Deserialize)]
struct Note {
    key: String,
    create: bool,
}

struct Uploading(tokio::task::JoinHandle<()>);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Spool {
    /// Opens the folder, made if missing, with up to 10 GiB in it, and goes on with what is there. Needs a runtime of
    /// tokio; blocks for some file operations: meant for start-up.
    ///
    /// # Errors
    /// A folder that cannot be used, or that another process has open.
    pub fn open(folder: impl Into<PathBuf>, transfers: Transfers) -> Result<Self> {
        Self::open_with(folder, transfers, BOUND)
    }

    /// The same with up to `bound` bytes in the folder.
    pub fn open_with(folder: impl Into<PathBuf>, transfers: Transfers, bound: u64) -> Result<Self> {
        let folder = folder.into();
        let context = format!("opening the spool in {}", folder.display());
        let shared = Shared::open(folder, bound).context(context)?;
        let shared = Arc::new(shared);
        let uploading = tokio::spawn(upload(Arc::clone(&shared), transfers));
        Ok(Spool { shared, _uploading: Arc::new(Uploading(uploading)) })
    }

    /// Hands over a file: it is moved into the folder, or copied if that is on another disk and then removed. Returns
    /// when the spool has it; waits while the folder is full.
    ///
    /// # Errors
    /// `Invalid` for a file that is larger than the bound, and for [`Put::Match`]: by the time of the upload the version
    /// may be another. Whatever the disk says.
    pub async fn file(&self, key: &Key, path: impl AsRef<Path>, mode: Put) -> Result<()> {
        let path = path.as_ref().to_owned();
        let asked = path.clone();
        let len =
            blocking(move || Ok(fs::metadata(&asked).with_context(|| asked.display().to_string())?.len())).await?;
        let from = path.clone();
        let fill = move |to: &Path| {
            if fs::hard_link(&from, to).is_err() {
                fs::copy(&from, to).with_context(|| from.display().to_string())?;
            }
            Ok(())
        };
        self.take(key, len, &mode, fill).await?;
        // Only now that the spool has it: at every moment before, a kill leaves the caller's file.
        blocking(move || fs::remove_file(&path).context(path.display())).await
    }

    /// Hands over a buffer; else as [`file`](Spool::file).
    pub async fn bytes(&self, key: &Key, bytes: impl Into<Bytes>, mode: Put) -> Result<()> {
        let bytes: Bytes = bytes.into();
        self.take(key, bytes.len() as u64, &mode, move |to| Ok(File::create_new(to)?.write_all(&bytes)?)).await
    }

    /// How far it is behind.
    pub fn backlog(&self) -> Backlog {
        self.shared.state().backlog()
    }

    /// Waits until nothing is left to upload. Without a deadline of its own: a store that is away is waited for.
    pub async fn flushed(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.backlog().uploads == 0 {
                return;
            }
            changed.await;
        }
    }

    async fn take(
        &self,
        key: &Key,
        len: u64,
        mode: &Put,
        fill: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let create = match mode {
            Put::Overwrite => false,
            Put::Create => true,
            Put::Match(_) => {
                return Err(Error::invalid(format_args!("{key}: an upload by the way cannot match a version")));
            }
        };
        let number = self.room(len).await?;
        let shared = Arc::clone(&self.shared);
        let entry =
            Entry { number, key: key.clone(), create, len, since: SystemTime::now(), failures: 0, rests_until: None };
        let taking = tokio::task::spawn_blocking(move || {
            let taken = shared.write(&entry, fill);
            let mut state = shared.state();
            match &taken {
                Ok(()) => state.waits(entry),
                Err(_) => state.bytes -= len,
            }
            shared.meter.show(&state.backlog());
            drop(state);
            shared.changed.notify_waiters();
            taken
        });
        taking.await.context("file thread")?.with_context(|| format!("handing over {key}"))
    }

    /// Waits for room; the number of the entry that has it.
    async fn room(&self, len: u64) -> Result<u64> {
        let bound = self.shared.bound;
        if len > bound {
            return Err(Error::invalid(format_args!("{len} bytes are more than the spool's bound of {bound}")));
        }
        loop {
            let changed = self.shared.changed.notified();
            {
                let mut state = self.shared.state();
                if state.bytes + len <= bound {
                    state.bytes += len;
                    state.next += 1;
                    return Ok(state.next);
                }
            }
            changed.await;
        }
    }
}

impl Shared {
    fn open(folder: PathBuf, bound: u64) -> Result<Self> {
        fs::create_dir_all(folder.join("rejected"))?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|_| Error::failed("another process has it open"))?;
        let mut state = State::default();
        let mut left = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.split_once('.') {
                // Written first, so without its note it was never handed over.
                Some((number, "data")) if !folder.join(format!("{number}.note")).exists() => fs::remove_file(&path)?,
                Some((number, "note")) => left.extend(number.parse().ok().map(|number| (number, path.clone()))),
                _ => {}
            }
        }
        left.sort_unstable();
        for (number, path) in left {
            // Put aside half-way: the other half is in `rejected`.
            if !folder.join(format!("{number:020}.data")).exists() {
                fs::remove_file(&path)?;
                continue;
            }
            let entry = read(&folder, number).with_context(|| path.display().to_string())?;
            state.next = number;
            state.bytes += entry.len;
            state.waits(entry);
        }
        if !state.waiting.is_empty() {
            debug!(uploads = state.backlog().uploads, folder = %folder.display(), "uploads that were left are gone on with");
        }
        for entry in fs::read_dir(folder.join("rejected"))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.split_once('.')?.0.parse().ok());
            state.next = state.next.max(number.unwrap_or_default());
        }
        let (changed, meter) = (Notify::new(), SpoolMeter::new());
        Ok(Shared { folder, state: Mutex::new(state), changed, meter, bound, _lock: lock })
    }

    fn data(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.data"))
    }

    fn note(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.note"))
    }

    /// The note last and at once: with it the upload is handed over.
    fn write(&self, entry: &Entry, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (data, note) = (self.data(entry.number), self.note(entry.number));
        let text = serde_json::to_vec(&Note { key: entry.key.to_string(), create: entry.create })?;
        let unfinished = note.with_extension("new");
        let written = fs::write(&unfinished, text).map_err(Error::from);
        let written = written.and_then(|()| fill(&data)).and_then(|()| Ok(fs::rename(&unfinished, &note)?));
        if written.is_err() {
            let _ = fs::remove_file(&data);
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// What is to be uploaded next, or else until when all that waits rests.
    fn next(&self) -> Result<Entry, Option<Instant>> {
        let mut state = self.state();
        let entry = state.next(Instant::now())?;
        state.under_way.push(entry.since);
        state.since.get_or_insert_with(Instant::now);
        Ok(entry)
    }

    /// It is tried again later; others go on meanwhile.
    fn failed(&self, mut entry: Entry) {
        let mut state = self.state();
        entry.failures += 1;
        entry.rests_until = Some(Instant::now() + pause(entry.failures));
        state.failures_in_a_row += 1;
        state.backlog.failures += 1;
        self.meter.failed();
        state.leaves(&entry.key.clone(), entry.since, Some(entry));
        self.meter.show(&state.backlog());
        drop(state);
        self.changed.notify_waiters();
    }

    /// It is in the store, or put aside.
    fn ended(&self, entry: &Entry, done: bool) {
        let (data, note) = (self.data(entry.number), self.note(entry.number));
        if !done {
            for path in [&data, &note] {
                let name = path.file_name().unwrap_or_default();
                let _ = fs::rename(path, self.folder.join("rejected").join(name));
            }
        }
        // The note first: data without it is nobody's.
        let _ = fs::remove_file(note);
        let _ = fs::remove_file(data);
        let mut state = self.state();
        state.leaves(&entry.key, entry.since, None);
        state.bytes -= entry.len;
        (state.failures_in_a_row, state.rests_until) = (0, None);
        if done {
            state.backlog.done += 1;
            state.backlog.done_bytes += entry.len;
        } else {
            state.backlog.rejected += 1;
        }
        self.meter.show(&state.backlog());
        drop(state);
        self.changed.notify_waiters();
    }

    /// Numbers and whole entries, each changed at once, so a panic elsewhere broke nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waits(&mut self, entry: Entry) {
        if let Some(line) = self.waiting.get_mut(&entry.key) {
            return line.push_back(entry);
        }
        self.turns.push_back(entry.key.clone());
        self.waiting.insert(entry.key.clone(), VecDeque::from([entry]));
    }

    fn next(&mut self, now: Instant) -> Result<Entry, Option<Instant>> {
        if let Some(until) = self.rests_until.filter(|until| *until > now) {
            return Err(Some(until));
        }
        let first = |key| self.waiting.get(key).and_then(VecDeque::front);
        let rests = |key| first(key).and_then(|entry| entry.rests_until).filter(|until| *until > now);
        let Some(turn) = self.turns.iter().position(|key| rests(key).is_none()) else {
            return Err(self.turns.iter().filter_map(rests).min());
        };
        let entry = self.turns.remove(turn).and_then(|key| self.waiting.get_mut(&key)?.pop_front()).ok_or(None)?;
        if self.failures_in_a_row >= TROUBLE {
            self.rests_until = Some(now + IN_TROUBLE);
        }
        Ok(entry)
    }

    /// One of that key is not under way any more; `again` is to be tried again, before all others of its key.
    fn leaves(&mut self, key: &Key, since: SystemTime, again: Option<Entry>) {
        let line = self.waiting.entry(key.clone()).or_default();
        again.into_iter().for_each(|entry| line.push_front(entry));
        if line.is_empty() {
            self.waiting.remove(key);
        } else {
            self.turns.push_back(key.clone());
        }
        if let Some(place) = self.under_way.iter().position(|other| *other == since) {
            self.under_way.swap_remove(place);
        }
        if self.under_way.is_empty()
            && let Some(since) = self.since.take()
        {
            self.worked += since.elapsed();
        }
    }

    fn backlog(&self) -> Backlog {
        let waiting = self.waiting.values().flatten();
        let oldest = waiting.clone().map(|entry| entry.since).chain(self.under_way.iter().copied()).min();
        let oldest = oldest.and_then(|since| SystemTime::now().duration_since(since).ok()).unwrap_or_default();
        let worked = self.worked + self.since.map(|since| since.elapsed()).unwrap_or_default();
        let throughput = match worked.as_secs_f64() {
            0.0 => 0.0,
            seconds => self.backlog.done_bytes as f64 / seconds,
        };
        let uploads = waiting.count() + self.under_way.len();
        Backlog { uploads, bytes: self.bytes, oldest, throughput, ..self.backlog.clone() }
    }
}

fn read(folder: &Path, number: u64) -> Result<Entry> {
    let note: Note = serde_json::from_slice(&fs::read(folder.join(format!("{number:020}.note")))?)?;
    let found = fs::metadata(folder.join(format!("{number:020}.data")))?;
    let since = found.modified()?;
    let (key, len) = (Key::new(note.key)?, found.len());
    Ok(Entry { number, key, create: note.create, len, since, failures: 0, rests_until: None })
}

/// Uploads what is handed over, for as long as somebody has a handle.
async fn upload(shared: Arc<Shared>, transfers: Transfers) {
    let mut tasks = JoinSet::new();
    loop {
        let changed = shared.changed.notified();
        let mut rests = None;
        while tasks.len() < AT_ONCE {
            match shared.next() {
                Ok(entry) => drop(tasks.spawn(one(Arc::clone(&shared), transfers.clone(), entry))),
                Err(until) => {
                    rests = until;
                    break;
                }
            }
        }
        let rested = async {
            match rests {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = rested => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Uploads one, once.
async fn one(shared: Arc<Shared>, transfers: Transfers, entry: Entry) {
    let mode = if entry.create { Put::Create } else { Put::Overwrite };
    match transfers.send(&entry.key, Content::file(shared.data(entry.number)), mode).await {
        Ok(outcome) => {
            if outcome == Outcome::Conflict {
                debug!(key = %entry.key, "was there already: by somebody else, or by an upload that was cut off");
            }
            end(shared, entry, true).await;
        }
        Err(why) if why.fault() == Fault::Invalid && why.find::<Misconfigured>().is_none() => {
            warn!(key = %entry.key, %why, "an upload is put aside: the store will never take it");
            end(shared, entry, false).await;
        }
        Err(why) => {
            warn!(key = %entry.key, failures = entry.failures + 1, %why, "an upload failed: it is tried again");
            shared.failed(entry);
        }
    }
}

/// Its files are removed off the runtime.
async fn end(shared: Arc<Shared>, entry: Entry, done: bool) {
    let ending = blocking(move || {
        shared.ended(&entry, done);
        Ok(())
    });
    if let Err(why) = ending.await {
        warn!(%why, "an upload's files could not be removed");
    }
}

#[cfg(test)]
mod tests;
