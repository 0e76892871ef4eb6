//! A message that was received, as a delivery: its attempt, its body wherever that is, its envelope.
//!
//! What cannot be read never will be, and is rejected here; what cannot be fetched for now is given back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use bytes::Bytes;
use tokio::time::Instant;
use tracing::warn;

use super::Sqs;
use super::desk::Desk;
use super::envelope::{self, Input, Opened};
use super::letter::Original;
use super::objects::{SIZE_ATTRIBUTE, read_pointer};
use super::receipt::Ticket;
use crate::error::{Error, Fault, Result};
use crate::source::{Delivery, Receipt};
use crate::telemetry::SourceMeter;
use crate::verdict::Verdict;

/// When a job whose input could not be fetched is tried again.
const FETCH_AGAIN: Duration = Duration::from_secs(10);

/// The job that a message carries, which was asked for at `asked`. `None` if it carries none and has been dealt with.
pub(super) async fn open(desk: &Arc<Desk>, message: Message, asked: Instant) -> Option<Delivery> {
    let system = |name| message.attributes.as_ref().and_then(|all| all.get(&name));
    let attempt = system(MessageSystemAttributeName::ApproximateReceiveCount);
    let attempt = attempt.and_then(|text| text.parse().ok()).unwrap_or(1).max(1);
    let group = system(MessageSystemAttributeName::MessageGroupId).cloned();
    let original = Original {
        message_id: message.message_id.unwrap_or_default(),
        body: Bytes::from(message.body.unwrap_or_default()),
        attributes: message.message_attributes.unwrap_or_default(),
        group,
    };
    let handle = message.receipt_handle?;
    let opened = read(desk, &original).await;
    let message_id = original.message_id.clone();
    let id = |given: Option<&String>| given.filter(|id| !id.is_empty()).unwrap_or(&message_id).clone();
    let ticket = |id, original| Ticket::new(desk.clone(), handle, id, attempt, original, asked);
    match opened {
        Ok((opened, payload)) => {
            let mut meta = opened.meta;
            label(&mut meta.labels, &original);
            let id = id(opened.id.as_ref());
            let ticket = ticket(id.clone(), original);
            let until = ticket.until();
            Some(Delivery { id, attempt, payload, until, meta, receipt: Arc::new(ticket) })
        }
        Err(why) => {
            refuse(&ticket(id(None), original), &message_id, attempt, why).await;
            None
        }
    }
}

/// The envelope and the payload.
async fn read(desk: &Desk, original: &Original) -> Result<(Opened, Bytes)> {
    let objects = &desk.settings.objects;
    let body = match read_pointer(&original.body) {
        Some(place) => objects.get(&place).await?,
        None => original.body.clone(),
    };
    let opened = envelope::open(&body)?;
    let payload = match &opened.input {
        Input::Here(payload) => payload.clone(),
        Input::At(place) => objects.get(place).await?,
    };
    Ok((opened, payload))
}

/// What came beside the message. What its envelope says comes first.
fn label(labels: &mut std::collections::BTreeMap<String, String>, original: &Original) {
    let attributes: &HashMap<String, MessageAttributeValue> = &original.attributes;
    for (name, value) in attributes.iter().filter(|(name, _)| *name != SIZE_ATTRIBUTE) {
        if let Some(text) = &value.string_value {
            labels.entry(name.clone()).or_insert_with(|| text.clone());
        }
    }
    labels.insert(Sqs::MESSAGE_ID.to_owned(), original.message_id.clone());
    if let Some(group) = &original.group {
        labels.insert(Sqs::GROUP.to_owned(), group.clone());
    }
}

/// Deals with a message that is no job. If that cannot be told, its lease runs out and it comes again.
async fn refuse(ticket: &Ticket, message: &str, attempt: u32, why: Error) {
    warn!(message, attempt, error = %why, "a message cannot be worked on");
    let verdict = match why.fault() {
        Fault::Invalid => Verdict::Reject { why },
        _ => Verdict::Retry { after: FETCH_AGAIN, why: Some(why) },
    };
    match ticket.settle(&verdict).await {
        Ok(()) => SourceMeter::new(Sqs::NAME).settled(&verdict, Duration::ZERO),
        Err(why) => warn!(message, error = %why, "what became of it could not be told; it will come again"),
    }
}
