//! Finds files that are neither done nor claimed, and claims them.
//!
//! It remembers which claims of others it has seen and since when, by its own clock, and which files have ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Shared;
use super::claim::{Claim, Claimed, key, read, write};
use super::ending::{Ended, Fingerprint, done, ended, failed, forget, has_unrecorded_result, name_fits};
use crate::error::{Context, Error, Result};
use crate::job::Meta;
use crate::source::Delivery;
use crate::store::{Put, Store, Version};

/// How many claims are tried at once, and how many at most before they are given out.
const CLAIM_AT_ONCE: usize = 4;
const MOST_CLAIMS: usize = 16;

pub(super) struct Scanner {
    shared: Arc<Shared>,
    known: Known,
    /// Open files, as the last look found them, with the claims that may be taken over.
    candidates: VecDeque<Candidate>,
    /// Claims of others, and since when they stand unchanged.
    seen: HashMap<String, Seen>,
}

/// What need not be looked at or said again.
#[derive(Default)]
pub(super) struct Known {
    /// The states in which files are done.
    done: HashMap<String, Fingerprint>,
    /// What was left out, and said.
    said: HashSet<PathBuf>,
}

impl Known {
    fn say(&mut self, path: &Path, why: impl std::fmt::Display) {
        if self.said.insert(path.to_owned()) {
            warn!(path = %path.display(), "left out: {why}");
        }
    }
}

struct Seen {
    claim: Claim,
    version: Version,
    since: Instant,
}

struct Candidate {
    id: String,
    input: Fingerprint,
    /// The claim that stands there, if it may be taken over.
    over: Option<(Claim, Version)>,
}

impl Scanner {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Scanner { shared, known: Known::default(), candidates: VecDeque::new(), seen: HashMap::new() }
    }

    /// Looks until it has claimed at least one file. None means that every file has ended, and no more are awaited.
    pub(super) async fn look(&mut self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            if self.candidates.is_empty() && self.find().await? == 0 && self.shared.once {
                return Ok(Vec::new());
            }
            while !self.candidates.is_empty() {
                if self.shared.stopped.load(Ordering::Relaxed) {
                    return Ok(Vec::new());
                }
                // Not many at a time: the first of them should not grow old while the last is claimed.
                let count = max.min(MOST_CLAIMS).min(self.candidates.len());
                let candidates: Vec<Candidate> = self.candidates.drain(..count).collect();
                let claims = candidates.into_iter().map(|candidate| claim(self.shared.clone(), candidate));
                let claimed: Vec<_> = stream::iter(claims).buffered(CLAIM_AT_ONCE).collect().await;
                let mut deliveries = Vec::new();
                for claimed in claimed {
                    match claimed {
                        Ok(delivery) => deliveries.extend(delivery),
                        Err(why) => warn!(error = %why, "a file could not be claimed; it will be tried again"),
                    }
                }
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            }
            if self.shared.stopped.load(Ordering::Relaxed) {
                return Ok(Vec::new());
            }
            sleep(self.shared.look_every).await;
        }
    }

    /// Finds the files that may be claimed now; how many files are open at all.
    async fn find(&mut self) -> Result<usize> {
        let (shared, mut known) = (self.shared.clone(), std::mem::take(&mut self.known));
        let search = move || {
            let open = open_files(&shared, &mut known);
            (open, known)
        };
        let (open, known) = spawn_blocking(search).await.context("looking into the inbox")?;
        self.known = known;
        let open = open?;
        let standing = self.claims().await?;
        self.seen.retain(|id, _| standing.contains_key(id));
        for (id, input) in &open {
            if key(id).is_err() {
                // Its claim will say why.
                self.candidates.push_back(Candidate { id: id.clone(), input: *input, over: None });
                continue;
            }
            let over = match standing.get(id) {
                None => None,
                Some(version) => match self.may_take_over(id, version).await? {
                    Some(over) => Some(over),
                    None => continue,
                },
            };
            self.candidates.push_back(Candidate { id: id.clone(), input: *input, over });
        }
        Ok(open.len())
    }

    async fn claims(&self) -> Result<HashMap<String, Version>> {
        let store: &dyn Store = &self.shared.claims;
        let claims = store.list_all("claims/").await?;
        let id = |key: &str| key.strip_prefix("claims/").unwrap_or(key).to_owned();
        Ok(claims.into_iter().map(|meta| (id(meta.key.as_str()), meta.version)).collect())
    }

    /// The claim, if it has stood unchanged for as long as it asks for.
    async fn may_take_over(&mut self, id: &str, version: &Version) -> Result<Option<(Claim, Version)>> {
        if self.seen.get(id).is_none_or(|seen| seen.version != *version) {
            let Some((claim, version)) = read(&self.shared, &key(id)?).await? else {
                return Ok(None);
            };
            let since = Instant::now();
            self.seen.insert(id.to_owned(), Seen { claim, version, since });
        }
        let over = |seen: &&Seen| seen.since.elapsed() >= Duration::from_millis(seen.claim.wait_ms);
        let seen = self.seen.get(id).filter(over);
        Ok(seen.map(|seen| (seen.claim.clone(), seen.version.clone())))
    }
}

/// Claims one file, if nobody else is faster; `None` also if it turns out to be done.
async fn claim(shared: Arc<Shared>, candidate: Candidate) -> Result<Option<Delivery>> {
    let Candidate { id, input, over } = candidate;
    let key = match key(&id) {
        Ok(key) => key,
        Err(why) => {
            let why = why.context("the file's path cannot name a job; rename it").to_string();
            let refuse = move || forget(&shared, &id).and_then(|()| failed(&shared, &id, 1, input, why));
            spawn_blocking(refuse).await.context("refusing a file")??;
            return Ok(None);
        }
    };
    let before = Instant::now();
    let attempt = over.as_ref().map_or(0, |(claim, _)| claim.attempt) + 1;
    let beat = over.as_ref().map_or(0, |(claim, _)| claim.beat) + 1;
    let claim = Claim { owner: shared.owner.clone(), attempt, wait_ms: shared.lease.as_millis() as u64, beat, input };
    let worked_on = over.as_ref().map(|(claim, _)| claim.input);
    let mode = over.map_or(Put::Create, |(_, version)| Put::Match(version));
    let Some(version) = write(&shared, &key, &claim, mode).await? else {
        return Ok(None);
    };
    let until = before + shared.lease;
    let prepared = {
        let (shared, id) = (shared.clone(), id.clone());
        spawn_blocking(move || prepare(&shared, &id, attempt, input, worked_on)).await.context("reading a file")??
    };
    let Some(payload) = prepared else {
        shared.claims.delete(&key).await?;
        return Ok(None);
    };
    let receipt = Claimed { shared, id: id.clone(), key, state: Mutex::new((claim, version)) };
    let receipt = Arc::new(receipt);
    Ok(Some(Delivery { id, attempt, payload, until, meta: Meta::default(), receipt }))
}

/// With the claim in hand: clears away how an older state of the file ended, and reads it. `None` if there is
/// nothing to do for it now. `worked_on` is the state that the claim's last holder had.
fn prepare(
    shared: &Shared,
    id: &str,
    attempt: u32,
    input: Fingerprint,
    worked_on: Option<Fingerprint>,
) -> Result<Option<Bytes>> {
    let path = shared.inbox.join(id);
    // Between the look and the claim the file may have been changed, removed, or done by somebody else.
    let present = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)).map(|meta| Fingerprint::of(&meta));
    if present.ok() != Some(input) || matches!(ended(shared, id), Some(Ended::Done(state)) if state == input) {
        return Ok(None);
    }
    if has_unrecorded_result(shared, id) && worked_on == Some(input) {
        done(shared, id, attempt, input, None)?;
        return Ok(None);
    }
    forget(shared, id)?;
    if shared.by_path {
        return Ok(Some(path.to_string_lossy().into_owned().into()));
    }
    match fs::read(&path) {
        Ok(content) => Ok(Some(content.into())),
        Err(why) if is_lasting(&why) => {
            let why = format!("cannot read `{}`: {why}", path.display());
            warn!(job = id, why, "job failed");
            failed(shared, id, attempt, input, why)?;
            Ok(None)
        }
        Err(why) => Err(why).with_context(|| format!("reading `{}`", path.display())),
    }
}

/// Whether reading again would not help.
fn is_lasting(why: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotFound, PermissionDenied};
    matches!(why.kind(), NotFound | PermissionDenied | IsADirectory)
}

/// All files that have not ended in their present state, in the order of their paths. `known` are those whose records
/// need not be read again.
pub(super) fn open_files(shared: &Shared, known: &mut Known) -> Result<Vec<(String, Fingerprint)>> {
    if !shared.inbox.is_dir() {
        let inbox = shared.inbox.display();
        return Err(Error::invalid(format_args!("the inbox `{inbox}` is not there any more")));
    }
    let mut open = Vec::new();
    let mut done = HashMap::new();
    walk(shared, &shared.inbox, known, &mut |known, id, input| {
        if known.done.get(&id) == Some(&input) {
            done.insert(id, input);
            return;
        }
        match ended(shared, &id) {
            Some(Ended::Done(state)) if state == input => drop(done.insert(id, input)),
            Some(Ended::Failed(state)) if state == input => {}
            _ if name_fits(shared, &id) => open.push((id, input)),
            _ => known.say(Path::new(&id), "its name is too long for that of its result; shorten it"),
        }
    });
    known.done = done;
    open.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(open)
}

/// Visits every file below a folder. What cannot be looked into is left out, and said.
fn walk(shared: &Shared, folder: &Path, known: &mut Known, visit: &mut impl FnMut(&mut Known, String, Fingerprint)) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) => return known.say(folder, format_args!("cannot look into it: {why}")),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || path == shared.outbox {
            continue;
        }
        // A link that leads nowhere is a file that cannot be read, and its job says so.
        let Ok(meta) = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)) else {
            continue;
        };
        if meta.is_dir() {
            // Links to folders may lead in a circle.
            if !path.is_symlink() {
                walk(shared, &path, known, visit);
            }
            continue;
        }
        match path.strip_prefix(&shared.inbox).ok().and_then(Path::to_str) {
            Some(id) => visit(known, id.to_owned(), Fingerprint::of(&meta)),
            None => known.say(&path, "its name is not UTF-8"),
        }
    }
}
