//! Tells jobs' ends to the URLs that their callers named: one attempt each time that the message comes off the queue.
//!
//! When the next attempt is due stands in the job's records, not on the queue: a pause may be longer than a worker
//! lives. A worker may be lost between an attempt and its note; then the message is sent again, under the same id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::records::Told;
use super::registry::Registry;
use crate::error::{Context, Result};
use crate::source::ends::{End, now};
use crate::source::{Extended, Receipt};
use crate::verdict::Verdict;
use crate::webhook::{ATTEMPTS, Sent, pause};

/// How long an attempt, of 20 s at most, keeps the message from other workers.
const LEASE: Duration = Duration::from_secs(25);
/// The longest that a message is put back for, and that a worker without a sender puts it back for.
const LATER: Duration = Duration::from_secs(300);
/// The largest result that a webhook carries, in bytes; a larger one is to be fetched.
const LARGEST: usize = 64 << 10;

pub(super) async fn send(registry: &Registry, id: &str, receipt: &dyn Receipt) -> Result<()> {
    let done = Verdict::Done(Bytes::new());
    let Some(status) = registry.records.status(id).await? else {
        return receipt.settle(&done).await;
    };
    let (Some(url), Some(end)) = (&status.asked.webhook, &status.end) else {
        return receipt.settle(&done).await;
    };
    let told = status.told.unwrap_or_default();
    let due = match (told.attempts, told.next) {
        (0, _) => 0,
        (_, Some(next)) => next,
        (_, None) => return receipt.settle(&done).await,
    };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if due > seconds {
        return put_back(receipt, Duration::from_secs(due - seconds)).await;
    }
    let Some(webhook) = &registry.webhook else {
        warn!(job = id, "a webhook is due, but this worker has no secrets to sign it with");
        return put_back(receipt, LATER).await;
    };
    if matches!(receipt.extend(LEASE).await?, Extended::Lost | Extended::Cancelled) {
        return Ok(());
    }
    let body = body(registry, id, end).await?;
    let attempts = told.attempts + 1;
    let sent = webhook.send(url, &format!("msg_{id}"), seconds, body).await;
    let (outcome, next) = match &sent {
        Ok(Sent::Delivered) => ("delivered".to_owned(), None),
        Ok(Sent::Gone) => ("refused for ever by the receiver".to_owned(), None),
        Ok(Sent::Again { after, why }) if attempts < ATTEMPTS => {
            let wait = after.unwrap_or_default().max(pause(attempts));
            debug!(job = id, attempts, error = %why, ?wait, "a webhook did not arrive");
            (why.to_string(), Some(seconds.saturating_add(wait.as_secs())))
        }
        Ok(Sent::Again { why, .. }) | Err(why) => {
            warn!(job = id, attempts, error = %why, "a webhook is given up");
            (format!("given up: {why}"), None)
        }
    };
    registry.records.tell(id, &Told { attempts, next, outcome }).await?;
    match next {
        None => receipt.settle(&done).await,
        Some(next) => put_back(receipt, Duration::from_secs(next.saturating_sub(seconds))).await,
    }
}

async fn put_back(receipt: &dyn Receipt, after: Duration) -> Result<()> {
    receipt.settle(&Verdict::Retry { after: after.min(LATER), why: None }).await
}

/// The message: what happened, when, and to which job; with the result where it is small.
async fn body(registry: &Registry, id: &str, end: &End) -> Result<Bytes> {
    let mut data = json!({ "id": id, "state": end.state, "ended": end.ended });
    if let Some(failure) = &end.error {
        data["error"] = json!(failure);
    }
    if let Some(output) = &end.result {
        data["content_type"] = json!(output.content_type);
        data["bytes"] = json!(output.bytes);
        if output.bytes <= LARGEST && output.content_type == "application/json" {
            let result = registry.records.result(id, output).await?.unwrap_or_default();
            data["result"] = serde_json::from_slice(&result).unwrap_or(Value::Null);
        }
    }
    let state = serde_json::to_value(end.state).unwrap_or_default();
    let kind = format!("job.{}", state.as_str().unwrap_or("ended"));
    let message = json!({ "type": kind, "timestamp": now(), "data": data });
    Ok(serde_json::to_vec(&message).context("writing a webhook")?.into())
}
