//! What the checks share: a queue of one's own, and calls whose outcome is a code.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use tokio::time::Instant;

/// A queue of a check's own.
#[derive(Clone)]
pub struct Queue {
    pub sqs: Client,
    pub url: String,
}

/// `ok`, or the code of the error without the prefix of the query protocol.
pub fn outcome<T, E: ProvideErrorMetadata, R>(result: Result<T, SdkError<E, R>>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(why) => short(why.code().unwrap_or("no code")),
    }
}

/// A code without the prefix of the query protocol.
pub fn short(code: &str) -> String {
    code.rsplit('.').next().unwrap_or(code).to_owned()
}

impl Queue {
    /// Creates a queue whose messages are hidden for two seconds.
    pub async fn new(sqs: &Client, name: &str) -> Queue {
        Self::with(sqs, name, &[]).await
    }

    /// The same with more attributes.
    pub async fn with(sqs: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> Queue {
        let mut create = sqs.create_queue().queue_name(name).attributes(QueueAttributeName::VisibilityTimeout, "2");
        for (name, value) in attributes {
            create = create.attributes(name.clone(), *value);
        }
        let url = create.send().await.unwrap().queue_url.unwrap();
        Queue { sqs: sqs.clone(), url }
    }

    /// Creates a FIFO queue whose messages are hidden for two seconds.
    pub async fn fifo(sqs: &Client, name: &str) -> Queue {
        Self::with(sqs, &format!("{name}.fifo"), &[(QueueAttributeName::FifoQueue, "true")]).await
    }

    pub async fn arn(&self) -> String {
        let asked = self.sqs.get_queue_attributes().queue_url(&self.url).attribute_names(QueueAttributeName::QueueArn);
        let answer = asked.send().await.unwrap();
        answer.attributes.unwrap()[&QueueAttributeName::QueueArn].clone()
    }

    /// Sends a message and gives its id.
    pub async fn send(&self, body: &str) -> String {
        let sent = self.sqs.send_message().queue_url(&self.url).message_body(body).send().await.unwrap();
        sent.message_id.unwrap()
    }

    /// Sends to a group; the body is what it is known by.
    pub async fn send_to(&self, group: &str, body: &str) -> String {
        let send = self.sqs.send_message().queue_url(&self.url).message_body(body);
        let sent = send.message_group_id(group).message_deduplication_id(body).send().await.unwrap();
        sent.message_id.unwrap()
    }

    /// Up to ten messages, waited for at most so many seconds.
    pub async fn poll(&self, seconds: i32) -> Vec<Message> {
        let receive = self.sqs.receive_message().queue_url(&self.url).max_number_of_messages(10);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
        receive.wait_time_seconds(seconds).send().await.unwrap().messages.unwrap_or_default()
    }

    /// The one message that comes within five seconds.
    pub async fn one(&self) -> Message {
        let mut messages = self.poll(5).await;
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }

    /// Polls until so many messages have come, which must be soon.
    pub async fn several(&self, count: usize) -> Vec<Message> {
        let start = Instant::now();
        let mut messages = self.poll(5).await;
        while messages.len() < count {
            assert!(start.elapsed() < Duration::from_secs(20), "only {} of {count} messages", messages.len());
            messages.extend(self.poll(5).await);
        }
        messages
    }

    pub async fn change(&self, handle: &str, seconds: i32) -> String {
        let change = self.sqs.change_message_visibility().queue_url(&self.url).receipt_handle(handle);
        outcome(change.visibility_timeout(seconds).send().await)
    }

    pub async fn delete(&self, handle: &str) -> String {
        outcome(self.sqs.delete_message().queue_url(&self.url).receipt_handle(handle).send().await)
    }

    /// Messages by their bodies.
    pub async fn bodies(&self, seconds: i32) -> Vec<String> {
        bodies(&self.poll(seconds).await)
    }
}

pub fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.body().unwrap_or_default().to_owned()).collect()
}

pub fn handle(message: &Message) -> &str {
    message.receipt_handle().unwrap()
}

/// One of what SQS says of a message.
pub fn system(message: &Message, name: MessageSystemAttributeName) -> Option<String> {
    message.attributes().and_then(|all| all.get(&name)).cloned()
}

/// How often it was received.
pub fn count(message: &Message) -> String {
    system(message, MessageSystemAttributeName::ApproximateReceiveCount).unwrap()
}

/// Longer than messages are hidden.
pub async fn timeout_over() {
    tokio::time::sleep(Duration::from_millis(2_300)).await;
}
