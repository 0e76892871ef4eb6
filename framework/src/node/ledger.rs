//! Who has left their node lately: objects in the bucket that all workers share, so that not all of them leave.
//!
//! It owns the objects below [`BELOW`], each with the reason in it. It promises that of the workers that share a bucket
//! no more than so many are let go within an hour, by the bucket's own clock. It moves nobody.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::bucket::{call, random};
use crate::error::{Error, Result};
use crate::store::{Key, Meta, Put, Store};

/// Where its objects are.
pub(super) const BELOW: &str = ".forebay/left/";
/// Within this time there is a most.
const WHILE: Duration = Duration::from_secs(3600);
/// So long reasons can be read.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// So many old ones are removed at once.
const AT_ONCE: usize = 256;
/// Longest time to list them, and to remove old ones.
const WITHIN: Duration = Duration::from_secs(60);

/// Whether one more worker may leave its node, of at most so many within an hour. Then it is written down.
pub(super) async fn may_leave(store: &dyn Store, most: usize, reason: &str) -> Result<bool> {
    let mine = Key::new(format!("{BELOW}{:016x}", random()))?;
    let _ = call(store.put(&mine, reason.to_owned().into(), Put::Overwrite)).await?;
    let late = |_| Err(Error::transient("who has left was not listed in time"));
    let all = timeout(WITHIN, store.list_all(BELOW)).await.unwrap_or_else(late)?;
    let Some(now) = all.iter().find(|meta| meta.key == mine).map(|meta| meta.modified) else {
        return Err(Error::failed(format_args!("{mine}, just written, is not listed")));
    };
    // Of two who come at once, both see both: too few are let go, and never too many.
    let within = |meta: &&Meta, time| now.duration_since(meta.modified).unwrap_or_default() <= time;
    let granted = all.iter().filter(|meta| within(meta, WHILE)).count() <= most;
    let old = all.iter().filter(|meta| !within(meta, KEPT)).map(|meta| &meta.key);
    let removed: Vec<&Key> = (!granted).then_some(&mine).into_iter().chain(old).take(AT_ONCE).collect();
    // What is left of it is removed next time; a line of ours that stays makes others wait at worst.
    let _ = timeout(WITHIN, join_all(removed.iter().map(|key| store.delete(key)))).await;
    Ok(granted)
}
