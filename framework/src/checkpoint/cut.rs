//! A snapshot cut into chunks: what is new becomes objects to be sent, what is there already is named again.
//!
//! It owns sizes, hashes and compression. It runs on a thread of its own, since it reads files and computes, and hands
//! each object on as soon as it is whole, so that no more than a few are in memory beside the snapshot itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;

use blake3::Hash;
use bytes::Bytes;
use tracing::warn;

use super::manifest::{Chunk, Kind, Manifest, Part};
use super::{Workplace, snapshot};
use crate::error::{Context, Error, Result};
use crate::store::content::piece;

/// What is believed of a chunk's length when a manifest is read.
pub(super) const LONGEST_CHUNK: u64 = 64 << 20;
/// Of a chunk, how much is compressed to find out whether that pays.
const SAMPLE: usize = 64 << 10;

/// So many small chunks at the end of a growing file are sent again as one, which is less than to name each of them in
/// every manifest from then on.
const CRUMBS: usize = 64;
/// Chunks below so many bytes are small. What is put together is hardly ever small again, so that few bytes are sent more
/// than twice.
const CRUMB: u64 = 16 << 10;

/// How a state is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Parts are cut every so many bytes.
    pub(super) chunk: usize,
    /// Chunks below this share objects,
    pub(super) small: usize,
    /// of about this size.
    pub(super) pack: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { chunk: 4 << 20, small: 1 << 20, pack: 8 << 20 }
    }
}

/// An object to be sent.
pub(super) struct Outgoing {
    /// Below the job's states.
    pub(super) object: String,
    pub(super) bytes: Bytes,
}

/// What is in the store already, of the state that was saved last.
#[derive(Default)]
pub(super) struct Known {
    chunks: HashMap<String, Chunk>,
    growing: HashMap<String, Part>,
    packs: BTreeMap<String, u64>,
    /// Of growing files that are not whole on this disk: how much of each is not.
    absent: HashMap<String, u64>,
}

impl Known {
    pub(super) fn of(manifest: &Manifest, absent: HashMap<String, u64>) -> Self {
        let mut used: HashMap<&str, u64> = HashMap::new();
        let mut seen: HashSet<(&str, u64)> = HashSet::new();
        let mut chunks: HashMap<String, Chunk> = HashMap::new();
        // The same bytes may be in two objects: a growing file keeps to where it was put.
        for chunk in manifest.parts.iter().flat_map(|part| &part.chunks) {
            if seen.insert((&chunk.object, chunk.at)) {
                *used.entry(&chunk.object).or_default() += chunk.stored;
            }
            chunks.entry(chunk.hash.clone()).or_insert_with(|| chunk.clone());
        }
        let used = |object: &str| used.get(object).copied().unwrap_or(0);
        // Of an object of which less than half is needed, that is sent once more, so that the rest can be removed.
        let wasteful =
            |object: &str| manifest.packs.get(object).is_some_and(|len| used(object).saturating_mul(2) < *len);
        let growing = manifest.parts.iter().filter(|part| part.kind == Kind::Grows);
        let growing = growing.map(|part| (part.name.clone(), part.clone())).collect();
        let keep: HashMap<_, _> = chunks.into_iter().filter(|(_, chunk)| !wasteful(&chunk.object)).collect();
        Known { chunks: keep, growing, packs: manifest.packs.clone(), absent }
    }

    pub(super) fn absent(&self) -> &HashMap<String, u64> {
        &self.absent
    }
}

/// Cuts one snapshot.
pub(super) struct Cutter<'a> {
    pub(super) sizes: Sizes,
    pub(super) known: Arc<Known>,
    /// What the objects of this save are called before their hash.
    pub(super) objects: String,
    pub(super) place: &'a Workplace,
    /// Takes a whole object; fails where nobody sends it any more.
    pub(super) send: &'a mut dyn FnMut(Outgoing) -> Result<()>,
}

/// The chunks of a save while it is cut. Those in an open pack do not know their object yet.
#[derive(Default)]
struct Fresh {
    chunks: Vec<Chunk>,
    by_hash: HashMap<Hash, usize>,
    /// What changes with the next save and what stays for good are kept apart, so that the first can be removed.
    changing: Pack,
    lasting: Pack,
    packs: BTreeMap<String, u64>,
}

/// An object that is not whole yet.
#[derive(Default)]
struct Pack {
    bytes: Vec<u8>,
    /// Which of the fresh chunks are in it.
    inside: Vec<usize>,
}

/// A chunk of a part: named already, or among the fresh.
enum Cut {
    Known(Chunk),
    Fresh(usize),
}

impl Cutter<'_> {
    /// The parts as they will stand in the manifest, with the lengths of shared objects.
    pub(super) fn cut(&mut self, parts: Vec<(String, snapshot::Part)>) -> Result<(Vec<Part>, BTreeMap<String, u64>)> {
        let mut fresh = Fresh::default();
        let mut all = Vec::new();
        // A growing file that was not wanted here, and of which nothing has come since, stays as it is.
        let known = Arc::clone(&self.known);
        for name in known.absent.keys().filter(|name| parts.iter().all(|(other, _)| other != *name)) {
            all.push((name.clone(), (Kind::Grows, kept(known.growing.get(name)))));
        }
        for (name, part) in parts {
            let cut = self.part(&name, part, &mut fresh);
            let cut = cut.with_context(|| format!("part `{name}` of a snapshot"))?;
            all.push((name, cut));
        }
        self.close_pack(Kind::Memory, &mut fresh)?;
        self.close_pack(Kind::Grows, &mut fresh)?;
        let named = |cut: Cut| match cut {
            Cut::Known(chunk) => chunk,
            Cut::Fresh(index) => fresh.chunks[index].clone(),
        };
        let parts: Vec<Part> = all
            .into_iter()
            .map(|(name, (kind, cuts))| {
                let chunks: Vec<Chunk> = cuts.into_iter().map(named).collect();
                Part { name, kind, len: chunks.iter().map(|chunk| chunk.len).sum(), chunks }
            })
            .collect();
        let mut packs = fresh.packs;
        let kept = self.known.packs.iter().map(|(object, len)| (object.clone(), *len));
        packs.extend(kept);
        let used: HashSet<&str> = parts.iter().flat_map(|part| &part.chunks).map(|chunk| &*chunk.object).collect();
        packs.retain(|object, _| used.contains(&**object));
        Ok((parts, packs))
    }

    fn part(&mut self, name: &str, part: snapshot::Part, fresh: &mut Fresh) -> Result<(Kind, Vec<Cut>)> {
        match part {
            snapshot::Part::Bytes(bytes) => Ok((Kind::Memory, self.buffer(bytes, fresh)?)),
            snapshot::Part::Later(make) => Ok((Kind::Memory, self.buffer(make()?.into(), fresh)?)),
            snapshot::Part::File => {
                let path = self.place.folder()?.join(name);
                let file = File::open(&path).with_context(|| path.display().to_string())?;
                let len = file.metadata()?.len();
                Ok((Kind::File, self.file(&file, 0, len, Kind::File, fresh)?))
            }
            snapshot::Part::Grows(len) => Ok((Kind::Grows, self.growing(name, len, fresh)?)),
        }
    }

    fn buffer(&mut self, bytes: Bytes, fresh: &mut Fresh) -> Result<Vec<Cut>> {
        let cuts = (0..bytes.len()).step_by(self.sizes.chunk);
        let piece = |at: usize| bytes.slice(at..bytes.len().min(at + self.sizes.chunk));
        let pieces: Vec<Bytes> = cuts.map(piece).collect();
        pieces.into_iter().map(|piece| self.chunk(piece, Kind::Memory, fresh)).collect()
    }

    fn file(&mut self, file: &File, from: u64, to: u64, kind: Kind, fresh: &mut Fresh) -> Result<Vec<Cut>> {
        let mut cuts = Vec::new();
        let mut at = from;
        while at < to {
            let len = (to - at).min(self.sizes.chunk as u64);
            let bytes = piece(file, at, len as usize)?;
            cuts.push(self.chunk(bytes, kind, fresh)?);
            at += len;
        }
        Ok(cuts)
    }

    /// What was saved of the file before, and what has come since.
    fn growing(&mut self, name: &str, len: u64, fresh: &mut Fresh) -> Result<Vec<Cut>> {
        let path = self.place.folder()?.join(name);
        let known = Arc::clone(&self.known);
        let before = known.growing.get(name);
        let absent = known.absent.get(name).copied().unwrap_or(0);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && len == 0 => return Ok(kept(before)),
            opened => opened.with_context(|| path.display().to_string())?,
        };
        let saved = before.map_or(0, |part| part.len);
        let grown = absent.saturating_add(len) >= saved && before.is_none_or(|part| still_there(part, &file, absent));
        if grown {
            let mut cuts = kept(before);
            let mut from = saved;
            if let Some((chunks, at)) = before.and_then(|part| crumbs(part, absent)) {
                cuts.truncate(chunks);
                from = at;
            }
            cuts.extend(self.file(&file, from.saturating_sub(absent), len, Kind::Grows, fresh)?);
            return Ok(cuts);
        }
        if absent > 0 {
            return Err(Error::failed(
                "the file was to grow, but was cut or changed, and what was saved before is not on this disk",
            ));
        }
        warn!(part = name, "a file that was to grow was cut or changed: all of it is sent again");
        self.file(&file, 0, len, Kind::Grows, fresh)
    }

    fn chunk(&mut self, bytes: Bytes, kind: Kind, fresh: &mut Fresh) -> Result<Cut> {
        let hash = blake3::hash(&bytes);
        let hex = hash.to_hex();
        // What grows is never named where something else was put, as it would keep that from being removed.
        if kind != Kind::Grows {
            if let Some(known) = self.known.chunks.get(hex.as_str()) {
                return Ok(Cut::Known(known.clone()));
            }
            if let Some(&index) = fresh.by_hash.get(&hash) {
                return Ok(Cut::Fresh(index));
            }
        }
        let len = bytes.len() as u64;
        let (stored, lz4) = match compressed(&bytes) {
            Some(less) => (Bytes::from(less), true),
            None => (bytes, false),
        };
        let index = fresh.chunks.len();
        let mut chunk =
            Chunk { hash: hex.to_string(), len, object: String::new(), at: 0, stored: stored.len() as u64, lz4 };
        if stored.len() >= self.sizes.small {
            chunk.object = self.object(&hash);
            (self.send)(Outgoing { object: chunk.object.clone(), bytes: stored })?;
        } else {
            if fresh.pack(kind).bytes.len() + stored.len() > self.sizes.pack {
                self.close_pack(kind, fresh)?;
            }
            let pack = fresh.pack(kind);
            chunk.at = pack.bytes.len() as u64;
            pack.bytes.extend_from_slice(&stored);
            pack.inside.push(index);
        }
        fresh.chunks.push(chunk);
        fresh.by_hash.insert(hash, index);
        Ok(Cut::Fresh(index))
    }

    fn close_pack(&mut self, kind: Kind, fresh: &mut Fresh) -> Result<()> {
        let Pack { bytes, inside } = std::mem::take(fresh.pack(kind));
        let bytes = Bytes::from(bytes);
        if inside.is_empty() {
            return Ok(());
        }
        let object = self.object(&blake3::hash(&bytes));
        for &index in &inside {
            fresh.chunks[index].object.clone_from(&object);
        }
        if inside.len() > 1 {
            fresh.packs.insert(object.clone(), bytes.len() as u64);
        }
        (self.send)(Outgoing { object, bytes })
    }

    fn object(&self, hash: &Hash) -> String {
        format!("{}-{}", self.objects, &hash.to_hex().as_str()[..32])
    }
}

impl Fresh {
    fn pack(&mut self, kind: Kind) -> &mut Pack {
        match kind {
            Kind::Memory | Kind::File => &mut self.changing,
            Kind::Grows => &mut self.lasting,
        }
    }
}

fn kept(before: Option<&Part>) -> Vec<Cut> {
    before.into_iter().flat_map(|part| &part.chunks).cloned().map(Cut::Known).collect()
}

/// How many chunks of a growing part stand, and up to where, if those after them are so many and so small that they are
/// put together: else the list of a log that grows by a line at a time would outgrow the log. What is not on this disk
/// stands.
fn crumbs(part: &Part, absent: u64) -> Option<(usize, u64)> {
    let (mut stands, mut at) = (part.chunks.len(), part.len);
    for chunk in part.chunks.iter().rev() {
        if chunk.len >= CRUMB || at - chunk.len < absent {
            break;
        }
        (stands, at) = (stands - 1, at - chunk.len);
    }
    (part.chunks.len() - stands >= CRUMBS).then_some((stands, at))
}

/// Whether the end of what was saved of a growing file still stands in it, as far as that is on this disk.
fn still_there(part: &Part, file: &File, absent: u64) -> bool {
    let Some(last) = part.chunks.last() else {
        return true;
    };
    let from = part.len - last.len;
    if from < absent {
        return true;
    }
    piece(file, from - absent, last.len as usize).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == last.hash)
}

/// The bytes compressed, if a sample and then all of them become less by an eighth.
fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let pays = |less: &[u8], all: &[u8]| less.len() < all.len() - all.len() / 8;
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let less = lz4_flex::block::compress(sample);
    if !pays(&less, sample) {
        return None;
    }
    if sample.len() == bytes.len() {
        return Some(less);
    }
    Some(lz4_flex::block::compress(bytes)).filter(|less| pays(less, bytes))
}
