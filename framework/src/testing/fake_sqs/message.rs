//! One message: what was sent, what SQS adds to it, its checksums and its size.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::request::{Attribute, ReceiveMessage, Send};

/// Attributes that a message may have.
const ATTRIBUTES: usize = 10;

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: String,
    attributes: BTreeMap<String, Typed>,
    trace: Option<String>,
    pub(super) group: Option<String>,
    pub(super) dedup: Option<String>,
    /// Of a FIFO queue only.
    pub(super) sequence: Option<String>,
    /// The queue that it was moved from as a dead letter.
    pub(super) source: Option<String>,
    pub(super) sent: Instant,
    pub(super) sent_ms: u64,
    /// When it is forgotten; its queue says.
    pub(super) kept: Instant,
    pub(super) receives: u32,
    pub(super) first_received_ms: u64,
    /// The last receive, be its time up or not.
    pub(super) held: Option<Held>,
    /// Until when nobody else may have it.
    pub(super) hidden: Option<Instant>,
}

/// A receive of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// New with each receive; the handle names it.
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// An attribute's value with its type.
#[derive(Clone, Debug)]
struct Typed {
    kind: String,
    value: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Text(String),
    Binary(Bytes),
}

impl Message {
    /// The message of a request, checked but for what depends on the queue.
    pub(super) fn of(send: &Send, id: String, sent: Instant, sent_ms: u64) -> Result<Self, Refusal> {
        if send.message_body.is_empty() {
            return Err(Refusal::missing("MessageBody"));
        }
        if !send.message_body.chars().all(allowed) {
            return Err(Refusal::contents());
        }
        let trace = send.message_system_attributes.get("AWSTraceHeader");
        Ok(Message {
            id,
            body: send.message_body.clone(),
            attributes: typed(&send.message_attributes)?,
            trace: trace.and_then(|trace| trace.string_value.clone()),
            group: send.message_group_id.clone(),
            dedup: send.message_deduplication_id.clone(),
            sequence: None,
            source: None,
            sent,
            sent_ms,
            kept: sent,
            receives: 0,
            first_received_ms: 0,
            held: None,
            hidden: None,
        })
    }

    /// Its size as SQS counts it: the body, and names, types and values of attributes.
    pub(super) fn size(&self) -> usize {
        let attribute = |(name, typed): (&String, &Typed)| name.len() + typed.kind.len() + typed.bytes().len();
        self.body.len() + self.attributes.iter().map(attribute).sum::<usize>()
    }

    /// The answer to whoever sent it.
    pub(super) fn sent_answer(&self) -> Map<String, Value> {
        let mut answer = Map::new();
        let mut put = |name: &str, value: &str| answer.insert(name.to_owned(), value.into());
        put("MessageId", &self.id);
        put("MD5OfMessageBody", &hex(&Md5::digest(&self.body)));
        if !self.attributes.is_empty() {
            put("MD5OfMessageAttributes", &checksum(self.attributes.iter()));
        }
        if let Some(trace) = &self.trace {
            let trace = Typed { kind: "String".to_owned(), value: Content::Text(trace.clone()) };
            let one = [("AWSTraceHeader".to_owned(), trace)];
            put("MD5OfMessageSystemAttributes", &checksum(one.iter().map(|(name, typed)| (name, typed))));
        }
        if let Some(sequence) = &self.sequence {
            put("SequenceNumber", sequence);
        }
        answer
    }

    /// The message as it is given to whoever receives it, with what that one asked for.
    pub(super) fn delivery(&self, handle: &str, asked: &ReceiveMessage) -> Value {
        let mut delivery = json!({
            "MessageId": self.id,
            "ReceiptHandle": handle,
            "MD5OfBody": hex(&Md5::digest(&self.body)),
            "Body": self.body,
        });
        let names: Vec<&String> = asked.attribute_names.iter().chain(&asked.message_system_attribute_names).collect();
        let wanted = |name: &str| names.iter().any(|asked| *asked == "All" || *asked == name);
        let mut system = self.system();
        system.retain(|name, _| wanted(name));
        if !system.is_empty() {
            delivery["Attributes"] = system.into();
        }
        let wanted = |name: &str| asked.message_attribute_names.iter().any(|asked| matches(asked, name));
        let chosen: Vec<_> = self.attributes.iter().filter(|(name, _)| wanted(name)).collect();
        if !chosen.is_empty() {
            delivery["MD5OfMessageAttributes"] = checksum(chosen.iter().copied()).into();
            let chosen = chosen.iter().map(|(name, typed)| ((*name).clone(), typed.json()));
            delivery["MessageAttributes"] = chosen.collect::<Map<_, _>>().into();
        }
        delivery
    }

    fn system(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut put = |name: &str, value: String| all.insert(name.to_owned(), value.into());
        put("SenderId", "AIDAFOREBAYFAKE".to_owned());
        put("SentTimestamp", self.sent_ms.to_string());
        put("ApproximateReceiveCount", self.receives.to_string());
        put("ApproximateFirstReceiveTimestamp", self.first_received_ms.to_string());
        let optional = [
            ("AWSTraceHeader", &self.trace),
            ("DeadLetterQueueSourceArn", &self.source),
            ("MessageDeduplicationId", &self.dedup),
            ("MessageGroupId", &self.group),
            ("SequenceNumber", &self.sequence),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                put(name, value.clone());
            }
        }
        all
    }
}

impl Typed {
    fn bytes(&self) -> &[u8] {
        match &self.value {
            Content::Text(text) => text.as_bytes(),
            Content::Binary(bytes) => bytes,
        }
    }

    fn json(&self) -> Value {
        match &self.value {
            Content::Text(text) => json!({ "DataType": self.kind, "StringValue": text }),
            Content::Binary(bytes) => json!({ "DataType": self.kind, "BinaryValue": STANDARD.encode(bytes) }),
        }
    }
}

/// Message attributes, checked.
fn typed(attributes: &BTreeMap<String, Attribute>) -> Result<BTreeMap<String, Typed>, Refusal> {
    if attributes.len() > ATTRIBUTES {
        let count = attributes.len();
        return Err(Refusal::invalid(format_args!(
            "Number of message attributes [{count}] exceeds the allowed maximum [{ATTRIBUTES}]."
        )));
    }
    attributes.iter().map(|(name, attribute)| Ok((name.clone(), one(name, attribute)?))).collect()
}

fn one(name: &str, attribute: &Attribute) -> Result<Typed, Refusal> {
    let kind = attribute.data_type.clone();
    let label = kind.split('.').next().unwrap_or_default();
    let empty = || {
        Refusal::invalid(format_args!(
            "Message (user) attribute '{name}' must contain a non-empty value of type '{label}'."
        ))
    };
    let value = match label {
        "String" | "Number" => {
            let text = attribute.string_value.clone().filter(|text| !text.is_empty()).ok_or_else(empty)?;
            if label == "Number" && text.parse::<f64>().is_err() {
                return Err(Refusal::invalid(format_args!(
                    "Can't cast the value of message (user) attribute '{name}' to a number."
                )));
            }
            Content::Text(text)
        }
        "Binary" => {
            let text = attribute.binary_value.as_ref().filter(|text| !text.is_empty()).ok_or_else(empty)?;
            Content::Binary(STANDARD.decode(text).map_err(Refusal::malformed)?.into())
        }
        _ => {
            return Err(Refusal::invalid(format_args!(
                "The type of message (user) attribute '{name}' is invalid. You must use only the following \
                 supported type prefixes: Binary, Number, String."
            )));
        }
    };
    Ok(Typed { kind, value })
}

/// Whether a name that was asked for, maybe a pattern, means this attribute.
fn matches(asked: &str, name: &str) -> bool {
    match asked {
        "All" | ".*" => true,
        _ => asked == name || asked.strip_suffix(".*").is_some_and(|prefix| name.starts_with(prefix)),
    }
}

/// MD5 over attributes in the order of their names: of each its name, its type, a byte for how its value travels, and
/// its value, all but that byte with their lengths.
fn checksum<'a>(attributes: impl Iterator<Item = (&'a String, &'a Typed)>) -> String {
    let mut md5 = Md5::new();
    for (name, typed) in attributes {
        let transport = match &typed.value {
            Content::Text(_) => 1,
            Content::Binary(_) => 2,
        };
        with_length(&mut md5, name.as_bytes());
        with_length(&mut md5, typed.kind.as_bytes());
        md5.update([transport]);
        with_length(&mut md5, typed.bytes());
    }
    hex(&md5.finalize())
}

fn with_length(md5: &mut Md5, bytes: &[u8]) {
    md5.update((bytes.len() as u32).to_be_bytes());
    md5.update(bytes);
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The characters that a body may hold.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
