//! Tells jobs' ends to the URLs that their callers named: one attempt each time that the message comes off the queue.

use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::registry::Registry;
use crate::error::Result;
use crate::source::attempt::seconds;
use crate::source::ends::End;
use crate::source::notice::{carries, notice};
use crate::source::{Extended, Receipt};
use crate::verdict::Verdict;

/// How long an attempt, of 20 s at most, keeps the message from other workers.
const LEASE: Duration = Duration::from_secs(25);
/// The longest that a message is put back for, and that a worker without a sender puts it back for.
const LATER: Duration = Duration::from_secs(300);

pub(super) async fn send(registry: &Registry, id: &str, receipt: &dyn Receipt) -> Result<()> {
    let done = Verdict::Done(Bytes::new());
    let Some(status) = registry.records.status(id).await? else {
        return receipt.settle(&done).await;
    };
    let (Some(url), Some(end)) = (&status.asked.webhook, &status.end) else {
        return receipt.settle(&done).await;
    };
    let told = status.told.unwrap_or_default();
    let Some(due) = told.due() else {
        return receipt.settle(&done).await;
    };
    let now = seconds();
    if due > now {
        return put_back(receipt, Duration::from_secs(due - now)).await;
    }
    let Some(webhook) = &registry.webhook else {
        warn!(job = id, "a webhook is due, but this worker has no secrets to sign it with");
        return put_back(receipt, LATER).await;
    };
    if matches!(receipt.extend(LEASE).await?, Extended::Lost | Extended::Cancelled) {
        return Ok(());
    }
    let told = told.attempt(webhook, url, id, document(registry, id, end).await?, now, LEASE).await;
    registry.records.tell(id, &told).await?;
    match told.next {
        None => receipt.settle(&done).await,
        Some(next) => put_back(receipt, Duration::from_secs(next.saturating_sub(now))).await,
    }
}

async fn put_back(receipt: &dyn Receipt, after: Duration) -> Result<()> {
    receipt.settle(&Verdict::Retry { after: after.min(LATER), why: None }).await
}

/// The message, with the result where it is small.
async fn document(registry: &Registry, id: &str, end: &End) -> Result<Bytes> {
    let result = match end.result.as_ref().filter(|output| carries(output)) {
        Some(output) => registry.records.result(id, output).await?,
        None => None,
    };
    notice(id, end, result.as_ref())
}
