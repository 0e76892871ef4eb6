//! A queue's attributes that can be set: their ranges, their defaults, and how they read back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::refusal::Refusal;

/// The longest that a message may be hidden, all in all: 12 hours.
pub(super) const LONGEST_HIDDEN: u64 = 43_200;
/// The longest delay of a message.
pub(super) const LONGEST_DELAY: u64 = 900;
/// The longest poll.
pub(super) const LONGEST_POLL: u64 = 20;
/// The largest message, and the largest batch of them, in bytes.
pub(super) const LARGEST: usize = 1024 * 1024;

/// The account of every queue.
pub(super) const ACCOUNT: &str = "000000000000";
/// Where all queues are.
pub(super) const REGION: &str = "us-east-1";

/// Attributes that are kept and read back, and change nothing.
const KEPT: [&str; 6] = [
    "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "Policy",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
];

/// What a queue is set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) visibility: u64,
    pub(super) delay: u64,
    pub(super) wait: u64,
    retention: u64,
    pub(super) largest: usize,
    pub(super) fifo: bool,
    pub(super) dedup_by_content: bool,
    pub(super) dedup_by_group: bool,
    pub(super) redrive: Option<Redrive>,
    kept: BTreeMap<String, String>,
}

/// When messages go to another queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Redrive {
    /// The ARN of the dead-letter queue.
    pub(super) arn: String,
    /// Receives that a message may have before it goes there.
    pub(super) receives: u32,
}

impl Redrive {
    /// The name of the dead-letter queue.
    pub(super) fn queue(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            visibility: 30,
            delay: 0,
            wait: 0,
            retention: 345_600,
            largest: LARGEST,
            fifo: false,
            dedup_by_content: false,
            dedup_by_group: false,
            redrive: None,
            kept: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// How long messages are kept.
    pub(super) fn retention(&self) -> Duration {
        Duration::from_secs(self.retention)
    }

    /// Sets one attribute.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let number = |least: u64, most: u64| -> Result<u64, Refusal> {
            let number = value.parse().ok().filter(|number| (least..=most).contains(number));
            number.ok_or_else(|| Refusal::attribute(name))
        };
        let flag = || value.parse::<bool>().map_err(|_| Refusal::attribute(name));
        match name {
            "VisibilityTimeout" => self.visibility = number(0, LONGEST_HIDDEN)?,
            "DelaySeconds" => self.delay = number(0, LONGEST_DELAY)?,
            "ReceiveMessageWaitTimeSeconds" => self.wait = number(0, LONGEST_POLL)?,
            "MessageRetentionPeriod" => self.retention = number(60, 1_209_600)?,
            "MaximumMessageSize" => self.largest = number(1024, LARGEST as u64)? as usize,
            "FifoQueue" => self.fifo = flag()?,
            "ContentBasedDeduplication" => self.dedup_by_content = flag()?,
            "DeduplicationScope" => self.dedup_by_group = value == "messageGroup",
            "RedrivePolicy" if value.is_empty() => self.redrive = None,
            "RedrivePolicy" => self.redrive = Some(redrive(value)?),
            _ if KEPT.contains(&name) => {
                self.kept.insert(name.to_owned(), value.to_owned());
            }
            _ => return Err(Refusal::unknown_attribute(name)),
        }
        Ok(())
    }

    /// Every attribute that can be set, as it reads back.
    pub(super) fn read(&self) -> BTreeMap<String, String> {
        let mut all = self.kept.clone();
        all.entry("SqsManagedSseEnabled".to_owned()).or_insert_with(|| "true".to_owned());
        let mut put = |name: &str, value: String| all.insert(name.to_owned(), value);
        put("VisibilityTimeout", self.visibility.to_string());
        put("DelaySeconds", self.delay.to_string());
        put("ReceiveMessageWaitTimeSeconds", self.wait.to_string());
        put("MessageRetentionPeriod", self.retention.to_string());
        put("MaximumMessageSize", self.largest.to_string());
        if let Some(redrive) = &self.redrive {
            let policy = json!({ "deadLetterTargetArn": redrive.arn, "maxReceiveCount": redrive.receives });
            put("RedrivePolicy", policy.to_string());
        }
        if self.fifo {
            put("FifoQueue", "true".to_owned());
            put("ContentBasedDeduplication", self.dedup_by_content.to_string());
            let scope = if self.dedup_by_group { "messageGroup" } else { "queue" };
            put("DeduplicationScope", scope.to_owned());
        }
        all
    }
}

fn redrive(text: &str) -> Result<Redrive, Refusal> {
    let wrong = |reason: &str| Refusal::parameter("RedrivePolicy", text, reason);
    let policy: Value = serde_json::from_str(text).map_err(|_| wrong("Redrive policy is not a valid JSON map"))?;
    let arn = policy["deadLetterTargetArn"].as_str();
    let arn = arn.ok_or_else(|| wrong("Redrive policy does not contain mandatory attribute: deadLetterTargetArn"))?;
    // Either is taken: a number, or a number as text.
    let receives = match &policy["maxReceiveCount"] {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => return Err(wrong("Redrive policy does not contain mandatory attribute: maxReceiveCount")),
    };
    let receives = receives.filter(|receives| (1..=1000).contains(receives));
    let receives = receives.ok_or_else(|| wrong("Invalid value for maxReceiveCount: Must be between 1 and 1000"))?;
    Ok(Redrive { arn: arn.to_owned(), receives: receives as u32 })
}

/// The ARN of a queue.
pub(super) fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

/// Whether a queue may have this name.
pub(super) fn check_name(name: &str, fifo: bool) -> Result<(), Refusal> {
    let stem = if fifo { name.strip_suffix(".fifo") } else { Some(name) };
    let allowed = |stem: &str| {
        let characters = stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        characters && !stem.is_empty() && name.len() <= 80
    };
    if stem.is_some_and(allowed) {
        return Ok(());
    }
    Err(Refusal::invalid(match fifo {
        true => {
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end \
             with .fifo suffix and be 1 to 80 in length"
        }
        false => "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
    }))
}
