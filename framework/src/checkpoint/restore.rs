//! A saved state on its way back: chunks fetched side by side, checked, and put where they belong.
//!
//! It promises that what it gives is what was saved, byte for byte, or that it fails and says which object of which job
//! is to blame. A chunk that is wrong or missing is read again before that is believed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::claim::{Pauses, WITHIN, late};
use super::manifest::{Chunk, Kind, Manifest, Part};
use super::snapshot::Saved;
use crate::error::{Classify, Context, Error, Fault, Result};
use crate::store::{Key, Opened, Store, blocking};

/// Objects that are read at once.
const AT_ONCE: usize = 8;
/// How long a body may stand still.
const STILL: Duration = Duration::from_secs(30);

/// What was brought back.
pub(super) struct Restored {
    pub(super) saved: Saved,
    /// Growing files that were not wanted, and how long each is in the store.
    pub(super) absent: HashMap<String, u64>,
}

/// Where a chunk belongs: which of the wanted parts, and where in it.
type Target = (usize, u64);

/// The chunks that are wanted of one object.
struct Visit {
    object: String,
    chunks: Vec<(Chunk, Vec<Target>)>,
}

/// Fetches the wanted parts of a state. `state` is what it is called in errors.
pub(super) async fn restore(
    store: &Arc<dyn Store>,
    prefix: &Key,
    state: String,
    manifest: &Manifest,
    wants: &(dyn Fn(&str) -> bool + Sync),
    folder: &Path,
) -> Result<Restored> {
    let wanted: Vec<&Part> = manifest.parts.iter().filter(|part| wants(&part.name)).collect();
    let left = manifest.parts.iter().filter(|part| part.kind == Kind::Grows && !wants(&part.name));
    let absent = left.map(|part| (part.name.clone(), part.len)).collect();
    let mut places = places(&wanted, folder).await?;
    let visits = visits(&wanted);
    let fetches = visits.into_iter().map(|visit| {
        let key = prefix.join(&visit.object);
        async { fetch(store, &key?, visit).await }
    });
    let mut fetched = stream::iter(fetches).buffer_unordered(AT_ONCE);
    let put = async {
        while let Some(chunks) = fetched.try_next().await? {
            for (bytes, targets) in chunks {
                for (part, at) in targets {
                    let written = places[part].write(at, bytes.clone()).await;
                    written.with_context(|| format!("writing {}", folder.join(&wanted[part].name).display()))?;
                }
            }
        }
        Result::<()>::Ok(())
    };
    put.await.context(&state)?;
    let mut parts = BTreeMap::new();
    for (part, place) in wanted.iter().zip(places) {
        if let Place::Memory(bytes) = place {
            parts.insert(part.name.clone(), bytes.freeze());
        }
    }
    Ok(Restored { saved: Saved { state, taken: manifest.taken(), parts }, absent })
}

/// Where the bytes of a part are put.
enum Place {
    Memory(BytesMut),
    File(Arc<File>),
}

impl Place {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        match self {
            Place::Memory(all) => {
                let at = at as usize;
                all[at..at + bytes.len()].copy_from_slice(&bytes);
                Ok(())
            }
            Place::File(file) => {
                let file = Arc::clone(file);
                blocking(move || file.write_all_at(&bytes, at).or_transient()).await
            }
        }
    }
}

async fn places(wanted: &[&Part], folder: &Path) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for part in wanted {
        let place = match part.kind {
            Kind::Memory => {
                let len = part.len;
                let room = blocking(move || memory(len)).await;
                Place::Memory(room.with_context(|| format!("part `{}` of {len} bytes", part.name))?)
            }
            Kind::File | Kind::Grows => {
                let path = folder.join(&part.name);
                Place::File(Arc::new(blocking(move || create(path)).await?))
            }
        };
        places.push(place);
    }
    Ok(places)
}

/// Room for so many bytes; refused, and not aborted, where this node has none.
fn memory(len: u64) -> Result<BytesMut> {
    let len = usize::try_from(len).or_transient()?;
    Vec::<u8>::new().try_reserve_exact(len).or_transient()?;
    Ok(BytesMut::zeroed(len))
}

fn create(path: PathBuf) -> Result<File> {
    let make = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        File::create(&path)
    };
    // That this disk is full or broken is no fault of the job's.
    make().or_transient().with_context(|| format!("making {}", path.display()))
}

/// The chunks that are wanted of one object, by what they are and where they are in it.
type Wanted<'a> = HashMap<(&'a str, u64, u64), (&'a Chunk, Vec<Target>)>;

fn visits(wanted: &[&Part]) -> Vec<Visit> {
    let mut objects: BTreeMap<&str, Wanted> = BTreeMap::new();
    for (index, part) in wanted.iter().enumerate() {
        let mut at = 0;
        for chunk in &part.chunks {
            let chunks = objects.entry(&chunk.object).or_default();
            let (_, targets) = chunks.entry((&chunk.hash, chunk.at, chunk.len)).or_insert((chunk, Vec::new()));
            targets.push((index, at));
            at += chunk.len;
        }
    }
    let visit = |(object, chunks): (&str, Wanted)| {
        let chunks = chunks.into_values().map(|(chunk, targets)| (chunk.clone(), targets)).collect();
        Visit { object: object.to_owned(), chunks }
    };
    objects.into_iter().map(visit).collect()
}

/// Why an object could not be had.
enum Trouble {
    /// Nobody knows what is there.
    Unread(Error),
    /// It is not there.
    Missing,
    /// It is not what was saved.
    Corrupt(Error),
}

impl From<Error> for Trouble {
    fn from(why: Error) -> Self {
        Trouble::Unread(why)
    }
}

/// Tries until the bytes of an object are there and what they should be. What is missing or wrong may have been changed
/// on its way: that is believed only after it was read again.
pub(super) async fn read_checked<T>(
    store: &Arc<dyn Store>,
    key: &Key,
    range: Range<u64>,
    check: impl Fn(Bytes) -> Result<T> + Clone + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
{
    let mut pauses = Pauses::new();
    loop {
        let (why, known) = match read_once(store, key, range.clone(), check.clone()).await {
            Ok(checked) => return Ok(checked),
            Err(Trouble::Unread(why)) => (why, None),
            Err(Trouble::Missing) => {
                let missing = Error::failed(format_args!("{key} is needed, and is not there"));
                (missing.clone(), Some(missing))
            }
            Err(Trouble::Corrupt(why)) => {
                let corrupt = why.with_fault(Fault::Failed).context(format_args!("{key} is corrupt"));
                (corrupt.clone(), Some(corrupt))
            }
        };
        pauses.next(why, key).await.map_err(|unread| known.unwrap_or(unread))?;
    }
}

async fn read_once<T: Send + 'static>(
    store: &Arc<dyn Store>,
    key: &Key,
    range: Range<u64>,
    check: impl Fn(Bytes) -> Result<T> + Send + 'static,
) -> Result<T, Trouble> {
    let opened = timeout(WITHIN, store.read(key, range.clone(), None)).await;
    let reading = match opened.map_err(|_| late())?? {
        Opened::Found(reading) => reading,
        Opened::Missing | Opened::Changed => return Err(Trouble::Missing),
    };
    let from = reading.range.start;
    if reading.len < range.end || from > range.start || reading.range.end < range.end {
        let len = reading.len;
        return Err(Trouble::Corrupt(Error::failed(format_args!("it has {len} bytes, and {} are needed", range.end))));
    }
    let most = (reading.range.end - from) as usize;
    let bytes = reading.moving(STILL).collect(most).await?;
    let wanted = bytes.slice((range.start - from) as usize..(range.end - from) as usize);
    blocking(move || Ok(check(wanted))).await?.map_err(Trouble::Corrupt)
}

/// The wanted chunks of one object, each as it was before it was saved.
async fn fetch(store: &Arc<dyn Store>, key: &Key, visit: Visit) -> Result<Vec<(Bytes, Vec<Target>)>> {
    let start = visit.chunks.iter().map(|(chunk, _)| chunk.at).min().unwrap_or(0);
    let end = visit.chunks.iter().map(|(chunk, _)| chunk.at + chunk.stored).max().unwrap_or(0);
    let (chunks, targets): (Vec<Chunk>, Vec<Vec<Target>>) = visit.chunks.into_iter().unzip();
    let chunks = Arc::new(chunks);
    let check = move |bytes: Bytes| chunks.iter().map(|chunk| unpack(chunk, &bytes, start)).collect::<Result<Vec<_>>>();
    Ok(read_checked(store, key, start..end, check).await?.into_iter().zip(targets).collect())
}

fn unpack(chunk: &Chunk, bytes: &Bytes, start: u64) -> Result<Bytes> {
    let at = (chunk.at - start) as usize;
    let stored = bytes.slice(at..at + chunk.stored as usize);
    let plain = if chunk.lz4 { Bytes::from(lz4_flex::block::decompress(&stored, chunk.len as usize)?) } else { stored };
    if plain.len() as u64 != chunk.len || blake3::hash(&plain).to_hex().as_str() != chunk.hash {
        return Err(Error::failed("its bytes are not those that were saved"));
    }
    Ok(plain)
}
