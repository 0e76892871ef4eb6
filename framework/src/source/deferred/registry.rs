//! What may be done with deferred jobs, by whoever shares the queue and the store: hand one in, ask how it is, cancel
//! it, end it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::envelope::{Header, Message};
use super::records::{Asked, Records, Status};
use crate::error::{Error, Result};
use crate::source::ends::End;
use crate::source::{Delivery, Queue, Receipt};
use crate::verdict::Verdict;
use crate::webhook::Webhook;

pub(crate) struct Registry {
    pub(super) queue: Arc<dyn Queue>,
    pub(crate) records: Records,
    pub(super) webhook: Option<Webhook>,
    pub(super) keep: Duration,
}

/// What came of handing a job in.
#[derive(Debug, PartialEq)]
pub(crate) enum Submitted {
    New,
    /// It was handed in before, and is the same.
    Known,
    /// Another one was handed in under this id.
    Differs,
}

/// What a delivery of the queue turned out to be.
pub(super) enum Opened {
    Job(Header, Bytes),
    /// A job that has ended already, and has only to be taken off the queue.
    Ended(String),
    Webhook(String),
}

impl Registry {
    #[cfg(feature = "openapi")]
    pub(crate) fn sends_webhooks(&self) -> bool {
        self.webhook.is_some()
    }

    /// Whether webhooks can be sent at all, and to this URL.
    pub(crate) fn check_webhook(&self, url: &str) -> Result<()> {
        match &self.webhook {
            Some(webhook) => webhook.check(url),
            None => Err(Error::invalid("this worker sends no webhooks")),
        }
    }

    /// Notes the job and puts it on the queue. After an error it may be handed in again under the same id.
    pub(crate) async fn submit(&self, job: Header, asked: &Asked, payload: &[u8]) -> Result<Submitted> {
        let id = job.id.clone();
        let standing = self.records.ask(&id, asked).await?;
        if standing.as_ref().is_some_and(|standing| standing.fingerprint != asked.fingerprint) {
            return Ok(Submitted::Differs);
        }
        // Whoever noted it may have died before it was on the queue.
        if standing.is_none() || self.records.ended(&id).await?.is_none() {
            self.queue.push(&id, Message::Job(job).seal(payload)?).await?;
        }
        Ok(if standing.is_none() { Submitted::New } else { Submitted::Known })
    }

    pub(crate) async fn status(&self, id: &str) -> Result<Option<Status>> {
        self.records.status(id).await
    }

    /// Cancels the job if it has not ended; the worker that has it notices soon.
    pub(crate) async fn cancel(&self, id: &str) -> Result<()> {
        self.records.ends.end(id, 0, &End::cancelled()).await?;
        self.announce(id).await
    }

    pub(super) async fn open(&self, delivery: &Delivery) -> Result<Opened> {
        let (message, payload) = Message::open(&delivery.payload)?;
        Ok(match message {
            Message::Webhook { id } => Opened::Webhook(id),
            Message::Job(header) => match self.records.ended(&header.id).await? {
                Some(_) => Opened::Ended(header.id),
                None => Opened::Job(header, payload),
            },
        })
    }

    /// The job has ended: what is left to be told goes on the queue, and then the job comes off it.
    pub(super) async fn close(&self, id: &str, receipt: &dyn Receipt) -> Result<()> {
        self.announce(id).await?;
        receipt.settle(&Verdict::Done(Bytes::new())).await
    }

    async fn announce(&self, id: &str) -> Result<()> {
        let asked = self.records.asked(id).await?;
        if asked.is_none_or(|asked| asked.webhook.is_none()) || self.records.told(id).await?.is_some() {
            return Ok(());
        }
        let message = Message::Webhook { id: id.to_owned() };
        self.queue.push(&format!("{id}.webhook"), message.seal(b"")?).await
    }
}
