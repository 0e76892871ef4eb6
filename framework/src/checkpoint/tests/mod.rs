//! States against stores in memory: what is saved comes back, whatever fails or dies on the way.

mod bad;
mod crash;
mod growing;
mod replies;
mod rivals;
mod states;

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::cut::Sizes;
use super::*;
use crate::store::{Conditional, Memory, Meta, Object, Opened, Outcome, Page, Version};

/// Small enough that a few hundred bytes make many chunks, and packs as well.
const TINY: Sizes = Sizes { chunk: 64, small: 32, pack: 128 };

fn state_key() -> Key {
    Key::new("jobs/7/state").unwrap()
}

/// A worker that takes job 7 over.
async fn opened(store: &Arc<dyn Store>) -> Result<Checkpoints> {
    let place = Workplace::new(&Job::new("7"), None);
    let mut checkpoints = Checkpoints::open(store.clone(), &state_key(), &place, "test 1").await?;
    checkpoints.sizes = TINY;
    Ok(checkpoints)
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::new())
}

/// Bytes that do not compress, of a seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

/// What a wrapped store does around each request.
trait Around: Send + Sync + 'static {
    /// Before a request that changes something (`key` says what), or reads.
    fn before<'a>(&'a self, _what: What, _key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// After it was carried out, before it is answered. `put` is the outcome of a conditional put.
    fn after<'a>(&'a self, _what: What, _key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Put { conditional: bool },
    Delete,
    List,
}

/// A store in memory with something around its requests.
struct Wrapped<A> {
    inner: Arc<dyn Store>,
    around: A,
}

impl<A: Around> Wrapped<A> {
    async fn pass<T>(&self, what: What, key: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.around.before(what, key).await?;
        let answer = request.await?;
        self.around.after(what, key).await?;
        Ok(answer)
    }
}

impl<A: Around> Store for Wrapped<A> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(self.pass(What::Read, key.as_str(), self.inner.get(key)))
    }
    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(self.pass(What::Read, key.as_str(), self.inner.get_range(key, range)))
    }
    fn read<'a>(&'a self, key: &'a Key, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(self.pass(What::Read, key.as_str(), self.inner.read(key, range, of)))
    }
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        Box::pin(self.pass(What::Read, key.as_str(), self.inner.head(key)))
    }
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        let what = What::Put { conditional: mode != Put::Overwrite };
        Box::pin(self.pass(what, key.as_str(), self.inner.put(key, bytes, mode)))
    }
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.pass(What::Delete, key.as_str(), self.inner.delete(key)))
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        Box::pin(self.pass(What::List, prefix, self.inner.list(prefix, after, limit)))
    }
    fn conditional(&self) -> Conditional {
        self.inner.conditional()
    }
}

/// The keys of everything in a store.
async fn keys(store: &Arc<dyn Store>) -> Vec<String> {
    store.list_all("").await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
}

/// Everything that the head needs is there. What it names, by sequence.
async fn whole(store: &Arc<dyn Store>) -> Option<Manifest> {
    let head = store.get(&state_key().join("head").unwrap()).await.unwrap()?;
    let head: claim::Head = serde_json::from_slice(&head.bytes).unwrap();
    let named = head.state?;
    let state = manifest(store, &state_key(), &named).await.unwrap();
    for object in state.objects() {
        let key = state_key().join(object).unwrap();
        assert!(store.head(&key).await.unwrap().is_some(), "{key} is needed and has gone");
    }
    Some(state)
}

fn write(checkpoints: &Checkpoints, name: &str, bytes: &[u8]) {
    fs::write(checkpoints.place.folder().unwrap().join(name), bytes).unwrap();
}

fn read(checkpoints: &Checkpoints, name: &str) -> Vec<u8> {
    fs::read(checkpoints.place.folder().unwrap().join(name)).unwrap()
}
