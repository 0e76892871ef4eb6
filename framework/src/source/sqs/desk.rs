//! A queue that was opened: looked at first, so that what is wrong is said before any job is taken.
//!
//! Receipts share it. Its calls are made on the runtime that opened it, which is the control thread's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;
use tracing::{debug, info, warn};

use super::batch::{Answer, Batch};
use super::broker::{Broker, CALL_WITHIN, Change};
use super::settings::{DeadLetters, Settings};
use crate::error::{Classify, Context, Error, Fault, Result};

/// A receipt that no queue has given.
pub(super) const NOBODYS: &str = "forebay-may-it";
/// Deliveries after which a queue should dead-letter by itself at the earliest: what was given back counts too.
const FEWEST_RECEIVES: u64 = 20;

pub(super) struct Desk {
    pub(super) settings: Settings,
    pub(super) broker: Broker,
    /// Where dead letters go; `None` where they are dropped.
    pub(super) graves: Option<Broker>,
    pub(super) changes: Batch<Change>,
    pub(super) deletes: Batch<String>,
}

pub(super) type Attributes = HashMap<QueueAttributeName, String>;

impl Desk {
    /// Opens the queue of the settings by a client of its own, or by the one given.
    pub(super) async fn open(settings: Settings, given: Option<aws_sdk_sqs::Client>) -> Result<Arc<Self>> {
        settings.check()?;
        let broker = match given {
            Some(sdk) => Broker::new(sdk, &settings.queue),
            None => Broker::connect(&settings).await?,
        };
        let attributes = broker.attributes().await?;
        may_settle(&broker).await?;
        let graves = graves(&settings, &broker, &attributes).await?;
        tell(&settings, &attributes, graves.as_ref());
        let (changer, deleter) = (broker.clone(), broker.clone());
        Ok(Arc::new(Desk {
            changes: Batch::start(move |changes, within| {
                let broker = changer.clone();
                async move { broker.change(changes, within).await.map_err(passing) }
            }),
            deletes: Batch::start(move |handles, within| {
                let broker = deleter.clone();
                async move { broker.delete(handles, within).await.map_err(passing) }
            }),
            settings,
            broker,
            graves,
        }))
    }
}

/// A receipt's error is tried again, whoever has to set it right: invalid means there that the lease is lost.
fn passing(why: Error) -> Error {
    why.with_fault(Fault::Transient)
}

/// A worker that may receive but not delete would do the same jobs for ever.
async fn may_settle(broker: &Broker) -> Result<()> {
    let nobodys = || NOBODYS.to_owned();
    let changed = broker.change(vec![Change { handle: nobodys(), seconds: 0 }], CALL_WITHIN).await?;
    let deleted = broker.delete(vec![nobodys()], CALL_WITHIN).await?;
    for answer in changed.iter().chain(&deleted) {
        // That there is no such receipt is the right answer; some servers take it all the same.
        if let Answer::Refused(why) = answer
            && why.is_denied()
        {
            let url = broker.url();
            let permissions = "sqs:ReceiveMessage, sqs:DeleteMessage and sqs:ChangeMessageVisibility";
            return Err(Error::invalid(format_args!(
                "no permission: let this worker's role do {permissions} on `{url}`"
            )));
        }
    }
    Ok(())
}

/// The queue for dead letters, which is there; `None` where they are dropped.
pub(super) async fn graves(settings: &Settings, broker: &Broker, attributes: &Attributes) -> Result<Option<Broker>> {
    let url = match &settings.dead_letters {
        DeadLetters::Dropped => return Ok(None),
        DeadLetters::At(url) => url.clone(),
        DeadLetters::OfQueue => of_queue(broker, attributes).await?,
    };
    let graves = broker.at(url);
    // Its attributes tell that it is there.
    graves.attributes().await.context("the dead-letter queue")?;
    Ok(Some(graves))
}

async fn of_queue(broker: &Broker, attributes: &Attributes) -> Result<String> {
    let Some(policy) = attributes.get(&QueueAttributeName::RedrivePolicy) else {
        return Err(Error::invalid(format_args!(
            "the queue `{}` has no dead-letter queue for jobs that are rejected: give it a redrive policy, name one in \
             FOREBAY_SQS_DEAD_LETTERS, or set that to `none` to have them dropped",
            broker.url()
        )));
    };
    let policy: Value = serde_json::from_str(policy).or_invalid().context("the queue's redrive policy")?;
    let arn = policy["deadLetterTargetArn"].as_str().unwrap_or_default();
    let (account, name) = account_and_name(arn)?;
    let receives = &policy["maxReceiveCount"];
    let receives = receives.as_u64().or_else(|| receives.as_str().and_then(|text| text.parse().ok()));
    if receives.is_some_and(|receives| receives < FEWEST_RECEIVES) {
        let receives = receives.unwrap_or_default();
        warn!(
            receives,
            "the queue dead-letters a message by itself after few deliveries, and those given back by workers that \
             leave count too; let its redrive policy allow more, since the worker dead-letters what fails"
        );
    }
    broker.find(name, account).await
}

/// Of an ARN such as `arn:aws:sqs:eu-central-1:123456789012:name`.
fn account_and_name(arn: &str) -> Result<(&str, &str)> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts[..] {
        ["arn", _, "sqs", _, account, name] => Ok((account, name)),
        _ => Err(Error::invalid(format_args!("the redrive policy's target `{arn}` is no queue"))),
    }
}

fn tell(settings: &Settings, attributes: &Attributes, graves: Option<&Broker>) {
    let queue = settings.queue.as_str();
    let graves = graves.map_or("none: rejected jobs are dropped", Broker::url);
    info!(queue, dead_letters = graves, lease = ?settings.lease, "queue opened");
    let seconds = |name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok());
    if let Some(own) = seconds(QueueAttributeName::VisibilityTimeout) {
        debug!(queue, own_s = own, "the queue's own visibility timeout has no effect: each receive sets the lease");
    }
    let kept = seconds(QueueAttributeName::MessageRetentionPeriod).map(Duration::from_secs);
    if kept.is_some_and(|kept| kept < 2 * settings.lease) {
        warn!(
            queue,
            ?kept,
            "the queue keeps messages hardly longer than a lease: jobs may be lost before they are done"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_found_by_its_arn() {
        let found = account_and_name("arn:aws-cn:sqs:cn-north-1:123456789012:dead.fifo").unwrap();
        assert_eq!(found, ("123456789012", "dead.fifo"));
        assert!(account_and_name("arn:aws:sns:eu-central-1:1:topic").is_err());
        assert!(account_and_name("").is_err());
    }
}
