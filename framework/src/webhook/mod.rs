//! Webhooks: tell a URL of someone else's that something has happened, signed, and without being led astray.
//!
//! [`Webhook::send`] makes one attempt, signed as [Standard Webhooks](https://www.standardwebhooks.com) has it, to an
//! address that a [`Guard`] allows. It keeps nothing: what is still to be delivered, and when next ([`pause`]), is for
//! the caller to remember, since it takes days and no worker lives that long.
//!
//! ```no_run
//! use forebay::webhook::{Guard, Secret, Sent, Webhook};
//!
//! # async fn example(now: u64) -> forebay::Result<()> {
//! let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let webhook = Webhook::new(Guard::new(), [secret])?;
//! let body = r#"{"type":"job.done","data":{"id":"1234"}}"#;
//! match webhook.send("https://example.com/hook", "msg_1234", now, body.into()).await? {
//!     Sent::Delivered => {}
//!     Sent::Again { after, why } => println!("later, because {why}: {after:?}"),
//!     Sent::Gone => println!("never again"),
//! }
//! # Ok(()) }
//! ```

mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use crate::error::{Classify, Context, Error, Fault, Result};
use crate::net::{self, Refused, System, public_roots, shown};

pub use crate::net::{Guard, Network, Resolve};
pub use sign::{Headers, ID, SIGNATURE, Secret, TIMESTAMP, TOLERANCE, sign, verify};

// Part of a signature.
pub use http::Uri;

/// Longest time for one attempt, from the name's look-up to the end of the answer. The specification says 15 to 30 s.
const DEADLINE: Duration = Duration::from_secs(20);
/// What is read of an answer's body, which means nothing.
const BODY: usize = 4 << 10;
/// What is read of an answer's head.
const HEAD: usize = 16 << 10;

/// Sends signed messages. Cheap to clone; a receiver with secrets of its own has a `Webhook` of its own.
///
/// Each attempt has a connection of its own: HTTP/1.1, over TLS 1.2 or 1.3 with the roots of Mozilla for `https`.
/// Redirects are not followed, since they lead where nobody has judged.
#[derive(Clone)]
pub struct Webhook {
    client: HttpClient,
    guard: Guard,
    secrets: Vec<Secret>,
    deadline: Duration,
}

type HttpClient = Client<net::Connector, Full<Bytes>>;

/// How an attempt ended.
#[derive(Clone, Debug)]
#[must_use = "an attempt may have to be made again"]
pub enum Sent {
    /// The receiver has it: it answered with 200 to 299.
    Delivered,
    /// It may or may not have arrived: send it again, with the same id and a new timestamp.
    Again {
        /// How long the receiver asks to be left alone (`Retry-After`), at most 24 hours. Wait for this or for
        /// [`pause`], whichever is longer.
        after: Option<Duration>,
        /// What went wrong: the network, or the receiver's status.
        why: Error,
    },
    /// The receiver wants no message ever again: it answered with 410.
    Gone,
}

impl Webhook {
    /// A sender that signs with every one of `secrets`. `Invalid` if there is none.
    pub fn new(guard: Guard, secrets: impl IntoIterator<Item = Secret>) -> Result<Self> {
        let secrets = Vec::from_iter(secrets);
        if secrets.is_empty() {
            return Err(Error::invalid("webhook: no secret to sign with"));
        }
        let client = client(guard.clone(), Arc::new(System), public_roots());
        Ok(Webhook { client, guard, secrets, deadline: DEADLINE })
    }

    /// A sender under the strict [`Guard`] that signs with the secrets of `FOREBAY_WEBHOOK_SECRETS`.
    ///
    /// # Errors
    /// `Invalid` if there is none, or one is not as [`Secret::new`] wants it.
    pub fn from_env() -> Result<Self> {
        let secrets = crate::config::webhook_secrets();
        if secrets.is_empty() {
            return Err(Error::invalid(
                "webhook: FOREBAY_WEBHOOK_SECRETS is not set; `whsec_$(openssl rand -base64 32)`",
            ));
        }
        let secrets: Result<Vec<_>> = secrets.iter().map(|text| Secret::new(text)).collect();
        Webhook::new(Guard::new(), secrets.context("FOREBAY_WEBHOOK_SECRETS")?)
    }

    /// Looks names up with `resolver` instead of the operating system.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.client = client(self.guard.clone(), Arc::new(resolver), public_roots());
        self
    }

    /// Checks all of a URL that can be checked without looking its name up ([`Guard::check_url`]).
    ///
    /// # Errors
    /// `Invalid` where every attempt to send there would be refused.
    pub fn check(&self, url: &str) -> Result<()> {
        self.guard.check_url(&url.parse().or_invalid().context("a webhook's url")?)
    }

    /// Makes one attempt to deliver `body`, which should be JSON, to `url`. It takes 20 s at most.
    ///
    /// `id` names the message and is the same in each attempt: visible ASCII without a full stop. `timestamp` is the
    /// time of this attempt, in seconds since 1970. All that may pass by itself is an answer, [`Sent::Again`]: a name
    /// that is not found, a connection or certificate that is not good, any status but 2xx and 410.
    ///
    /// `Invalid` where another attempt would be refused too: the guard does not allow the URL or one of its addresses,
    /// or `id` is none. The error says scheme, host and port of the URL and no more of it, since paths and queries can
    /// be secret. Needs a tokio runtime with I/O and time.
    pub async fn send(&self, url: &str, id: &str, timestamp: u64, body: Bytes) -> Result<Sent> {
        let end = Instant::now() + self.deadline;
        let url: Uri = url.parse().or_invalid().context("a webhook's url")?;
        self.guard.check_url(&url)?;
        let to = format!("webhook to {}", shown(&url));
        let request = self.request(url, id, timestamp, body)?;
        let (head, body) = match timeout_at(end, self.client.request(request)).await {
            Ok(Ok(response)) => response.into_parts(),
            Ok(Err(error)) => {
                let error = Error::new(Fault::Transient, error);
                return match error.find::<Refused>() {
                    Some(refused) => Err(Error::invalid(format_args!("webhook to {refused}"))),
                    None => Ok(Sent::Again { after: None, why: error.context(to) }),
                };
            }
            Err(_) => {
                let why = Error::transient(format_args!("{to}: no answer within {:?}", self.deadline));
                return Ok(Sent::Again { after: None, why });
            }
        };
        // The head has said it all. The body is taken so that the receiver can finish, as far as it is small.
        let _ = timeout_at(end, Limited::new(body, BODY).collect()).await;
        Ok(match head.status.as_u16() {
            200..300 => Sent::Delivered,
            410 => Sent::Gone,
            status => {
                let why = Error::transient(format_args!("{to}: answered with {status}"));
                Sent::Again { after: retry_after(&head.headers, timestamp), why }
            }
        })
    }

    fn request(&self, url: Uri, id: &str, timestamp: u64, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let signature = sign(&self.secrets, id, timestamp, &body)?;
        Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .header(ID, id)
            .header(TIMESTAMP, timestamp)
            .header(SIGNATURE, signature)
            .body(Full::new(body))
            .or_invalid()
    }
}

fn client(guard: Guard, resolver: Arc<dyn Resolve>, tls: ClientConfig) -> HttpClient {
    let connector = net::connector(guard, resolver, tls);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).http1_max_buf_size(HEAD).build(connector)
}

/// Seconds, or a date as HTTP writes it, which is compared with the time of the attempt.
fn retry_after(headers: &HeaderMap, now: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(UNIX_EPOCH).ok()?.as_secs().saturating_sub(now)
        }
    };
    Some(Duration::from_secs(seconds.min(LONGEST)))
}

/// Attempts after which the example schedule of the specification ends, three days after the first.
pub const ATTEMPTS: u32 = 10;

const LONGEST: u64 = 24 * 3600;
const PAUSES: [u64; 9] = [5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, LONGEST];

/// How long to wait after `attempt` (the first is 1) has failed: the example schedule of the specification, 5 s, 5 min,
/// 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, and 24 h from then on. Give up after [`ATTEMPTS`].
///
/// Without jitter: whoever sends many at once should spread them.
pub fn pause(attempt: u32) -> Duration {
    let index = (attempt.saturating_sub(1) as usize).min(PAUSES.len() - 1);
    Duration::from_secs(PAUSES[index])
}
