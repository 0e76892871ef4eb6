//! One worker's hold on a job's states: the head object, and the right to move it.
//!
//! The head says whose turn it is (a generation that only grows, with the owner's token) and which manifest is the
//! newest state. It is moved by compare-and-swap and never deleted, so of two workers that believe to have a job only the
//! later one can save. In a store without conditional writes each generation has a head of its own and the highest
//! counts, which is weaker: between its look at the others and its write, a worker may be overtaken.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::manifest::VERSION;
use crate::error::{Context, Error, Fault, Result};
use crate::job::Job;
use crate::source::ends::nonce;
use crate::store::{Conditional, Key, Outcome, Put, Store, Version};

/// How long one small request may take.
pub(super) const WITHIN: Duration = Duration::from_secs(30);
/// How often a request is tried, with pauses that double from [`PAUSE`].
pub(super) const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);
/// How often a head that others move at the same time is tried to be taken.
const RACES: usize = 16;
/// Heads that are looked at in a store without conditional writes.
const HEADS: usize = 1000;

/// Another worker has taken the job's states over, so this one may not save any more.
#[derive(Debug)]
pub struct TakenOver {
    job: String,
    ours: u64,
    theirs: u64,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, ours, theirs } = self;
        write!(
            f,
            "another worker has taken job {job} over (generation {theirs}, this worker's was {ours}): nothing was saved"
        )
    }
}

impl std::error::Error for TakenOver {}

/// The head as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    version: u32,
    job: String,
    pub(super) generation: u64,
    /// Which worker's turn it is.
    owner: String,
    /// Tells this write from all others.
    write: String,
    /// Of the newest state; 0 before the first.
    pub(super) sequence: u64,
    /// The newest state.
    pub(super) state: Option<Named>,
}

/// A manifest's object, with what its bytes must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) object: String,
    pub(super) len: u64,
    pub(super) hash: String,
}

pub(super) struct Claim {
    store: Arc<dyn Store>,
    prefix: Key,
    job: Job,
    pub(super) head: Head,
    /// The version that the next write replaces; `None` where the store knows no conditions.
    expected: Option<Version>,
}

/// How moving a head ended.
enum Moved {
    Done(Version),
    /// It is not what it was expected to be.
    Lost(Option<(Head, Version)>),
}

impl Claim {
    /// Takes a job's states over from whoever had them.
    pub(super) async fn take(store: Arc<dyn Store>, prefix: Key, job: Job) -> Result<Self> {
        if store.conditional() == Conditional::None {
            return Self::take_weakly(store, prefix, job).await;
        }
        let key = prefix.join("head")?;
        for _ in 0..RACES {
            let found = read(&*store, &key).await?;
            may_write(&job)?;
            let (head, version) = found.map_or((None, None), |(head, version)| (Some(head), Some(version)));
            let head = Head::after(head, &job)?;
            match swap(&*store, &key, &head, version.as_ref()).await? {
                Moved::Done(version) => return Ok(Claim { store, prefix, job, head, expected: Some(version) }),
                // Whoever was first may be before us or after us in the queue's eyes: our lease tells.
                Moved::Lost(_) => debug!(job = job.id(), "somebody else took the states at the same time"),
            }
        }
        let job = job.id();
        Err(Error::transient(format_args!("the states of job {job} were taken by others {RACES} times in a row")))
    }

    async fn take_weakly(store: Arc<dyn Store>, prefix: Key, job: Job) -> Result<Self> {
        warn!(
            job = job.id(),
            "this store has no conditional writes: a worker that was given up is kept from saving only as long as it \
             looks, and nothing is removed while the job runs"
        );
        let newest = newest(&*store, &prefix).await?;
        may_write(&job)?;
        let head = Head::after(newest, &job)?;
        let claim = Claim { store, prefix, job, head, expected: None };
        claim.put_weakly(&claim.head).await?;
        Ok(claim)
    }

    /// Makes `state` the newest one. Fails with [`TakenOver`] where it is somebody else's turn.
    pub(super) async fn commit(&mut self, sequence: u64, state: Named) -> Result<()> {
        let head = Head { write: nonce(), sequence, state: Some(state), ..self.head.clone() };
        if self.expected.is_none() { self.commit_weakly(head).await } else { self.commit_if_ours(head).await }
    }

    async fn commit_if_ours(&mut self, head: Head) -> Result<()> {
        let key = self.prefix.join("head")?;
        for _ in 0..RACES {
            may_write(&self.job)?;
            match swap(&*self.store, &key, &head, self.expected.as_ref()).await? {
                Moved::Done(version) => {
                    (self.head, self.expected) = (head, Some(version));
                    return Ok(());
                }
                // An earlier write of ours, of which nobody knew whether it had arrived.
                Moved::Lost(Some((there, version))) if there.owner == head.owner => self.expected = Some(version),
                Moved::Lost(Some((there, _))) => return Err(self.taken_over(&there)),
                Moved::Lost(None) => {
                    let job = self.job.id();
                    return Err(Error::failed(format_args!("the head {key} of job {job} was deleted by somebody")));
                }
            }
        }
        Err(Error::transient(format_args!("the head {key} kept changing under its owner")))
    }

    async fn commit_weakly(&mut self, head: Head) -> Result<()> {
        let newest = newest(&*self.store, &self.prefix).await?;
        may_write(&self.job)?;
        match newest {
            Some(there) if there.order() > self.head.order() && there.owner != head.owner => {
                Err(self.taken_over(&there))
            }
            _ => {
                self.put_weakly(&head).await?;
                self.head = head;
                Ok(())
            }
        }
    }

    async fn put_weakly(&self, head: &Head) -> Result<()> {
        let key = self.prefix.join(format_args!("heads/{:020}-{}", head.generation, head.owner))?;
        let bytes = Bytes::from(serde_json::to_vec(head)?);
        let put = || async { self.store.put(&key, bytes.clone(), Put::Overwrite).await.map(drop) };
        retried(&key, put).await
    }

    /// The reason why something could not be read: a worker that was taken over may miss what nobody needs any more.
    pub(super) async fn explain(&self, why: Error) -> Error {
        let there = match &self.expected {
            Some(_) => match self.prefix.join("head") {
                Ok(key) => read(&*self.store, &key).await.map(|found| found.map(|(head, _)| head)),
                Err(why) => Err(why),
            },
            None => newest(&*self.store, &self.prefix).await,
        };
        match there {
            Ok(Some(there)) if there.owner != self.head.owner => self.taken_over(&there),
            _ => why,
        }
    }

    /// Whether objects that no state needs may be removed: only where nobody else's state can need them.
    pub(super) fn may_collect(&self) -> bool {
        self.expected.is_some()
    }

    pub(super) fn may_write(&self) -> Result<()> {
        may_write(&self.job)
    }

    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    fn taken_over(&self, there: &Head) -> Error {
        let (job, ours, theirs) = (self.job.id().to_owned(), self.head.generation, there.generation);
        Error::new(Fault::Transient, TakenOver { job, ours, theirs })
    }
}

impl Head {
    /// The next generation's, of a worker that takes over.
    fn after(before: Option<Head>, job: &Job) -> Result<Head> {
        let (owner, write, job) = (nonce(), nonce(), job.id().to_owned());
        let Some(before) = before else {
            return Ok(Head { version: VERSION, job, generation: 1, owner, write, sequence: 0, state: None });
        };
        if before.job != job {
            let other = before.job;
            return Err(Error::failed(format_args!(
                "the states there are of job {other}, not of job {job}: give each job a folder of its own"
            )));
        }
        let generation = before.generation.saturating_add(1);
        Ok(Head { version: VERSION, job, generation, owner, write, ..before })
    }

    /// Which of several heads counts.
    fn order(&self) -> (u64, &str) {
        (self.generation, &self.owner)
    }

    fn parse(key: &Key, bytes: &[u8]) -> Result<Head> {
        let parsed = serde_json::from_slice::<Head>(bytes).map_err(Error::from).and_then(|head| match head.version {
            VERSION => Ok(head),
            other => Err(Error::failed(format_args!("it is of form {other}, and this worker reads form {VERSION}"))),
        });
        parsed.with_context(|| format!("the head {key}"))
    }
}

fn may_write(job: &Job) -> Result<()> {
    if job.may_write() {
        return Ok(());
    }
    Err(Error::transient(format_args!("the lease of job {} is lost or about to end: nothing is saved", job.id())))
}

/// Moves the head from the version that is expected (`None`: from nothing) to `head`. An answer that was lost is found
/// out by reading back whose write is there.
async fn swap(store: &dyn Store, key: &Key, head: &Head, expected: Option<&Version>) -> Result<Moved> {
    let bytes = Bytes::from(serde_json::to_vec(head)?);
    let mode = expected.map_or(Put::Create, |version| Put::Match(version.clone()));
    let mut pauses = Pauses::new();
    loop {
        let put = timeout(WITHIN, store.put(key, bytes.clone(), mode.clone()));
        let failure = match put.await {
            Ok(Ok(Outcome::Stored(version))) => return Ok(Moved::Done(version)),
            Ok(Ok(Outcome::Conflict)) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(late()),
        };
        let there = read(store, key).await?;
        match (there, failure) {
            (Some((there, version)), _) if there.write == head.write => return Ok(Moved::Done(version)),
            (there, None) => return Ok(Moved::Lost(there)),
            (there, Some(_)) if there.as_ref().map(|(_, version)| version) != expected => {
                return Ok(Moved::Lost(there));
            }
            // It may still arrive; then the next try finds it there.
            (_, Some(why)) => pauses.next(why, key).await?,
        }
    }
}

/// A head and its version.
async fn read(store: &dyn Store, key: &Key) -> Result<Option<(Head, Version)>> {
    let found = retried(key, || store.get(key)).await?;
    found.map(|object| Ok((Head::parse(key, &object.bytes)?, object.meta.version))).transpose()
}

/// In a store without conditional writes: the head that counts.
async fn newest(store: &dyn Store, prefix: &Key) -> Result<Option<Head>> {
    let below = format!("{prefix}/heads/");
    let (mut last, mut after) = (None, None);
    loop {
        let page = retried(prefix, || store.list(&below, after.as_ref(), HEADS)).await?;
        last = page.objects.into_iter().next_back().or(last);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    // In the order of keys the highest generation is the last.
    let Some(last) = last else {
        return Ok(None);
    };
    Ok(read(store, &last.key).await?.map(|(head, _)| head))
}

/// Pauses between tries of one request, and their end.
pub(super) struct Pauses(u32);

impl Pauses {
    pub(super) fn new() -> Self {
        Pauses(0)
    }

    /// Waits before another try, or fails with `why`, laid to nobody: what cannot be read or written now gives the job
    /// back, whatever the store says is the reason.
    pub(super) async fn next(&mut self, why: Error, key: &Key) -> Result<()> {
        self.0 += 1;
        if self.0 >= TRIES {
            return Err(why.with_fault(Fault::Transient).context(format_args!("{key}, tried {TRIES} times")));
        }
        debug!(%key, error = %why, "trying again");
        sleep(PAUSE.saturating_mul(1 << (self.0 - 1).min(8))).await;
        Ok(())
    }
}

/// No answer has come in time.
pub(super) fn late() -> Error {
    Error::transient(format_args!("no answer within {WITHIN:?}"))
}

/// Tries a request until it is answered, each time within [`WITHIN`].
pub(super) async fn retried<T, F: Future<Output = Result<T>>>(key: &Key, request: impl Fn() -> F) -> Result<T> {
    let mut pauses = Pauses::new();
    loop {
        match timeout(WITHIN, request()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => pauses.next(why, key).await?,
            Err(_) => pauses.next(late(), key).await?,
        }
    }
}
