//! How a file's job ends on disk: its result, and beside it the record, or the file that says why it failed.
//!
//! The result comes first and the record after it, each whole or not at all; a worker that finds a result without a
//! record writes the record and does not run the job again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::claim::new_owner;
use crate::error::{Context, Result};
use crate::verdict::Verdict;

/// Which state of a file was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    bytes: u64,
    modified_ns: u64,
}

impl Fingerprint {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Fingerprint { bytes: meta.len(), modified_ns: modified.unwrap_or_default().as_nanos() as u64 }
    }
}

/// What stands beside a result, or instead of one.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    attempt: u32,
    input: Fingerprint,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_try_again: Option<String>,
}

fn beside(shared: &Shared, id: &str, suffix: &str) -> PathBuf {
    shared.outbox.join(format!("{id}{suffix}"))
}

/// How a state of a file has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    Done(Fingerprint),
    Failed(Fingerprint),
}

/// How the file has ended, in whatever state it was then.
pub(super) fn ended(shared: &Shared, id: &str) -> Option<Ended> {
    let read = |suffix| {
        let bytes = fs::read(beside(shared, id, suffix)).ok()?;
        serde_json::from_slice::<Record>(&bytes).ok().map(|record| record.input)
    };
    read(".done.json").map(Ended::Done).or_else(|| read(".failed.json").map(Ended::Failed))
}

/// Whether the names of what is written beside an input fit a file system.
pub(super) fn name_fits(shared: &Shared, id: &str) -> bool {
    const LONGEST_NAME: usize = 255;
    let name = id.rsplit('/').next().unwrap_or(id);
    let suffix = shared.suffix.len().max(".failed.json".len());
    name.len() + suffix <= LONGEST_NAME
}

/// Whether a result stands there without its record: its worker died between the two.
pub(super) fn has_unrecorded_result(shared: &Shared, id: &str) -> bool {
    beside(shared, id, &shared.suffix).exists() && !beside(shared, id, ".done.json").exists()
}

/// Removes how an earlier state of the file ended. The record goes last, so that a result without one is never old.
pub(super) fn forget(shared: &Shared, id: &str) -> Result<()> {
    for suffix in [".failed.json", &shared.suffix, ".done.json"] {
        let path = beside(shared, id, suffix);
        match fs::remove_file(&path) {
            Err(why) if why.kind() != ErrorKind::NotFound => {
                return Err(why).with_context(|| format!("removing `{}`", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes how a job ended.
pub(super) async fn end(
    shared: &Arc<Shared>,
    id: &str,
    attempt: u32,
    input: Fingerprint,
    verdict: &Verdict,
) -> Result<()> {
    let (shared, id, verdict) = (shared.clone(), id.to_owned(), verdict.clone());
    let write = move || match verdict {
        Verdict::Done(output) => done(&shared, &id, attempt, input, Some(output)),
        Verdict::Reject { why } => failed(&shared, &id, attempt, input, why.to_string()),
        Verdict::Retry { .. } => Ok(()),
    };
    tokio::task::spawn_blocking(write).await.context("writing a result")?
}

/// Writes the result, unless one stands there already, and its record.
pub(super) fn done(shared: &Shared, id: &str, attempt: u32, input: Fingerprint, output: Option<Bytes>) -> Result<()> {
    if let Some(output) = output {
        let path = beside(shared, id, &shared.suffix);
        put(shared, &path, &output)?;
        if fs::read(&path).ok().is_none_or(|standing| standing != output) {
            // A result without a record, of a worker that lost its claim: the record will be of this one.
            fs::remove_file(&path).with_context(|| format!("replacing `{}`", path.display()))?;
            put(shared, &path, &output)?;
        }
    }
    let result = Some(format!("{id}{}", shared.suffix));
    let record = Record { id: id.to_owned(), attempt, input, result, failed: None, to_try_again: None };
    put(shared, &beside(shared, id, ".done.json"), &serde_json::to_vec_pretty(&record)?)
}

/// Writes the file that says why.
pub(super) fn failed(shared: &Shared, id: &str, attempt: u32, input: Fingerprint, why: String) -> Result<()> {
    let to_try_again = Some("change the input, or delete this file".to_owned());
    let record = Record { id: id.to_owned(), attempt, input, result: None, failed: Some(why), to_try_again };
    put(shared, &beside(shared, id, ".failed.json"), &serde_json::to_vec_pretty(&record)?)
}

/// Removes the file of a job that is done.
pub(super) async fn consume(shared: &Arc<Shared>, id: &str) -> Result<()> {
    let path = shared.inbox.join(id);
    let remove = move || match fs::remove_file(&path) {
        Err(why) if why.kind() != ErrorKind::NotFound => {
            Err(why).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    };
    tokio::task::spawn_blocking(remove).await.context("removing a job's file")?
}

/// Puts a whole file in place, durably, where there is none.
pub(super) fn put(shared: &Shared, path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing `{}`", path.display());
    let folder = path.parent().unwrap_or(&shared.outbox);
    fs::create_dir_all(folder).with_context(doing)?;
    let temporary = folder.join(format!(".{}.tmp", new_owner()));
    let linked = write_whole(&temporary, bytes).and_then(|()| fs::hard_link(&temporary, path));
    // Whatever came of it, the temporary name has served its turn.
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(why) if why.kind() != ErrorKind::AlreadyExists => return Err(why).with_context(doing),
        _ => {}
    }
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(doing)
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
