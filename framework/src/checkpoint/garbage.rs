//! What no state needs any more, removed.
//!
//! It keeps to one rule: only the owner of the head removes, only objects of its own generation or older ones, and never
//! what the newest two states name. A successor goes on from one of those two and gives its own objects names of a higher
//! generation, so however long a worker sleeps between its look and its removal, it takes nothing that is needed.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::claim::{Claim, WITHIN, late, retried};
use crate::error::Result;
use crate::store::{Key, Store};

/// Objects that are removed at once.
const AT_ONCE: usize = 8;
/// Objects in one page of a list.
const PAGE: usize = 1000;
/// What could not be removed is kept in mind up to so many objects; a later owner finds them all the same.
const MOST: usize = 100_000;

#[derive(Default)]
pub(super) struct Garbage {
    /// Objects, below the job's states, that are to be removed.
    known: BTreeSet<String>,
    /// Whether what other workers left has been looked for.
    looked: bool,
}

impl Garbage {
    /// To be removed once the next state is there, if that does not name it.
    pub(super) fn add(&mut self, object: String) {
        if self.known.len() < MOST {
            self.known.insert(object);
        }
    }

    /// Removes what is known and, the first time, what earlier workers left. What fails is tried again next time: garbage
    /// is no reason for a job to fail.
    pub(super) async fn collect(&mut self, store: &dyn Store, prefix: &Key, claim: &Claim, needed: &BTreeSet<String>) {
        if !claim.may_collect() {
            return;
        }
        if !self.looked {
            match leftovers(store, prefix, claim.head.generation, needed).await {
                Ok(found) => {
                    found.into_iter().for_each(|object| self.add(object));
                    self.looked = true;
                }
                Err(why) => warn!(job = claim.job().id(), error = %why, "cannot look for what earlier workers left"),
            }
        }
        self.known.retain(|object| !needed.contains(object));
        let known: Vec<String> = self.known.iter().cloned().collect();
        let removals = known.into_iter().map(|object| async {
            let removed = remove(store, prefix, claim, &object).await;
            removed.map(|()| object)
        });
        let mut removed = stream::iter(removals).buffer_unordered(AT_ONCE);
        // It may be dropped at any of these moments, since a state that waits to be saved comes first.
        while let Some(removed) = removed.next().await {
            match removed {
                Ok(object) => drop(self.known.remove(&object)),
                Err(why) => {
                    debug!(job = claim.job().id(), left = self.known.len(), error = %why, "not all garbage was removed yet");
                    return;
                }
            }
        }
    }
}

/// Tries once: what is left is tried again after the next save.
async fn remove(store: &dyn Store, prefix: &Key, claim: &Claim, object: &str) -> Result<()> {
    claim.may_write()?;
    let key = prefix.join(object)?;
    timeout(WITHIN, store.delete(&key)).await.unwrap_or_else(|_| Err(late()))
}

/// Objects of this generation and earlier ones that nothing needs.
async fn leftovers(store: &dyn Store, prefix: &Key, generation: u64, needed: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for below in ["data", "states"] {
        let below = format!("{prefix}/{below}/");
        let mut after = None;
        loop {
            let page = retried(prefix, || store.list(&below, after.as_ref(), PAGE)).await?;
            for meta in page.objects {
                let object = &meta.key.as_str()[prefix.as_str().len() + 1..];
                if made_in(object).is_some_and(|made| made <= generation) && !needed.contains(object) {
                    found.push(object.to_owned());
                }
            }
            match page.next {
                Some(next) if found.len() < MOST => after = Some(next),
                _ => break,
            }
        }
    }
    Ok(found)
}

/// The generation in an object's name.
fn made_in(object: &str) -> Option<u64> {
    object.split_once('/')?.1.split_once('-')?.0.parse().ok()
}
