//! A rejected job as a dead letter: the message as it was, and why as attributes beside it.
//!
//! Sent again from the dead-letter queue it is the same message; what an earlier rejection said gives way to the next.

use std::collections::HashMap;

use aws_sdk_sqs::types::MessageAttributeValue;
use bytes::Bytes;

use super::broker::Letter;
use super::envelope::is_allowed;
use super::objects::{Objects, SIZE_ATTRIBUTE, read_pointer};
use crate::error::{Context, Error, Result};

/// Attributes in one message.
const MOST: usize = 10;
/// What is always taken: queues may be told to take less than the service does.
pub(super) const SAFE: usize = 256 << 10;
/// The attribute that holds a job's id.
pub(super) const JOB_ATTRIBUTE: &str = "forebay.job";
/// Of an error, what is told.
const LONGEST_ERROR: usize = 2000;

/// Of a message, what its dead letter needs.
pub(super) struct Original {
    pub(super) message_id: String,
    pub(super) body: Bytes,
    pub(super) attributes: HashMap<String, MessageAttributeValue>,
    pub(super) group: Option<String>,
}

/// The dead letter of a message. Puts the body into a bucket if there is no room for it beside the reasons.
pub(super) async fn dead(
    original: &Original,
    id: &str,
    attempt: u32,
    why: &Error,
    fifo: bool,
    objects: &Objects,
) -> Result<Letter> {
    let mut attributes = attributes(original, id, attempt, why)?;
    let mut body = String::from_utf8(original.body.to_vec()).context("reading a message's body")?;
    if size(&body, &attributes) > SAFE && objects.take_bodies() && read_pointer(&original.body).is_none() {
        attributes.insert(SIZE_ATTRIBUTE.to_owned(), attribute("Number", body.len().to_string())?);
        let key = format!("dead-letters/{}", original.message_id);
        body = objects.put_body(key, original.body.clone()).await?;
    }
    let group = original.group.clone().unwrap_or_else(|| original.message_id.clone());
    // Sent again because the answer was lost, it is the same letter.
    let fifo = fifo.then(|| (group, original.message_id.clone()));
    Ok(Letter { body, attributes, fifo })
}

fn attributes(
    original: &Original,
    id: &str,
    attempt: u32,
    why: &Error,
) -> Result<HashMap<String, MessageAttributeValue>> {
    let mut ours = HashMap::from([
        ("forebay.reason".to_owned(), attribute("String", why.fault().as_str())?),
        ("forebay.error".to_owned(), attribute("String", clean(&why.to_string(), LONGEST_ERROR))?),
        ("forebay.attempts".to_owned(), attribute("Number", attempt.to_string())?),
        (JOB_ATTRIBUTE.to_owned(), attribute("String", clean(id, LONGEST_ERROR))?),
    ]);
    let mut theirs: Vec<_> = original.attributes.iter().collect();
    // Without its size nobody would know a pointer for what it is; of the others, always the same ones.
    theirs.sort_by_key(|(name, _)| (*name != SIZE_ATTRIBUTE, *name));
    for (name, value) in theirs {
        if ours.len() < MOST && !ours.contains_key(name) {
            ours.insert(name.clone(), value.clone());
        }
    }
    Ok(ours)
}

pub(super) fn attribute(kind: &str, value: impl Into<String>) -> Result<MessageAttributeValue> {
    let value = MessageAttributeValue::builder().data_type(kind).string_value(value);
    value.build().context("writing a message's attribute")
}

/// What may be sent of a text: at least one character.
pub(super) fn clean(text: &str, most: usize) -> String {
    let clean: String = text.chars().filter(|c| is_allowed(*c)).take(most).collect();
    if clean.is_empty() { "-".to_owned() } else { clean }
}

/// As SQS counts it: the body, and names, types and values of attributes.
pub(super) fn size(body: &str, attributes: &HashMap<String, MessageAttributeValue>) -> usize {
    let of = |(name, value): (&String, &MessageAttributeValue)| {
        let text = value.string_value.as_ref().map_or(0, String::len);
        let bytes = value.binary_value.as_ref().map_or(0, |bytes| bytes.as_ref().len());
        name.len() + value.data_type.len() + text + bytes
    };
    body.len() + attributes.iter().map(of).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Memory;

    fn original(body: &str, attributes: usize) -> Original {
        let attributes = (0..attributes).map(|n| (format!("a{n}"), attribute("String", "x").unwrap()));
        Original {
            message_id: "m-1".to_owned(),
            body: Bytes::from(body.to_owned()),
            attributes: attributes.collect(),
            group: None,
        }
    }

    fn text<'a>(letter: &'a Letter, name: &str) -> &'a str {
        letter.attributes[name].string_value.as_deref().unwrap()
    }

    async fn letter(original: &Original, fifo: bool, objects: &Objects) -> Letter {
        let why = Error::failed("bad\u{1} news").context("stage `x`");
        dead(original, "job", 5, &why, fifo, objects).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_the_message_with_its_reasons() {
        let letter = letter(&original("body", 2), false, &Objects::default()).await;
        assert_eq!((letter.body.as_str(), letter.fifo.is_none()), ("body", true));
        assert_eq!(text(&letter, "forebay.reason"), "failed");
        assert_eq!(text(&letter, "forebay.error"), "stage `x`: bad news");
        assert_eq!((text(&letter, "forebay.attempts"), text(&letter, "forebay.job")), ("5", "job"));
        assert_eq!(text(&letter, "a1"), "x");
    }

    #[tokio::test]
    async fn its_reasons_have_room_and_a_pointer_stays_one() {
        let mut original = original("body", 9);
        original.attributes.insert(SIZE_ATTRIBUTE.to_owned(), attribute("Number", "7").unwrap());
        // As of a letter that was sent back before.
        original.attributes.insert("forebay.error".to_owned(), attribute("String", "old").unwrap());
        let letter = letter(&original, false, &Objects::default()).await;
        assert_eq!(letter.attributes.len(), MOST);
        assert_eq!(text(&letter, SIZE_ATTRIBUTE), "7");
        assert_eq!(text(&letter, "forebay.error"), "stage `x`: bad news");
    }

    #[tokio::test]
    async fn a_body_without_room_goes_into_a_bucket() {
        let mut objects = Objects::default();
        objects.add("b".to_owned(), Arc::new(Memory::new()));
        let large = "x".repeat(SAFE);
        let letter = letter(&original(&large, 0), false, &objects).await;
        let place = read_pointer(letter.body.as_bytes()).unwrap();
        assert_eq!(objects.get(&place).await.unwrap(), large);
        assert_eq!(text(&letter, SIZE_ATTRIBUTE), SAFE.to_string());
    }

    #[tokio::test]
    async fn in_a_fifo_queue_it_keeps_its_group_and_is_the_same_when_sent_again() {
        let mut original = original("body", 0);
        original.group = Some("g".to_owned());
        let letter = letter(&original, true, &Objects::default()).await;
        assert_eq!(letter.fifo, Some(("g".to_owned(), "m-1".to_owned())));
    }
}
