//! Measures the way to a bucket with objects of its own: how soon it answers, and how much it takes and gives.
//!
//! It promises to be done within [`WITHIN`] and to move at most [`MOST`] bytes each way, through the store that the
//! jobs use, and removes what it wrote. It judges nothing. What a killed process leaves stays below [`BELOW`].

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::figures::Figures;
use crate::error::{Error, Result};
use crate::store::{Key, Put, Store};

/// Where its objects are.
const BELOW: &str = ".forebay/probe";
/// Longest time for one small call.
const CALL: Duration = Duration::from_secs(15);
/// After so long no more answers are waited for, if there was one.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Of so many answers the median counts.
const ANSWERS: usize = 7;
/// Transfers at once.
const STREAMS: usize = 4;
/// What each of them moves in a round: each round twice as much as the one before.
const ROUNDS: [usize; 6] = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];
/// Longest time for all rounds in one direction.
const ROUNDS_WITHIN: Duration = Duration::from_secs(10);
/// Longest time to remove what was written.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);

/// Longest time for all.
#[cfg(test)]
pub(super) const WITHIN: Duration = Duration::from_secs(15 + 20 + 15 + 2 * 10 + 10 + 15);
/// Most bytes that are moved each way.
#[cfg(test)]
pub(super) const MOST: usize = STREAMS * (2 * ROUNDS[5] - ROUNDS[0]) + SMALL.len();

const SMALL: &[u8] = b"forebay";

/// Latency and throughput of the way to a store. After an error the figures are those measured before it.
pub(super) async fn measure(store: &dyn Store) -> (Figures, Option<Error>) {
    let mut probe = match Probe::new(store) {
        Ok(probe) => probe,
        Err(why) => return (Figures::default(), Some(why)),
    };
    let error = probe.run().await.err();
    let removed = join_all(probe.written.iter().map(|key| store.delete(key)));
    // Whoever is unfit has other things to say, and whoever is fit has just shown that calls succeed.
    let _ = timeout(REMOVED_WITHIN, removed).await;
    (probe.figures, error)
}

/// How soon a store answers a request for an object that does not exist.
pub(super) async fn answer(store: &dyn Store) -> Result<Duration> {
    let key = Key::new(format!("{BELOW}/{:016x}", random()))?;
    let asked = Instant::now();
    call(store.head(&key)).await?;
    Ok(asked.elapsed())
}

/// Whether objects can be listed, as whoever leaves has to.
pub(super) async fn listed(store: &dyn Store, prefix: &str) -> Result<()> {
    call(store.list(prefix, None, 1)).await.map(|_| ())
}

/// A call with a deadline.
pub(super) async fn call<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("no answer within {} s", CALL.as_secs())));
    timeout(CALL, call).await.unwrap_or_else(late)
}

/// For names and contents.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

struct Probe<'a> {
    store: &'a dyn Store,
    prefix: Key,
    /// Random, since links and stores may compress.
    bytes: Bytes,
    /// To be removed.
    written: Vec<Key>,
    figures: Figures,
}

impl<'a> Probe<'a> {
    fn new(store: &'a dyn Store) -> Result<Self> {
        let prefix = Key::new(format!("{BELOW}/{:016x}", random()))?;
        Ok(Probe { store, prefix, bytes: Bytes::new(), written: Vec::new(), figures: Figures::default() })
    }

    async fn run(&mut self) -> Result<()> {
        let latency = self.answers().await?;
        self.figures.latency = Some(latency);
        self.bytes = noise(ROUNDS[ROUNDS.len() - 1]);
        let mut largest = Vec::new();
        self.figures.upload = Some(self.upload(latency, &mut largest).await?);
        self.figures.download = Some(self.download(latency, &largest).await?);
        Ok(())
    }

    /// The median time of an answer. The first call opens connections, and is not counted.
    async fn answers(&mut self) -> Result<Duration> {
        let key = self.prefix.join("small")?;
        self.written.push(key.clone());
        let _ = call(self.store.put(&key, Bytes::from_static(SMALL), Put::Overwrite)).await?;
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < ANSWERS && (times.is_empty() || began.elapsed() < ANSWERS_WITHIN) {
            let asked = Instant::now();
            if call(self.store.head(&key)).await?.is_none() {
                return Err(Error::failed(format_args!("{key}, just written, is not there")));
            }
            times.push(asked.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// Leaves in `largest` the objects of the last whole round. Each has a name of its own, since some stores let a
    /// name be written once a second only.
    async fn upload(&mut self, latency: Duration, largest: &mut Vec<(Key, usize)>) -> Result<f64> {
        let mut rounds = Rounds::new(latency);
        while let Some((size, within)) = rounds.next() {
            let keys: Result<Vec<Key>> =
                (0..STREAMS).map(|stream| self.prefix.join(format_args!("{size}-{stream}"))).collect();
            let keys = keys?;
            self.written.extend(keys.iter().cloned());
            let put = async |key| self.store.put(key, self.bytes.slice(..size), Put::Overwrite).await.map(|_| ());
            if rounds.ran(size, timeout(within, all(keys.iter().map(put))).await.ok())? {
                *largest = keys.into_iter().map(|key| (key, size)).collect();
            }
        }
        Ok(rounds.best)
    }

    async fn download(&self, latency: Duration, from: &[(Key, usize)]) -> Result<f64> {
        let mut rounds = Rounds::new(latency);
        while let Some((size, within)) = rounds.next().filter(|(size, _)| from.iter().all(|(_, has)| size <= has)) {
            let get = async |key: &Key| match self.store.get_range(key, 0..size as u64).await? {
                Some(object) if object.bytes == self.bytes.slice(..size) => Ok(()),
                Some(_) => Err(Error::failed(format_args!("{key} holds other bytes than were written"))),
                None => Err(Error::failed(format_args!("{key}, just written, is not there"))),
            };
            rounds.ran(size, timeout(within, all(from.iter().map(|(key, _)| get(key)))).await.ok())?;
        }
        Ok(rounds.best)
    }
}

/// All of them; the first error.
async fn all(calls: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    join_all(calls).await.into_iter().collect()
}

/// Rounds that double in size while there is time. The best one counts: the first ones are too small to tell.
struct Rounds {
    latency: Duration,
    began: Instant,
    round_began: Instant,
    last: Duration,
    next: usize,
    /// Mbit/s.
    best: f64,
}

impl Rounds {
    fn new(latency: Duration) -> Self {
        let now = Instant::now();
        Rounds { latency, began: now, round_began: now, last: Duration::ZERO, next: 0, best: 0.0 }
    }

    /// The size of a transfer in the next round, and the time there is for it; none if that would not be enough.
    fn next(&mut self) -> Option<(usize, Duration)> {
        let size = *ROUNDS.get(self.next)?;
        self.next += 1;
        self.round_began = Instant::now();
        let left = ROUNDS_WITHIN.saturating_sub(self.began.elapsed());
        (left > 2 * self.last).then_some((size, left))
    }

    /// How a round ended: whether it did in time. An error before anything is known is passed on.
    fn ran(&mut self, size: usize, ended: Option<Result<()>>) -> Result<bool> {
        self.last = self.round_began.elapsed();
        match ended {
            Some(Ok(())) => {
                // One answer's time is no time of moving bytes; but no more than half is taken off.
                let moving = self.last.saturating_sub(self.latency.min(self.last / 2)).max(Duration::from_micros(1));
                let bits = (STREAMS * size * 8) as f64;
                self.best = self.best.max(bits / moving.as_secs_f64() / 1e6);
                return Ok(true);
            }
            Some(Err(why)) if self.best == 0.0 => return Err(why),
            Some(Err(_)) | None => self.next = ROUNDS.len(),
        }
        Ok(false)
    }
}

/// Bytes that cannot be compressed (splitmix64).
fn noise(len: usize) -> Bytes {
    let mut state = random();
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
