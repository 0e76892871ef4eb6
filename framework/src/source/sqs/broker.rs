//! The calls to SQS: each with its own deadline, none tried again here, since whoever makes it knows how long it is
//! worth trying.
//!
//! This file and [`fault`](super::fault) are the only ones that know the SDK's calls. A client's connections live on the
//! runtime on which they were opened, so it is made where it is used.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{Region, StalledStreamProtectionConfig};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::time::timeout;

use super::batch::Answer;
use super::fault::{self, NO_ANSWER, Refused, Unanswered};
use super::settings::Settings;
use crate::error::{Error, Result};

/// To open a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A call that does not wait for messages.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(8);
/// A call that may carry a megabyte.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// What an answer may take beyond the time that the queue waits for messages.
const POLL_BEYOND: Duration = Duration::from_secs(10);
/// To find credentials, which may have to be asked for at several places.
const CONNECT_ALL_WITHIN: Duration = Duration::from_secs(30);
/// No call takes longer, whatever it is.
const LONGEST: Duration = Duration::from_secs(60);

/// A queue at the other end of the network.
#[derive(Clone)]
pub(super) struct Broker {
    sdk: Client,
    url: String,
}

/// How long a message is to stay hidden.
pub(super) struct Change {
    pub(super) handle: String,
    pub(super) seconds: u32,
}

/// A message to be sent.
#[derive(Clone, Default)]
pub(super) struct Letter {
    pub(super) body: String,
    pub(super) attributes: HashMap<String, MessageAttributeValue>,
    /// In a FIFO queue: the group, and what tells it from others.
    pub(super) fifo: Option<(String, String)>,
}

impl Broker {
    pub(super) fn new(sdk: Client, url: impl Into<String>) -> Self {
        Broker { sdk, url: url.into() }
    }

    /// A client of its own, for the runtime that this is called on.
    pub(super) async fn connect(settings: &Settings) -> Result<Self> {
        let site = settings.site()?;
        let http = HttpBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(LONGEST)
            .operation_attempt_timeout(LONGEST)
            .operation_timeout(LONGEST);
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .timeout_config(timeouts.build())
            .retry_config(RetryConfig::disabled())
            // Each call has a deadline as a whole.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .endpoint_url(site.endpoint);
        if let Some(region) = site.region {
            loader = loader.region(Region::new(region));
        }
        let late = |_| Error::transient(format_args!("no AWS settings within {CONNECT_ALL_WITHIN:?}"));
        let config = timeout(CONNECT_ALL_WITHIN, loader.load()).await.map_err(late)?;
        if config.region().is_none() {
            return Err(Error::invalid("no AWS region: set FOREBAY_SQS_REGION, such as eu-central-1"));
        }
        Ok(Broker::new(Client::new(&config), &settings.queue))
    }

    /// The same account's queue at another URL.
    pub(super) fn at(&self, url: impl Into<String>) -> Self {
        Broker::new(self.sdk.clone(), url)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it keeps the order of its groups: AWS has it in the name.
    pub(super) fn is_fifo(&self) -> bool {
        self.url.ends_with(".fifo")
    }

    pub(super) async fn attributes(&self) -> Result<HashMap<QueueAttributeName, String>> {
        let call = self.sdk.get_queue_attributes().queue_url(&self.url).attribute_names(QueueAttributeName::All).send();
        let answer = self.call("reading the attributes of", "GetQueueAttributes", CALL_WITHIN, call).await?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// The URL of the queue of that name and account.
    pub(super) async fn find(&self, name: &str, account: &str) -> Result<String> {
        let call = self.sdk.get_queue_url().queue_name(name).queue_owner_aws_account_id(account).send();
        let found = self.call("finding the dead-letter queue of", "GetQueueUrl", CALL_WITHIN, call).await?;
        found.queue_url.ok_or_else(|| Error::transient(format_args!("the queue `{name}` has no URL")))
    }

    /// Waits for messages, and hides them for `lease`.
    pub(super) async fn receive(&self, most: usize, wait: Duration, lease: Duration) -> Result<Vec<Message>> {
        let call = self
            .sdk
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(most as i32)
            .wait_time_seconds(wait.as_secs() as i32)
            .visibility_timeout(lease.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names("All")
            .send();
        let received = self.call("receiving from", "ReceiveMessage", wait + POLL_BEYOND, call).await?;
        Ok(received.messages.unwrap_or_default())
    }

    /// Changes how long messages stay hidden: each entry's own outcome, in order.
    pub(super) async fn change(&self, changes: Vec<Change>, within: Duration) -> Result<Vec<Answer>> {
        let count = changes.len();
        let mut call = self.sdk.change_message_visibility_batch().queue_url(&self.url);
        for (number, Change { handle, seconds }) in changes.into_iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(number.to_string())
                .receipt_handle(handle)
                .visibility_timeout(seconds as i32);
            call = call.entries(entry.build()?);
        }
        let answer = self.call("keeping messages of", "ChangeMessageVisibility", within, call.send()).await?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        answers(count, done, &answer.failed)
    }

    /// Takes messages off the queue: each entry's own outcome, in order.
    pub(super) async fn delete(&self, handles: Vec<String>, within: Duration) -> Result<Vec<Answer>> {
        let count = handles.len();
        let mut call = self.sdk.delete_message_batch().queue_url(&self.url);
        for (number, handle) in handles.into_iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(number.to_string()).receipt_handle(handle);
            call = call.entries(entry.build()?);
        }
        let answer = self.call("deleting messages of", "DeleteMessage", within, call.send()).await?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        answers(count, done, &answer.failed)
    }

    pub(super) async fn send(&self, letter: Letter) -> Result<()> {
        let Letter { body, attributes, fifo } = letter;
        let (group, once) = fifo.unzip();
        let call = self
            .sdk
            .send_message()
            .queue_url(&self.url)
            .message_body(body)
            .set_message_attributes(Some(attributes).filter(|all| !all.is_empty()))
            .set_message_group_id(group)
            .set_message_deduplication_id(once)
            .send();
        self.call("sending to", "SendMessage", CALL_WITHIN, call).await.map(drop)
    }

    /// Sends up to ten messages: each entry's own outcome, in order.
    pub(super) async fn send_all(&self, letters: &[&Letter]) -> Result<Vec<Answer>> {
        let mut call = self.sdk.send_message_batch().queue_url(&self.url);
        for (number, letter) in letters.iter().enumerate() {
            let Letter { body, attributes, fifo } = (*letter).clone();
            let (group, once) = fifo.unzip();
            let entry = SendMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .message_body(body)
                .set_message_attributes(Some(attributes).filter(|all| !all.is_empty()))
                .set_message_group_id(group)
                .set_message_deduplication_id(once);
            call = call.entries(entry.build()?);
        }
        let answer = self.call("sending to", "SendMessage", SEND_WITHIN, call.send()).await?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        answers(letters.len(), done, &answer.failed)
    }

    /// Removes all messages. It takes effect within a minute.
    pub(super) async fn purge(&self) -> Result<()> {
        let call = self.sdk.purge_queue().queue_url(&self.url).send();
        self.call("purging", "PurgeQueue", CALL_WITHIN, call).await.map(drop)
    }

    async fn call<T, E>(
        &self,
        doing: &str,
        action: &str,
        within: Duration,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match timeout(within, call).await {
            Ok(answer) => answer.map_err(|why| fault::of(why, doing, action, &self.url)),
            Err(_) => Err(Unanswered::error(format_args!("{doing} `{}`: no answer within {within:?}", self.url))),
        }
    }
}

/// Puts the outcomes of a batch in the order of its entries. One that is not told of may have happened or not.
fn answers<'a>(
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Result<Vec<Answer>> {
    let unknown = || Answer::Refused(Refused::new(NO_ANSWER, "the queue did not say what became of it"));
    let mut answers: Vec<Answer> = std::iter::repeat_with(unknown).take(count).collect();
    let mut set = |id: &str, answer| {
        if let Some(place) = id.parse::<usize>().ok().and_then(|number| answers.get_mut(number)) {
            *place = answer;
        }
    };
    done.for_each(|id| set(id, Answer::Done));
    for entry in failed {
        let text = entry.message.clone().unwrap_or_default();
        set(&entry.id, Answer::Refused(Refused::new(&entry.code, text).by_sender(entry.sender_fault)));
    }
    Ok(answers)
}
