//! Tells one job's end to whoever is to know, once the end is in the store and before the source is told.
//!
//! The source is the outbox: where something could not be told its message is put back, and whoever gets it again finds
//! the end and tells what is left, without running the job. What was told already is kept beside the end, and only
//! then. So everything is told at least once, and mostly once. Nothing is told after the time that it is given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Shared;
use super::outlets::Outlet;
use crate::error::{Error, Result};
use crate::source::ends::key;
use crate::source::told::Told;
use crate::store::Put;
use crate::verdict::{self, Verdict};

/// The longest that a queue and a URL have; each is faster by its own deadlines, but for a queue that is slow and fails.
pub(super) const WITHIN: Duration = Duration::from_secs(30);
/// The longest that a message is put back for: less than the 12 h of SQS.
#[cfg(feature = "webhook")]
const LONGEST_PAUSE: Duration = Duration::from_secs(11 * 3600);

/// A job's end on its way.
pub(super) struct Telling {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    /// Of its delivery.
    pub(super) attempt: u32,
    pub(super) to: Outlet,
    pub(super) document: Bytes,
    /// Nobody can have told it before.
    pub(super) is_new: bool,
}

/// What was told already.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The end is on its queue.
    queued: bool,
    /// How far the URL is.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    webhook: Option<Told>,
}

/// What is left to be told.
struct Rest {
    /// When it is to be tried again.
    after: Duration,
    why: Error,
}

impl Telling {
    /// Tells what is left to be told, in less time than is `left` of the lease. What the source is told instead of the
    /// end, where something is left after it.
    pub(super) async fn run(self, left: Duration) -> Result<Option<Verdict>> {
        let begun = Instant::now();
        // A quarter, so that it can be kept how far it is, and the source be told.
        let (until, end) = (begun + (left - left / 4).min(WITHIN), begun + left);
        let late = |_| Err(Error::transient("the store did not say in time what was told of the end"));
        let before = timeout_at(until, self.before()).await.unwrap_or_else(late)?;
        let known = before.clone().unwrap_or_default();
        let (queued, webhook) = join(self.put(&known, until), self.send(&known, until)).await;
        let now = Kept { queued: queued.is_ok(), webhook };
        let rest = self.rest(queued.err(), &now);
        if before.is_some() || !now.is_smooth() {
            self.keep(before, &now, end).await;
        }
        Ok(rest.map(|Rest { after, why }| Verdict::Retry { after, why: Some(why) }))
    }

    /// Nothing is told now: too little is left of the lease.
    pub(super) fn not_now(&self) -> Verdict {
        let why = Error::transient("too little was left of the lease to tell how the job ended");
        Verdict::Retry { after: verdict::pause(&self.id, self.attempt), why: Some(why) }
    }

    async fn before(&self) -> Result<Option<Kept>> {
        match self.is_new {
            true => Ok(None),
            false => self.shared.ends.read(&key(&self.id, "told")?).await,
        }
    }

    /// Puts the end on its queue, unless it is there.
    async fn put(&self, known: &Kept, until: Instant) -> Result<()> {
        let Some(queue) = self.to.queue.as_ref().filter(|_| !known.queued) else {
            return Ok(());
        };
        let late = |_| Err(Error::transient("the queue for results did not answer in time"));
        timeout_at(until, queue.push(&self.id, self.document.clone())).await.unwrap_or_else(late)
    }

    /// Makes an attempt to tell the URL, if one is due: how far that is.
    #[cfg(feature = "webhook")]
    async fn send(&self, known: &Kept, until: Instant) -> Option<Told> {
        let Some((sender, url)) = &self.to.url else {
            return known.webhook.clone();
        };
        let told = known.webhook.clone().unwrap_or_default();
        let now = (sender.clock)();
        if told.due().is_none_or(|due| due > now) {
            return Some(told);
        }
        let within = until.saturating_duration_since(Instant::now());
        Some(told.attempt(&sender.webhook, url, &self.id, self.document.clone(), now, within).await)
    }

    #[cfg(not(feature = "webhook"))]
    async fn send(&self, known: &Kept, _: Instant) -> Option<Told> {
        known.webhook.clone()
    }

    /// What is left, and when the first of it is due.
    fn rest(&self, not_queued: Option<Error>, now: &Kept) -> Option<Rest> {
        let queue = not_queued.map(|why| {
            let after = verdict::pause(&self.id, self.attempt);
            warn!(job = self.id, error = %why, ?after, "the end of a job is not on its queue yet; it will be told again");
            Rest { after, why: why.with_fault(crate::Fault::Transient) }
        });
        queue.into_iter().chain(self.webhook_rest(now)).min_by_key(|rest| rest.after)
    }

    #[cfg(feature = "webhook")]
    fn webhook_rest(&self, now: &Kept) -> Option<Rest> {
        let (told, (sender, _)) = (now.webhook.as_ref()?, self.to.url.as_ref()?);
        let seconds = told.due()?.saturating_sub((sender.clock)());
        let why = Error::transient(&told.outcome).context("a webhook has to be sent again");
        Some(Rest { after: Duration::from_secs(seconds).min(LONGEST_PAUSE), why })
    }

    #[cfg(not(feature = "webhook"))]
    fn webhook_rest(&self, _: &Kept) -> Option<Rest> {
        None
    }

    /// Writes down what was told. Without it that is told again, which is better than not at all.
    async fn keep(&self, before: Option<Kept>, now: &Kept, end: Instant) {
        if before.as_ref() == Some(now) {
            return;
        }
        let late = |_| Err(Error::transient("the store did not answer in time"));
        let write = async { self.shared.ends.write(&key(&self.id, "told")?, now, Put::Overwrite).await };
        if let Err(why) = timeout_at(end, write).await.unwrap_or_else(late) {
            warn!(job = self.id, error = %why, "what was told of a job's end could not be kept; it may be told again");
        }
    }
}

impl Kept {
    /// Whether all was told at the first attempt, which need not be kept.
    fn is_smooth(&self) -> bool {
        self.queued && self.webhook.as_ref().is_none_or(Told::arrived_at_once)
    }
}

#[cfg(test)]
#[cfg(all(feature = "testing", feature = "sqs", feature = "webhook"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
