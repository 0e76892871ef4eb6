//! What a state is made of: named parts, on their way out ([`Snapshot`]) and back ([`Saved`]).
//!
//! It owns the names and what is behind each. It promises that taking a snapshot copies nothing but what it is given. It
//! does not know where parts are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use super::Workplace;
use super::manifest::check_name;
use crate::error::{Context, Error, Result};

/// A state as it was at one moment: parts with names.
///
/// Names are relative paths with slashes (`positions`, `run/energies.txt`), each once. Parts of any number and size will
/// do: small ones are put together, large ones are cut, and what has not changed since the last save is not sent again.
#[derive(Default)]
pub struct Snapshot {
    pub(super) parts: Vec<(String, Part)>,
}

/// Where the bytes of a part come from.
pub(super) enum Part {
    Bytes(Bytes),
    /// Bytes that are made off the device thread.
    Later(Box<dyn FnOnce() -> Result<Vec<u8>> + Send>),
    /// A file of the workplace that stays as it is.
    File,
    /// A file of the workplace that only grows: so many bytes of it count.
    Grows(u64),
}

impl Snapshot {
    /// A snapshot without parts, to which they are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of the given bytes.
    pub fn bytes(self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.part(name, Part::Bytes(bytes.into()))
    }

    /// A part whose bytes `make` makes, off the device thread: for states that have to be put in another form, once their
    /// copy is in host memory.
    pub fn later(self, name: impl Into<String>, make: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) -> Self {
        self.part(name, Part::Later(Box::new(make)))
    }

    /// The file of that name in the [workplace](Workplace), which is not changed any more: whoever wants to replace it
    /// writes another file and renames that.
    pub fn file(self, name: impl Into<String>) -> Self {
        self.part(name, Part::File)
    }

    /// The file of that name in the [workplace](Workplace), to which is only appended, such as a trajectory or a log: all
    /// bytes that it has now. Each is sent once, however often the state is saved. Flush what writes it before.
    pub fn grows(self, name: impl Into<String>) -> Self {
        self.part(name, Part::Grows(u64::MAX))
    }

    fn part(mut self, name: impl Into<String>, part: Part) -> Self {
        self.parts.push((name.into(), part));
        self
    }

    /// Bytes that it holds in memory, as far as they are made already.
    pub(super) fn len(&self) -> u64 {
        let bytes = |(_, part): &(String, Part)| match part {
            Part::Bytes(bytes) => bytes.len() as u64,
            _ => 0,
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Fixes how long growing files are, and refuses names that are none.
    pub(crate) fn taken(mut self, place: &Workplace) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (name, part) in &mut self.parts {
            check_name(name).context("a part of a snapshot")?;
            if !names.insert(name.clone()) {
                return Err(Error::invalid(format_args!("a snapshot has two parts `{name}`")));
            }
            if let Part::Grows(len) = part {
                let path = place.folder()?.join(&*name);
                *len = path.metadata().with_context(|| format!("the growing file {}", path.display()))?.len();
            }
        }
        Ok(self)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|(name, _)| name)).finish()
    }
}

/// A state that was saved: its parts in memory; its files lie in the [workplace](Workplace) again, under their names.
#[derive(Clone, Debug)]
pub struct Saved {
    pub(super) state: String,
    pub(super) taken: SystemTime,
    pub(super) parts: BTreeMap<String, Bytes>,
}

impl Saved {
    /// The bytes of a part. `Failed` if the state has none of that name in memory.
    pub fn bytes(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::failed(format_args!("{} has no part `{name}`", self.state));
        self.parts.get(name).cloned().ok_or_else(missing)
    }

    /// The names of the parts in memory.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// When it was saved, by the clock of the worker that did.
    pub fn taken(&self) -> SystemTime {
        self.taken
    }
}
