//! SaladCloud's metadata service, of which one call is made: to be given another node.
//!
//! It promises an end: three tries with short pauses, each with a deadline. It speaks plain HTTP to an address of this
//! node, through no proxy, and follows no redirect.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::error::{Classify, Context, Error, Fault, Result};

/// Where it is on every node.
pub(crate) const URL: &str = "http://169.254.169.254";

/// Before each try, as the platform's own SDK has it.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(300)];
/// Longest time for one try.
const TRY: Duration = Duration::from_secs(5);
/// The longest reason, in characters.
const REASON: usize = 1000;
/// What is read of an answer that says no.
const BODY: usize = 4 << 10;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    host: String,
    port: u16,
}

impl Metadata {
    /// The service at a URL such as `http://127.0.0.1:8080`. `Invalid` if that is not plain HTTP, or has a path.
    pub(super) fn new(url: &str) -> Result<Self> {
        let at: Uri = url.parse().or_invalid().with_context(|| format!("the metadata service's URL `{url}`"))?;
        let plain = at.scheme_str() == Some("http") && matches!(at.path(), "" | "/") && at.query().is_none();
        match at.host().filter(|_| plain) {
            Some(host) => Ok(Metadata { host: host.to_owned(), port: at.port_u16().unwrap_or(80) }),
            None => {
                Err(Error::invalid(format_args!("the metadata service's URL is `{url}`, but should be like {URL}")))
            }
        }
    }

    /// Asks the platform for another node, for this reason. This node will be shunned for 48 hours.
    ///
    /// # Errors
    /// What came of the last try. Whether the platform heard of it is unknown, unless it has said no (`Invalid`).
    pub(super) async fn reallocate(&self, reason: &str) -> Result<()> {
        let reason: String = reason.chars().take(REASON).collect();
        let body = Bytes::from(json!({ "reason": reason }).to_string());
        let mut last = Error::failed("no try was made");
        for pause in PAUSES {
            sleep(pause).await;
            let late = |_| Err(Error::transient(format_args!("no answer within {} s", TRY.as_secs())));
            match timeout(TRY, self.post("/v1/reallocate", body.clone())).await.unwrap_or_else(late) {
                Ok(()) => return Ok(()),
                Err(why) if why.fault() == Fault::Invalid => return Err(why),
                Err(why) => {
                    warn!(error = %why, "asking the metadata service for another node failed");
                    last = why;
                }
            }
        }
        Err(last)
    }

    async fn post(&self, path: &str, body: Bytes) -> Result<()> {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((address, self.port)).await.context("reaching the metadata service")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let request = Request::post(path)
                .header(HOST, format!("{}:{}", self.host, self.port))
                // Without it the service refuses.
                .header("metadata", "true")
                .header(CONTENT_TYPE, "application/json")
                .header(USER_AGENT, concat!("forebay/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(body))
                .or_invalid()?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            let status = head.status;
            if status.is_success() {
                return Ok(());
            }
            let body = Limited::new(body, BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let again = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            let why = format!("the metadata service answered with {status}{}", said(&body));
            Err(if again { Error::transient(why) } else { Error::invalid(why) })
        };
        tokio::select! {
            ended = exchange => ended,
            // It ends when the exchange does, or with what breaks it.
            Err(broken) = connection => Err(broken.into()),
        }
    }
}

/// What a problem says of itself (RFC 9457).
fn said(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let text = |name| problem.as_ref()?.get(name)?.as_str();
    text("detail").or_else(|| text("title")).map(|text| format!(": {text}")).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
