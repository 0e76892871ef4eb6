//! A store in this process's memory: the reference for what the others have to do, and the one for tests.
//!
//! It owns its objects and keeps every promise of [`Store`] exactly, except that nothing outlives the process.
//! It deliberately has no limit on its size and injects no faults.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Algorithm, Checksum, Conditional, Key, Meta, Object, Outcome, Page, Put, Store, Version};
use crate::error::{Error, Result};

/// Objects in memory. A clone is another handle on the same objects.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<Key, Object>,
    /// Counts writes of all keys, so that a key deleted and created again does not repeat a version.
    writes: u64,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every change below is one map operation, so a panic elsewhere while the lock was held broke nothing.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn put(&mut self, key: &Key, bytes: Bytes, mode: &Put) -> Outcome {
        let current = self.objects.get(key).map(|object| &object.meta.version);
        let allowed = match mode {
            Put::Overwrite => true,
            Put::Create => current.is_none(),
            Put::Match(version) => current == Some(version),
        };
        if !allowed {
            return Outcome::Conflict;
        }
        self.writes += 1;
        let version = Version::new(self.writes.to_string());
        let algorithm = Algorithm::Crc64Nvme;
        let meta = Meta {
            key: key.clone(),
            len: bytes.len() as u64,
            version: version.clone(),
            modified: SystemTime::now(),
            checksum: Some(Checksum::Whole { algorithm, value: algorithm.of(&bytes) }),
        };
        self.objects.insert(key.clone(), Object { meta, bytes });
        Outcome::Stored(version)
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Page {
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let mut found = self
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, object)| object.meta.clone());
        let objects: Vec<Meta> = found.by_ref().take(limit).collect();
        let next = found.next().and(objects.last()).map(|last| last.key.clone());
        Page { objects, next }
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move { Ok(self.shelf().objects.get(key).cloned()) })
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move {
            let Some(Object { meta, bytes }) = self.shelf().objects.get(key).cloned() else {
                return Ok(None);
            };
            let part = meta.clamp(range)?;
            // Fits: both ends are within the length of bytes that are in memory.
            let bytes = bytes.slice(part.start as usize..part.end as usize);
            Ok(Some(Object { meta, bytes }))
        })
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        Box::pin(async move { Ok(self.shelf().objects.get(key).map(|object| object.meta.clone())) })
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { Ok(self.shelf().put(key, bytes, &mode)) })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shelf().objects.remove(key);
            Ok(())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            if limit == 0 {
                return Err(Error::invalid("a list with the limit 0"));
            }
            Ok(self.shelf().list(prefix, after, limit))
        })
    }

    fn conditional(&self) -> Conditional {
        Conditional::ByWrite
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn keeps_the_contract() {
        store::all(Arc::new(Memory::new())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn clones_share_their_objects() {
        let memory = Memory::new();
        store::races(&[Arc::new(memory.clone()), Arc::new(memory)]).await;
    }
}
