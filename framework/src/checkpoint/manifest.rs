//! What a saved state consists of, as it stands in the store: a manifest, an object of its own.
//!
//! It owns the form of it and what is believed of one that was read: nothing that does not add up. It never changes:
//! each save writes another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::cut::LONGEST_CHUNK;
use super::interval::History;
use crate::error::{Error, Result};
use crate::store::Key;

/// The form of manifests and heads that this crate writes and reads.
pub(super) const VERSION: u32 = 1;

/// One saved state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) job: String,
    /// What the stepper calls its states.
    pub(super) format: String,
    pub(super) generation: u64,
    pub(super) sequence: u64,
    /// When the snapshot was taken, in milliseconds since 1970.
    pub(super) taken: u64,
    /// The nodes that have had the job.
    #[serde(default)]
    pub(super) history: History,
    pub(super) parts: Vec<Part>,
    /// Lengths of the objects that hold several chunks.
    pub(super) packs: BTreeMap<String, u64>,
}

/// One named part: its chunks in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) len: u64,
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Memory,
    File,
    Grows,
}

/// So many bytes, and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    /// BLAKE3 of its bytes, in hex.
    pub(super) hash: String,
    pub(super) len: u64,
    /// The object, below the job's states.
    pub(super) object: String,
    /// Where in the object it begins.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) at: u64,
    /// How long it is there.
    pub(super) stored: u64,
    /// Whether it is compressed there (a block of LZ4).
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) lz4: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Manifest {
    /// The manifest in `bytes`, if all of it adds up.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(Error::failed(format_args!(
                "it is of form {version}, and this worker reads form {VERSION}: it was written by another forebay"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        manifest.parts.iter().try_for_each(Part::check)?;
        Ok(manifest)
    }

    /// Every object that a chunk is in.
    pub(super) fn objects(&self) -> BTreeSet<&str> {
        self.parts.iter().flat_map(|part| &part.chunks).map(|chunk| &*chunk.object).collect()
    }

    pub(super) fn taken(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.taken)
    }
}

impl Part {
    fn check(&self) -> Result<()> {
        let broken = |what: &str| Error::failed(format_args!("its part {:?} {what}", self.name));
        Key::new(&*self.name).map_err(|_| broken("has a name that is none"))?;
        let mut len = 0u64;
        for chunk in &self.chunks {
            Key::new(&*chunk.object).map_err(|_| broken("names an object that cannot be"))?;
            if chunk.len > LONGEST_CHUNK || chunk.stored > LONGEST_CHUNK || chunk.at.checked_add(chunk.stored).is_none()
            {
                return Err(broken("has a chunk that is too long"));
            }
            len = len.saturating_add(chunk.len);
        }
        if len != self.len {
            return Err(broken("has chunks that are not as long as it is"));
        }
        Ok(())
    }
}
