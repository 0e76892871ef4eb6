//! AWS JSON 1.0: from a request to an action with its parameters, and from what came of it to an answer.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::messages::Answer;
use super::refusal::Refusal;
use super::state::name_of;

/// What stands in a request beside its parameters.
pub(super) struct Head {
    /// As in `AmazonSQS.SendMessage`.
    pub(super) target: String,
    /// How the caller reaches the fake, as in `http://127.0.0.1:9324`: the beginning of its queues' URLs.
    pub(super) base: String,
    signed: bool,
}

impl Head {
    pub(super) fn of(request: &Request<Bytes>) -> Self {
        let headers = request.headers();
        let uri = request.uri();
        let host = uri.authority().map(|authority| authority.as_str());
        let host = host.unwrap_or_else(|| text(headers, header::HOST.as_str()));
        let signature = text(headers, header::AUTHORIZATION.as_str());
        Head {
            target: text(headers, "x-amz-target").to_owned(),
            base: format!("{}://{host}", uri.scheme_str().unwrap_or("http")),
            signed: signature.starts_with("AWS4-HMAC-SHA256 ") && headers.contains_key("x-amz-date"),
        }
    }

    /// Refuses what is not signed. Whether a signature is right is not checked: the fake knows no secrets.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.signed { Ok(()) } else { Err(Refusal::unsigned()) }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The name of the queue that a request is about.
pub(super) fn queue_of(body: &Value) -> String {
    let named = body["QueueUrl"].as_str().or_else(|| body["QueueName"].as_str());
    name_of(named.unwrap_or_default()).to_owned()
}

/// The parameters of a request.
pub(super) fn parse<T: DeserializeOwned>(body: Value) -> Result<T, Refusal> {
    serde_json::from_value(body).map_err(|why| {
        let why = why.to_string();
        let missing = why.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        missing.map_or_else(|| Refusal::malformed(&why), Refusal::missing)
    })
}

/// Takes the entries at these places out of a batch and gives their ids.
pub(super) fn withhold(body: &mut Value, places: &[usize]) -> Vec<Value> {
    let Some(entries) = body["Entries"].as_array_mut() else {
        return Vec::new();
    };
    let mut ids = Vec::new();
    let mut place = 0;
    entries.retain(|entry| {
        let kept = !places.contains(&place);
        place += 1;
        if !kept {
            ids.push(entry["Id"].clone());
        }
        kept
    });
    ids
}

/// A batch's answer in which these entries failed too.
pub(super) fn with_failed(mut answer: Value, ids: &[Value]) -> Value {
    let mut failed = answer["Failed"].as_array().cloned().unwrap_or_default();
    failed.extend(ids.iter().map(|id| Refusal::internal().entry(id.as_str().unwrap_or_default())));
    if !failed.is_empty() {
        answer["Failed"] = failed.into();
    } else if let Some(answer) = answer.as_object_mut() {
        answer.remove("Failed");
    }
    answer
}

/// The response with an answer, or with why there is none.
pub(super) fn respond(answer: &Answer, number: u64, date: SystemTime) -> Response<Bytes> {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body.clone()),
        Err(refusal) => {
            (StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.body())
        }
    };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    put("content-type", "application/x-amz-json-1.0".to_owned());
    put("date", httpdate::fmt_http_date(date));
    put("x-amzn-requestid", format!("00000000-0000-4000-8000-{number:012x}"));
    if let Err(refusal) = answer {
        put("x-amzn-query-error", refusal.query_error());
    }
    response
}
