//! States of long jobs, saved where the next worker finds them.
//!
//! It owns what a job keeps below its `state/` and the right to change it. It promises that the newest state there is
//! whole at every moment, whatever dies when; that a worker which was given up changes nothing that counts; and that "not
//! there" is the only reason to begin anew. It does not decide when to save: that is for [`Stepping`](crate::Stepping).
//!
//! ```text
//! state/head                              which state is the newest, and whose turn it is: moved by compare-and-swap
//! state/states/<generation>-<n>-<hash>    manifests: one saved state each, all its parts and the chunks of these
//! state/data/<generation>-<n>-<hash>      bytes: chunks of 4 MiB, or many smaller ones together
//! ```
//!
//! Everything but the head is written once, under a name that is never used again.
//!
//! Where a model is a [`Stepper`](crate::Stepper), its stage does all this. [`Checkpoints`] is for whatever else takes
//! long, such as a program of others in a CPU stage:
//!
//! ```
//! use forebay::checkpoint::{Checkpoints, Snapshot, Workplace};
//! use forebay::store::{Key, Memory};
//! use forebay::Job;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let store = std::sync::Arc::new(Memory::new());
//! let state = Key::new("jobs/7/state")?;
//! for attempt in 0..3u8 {
//!     let job = Job::new("7");
//!     let place = Workplace::new(&job, None);
//!     let mut checkpoints = Checkpoints::open(store.clone(), &state, &place, "example 1").await?;
//!     let number = match checkpoints.restore().await? {
//!         None => 0,
//!         Some(saved) => saved.bytes("number")?[0],
//!     };
//!     assert_eq!(number, attempt);
//!     checkpoints.save(Snapshot::new().bytes("number", vec![number + 1])).await?;
//! }
//! # Ok::<(), forebay::Error>(()) }).unwrap();
//! ```

mod claim;
mod cut;
mod garbage;
pub mod interval;
mod manifest;
mod restore;
pub(crate) mod saver;
pub(crate) mod saving;
mod snapshot;
mod workplace;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::error::{Context, Error, Result};
use crate::job::Job;
use crate::store::{Content, Key, Put, Store, blocking};
use claim::{Claim, Named, Pauses};
use cut::{Cutter, Known, Outgoing, Sizes};
use garbage::Garbage;
use interval::History;
use manifest::{Manifest, VERSION};

pub use claim::TakenOver;
pub use saver::Standing;
pub use saving::Saving;
pub use snapshot::{Saved, Snapshot};
pub use workplace::Workplace;

/// Objects that are sent at once.
const AT_ONCE: usize = 4;
/// The least that a link must carry, in bytes a second, before sending an object is given up.
const LEAST_PACE: u64 = 4 << 10;

/// One job's saved states, in the hands of this worker until another takes them over.
pub struct Checkpoints {
    store: Arc<dyn Store>,
    prefix: Key,
    place: Workplace,
    format: String,
    sizes: Sizes,
    claim: Claim,
    /// Of the last save that was begun; it never goes back, so that no name is used twice.
    sequence: u64,
    history: History,
    newest: Option<Arc<Manifest>>,
    known: Arc<Known>,
    /// What the newest state and the one before it name.
    needed: (BTreeSet<String>, BTreeSet<String>),
    garbage: Garbage,
    /// A save has failed, perhaps after the head had moved: until the next succeeds nobody knows what the head names.
    unsure: bool,
}

/// What a save has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that went to the store: what had changed, compressed where that pays, and the manifest.
    pub bytes: u64,
    /// Objects they were sent in.
    pub objects: u64,
    /// Bytes of the whole state.
    pub state: u64,
    /// From the beginning of the save until it was durable.
    pub took: Duration,
}

impl Checkpoints {
    /// Takes over what is saved below `prefix` (a folder of the job's own) of the job at `place`: from now on whoever had
    /// it cannot save any more. `format` names what the states look like, as [`Stepper::FORMAT`](crate::Stepper::FORMAT)
    /// does.
    ///
    /// # Errors
    /// `Transient` where the store cannot be read or written after several tries, for whatever reason, or the job's lease
    /// is lost. `Failed` where a state is there that is not this job's, or of another format.
    pub async fn open(
        store: Arc<dyn Store>,
        prefix: &Key,
        place: &Workplace,
        format: impl Into<String>,
    ) -> Result<Self> {
        let (job, format) = (place.job().clone(), format.into());
        let opened = async {
            let claim = Claim::take(store.clone(), prefix.clone(), job.clone()).await?;
            let newest = match &claim.head.state {
                None => None,
                Some(named) => match manifest(&store, prefix, named).await {
                    Ok(manifest) => Some(Arc::new(manifest)),
                    Err(why) => return Err(claim.explain(why).await),
                },
            };
            if let Some(manifest) = &newest {
                check(manifest, &job, &format)?;
            }
            Result::<_>::Ok((claim, newest))
        };
        let (claim, newest) = opened.await.with_context(|| format!("the states of job {}", job.id()))?;
        let generation = claim.head.generation;
        match &newest {
            Some(state) => info!(job = job.id(), generation, state = state.sequence, "taken over, with a state"),
            None => info!(job = job.id(), generation, "nothing was saved yet"),
        }
        let needed = newest.as_ref().map(|manifest| names(manifest, &claim)).unwrap_or_default();
        let known = Arc::new(newest.as_ref().map(|manifest| Known::of(manifest, HashMap::new())).unwrap_or_default());
        Ok(Checkpoints {
            store,
            prefix: prefix.clone(),
            place: place.clone(),
            format,
            sizes: Sizes::default(),
            sequence: claim.head.sequence,
            claim,
            history: newest.as_ref().map(|manifest| manifest.history.clone()).unwrap_or_default(),
            newest,
            known,
            needed: (needed, BTreeSet::new()),
            garbage: Garbage::default(),
            unsure: false,
        })
    }

    /// The job.
    pub(crate) fn job(&self) -> &Job {
        self.place.job()
    }

    /// The nodes that have had the job, as of the newest state.
    pub(crate) fn history(&self) -> History {
        self.history.clone()
    }

    /// What the next save says of the nodes that have had the job.
    pub(crate) fn set_history(&mut self, history: History) {
        self.history = history;
    }

    /// Whether a state was found.
    pub fn has_state(&self) -> bool {
        self.newest.is_some()
    }

    /// Brings the newest state back: its files into the workplace's folder, its other parts into memory. `None` where
    /// nothing was saved.
    ///
    /// # Errors
    /// `Failed`, with the object's name, where one is missing or corrupt. `Transient` where the store cannot be read.
    pub async fn restore(&mut self) -> Result<Option<Saved>> {
        self.restore_parts(|_| true).await
    }

    /// The same, of the parts that are wanted. Of a file that only grows and is not wanted, what was saved stays where it
    /// is: what the file has here from now on is put behind it.
    pub async fn restore_parts(&mut self, wants: impl Fn(&str) -> bool + Sync) -> Result<Option<Saved>> {
        let Some(manifest) = self.newest.clone() else {
            return Ok(None);
        };
        let state = format!("state {} of job {}", manifest.sequence, manifest.job);
        let place = self.place.clone();
        let folder = blocking(move || place.folder().map(Path::to_owned)).await?;
        let restored = match restore::restore(&self.store, &self.prefix, state, &manifest, &wants, &folder).await {
            Ok(restored) => restored,
            Err(why) => return Err(self.claim.explain(why).await),
        };
        self.known = Arc::new(Known::of(&manifest, restored.absent));
        Ok(Some(restored.saved))
    }

    /// Saves a state: what is new of it goes to the store, then its manifest, and then the head names it. Whatever fails
    /// or dies before the last leaves the state before as it was.
    ///
    /// # Errors
    /// [`TakenOver`] ([`Error::find`]) where another worker has the job now. `Invalid` for a snapshot with names that are
    /// none. `Transient` where the store cannot be written or the lease is lost; saving may then be tried again, with a
    /// newer snapshot.
    pub async fn save(&mut self, snapshot: Snapshot) -> Result<Sent> {
        let taken = SystemTime::now();
        let snapshot = snapshot.taken(&self.place)?;
        self.save_taken(snapshot, taken).await
    }

    pub(crate) async fn save_taken(&mut self, snapshot: Snapshot, taken: SystemTime) -> Result<Sent> {
        let begun = Instant::now();
        let job = self.place.job().clone();
        self.sequence += 1;
        self.unsure = true;
        let (generation, sequence) = (self.claim.head.generation, self.sequence);
        let saved = async {
            let mut sent = Sent::default();
            let (parts, packs) = self.send_chunks(snapshot, &mut sent).await?;
            sent.state = parts.iter().map(|part| part.len).sum();
            let taken = taken.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let (version, format, history) = (VERSION, self.format.clone(), self.history.clone());
            let job = job.id().to_owned();
            let manifest = Manifest { version, job, format, generation, sequence, taken, history, parts, packs };
            self.commit(&manifest, &mut sent).await?;
            Result::<_>::Ok((manifest, sent))
        };
        let saving = saved.await.with_context(|| format!("saving state {sequence} of job {}", job.id()));
        let (manifest, mut sent) = saving?;
        sent.took = begun.elapsed();
        self.unsure = false;
        let needed = names(&manifest, &self.claim);
        let before = std::mem::replace(&mut self.needed.0, needed);
        let older = std::mem::replace(&mut self.needed.1, before);
        older.into_iter().for_each(|object| self.garbage.add(object));
        self.known = Arc::new(Known::of(&manifest, self.known.absent().clone()));
        self.newest = Some(Arc::new(manifest));
        Ok(sent)
    }

    /// Removes what neither the newest state nor the one before it needs. Never fails: what is left is tried again.
    pub async fn collect_garbage(&mut self) {
        if self.unsure {
            return;
        }
        let needed = self.needed.0.union(&self.needed.1).cloned().collect();
        self.garbage.collect(&*self.store, &self.prefix, &self.claim, &needed).await;
    }

    /// Cuts the snapshot on a thread and sends its objects as they come.
    async fn send_chunks(
        &mut self,
        snapshot: Snapshot,
        sent: &mut Sent,
    ) -> Result<(Vec<manifest::Part>, BTreeMap<String, u64>)> {
        let (to, from) = mpsc::channel::<Outgoing>(AT_ONCE);
        let (place, sizes, known) = (self.place.clone(), self.sizes, self.known.clone());
        let objects = format!("data/{}-{}", self.claim.head.generation, self.sequence);
        let cutting = blocking(move || {
            let mut send = |outgoing| {
                to.blocking_send(outgoing).map_err(|_| Error::transient("nobody sends what was cut any more"))
            };
            Cutter { sizes, known, objects, place: &place, send: &mut send }.cut(snapshot.parts)
        });
        let (store, prefix, claim, garbage) = (&self.store, &self.prefix, &self.claim, &mut self.garbage);
        let outgoing = stream::unfold(from, async |mut from| from.recv().await.map(|next| (next, from)));
        let sending = outgoing
            .map(|Outgoing { object, bytes }| {
                // Until a manifest names it, it is garbage.
                garbage.add(object.clone());
                sent.objects += 1;
                sent.bytes += bytes.len() as u64;
                put(store, prefix, claim, object, bytes)
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| std::future::ready(Ok(())));
        let (cut, ()) = tokio::try_join!(cutting, sending)?;
        Ok(cut)
    }

    async fn commit(&mut self, manifest: &Manifest, sent: &mut Sent) -> Result<()> {
        let bytes = Bytes::from(serde_json::to_vec(manifest)?);
        let hash = blake3::hash(&bytes).to_hex();
        let object = format!("states/{}-{}-{}", manifest.generation, manifest.sequence, &hash.as_str()[..32]);
        let named = Named { object: object.clone(), len: bytes.len() as u64, hash: hash.to_string() };
        sent.objects += 1;
        sent.bytes += named.len;
        self.garbage.add(object.clone());
        put(&self.store, &self.prefix, &self.claim, object, bytes).await?;
        self.claim.commit(manifest.sequence, named).await
    }
}

/// All objects that a state is in, its manifest too.
fn names(manifest: &Manifest, claim: &Claim) -> BTreeSet<String> {
    let state = claim.head.state.iter().map(|named| named.object.clone());
    manifest.objects().into_iter().map(str::to_owned).chain(state).collect()
}

async fn manifest(store: &Arc<dyn Store>, prefix: &Key, named: &Named) -> Result<Manifest> {
    let key = prefix.join(&named.object)?;
    let expected = named.hash.clone();
    let check = move |bytes: Bytes| {
        if blake3::hash(&bytes).to_hex().as_str() != expected {
            return Err(Error::failed("its bytes are not those that were saved"));
        }
        Ok(bytes)
    };
    let bytes = restore::read_checked(store, &key, 0..named.len, check).await?;
    Manifest::parse(&bytes).with_context(|| key.to_string())
}

fn check(manifest: &Manifest, job: &Job, format: &str) -> Result<()> {
    let Manifest { job: theirs, format: saved, sequence, .. } = manifest;
    if theirs != job.id() {
        return Err(Error::failed(format_args!("state {sequence} is of job {theirs}")));
    }
    if saved != format {
        return Err(Error::failed(format_args!(
            "state {sequence} was saved as `{saved}`, and this worker's program reads `{format}`: run the program that \
             saved it, or remove the state to begin anew"
        )));
    }
    Ok(())
}

/// Puts an object under a name that nothing else has.
async fn put(store: &Arc<dyn Store>, prefix: &Key, claim: &Claim, object: String, bytes: Bytes) -> Result<()> {
    let key = prefix.join(&object)?;
    let within = claim::WITHIN + Duration::from_secs(bytes.len() as u64 / LEAST_PACE);
    let mut pauses = Pauses::new();
    loop {
        claim.may_write()?;
        let write = store.write(&key, Content::bytes(bytes.clone()), Put::Overwrite);
        let why = match timeout(within, write).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => Error::transient(format_args!("not sent within {within:?}")),
        };
        pauses.next(why, &key).await?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
