//! A store in memory behind a link: with a latency, a throughput that all transfers of one direction share, and faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::{Error, Result};
use crate::store::{Conditional, Key, Memory, Meta, Object, Outcome, Page, Put, Store};

/// A clone is the same link.
#[derive(Clone)]
pub(in crate::node) struct Link {
    store: Memory,
    state: Arc<Mutex<State>>,
}

struct State {
    latency: Duration,
    ways: [Way; 2],
    fault: Option<Error>,
    fault_of_list: Option<Error>,
    corrupt: bool,
    calls: usize,
    put: Vec<String>,
    ages: BTreeMap<Key, Duration>,
}

#[derive(Clone, Copy)]
struct Way {
    mbit: f64,
    /// When what is under way has gone through.
    free: Instant,
    moved: usize,
}

impl Link {
    pub(in crate::node) fn new() -> Self {
        let way = Way { mbit: f64::INFINITY, free: Instant::now(), moved: 0 };
        let state = State {
            latency: Duration::ZERO,
            ways: [way; 2],
            fault: None,
            fault_of_list: None,
            corrupt: false,
            calls: 0,
            put: Vec::new(),
            ages: BTreeMap::new(),
        };
        Link { store: Memory::new(), state: Arc::new(Mutex::new(state)) }
    }

    fn set(self, set: impl FnOnce(&mut State)) -> Self {
        set(&mut self.state.lock().unwrap());
        self
    }

    pub(in crate::node) fn latency(self, latency: Duration) -> Self {
        self.set(|state| state.latency = latency)
    }

    pub(in crate::node) fn up(self, mbit: f64) -> Self {
        self.set(|state| state.ways[0].mbit = mbit)
    }

    pub(in crate::node) fn down(self, mbit: f64) -> Self {
        self.set(|state| state.ways[1].mbit = mbit)
    }

    pub(in crate::node) fn fails(self, why: Error) -> Self {
        self.set(|state| state.fault = Some(why))
    }

    pub(in crate::node) fn fails_to_list(self, why: Error) -> Self {
        self.set(|state| state.fault_of_list = Some(why))
    }

    pub(in crate::node) fn mended(self) -> Self {
        self.set(|state| state.fault = None)
    }

    pub(in crate::node) fn corrupt(self) -> Self {
        self.set(|state| state.corrupt = true)
    }

    /// What is there now is older by this.
    pub(in crate::node) fn age(&self, by: Duration) {
        let mut state = self.state.lock().unwrap();
        let keys: Vec<Key> = state.put.iter().map(|key| Key::new(key.as_str()).unwrap()).collect();
        let known: Vec<Key> = keys.into_iter().collect();
        for key in known {
            *state.ages.entry(key).or_default() += by;
        }
    }

    pub(in crate::node) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    pub(in crate::node) fn put_keys(&self) -> Vec<String> {
        self.state.lock().unwrap().put.clone()
    }

    /// Bytes that went up and down.
    pub(in crate::node) fn moved(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.ways[0].moved, state.ways[1].moved)
    }

    pub(in crate::node) async fn keys(&self) -> Vec<String> {
        let all = (&self.store as &dyn Store).list_all("").await.unwrap();
        all.into_iter().map(|meta| meta.key.as_str().to_owned()).collect()
    }

    /// One call that carries so many bytes in a direction.
    async fn pass(&self, way: usize, bytes: usize) -> Result<()> {
        let latency = {
            let mut state = self.state.lock().unwrap();
            state.calls += 1;
            if let Some(why) = &state.fault {
                return Err(why.clone());
            }
            state.latency
        };
        sleep(latency).await;
        if bytes == 0 {
            return Ok(());
        }
        let free = {
            let mut state = self.state.lock().unwrap();
            let way = &mut state.ways[way];
            way.moved += bytes;
            let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / 1e6 / way.mbit);
            way.free = way.free.max(Instant::now()) + takes;
            way.free
        };
        sleep_until(free).await;
        Ok(())
    }
}

impl Store for Link {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move {
            let object = self.store.get(key).await?;
            self.pass(1, object.as_ref().map_or(0, |object| object.bytes.len())).await?;
            Ok(object)
        })
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move {
            let mut object = self.store.get_range(key, range).await?;
            self.pass(1, object.as_ref().map_or(0, |object| object.bytes.len())).await?;
            if let Some(object) = object.as_mut().filter(|_| self.state.lock().unwrap().corrupt) {
                object.bytes = vec![0; object.bytes.len()].into();
            }
            Ok(object)
        })
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        Box::pin(async move {
            self.pass(1, 0).await?;
            self.store.head(key).await
        })
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.pass(0, bytes.len()).await?;
            self.state.lock().unwrap().put.push(key.as_str().to_owned());
            self.store.put(key, bytes, mode).await
        })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pass(0, 0).await?;
            self.store.delete(key).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            self.pass(1, 0).await?;
            if let Some(why) = self.state.lock().unwrap().fault_of_list.clone() {
                return Err(why);
            }
            let mut page = self.store.list(prefix, after, limit).await?;
            let state = self.state.lock().unwrap();
            for meta in &mut page.objects {
                meta.modified -= state.ages.get(&meta.key).copied().unwrap_or_default();
            }
            Ok(page)
        })
    }

    fn conditional(&self) -> Conditional {
        self.store.conditional()
    }
}
