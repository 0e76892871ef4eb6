//! What is said of a job's end, on a queue for results and to a webhook alike: one document in JSON.
//!
//! | field | what it is |
//! |---|---|
//! | `type` | `job.done`, `job.failed` or `job.cancelled` |
//! | `timestamp` | when that was |
//! | `data` | `id`, `state`, `ended`; of a failure `error`; of a result `content_type`, `bytes`, and one of the next three |
//! | `data.result` | the result as it is, if it is JSON of at most [`LARGEST`] bytes |
//! | `data.base64` | any other result of at most that many bytes |
//! | `data.key` | where a larger one is in the store |
//!
//! Of one end it is always the same document, byte by byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::ends::{End, Failure, Output, State, key};
use crate::error::{Context, Result};

/// The largest result that is in the document itself, in bytes. In base64, or as a text within another document, it
/// fits into a message of SQS that may have 256 KiB.
pub(crate) const LARGEST: usize = 64 << 10;
/// Of what went wrong, the characters that are told: so that it fits too.
const LONGEST_DETAIL: usize = 8 << 10;

#[derive(Serialize)]
struct Notice<'a> {
    r#type: String,
    timestamp: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    state: State,
    ended: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(flatten)]
    result: Option<Described<'a>>,
}

#[derive(Serialize)]
struct Described<'a> {
    content_type: &'a str,
    bytes: usize,
    #[serde(flatten)]
    place: Place<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Place<'a> {
    Result(&'a RawValue),
    Base64(String),
    Key(String),
}

/// The document about the job's end; `result` is what the end names, if it is at hand.
pub(crate) fn notice(id: &str, end: &End, result: Option<&Bytes>) -> Result<Bytes> {
    let described = end.result.as_ref().map(|output| Described::of(id, output, result)).transpose()?;
    let error = end.error.as_ref().map(|failure| Failure {
        fault: failure.fault.clone(),
        detail: failure.detail.chars().take(LONGEST_DETAIL).collect(),
    });
    let data = Data { id, state: end.state, ended: &end.ended, error, result: described };
    let notice = Notice { r#type: format!("job.{}", end.state.as_str()), timestamp: &end.ended, data };
    let text = serde_json::to_string(&notice).with_context(|| format!("writing what became of job `{id}`"))?;
    Ok(sendable(text).into())
}

impl<'a> Described<'a> {
    fn of(id: &str, output: &'a Output, result: Option<&'a Bytes>) -> Result<Self> {
        let at_hand = result.filter(|result| carries(output) && result.len() == output.bytes);
        let json = |result: &'a Bytes| match output.content_type == "application/json" {
            true => serde_json::from_slice::<&RawValue>(result).ok(),
            false => None,
        };
        let place = match at_hand {
            Some(result) => json(result).map_or_else(|| Place::Base64(STANDARD.encode(result)), Place::Result),
            None => Place::Key(key(id, output.name())?.to_string()),
        };
        Ok(Described { content_type: &output.content_type, bytes: output.bytes, place })
    }
}

/// Whether a result is in the document itself, if it is at hand.
pub(crate) fn carries(output: &Output) -> bool {
    output.bytes <= LARGEST
}

/// Two characters that JSON may hold and SQS refuses stand in texts only, where JSON has another way to write them.
fn sendable(json: String) -> String {
    match json.contains(['\u{fffe}', '\u{ffff}']) {
        true => json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"),
        false => json,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::Error;

    fn data(end: &End, result: &'static [u8]) -> Value {
        let text = notice("job", end, Some(&Bytes::from_static(result))).unwrap();
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&document["timestamp"], &document["data"]["id"]), (&json!(end.ended), &json!("job")));
        document
    }

    #[test]
    fn a_small_result_is_in_it_and_a_large_one_has_a_place() {
        let said = |content_type, result: &'static [u8]| {
            let end = End::done(1, content_type, result.len());
            let document = data(&end, result);
            assert_eq!((&document["type"], &document["data"]["bytes"]), (&json!("job.done"), &json!(result.len())));
            let fields = ["result", "base64", "key"].map(|name| document["data"].get(name).cloned());
            assert_eq!(fields.iter().flatten().count(), 1, "{document}");
            fields
        };
        let [result, _, _] = said("application/json", b"{\"a\": [1]}");
        assert_eq!(result, Some(json!({ "a": [1] })));
        // What says that it is JSON and is not, is told as it is.
        assert_eq!(said("application/json", b"{torn")[1], Some(json!("e3Rvcm4=")));
        assert_eq!(said("image/png", b"\x00\xff")[1], Some(json!("AP8=")));
        static LARGE: [u8; LARGEST + 1] = [b' '; LARGEST + 1];
        let [_, _, key] = said("application/json", &LARGE);
        assert!(key.unwrap().as_str().unwrap().starts_with("jobs/job/result-1-"));
        assert!(said("image/png", &LARGE[1..])[1].is_some());
    }

    #[test]
    fn a_result_that_is_not_at_hand_has_its_place_told() {
        let end = End::done(1, "application/json", 3);
        for result in [None, Some(Bytes::new())] {
            let text = notice("job", &end, result.as_ref()).unwrap();
            let document: Value = serde_json::from_slice(&text).unwrap();
            assert!(document["data"]["key"].is_string(), "{document}");
        }
    }

    #[test]
    fn a_result_stands_in_it_as_it_was_written() {
        let result = "{\"b\": 1.50, \"a\": 123456789012345678901234567890}";
        let end = End::done(1, "application/json", result.len());
        let text = notice("job", &end, Some(&Bytes::from(result))).unwrap();
        assert!(std::str::from_utf8(&text).unwrap().contains(result));
    }

    #[test]
    fn a_failure_says_why_and_not_too_much() {
        let long = "x".repeat(2 * LONGEST_DETAIL);
        let document = data(&End::failed(&Error::invalid(long)), b"");
        let error = &document["data"]["error"];
        assert_eq!((&document["type"], &error["fault"]), (&json!("job.failed"), &json!("invalid")));
        assert_eq!(error["detail"].as_str().unwrap().len(), LONGEST_DETAIL);
        assert!(document["data"].get("bytes").is_none(), "{document}");
    }

    #[test]
    fn whatever_is_in_it_it_is_text_that_a_queue_takes() {
        let result = "\"\u{ffff}\u{fffe}\u{7f}\"";
        let end = End::done(1, "application/json", result.len());
        let text = notice("a\u{1}\u{ffff}", &end, Some(&Bytes::from(result))).unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(!text.chars().any(|c| matches!(c, '\u{0}'..'\u{20}' | '\u{fffe}' | '\u{ffff}')), "{text:?}");
        let document: Value = serde_json::from_str(text).unwrap();
        assert_eq!(document["data"]["result"], "\u{ffff}\u{fffe}\u{7f}");
        assert_eq!(document["data"]["id"], "a\u{1}\u{ffff}");
    }
}
