//! What an operator asks of a queue: how full it is, what became of its dead letters, emptying it.
//!
//! It takes no jobs and keeps no state but its connection, which belongs to the runtime of the first call.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use tokio::sync::OnceCell;

use super::broker::Broker;
use super::dead_letters::DeadLetterBox;
use super::desk::{self, Attributes};
use super::send::patiently;
use super::settings::{DeadLetters, Settings};
use crate::error::{Error, Result};

/// Looks after a queue of SQS. Made by [`Sqs::admin`](super::Sqs::admin); to be used on one runtime.
///
/// What fails for now is tried up to five times, with pauses that grow from 0.2 s. Each call has a deadline.
pub struct SqsAdmin {
    settings: Settings,
    given: Option<aws_sdk_sqs::Client>,
    broker: OnceCell<Broker>,
}

/// How many messages a queue has, as it says; on a busy queue the numbers lag behind by up to a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// That can be received.
    pub visible: u64,
    /// That were received and are hidden: at work, or their worker is lost.
    pub in_flight: u64,
    /// That were sent with a delay which is not over.
    pub delayed: u64,
}

impl QueueDepth {
    /// All of them.
    pub fn total(self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// What a queue says of itself. The age of its oldest message only CloudWatch knows (`ApproximateAgeOfOldestMessage`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqsStatus {
    /// Its messages.
    pub depth: QueueDepth,
    /// Whether it keeps the order of its groups.
    pub fifo: bool,
    /// For how long it hides a message that is received without saying so. A worker says its own lease.
    pub visibility: Duration,
    /// For how long it keeps a message.
    pub retention: Duration,
    /// The URL of its dead-letter queue and the messages there; `None` if it has none.
    pub dead_letters: Option<(String, QueueDepth)>,
}

impl SqsAdmin {
    pub(super) fn new(settings: Settings, given: Option<aws_sdk_sqs::Client>) -> Self {
        SqsAdmin { settings, given, broker: OnceCell::new() }
    }

    /// How full the queue is, and its dead-letter queue.
    ///
    /// # Errors
    /// If there is no such queue, it may not be asked, or it cannot be reached.
    pub async fn status(&self) -> Result<SqsStatus> {
        let broker = self.broker().await?;
        let attributes = patiently(async || broker.attributes().await).await?;
        let has_graves = attributes.contains_key(&QueueAttributeName::RedrivePolicy)
            || self.settings.dead_letters != DeadLetters::OfQueue;
        let dead_letters = match has_graves {
            true => self.graves(broker, &attributes).await?,
            false => None,
        };
        let dead_letters = match dead_letters {
            Some(graves) => {
                let attributes = patiently(async || graves.attributes().await).await?;
                Some((graves.url().to_owned(), depth(&attributes)))
            }
            None => None,
        };
        let seconds = |name| Duration::from_secs(number(&attributes, name));
        Ok(SqsStatus {
            depth: depth(&attributes),
            fifo: broker.is_fifo(),
            visibility: seconds(QueueAttributeName::VisibilityTimeout),
            retention: seconds(QueueAttributeName::MessageRetentionPeriod),
            dead_letters,
        })
    }

    /// Removes all messages of the queue, those at work too. SQS takes up to a minute for it, and does it once in one.
    ///
    /// # Errors
    /// As for [`status`](SqsAdmin::status). It is asked for once: after an error nobody may know whether it was done.
    pub async fn purge(&self) -> Result<()> {
        self.broker().await?.purge().await
    }

    /// The queue's dead letters, to be looked at or sent back: where its redrive policy says, or
    /// [`Sqs::dead_letters`](super::Sqs::dead_letters).
    ///
    /// # Errors
    /// As for [`status`](SqsAdmin::status), and if the queue has no dead-letter queue.
    pub async fn dead_letters(&self) -> Result<DeadLetterBox> {
        let broker = self.broker().await?;
        let attributes = patiently(async || broker.attributes().await).await?;
        let dropped = || Error::invalid("rejected jobs of this queue are dropped: there are no dead letters");
        let graves = self.graves(broker, &attributes).await?.ok_or_else(dropped)?;
        Ok(DeadLetterBox::new(broker.clone(), graves))
    }

    async fn graves(&self, broker: &Broker, attributes: &Attributes) -> Result<Option<Broker>> {
        patiently(async || desk::graves(&self.settings, broker, attributes).await).await
    }

    async fn broker(&self) -> Result<&Broker> {
        let open = async || match &self.given {
            Some(sdk) => Ok(Broker::new(sdk.clone(), &self.settings.queue)),
            None => Broker::connect(&self.settings).await,
        };
        self.broker.get_or_try_init(open).await
    }
}

fn depth(attributes: &Attributes) -> QueueDepth {
    QueueDepth {
        visible: number(attributes, QueueAttributeName::ApproximateNumberOfMessages),
        in_flight: number(attributes, QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        delayed: number(attributes, QueueAttributeName::ApproximateNumberOfMessagesDelayed),
    }
}

fn number(attributes: &Attributes, name: QueueAttributeName) -> u64 {
    attributes.get(&name).and_then(|text| text.parse().ok()).unwrap_or_default()
}
