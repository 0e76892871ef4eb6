//! What stands in a message's body: an envelope in JSON, or the payload as it is.
//!
//! A JSON object with the field `forebay` is an envelope, and anything else is a payload. A field that an envelope does
//! not know is an error and not ignored: whoever wrote it meant something by it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::queue::Terms;
use crate::error::{Classify, Context, Error, Result};
use crate::job::{Meta, Priority};

/// The only version there is.
const VERSION: u32 = 1;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// What a body says.
#[derive(Debug)]
pub(super) struct Opened {
    /// The job's name, where the sender gave it one.
    pub(super) id: Option<String>,
    pub(super) input: Input,
    pub(super) meta: Meta,
}

#[derive(Debug, PartialEq)]
pub(super) enum Input {
    Here(Bytes),
    At(Place),
}

/// Whether a body is an envelope at all.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    forebay: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    forebay: u32,
    id: Option<String>,
    #[serde(default, borrow, deserialize_with = "present")]
    input: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
    object: Option<Place>,
    output: Option<String>,
    webhook: Option<String>,
    deadline: Option<String>,
    priority: Option<Class>,
    route: Option<String>,
    content_type: Option<String>,
    trace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Class {
    High,
    Normal,
    Low,
}

/// An envelope as [`seal`] writes it.
#[derive(Serialize)]
struct Sealed<'a> {
    forebay: u32,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Class>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

/// Reads a body.
pub(super) fn open(body: &Bytes) -> Result<Opened> {
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let probe = || serde_json::from_slice::<Probe>(body).ok().and_then(|probe| probe.forebay);
    if !is_object || probe().is_none() {
        let input = Input::Here(body.clone());
        return Ok(Opened { id: None, input, meta: Meta::default() });
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body).or_invalid().context("reading the message's envelope")?;
    if envelope.forebay != VERSION {
        let version = envelope.forebay;
        return Err(Error::invalid(format_args!("the message's envelope is of version {version}; this is {VERSION}")));
    }
    envelope.opened(body)
}

impl Envelope<'_> {
    fn opened(self, body: &Bytes) -> Result<Opened> {
        let read = |text| {
            let bytes = STANDARD.decode(text).or_invalid().context("`base64` of the message's envelope")?;
            Ok(Input::Here(bytes.into()))
        };
        let inputs: [Option<Result<Input>>; 4] = [
            self.input.map(|json| Ok(Input::Here(body.slice_ref(json.get().as_bytes())))),
            self.text.map(|text| Ok(Input::Here(text.into()))),
            self.base64.map(read),
            self.object.map(|place| Ok(Input::At(place))),
        ];
        let mut inputs = inputs.into_iter().flatten();
        let (Some(input), None) = (inputs.next(), inputs.next()) else {
            let wanted = "one of `input`, `text`, `base64` and `object`";
            return Err(Error::invalid(format_args!("the message's envelope should have {wanted}")));
        };
        let mut labels = self.labels;
        labels.extend(self.output.map(|output| (Meta::OUTPUT.to_owned(), output)));
        labels.extend(self.webhook.map(|url| (Meta::WEBHOOK.to_owned(), url)));
        let meta = Meta {
            deadline: self.deadline.map(|text| moment(&text)).transpose()?,
            priority: self.priority.map_or(Priority::Normal, Class::priority),
            route: self.route,
            content_type: self.content_type,
            trace: self.trace,
            labels,
        };
        Ok(Opened { id: self.id, input: input?, meta })
    }
}

impl Class {
    fn priority(self) -> Priority {
        match self {
            Class::High => Priority::High,
            Class::Normal => Priority::Normal,
            Class::Low => Priority::Low,
        }
    }

    /// `None` for what goes without saying.
    fn of(priority: Priority) -> Option<Class> {
        match priority {
            Priority::High => Some(Class::High),
            Priority::Normal => None,
            Priority::Low => Some(Class::Low),
        }
    }
}

/// JSON's `null` is an input like any other.
fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// A time of the wall clock as one of the worker's own; what is past is due now.
fn moment(text: &str) -> Result<Instant> {
    let wrong = "`deadline` of the message's envelope should be as in 2030-01-31T12:00:00Z";
    let time = humantime::parse_rfc3339(text).or_invalid().context(wrong)?;
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    // Further away than the clock can count is as good as no deadline in any job's life.
    Ok(now.checked_add(left).unwrap_or(now + std::time::Duration::from_secs(365 * 86_400)))
}

/// The envelope of a job: what [`open`] makes all of it of again.
pub(super) fn seal(id: &str, payload: &[u8], terms: &Terms) -> Result<String> {
    // JSON escapes what is below a space; what else SQS refuses it does not.
    let is_text = |text: &&str| text.chars().all(|c| c < ' ' || is_allowed(c));
    let text = std::str::from_utf8(payload).ok().filter(is_text);
    let base64 = text.is_none().then(|| STANDARD.encode(payload));
    let sealed = Sealed {
        forebay: VERSION,
        id,
        text,
        base64,
        output: terms.output.as_deref(),
        webhook: terms.webhook.as_deref(),
        deadline: terms.deadline.map(|time| humantime::format_rfc3339(time).to_string()),
        priority: Class::of(terms.priority),
        route: terms.route.as_deref(),
        content_type: terms.content_type.as_deref(),
        labels: &terms.labels,
    };
    serde_json::to_string(&sealed).context("writing a message's envelope")
}

/// A payload as it is, if SQS takes it so.
pub(super) fn bare(payload: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(payload).ok().filter(|text| !text.is_empty() && text.chars().all(is_allowed));
    let refused =
        || Error::invalid("SQS takes no such payload without an envelope: it is empty, or not the text it takes");
    text.map(str::to_owned).ok_or_else(refused)
}

/// What SQS takes in a text; the rest it refuses.
pub(super) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Fault;

    fn opened(body: &str) -> Result<Opened> {
        open(&Bytes::from(body.to_owned()))
    }

    fn here(body: &str) -> Bytes {
        match opened(body).unwrap().input {
            Input::Here(payload) => payload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_mark_is_a_payload_as_it_is() {
        for body in ["", "text", "[1]", "{\"id\": 1}", "{\"torn", "  {\"a\": {\"forebay\": 1}}", "\"forebay\"", "{}"] {
            assert_eq!(here(body), body);
        }
    }

    #[test]
    fn an_envelope_gives_its_input_as_it_was_written() {
        assert_eq!(here(r#"{"forebay": 1, "input": {"b":1.50,  "a":[ ]}}"#), r#"{"b":1.50,  "a":[ ]}"#);
        assert_eq!(here(r#"{"input": "x", "forebay": 1}"#), r#""x""#);
        assert_eq!(here(r#"{"forebay": 1, "text": "a\nb"}"#), "a\nb");
        assert_eq!(here(r#"{"forebay": 1, "base64": "AP8="}"#), &b"\x00\xff"[..]);
        assert_eq!(here(r#"{"forebay": 1, "input": null}"#), "null");
    }

    #[test]
    fn everything_in_an_envelope_comes_through() {
        let body = r#"{"forebay": 1, "id": "a", "object": {"bucket": "b", "key": "k"}, "priority": "high",
            "output": "results/a", "webhook": "https://example.com/", "route": "r",
            "deadline": "2999-01-01T00:00:00Z", "content_type": "image/png", "trace": "t", "labels": {"x": "y"}}"#;
        let opened = opened(body).unwrap();
        assert_eq!(opened.id.as_deref(), Some("a"));
        assert_eq!(opened.input, Input::At(Place { bucket: "b".to_owned(), key: "k".to_owned() }));
        let meta = opened.meta;
        assert_eq!((meta.priority, meta.route.as_deref()), (Priority::High, Some("r")));
        assert_eq!((meta.content_type.as_deref(), meta.trace.as_deref()), (Some("image/png"), Some("t")));
        let labels = ["x", Meta::OUTPUT, Meta::WEBHOOK].map(|name| meta.labels[name].as_str());
        assert_eq!(labels, ["y", "results/a", "https://example.com/"]);
        assert!(meta.deadline.unwrap() > Instant::now() + Duration::from_secs(86_400));
    }

    #[test]
    fn what_an_envelope_does_not_know_is_refused_by_name() {
        let cases = [
            (r#"{"forebay": 1, "inptu": 1}"#, "inptu"),
            (r#"{"forebay": 2, "input": 1}"#, "version 2"),
            (r#"{"forebay": "x", "input": 1}"#, "envelope"),
            (r#"{"forebay": 1}"#, "`input`"),
            (r#"{"forebay": 1, "input": 1, "text": "x"}"#, "`input`"),
            (r#"{"forebay": 1, "base64": "?"}"#, "base64"),
            (r#"{"forebay": 1, "input": 1, "deadline": "soon"}"#, "deadline"),
            (r#"{"forebay": 1, "input": 1, "priority": "urgent"}"#, "urgent"),
        ];
        for (body, says) in cases {
            let why = opened(body).unwrap_err();
            assert_eq!(why.fault(), Fault::Invalid, "{body}");
            assert!(why.to_string().contains(says), "{body}: {why}");
        }
    }

    #[test]
    fn a_deadline_that_is_past_is_due_now() {
        let opened = opened(r#"{"forebay": 1, "input": 1, "deadline": "2001-01-01T00:00:00Z"}"#).unwrap();
        assert!(opened.meta.deadline.unwrap() <= Instant::now());
    }

    #[test]
    fn what_was_sealed_comes_out_the_same_and_is_text_that_may_be_sent() {
        for payload in [&b""[..], b"text", b"\x00\x01\xff", "{\"forebay\": 1}\u{0}\u{ffff}".as_bytes()] {
            let body = seal("the \"id\"", payload, &Terms::default()).unwrap();
            assert!(body.chars().all(is_allowed), "{body:?}");
            let opened = opened(&body).unwrap();
            assert_eq!(opened.id.as_deref(), Some("the \"id\""));
            assert_eq!(opened.input, Input::Here(Bytes::copy_from_slice(payload)));
        }
    }
    #[test]
    fn terms_come_through_and_what_is_not_said_is_not_written() {
        let body = seal("a", b"x", &Terms::default()).unwrap();
        assert_eq!(body, r#"{"forebay":1,"id":"a","text":"x"}"#);
        let terms = Terms {
            priority: Priority::Low,
            route: Some("r".to_owned()),
            output: Some("o".to_owned()),
            webhook: Some("w".to_owned()),
            deadline: Some(humantime::parse_rfc3339("2999-01-01T00:00:00Z").unwrap()),
            content_type: Some("image/png".to_owned()),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let body = seal("a", b"x", &terms).unwrap();
        assert!(body.contains(r#""deadline":"2999-01-01T00:00:00Z""#), "{body}");
        let meta = opened(&body).unwrap().meta;
        assert_eq!((meta.priority, meta.route.as_deref()), (Priority::Low, Some("r")));
        assert_eq!(meta.content_type.as_deref(), Some("image/png"));
        let labels = ["k", Meta::OUTPUT, Meta::WEBHOOK].map(|name| meta.labels[name].as_str());
        assert_eq!(labels, ["v", "o", "w"]);
    }
}
