//! One worker's claim on one file, as an object in the store of claims.
//!
//! A claim says how long it may stand unchanged before anybody may take it over. Every change is conditional on
//! the version that was seen, so that of two workers only one gets it, and a worker that was taken over learns of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Shared;
use super::ending::{Fingerprint, consume, end};
use crate::error::{Context, Error, Result};
use crate::source::{Extended, Receipt};
use crate::store::{Key, Outcome, Put, Store, Version};
use crate::verdict::Verdict;

/// The claim's object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// Who wrote it.
    pub(super) owner: String,
    /// How often the file was delivered.
    pub(super) attempt: u32,
    /// For how long it must have stood unchanged before somebody else may claim the file.
    pub(super) wait_ms: u64,
    /// Counts the times that it was rewritten.
    pub(super) beat: u64,
    /// The state of the file that is worked on.
    pub(super) input: Fingerprint,
}

/// A name that no other worker has: of a process, a moment and a count.
pub(super) fn new_owner() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{count}", std::process::id(), now.as_nanos())
}

pub(super) fn key(id: &str) -> Result<Key> {
    Key::new(format!("claims/{id}"))
}

/// A claim that was seen in the store.
pub(super) async fn read(shared: &Shared, key: &Key) -> Result<Option<(Claim, Version)>> {
    let Some(object) = shared.claims.get(key).await? else {
        return Ok(None);
    };
    let claim = serde_json::from_slice(&object.bytes).with_context(|| format!("the claim `{key}`"))?;
    Ok(Some((claim, object.meta.version)))
}

/// Writes a claim if `mode` allows; `None` if somebody else was faster.
pub(super) async fn write(shared: &Shared, key: &Key, claim: &Claim, mode: Put) -> Result<Option<Version>> {
    let bytes = serde_json::to_vec(claim)?.into();
    match shared.claims.put(key, bytes, mode).await {
        Ok(Outcome::Stored(version)) => Ok(Some(version)),
        Ok(Outcome::Conflict) => Ok(None),
        // The write may have happened: what stands there tells.
        Err(why) => match read(shared, key).await? {
            Some((standing, version)) if standing == *claim => Ok(Some(version)),
            _ => Err(why),
        },
    }
}

/// The receipt of a claimed file.
pub(super) struct Claimed {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    pub(super) key: Key,
    /// The claim as this worker last wrote it. An async mutex, held over the write that changes it.
    pub(super) state: Mutex<(Claim, Version)>,
}

impl Claimed {
    /// Rewrites the claim if it is still ours.
    async fn rewrite(&self, wait: Duration) -> Result<bool> {
        let mut state = self.state.lock().await;
        for _ in 0..2 {
            let (claim, version) = &*state;
            let claim = Claim { wait_ms: wait.as_millis() as u64, beat: claim.beat + 1, ..claim.clone() };
            let mode = Put::Match(version.clone());
            if let Some(version) = write(&self.shared, &self.key, &claim, mode).await? {
                *state = (claim, version);
                return Ok(true);
            }
            // An earlier attempt that was given up for its slowness may have been written after all.
            match read(&self.shared, &self.key).await? {
                Some((standing, version)) if standing.owner == claim.owner && standing.attempt == claim.attempt => {
                    *state = (standing, version);
                }
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn extend_by(&self, by: Duration) -> Result<Extended> {
        let before = Instant::now();
        Ok(match self.rewrite(by).await? {
            true => Extended::Until(before + by),
            false => Extended::Lost,
        })
    }

    async fn settle_as(&self, verdict: &Verdict) -> Result<()> {
        let wait = match verdict {
            Verdict::Retry { after, .. } => *after,
            // Time to put the result in place, during which nobody takes over.
            _ => self.shared.lease,
        };
        if !self.rewrite(wait).await? {
            let id = &self.id;
            return Err(Error::invalid(format_args!("the claim on `{id}` was taken over; it was not settled")));
        }
        if matches!(verdict, Verdict::Retry { .. }) {
            return Ok(());
        }
        if self.shared.consuming && matches!(verdict, Verdict::Done(_)) {
            consume(&self.shared, &self.id).await?;
        } else {
            let (attempt, input) = {
                let state = self.state.lock().await;
                (state.0.attempt, state.0.input)
            };
            end(&self.shared, &self.id, attempt, input, verdict).await?;
        }
        self.shared.claims.delete(&self.key).await
    }
}

impl Receipt for Claimed {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(self.extend_by(by))
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.settle_as(verdict))
    }
}
