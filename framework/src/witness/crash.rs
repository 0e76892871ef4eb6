//! Crashes as a store keeps them, and what they say against a job.
//!
//! | object | written |
//! |---|---|
//! | `crashes/JOB/WORKER-PROCESS` | by whoever witnessed the end of that process, for each job that was in it |
//!
//! Of the jobs in a process that died one is guilty, and nobody knows which. So a job that was there becomes a
//! suspect, and a suspect runs alone: if its process dies again, it was the job, and if not, it is done and cleared.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::source::ends::{Ends, path};
use crate::store::{Key, Put};

/// How many different workers a job may crash.
const WORKERS: usize = 3;
/// How many processes it may crash where there are fewer workers than that.
const PROCESSES: usize = 2 * WORKERS;
/// Requests to the store at once.
const AT_ONCE: usize = 16;

/// A worker's death, as it was witnessed, with a job in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The worker: the disk that it keeps its marker on.
    pub worker: String,
    /// The process.
    pub process: String,
    /// When it was written down, as in RFC 3339.
    pub told: String,
    /// How the process died.
    pub cause: String,
    /// Whether the job was on a thread at the time, of a CPU stage or of a device.
    pub at_work: bool,
    /// How many other jobs of its source were in the process.
    pub others: usize,
}

/// What is thought of a job after its crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    Innocent,
    /// It may have been the one: it runs alone.
    Suspect,
    /// It was the one, and has been often enough.
    Poison,
}

/// | crashes | opinion |
/// |---|---|
/// | on three different workers, or of six processes; in one of them the job was alone | `Poison` |
/// | one, on a thread or alone | `Suspect` |
/// | one, in company and on no thread | `Innocent` |
/// | two | `Suspect` |
///
/// A job that kills its process from a thread is a suspect after its first crash; one that kills it from an async stage
/// after its second.
pub(crate) fn opinion(crashes: &[Crash]) -> Opinion {
    let alone = crashes.iter().any(|crash| crash.others == 0);
    let workers: BTreeSet<&str> = crashes.iter().map(|crash| crash.worker.as_str()).collect();
    if alone && (workers.len() >= WORKERS || crashes.len() >= PROCESSES) {
        return Opinion::Poison;
    }
    match crashes.len() >= 2 || crashes.iter().any(|crash| crash.at_work || crash.others == 0) {
        true => Opinion::Suspect,
        false => Opinion::Innocent,
    }
}

/// Why a poison job is rejected.
pub(crate) fn reason(crashes: &[Crash]) -> Error {
    let workers: BTreeSet<&str> = crashes.iter().map(|crash| crash.worker.as_str()).collect();
    let last = crashes.iter().max_by_key(|crash| &crash.told).map_or("", |crash| crash.cause.as_str());
    Error::failed(format_args!(
        "crashed its worker {} times, on {} worker{}, at least once while it ran alone; the last process {last}",
        crashes.len(),
        workers.len(),
        if workers.len() == 1 { "" } else { "s" }
    ))
}

/// Writes a process's crash down for each job that was in it. It may be repeated.
pub(crate) async fn tell(ends: &Ends, crashes: Vec<(String, Crash)>) -> Result<()> {
    let tell = async |(id, crash): (String, Crash)| {
        let key = key(&id, &format!("{}-{}", crash.worker, crash.process))?;
        ends.write(&key, &crash, Put::Overwrite).await.map(drop)
    };
    stream::iter(crashes).map(tell).buffer_unordered(AT_ONCE).try_collect().await
}

/// The crashes that a job was in.
pub(crate) async fn of(ends: &Ends, id: &str) -> Result<Vec<Crash>> {
    let found = ends.list_all(&format!("crashes/{}/", path(id))).await?;
    let read = async |key: Key| ends.read::<Crash>(&key).await;
    let crashes = stream::iter(found).map(|meta| read(meta.key)).buffer_unordered(AT_ONCE);
    crashes.try_filter_map(async |crash| Ok(crash)).try_collect().await
}

/// Removes what is known of a job's crashes.
pub(crate) async fn forget(ends: &Ends, id: &str) -> Result<()> {
    for meta in ends.list_all(&format!("crashes/{}/", path(id))).await? {
        ends.delete(&meta.key).await?;
    }
    Ok(())
}

fn key(id: &str, name: &str) -> Result<Key> {
    Key::new(format!("crashes/{}/{name}", path(id)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Memory;

    fn crash(worker: usize, process: usize, at_work: bool, others: usize) -> Crash {
        let told = format!("2026-01-01T00:00:{process:02}.000Z");
        let cause = format!("died by signal {process}");
        Crash { worker: worker.to_string(), process: process.to_string(), told, cause, at_work, others }
    }

    #[test]
    fn who_is_suspected_and_who_is_condemned() {
        let of = |crashes: &[(usize, bool, usize)]| {
            let crashes = crashes.iter().enumerate();
            let crashes: Vec<_> =
                crashes.map(|(process, &(worker, at, others))| crash(worker, process, at, others)).collect();
            opinion(&crashes)
        };
        assert_eq!(of(&[]), Opinion::Innocent);
        assert_eq!(of(&[(1, false, 9)]), Opinion::Innocent, "others were on a thread");
        assert_eq!(of(&[(1, true, 9)]), Opinion::Suspect);
        assert_eq!(of(&[(1, false, 0)]), Opinion::Suspect, "there was nobody else");
        assert_eq!(of(&[(1, false, 9), (2, false, 9)]), Opinion::Suspect);
        assert_eq!(of(&[(1, true, 9), (2, true, 0)]), Opinion::Suspect);
        assert_eq!(of(&[(1, true, 9), (2, true, 0), (3, true, 0)]), Opinion::Poison);
        assert_eq!(of(&[(1, true, 9), (2, true, 9), (3, true, 9)]), Opinion::Suspect, "never alone: bad company");
        assert_eq!(of(&[(1, true, 9), (1, true, 0), (1, true, 0)]), Opinion::Suspect, "it may be the worker");
        assert_eq!(of(&[(1, true, 0); 5]), Opinion::Suspect);
        assert_eq!(of(&[(1, true, 0); 6]), Opinion::Poison, "there is no other worker to try");
    }

    #[test]
    fn the_reason_says_how_often_where_and_how() {
        let why = reason(&[crash(1, 6, true, 3), crash(2, 11, true, 0), crash(3, 9, true, 0)]).to_string();
        assert!(why.starts_with("crashed its worker 3 times, on 3 workers"), "{why}");
        assert!(why.ends_with("the last process died by signal 11"), "{why}");
    }

    #[tokio::test]
    async fn what_was_told_is_found_again_and_counts_once() {
        let ends = Ends::new(Arc::new(Memory::new()));
        let first = crash(1, 1, true, 1);
        let told = vec![("a".to_owned(), first.clone()), ("a/b".to_owned(), first.clone())];
        tell(&ends, told.clone()).await.unwrap();
        tell(&ends, told).await.unwrap();
        assert_eq!(of(&ends, "a").await.unwrap(), std::slice::from_ref(&first));
        tell(&ends, vec![("a".to_owned(), crash(2, 2, true, 0))]).await.unwrap();
        assert_eq!(of(&ends, "a").await.unwrap().len(), 2);
        forget(&ends, "a").await.unwrap();
        assert_eq!((of(&ends, "a").await.unwrap().len(), of(&ends, "a/b").await.unwrap()), (0, vec![first]));
    }
}
