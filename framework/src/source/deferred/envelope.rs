//! What stands on the queue: a header in JSON, a line end, and the job's payload as it came.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::error::{Classify, Context, Error, Result};

/// A job's header. What its caller asked for is in the [records](super::records).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// What a message of the queue is about.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// A job to be done.
    Job(Header),
    /// A job's end, to be told by its webhook.
    Webhook { id: String },
}

impl Message {
    pub(super) fn seal(&self, payload: &[u8]) -> Result<Bytes> {
        let header = serde_json::to_vec(self).context("writing a job's header")?;
        let mut sealed = BytesMut::with_capacity(header.len() + 1 + payload.len());
        sealed.put(&*header);
        sealed.put_u8(b'\n');
        sealed.put(payload);
        Ok(sealed.freeze())
    }

    pub(super) fn open(sealed: &Bytes) -> Result<(Message, Bytes)> {
        let wrong = || Error::invalid("this is no deferred job: it has no header");
        let end = sealed.iter().position(|byte| *byte == b'\n').ok_or_else(wrong)?;
        let message = serde_json::from_slice(&sealed[..end]).or_invalid().context("reading a deferred job's header")?;
        Ok((message, sealed.slice(end + 1..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_comes_out_the_same() -> Result<()> {
        let job = Header { id: "a".to_owned(), route: Some("b".to_owned()), ..Header::default() };
        for message in [Message::Job(job), Message::Webhook { id: "a".to_owned() }] {
            for payload in [&b""[..], b"\n", b"{\"a\": 1}\nmore\n"] {
                let (opened, rest) = Message::open(&message.seal(payload)?)?;
                assert_eq!((opened, &*rest), (Message::open(&message.seal(b"")?)?.0, payload));
            }
        }
        assert!(Message::open(&Bytes::from_static(b"{}")).is_err());
        assert!(Message::open(&Bytes::from_static(b"{}\n")).is_err());
        Ok(())
    }
}
