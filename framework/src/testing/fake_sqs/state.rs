//! All queues, the fake's clock, and the actions that concern queues as such.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::queue::Queue;
use super::refusal::Refusal;
use super::request;
use super::settings::{self, ACCOUNT, Settings};

/// How long after its end a queue's name cannot be used, and how long a purge is under way.
const SETTLING: Duration = Duration::from_secs(60);
/// Queues that are listed at once.
const LISTED: usize = 1000;

/// Everything that the fake knows.
pub(super) struct State {
    pub(super) queues: BTreeMap<String, Queue>,
    deleted: BTreeMap<String, Instant>,
    /// Of messages, over all queues, in the order in which they came.
    pub(super) messages: u64,
    /// Of receives, over all queues.
    pub(super) receives: u64,
    started: Instant,
    /// Only what is told to callers depends on it.
    wall: SystemTime,
}

impl State {
    pub(super) fn new() -> Self {
        State {
            queues: BTreeMap::new(),
            deleted: BTreeMap::new(),
            messages: 0,
            receives: 0,
            started: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time of day.
    pub(super) fn wall(&self, now: Instant) -> SystemTime {
        self.wall + now.saturating_duration_since(self.started)
    }

    /// Milliseconds since 1970.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        let since = self.wall(now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The queue that a URL, a name or an ARN means, with what is due done.
    pub(super) fn queue(&mut self, url: &str, now: Instant) -> Result<&mut Queue, Refusal> {
        let queue = self.queues.get_mut(name_of(url)).ok_or_else(Refusal::no_queue)?;
        queue.wake(now);
        Ok(queue)
    }

    pub(super) fn create(&mut self, asked: &request::CreateQueue, base: &str, now: Instant) -> Result<Value, Refusal> {
        let name = &asked.queue_name;
        let mut settings = Settings::default();
        for (attribute, value) in &asked.attributes {
            settings.set(attribute, value)?;
        }
        settings::check_name(name, settings.fifo)?;
        self.check_dead_letters(&settings)?;
        if let Some(queue) = self.queues.get(name) {
            let (has, wanted) = (queue.settings.read(), settings.read());
            let other = asked.attributes.keys().find(|attribute| has.get(*attribute) != wanted.get(*attribute));
            return match other {
                Some(attribute) => Err(Refusal::queue_exists(attribute)),
                None => Ok(json!({ "QueueUrl": url(base, name) })),
            };
        }
        if self.deleted.get(name).is_some_and(|at| *at + SETTLING > now) {
            return Err(Refusal::queue_deleted_recently());
        }
        let created = self.millis(now) / 1000;
        self.queues.insert(name.clone(), Queue::new(settings, created));
        Ok(json!({ "QueueUrl": url(base, name) }))
    }

    pub(super) fn delete(&mut self, asked: &request::OfQueue, now: Instant) -> Result<Value, Refusal> {
        let name = name_of(&asked.queue_url);
        if self.queues.remove(name).is_some() {
            self.deleted.insert(name.to_owned(), now);
        }
        Ok(json!({}))
    }

    pub(super) fn url(&self, asked: &request::GetQueueUrl, base: &str) -> Result<Value, Refusal> {
        let name = &asked.queue_name;
        if !self.queues.contains_key(name) {
            return Err(Refusal::no_queue());
        }
        Ok(json!({ "QueueUrl": url(base, name) }))
    }

    pub(super) fn attributes(&mut self, asked: &request::GetQueueAttributes, now: Instant) -> Result<Value, Refusal> {
        let queue = self.queue(&asked.queue_url, now)?;
        let mut all = queue.settings.read();
        let depth = queue.depth();
        let mut put = |name: &str, value: String| all.insert(name.to_owned(), value);
        put("ApproximateNumberOfMessages", depth.visible.to_string());
        put("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string());
        put("ApproximateNumberOfMessagesDelayed", depth.delayed.to_string());
        put("CreatedTimestamp", queue.created.to_string());
        put("LastModifiedTimestamp", queue.modified.to_string());
        put("QueueArn", settings::arn(name_of(&asked.queue_url)));
        if asked.attribute_names.iter().any(|name| name == "All") {
            return Ok(json!({ "Attributes": all }));
        }
        let unknown = asked.attribute_names.iter().find(|name| !is_attribute(name));
        if let Some(name) = unknown {
            return Err(Refusal::unknown_attribute(name));
        }
        all.retain(|name, _| asked.attribute_names.contains(name));
        match all.is_empty() {
            true => Ok(json!({})),
            false => Ok(json!({ "Attributes": all })),
        }
    }

    pub(super) fn set(&mut self, asked: &request::SetQueueAttributes, now: Instant) -> Result<Value, Refusal> {
        let mut settings = self.queue(&asked.queue_url, now)?.settings.clone();
        let fifo = settings.fifo;
        for (attribute, value) in &asked.attributes {
            settings.set(attribute, value)?;
        }
        if settings.fifo != fifo {
            return Err(Refusal::unknown_attribute("FifoQueue"));
        }
        self.check_dead_letters(&settings)?;
        let modified = self.millis(now) / 1000;
        let queue = self.queue(&asked.queue_url, now)?;
        queue.settings = settings;
        queue.modified = modified;
        Ok(json!({}))
    }

    pub(super) fn list(&self, asked: &request::ListQueues, base: &str) -> Value {
        let after = asked.next_token.as_deref().unwrap_or_default();
        let mut names = self.queues.keys().filter(|name| name.starts_with(&asked.queue_name_prefix));
        let mut listed: Vec<&String> = Vec::new();
        let most = asked.max_results.unwrap_or(LISTED).clamp(1, LISTED);
        listed.extend(names.by_ref().filter(|name| name.as_str() > after).take(most));
        let mut answer = Map::new();
        // Only who sets a limit is told how to go on.
        if asked.max_results.is_some() && names.next().is_some() {
            answer.insert("NextToken".to_owned(), listed.last().map(|name| name.as_str()).into());
        }
        if !listed.is_empty() {
            let urls: Vec<String> = listed.into_iter().map(|name| url(base, name)).collect();
            answer.insert("QueueUrls".to_owned(), urls.into());
        }
        answer.into()
    }

    pub(super) fn sources(&mut self, asked: &request::OfQueue, base: &str, now: Instant) -> Result<Value, Refusal> {
        self.queue(&asked.queue_url, now)?;
        let arn = settings::arn(name_of(&asked.queue_url));
        let leads = |queue: &Queue| queue.settings.redrive.as_ref().is_some_and(|redrive| redrive.arn == arn);
        let sources = self.queues.iter().filter(|(_, queue)| leads(queue));
        let urls: Vec<String> = sources.map(|(name, _)| url(base, name)).collect();
        Ok(json!({ "queueUrls": urls }))
    }

    pub(super) fn purge(&mut self, asked: &request::OfQueue, now: Instant) -> Result<Value, Refusal> {
        let queue = self.queue(&asked.queue_url, now)?;
        if queue.purged.is_some_and(|at| at + SETTLING > now) {
            return Err(Refusal::purging(name_of(&asked.queue_url)));
        }
        queue.purged = Some(now);
        queue.purge();
        Ok(json!({}))
    }

    fn check_dead_letters(&self, settings: &Settings) -> Result<(), Refusal> {
        let Some(redrive) = &settings.redrive else {
            return Ok(());
        };
        let wrong = |reason: &str| Err(Refusal::parameter("RedrivePolicy", &redrive.arn, reason));
        match self.queues.get(redrive.queue()) {
            None => wrong("Dead letter target does not exist"),
            Some(queue) if queue.settings.fifo != settings.fifo => {
                wrong("Dead-letter queue must be same type of queue as the source")
            }
            Some(_) => Ok(()),
        }
    }
}

/// The name of the queue that a URL, a name or an ARN ends with.
pub(super) fn name_of(url: &str) -> &str {
    url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default()
}

/// A queue's URL.
pub(super) fn url(base: &str, queue: &str) -> String {
    format!("{base}/{ACCOUNT}/{queue}")
}

/// Whether a queue could have an attribute of this name.
fn is_attribute(name: &str) -> bool {
    const ALL: [&str; 22] = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "ContentBasedDeduplication",
        "CreatedTimestamp",
        "DeduplicationScope",
        "DelaySeconds",
        "FifoQueue",
        "FifoThroughputLimit",
        "KmsDataKeyReusePeriodSeconds",
        "KmsMasterKeyId",
        "LastModifiedTimestamp",
        "MaximumMessageSize",
        "MessageRetentionPeriod",
        "Policy",
        "QueueArn",
        "ReceiveMessageWaitTimeSeconds",
        "RedriveAllowPolicy",
        "RedrivePolicy",
        "SqsManagedSseEnabled",
        "VisibilityTimeout",
        "All",
    ];
    ALL.contains(&name)
}
