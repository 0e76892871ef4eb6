//! `https://`, spoken to servers that nobody vouches for.
//!
//! It owns the requests: which are made, how often redirected, how long they may take. It promises that none goes where
//! the guard does not allow, by no redirect either. What is believed of an answer is the matter of `page.rs`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};

use super::pace::{LEAST, WINDOW};
use super::page::Page;
use crate::error::{Classify, Context, Error, Fault, Result};
use crate::net::{self, Guard, Refused, Resolve, System, public_roots, shown};
use crate::store::transfer::Budget;
use crate::store::{Content, Outcome, Put, Version};

/// Longest time for all of a download or upload, unless set.
const WITHIN: Duration = Duration::from_secs(3600);
/// Redirects that are followed, unless set.
const REDIRECTS: usize = 5;
/// What is read of an answer at once, and so of its head.
const BUFFER: usize = 256 << 10;
/// Connections that are kept for the next range.
const IDLE: usize = 10;
/// Longest wait for what an upload is answered with, after all of it has been sent.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type HttpClient = Client<net::Connector, Body>;

/// How `https://` references are followed: which hosts may be reached, how many redirects, how long. Cheap to clone.
///
/// HTTP/1.1 over TLS 1.2 or 1.3 with the roots of Mozilla. No proxy is taken from the environment, nothing is sent that
/// would say who asks, and what a server has compressed is refused.
#[derive(Clone)]
pub struct Https {
    client: HttpClient,
    guard: Guard,
    resolver: Arc<dyn Resolve>,
    redirects: usize,
    pub(super) within: Duration,
}

impl Https {
    /// What `guard` allows, with 5 redirects and an hour for each transfer.
    pub fn new(guard: Guard) -> Self {
        let resolver: Arc<dyn Resolve> = Arc::new(System);
        let client = client(guard.clone(), Arc::clone(&resolver), public_roots());
        Https { client, guard, resolver, redirects: REDIRECTS, within: WITHIN }
    }

    /// Follows at most so many redirects in a row, 5 at the most; each is judged like the first URL. Uploads follow none.
    pub fn redirects(mut self, most: usize) -> Self {
        self.redirects = most.min(REDIRECTS);
        self
    }

    /// Ends each transfer after this long, whatever has come.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Looks names up with `resolver` instead of the operating system.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self.client = client(self.guard.clone(), Arc::clone(&self.resolver), public_roots());
        self
    }

    #[cfg(test)]
    pub(super) fn tls(mut self, tls: ClientConfig) -> Self {
        self.client = client(self.guard.clone(), Arc::clone(&self.resolver), tls);
        self
    }

    /// The URL, if a request for it may be made as far as that can be told without looking its name up.
    pub(super) fn check(&self, url: &str) -> Result<Uri> {
        // The parser's error says nothing of the text.
        let url: Uri = url.parse().or_invalid().context("a reference's url")?;
        self.guard.check_url(&url)?;
        Ok(url)
    }

    /// What a download reads from.
    pub(super) fn page(&self, url: &str, name: String) -> Result<Page> {
        Ok(Page { https: self.clone(), url: self.check(url)?, name, whole: AtomicBool::new(false) })
    }

    /// What ends when a transfer has taken as long as it may.
    pub(super) async fn bounded<T>(&self, transfer: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| Err(Error::transient(format_args!("not done within {:?}", self.within)));
        timeout(self.within, transfer).await.unwrap_or_else(late)
    }

    /// Makes a request, following redirects of a GET.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let mut url = url.clone();
        let mut body = Some(body);
        for _ in 0..=self.redirects {
            self.guard.check_url(&url)?;
            let mut request = Request::new(body.take().unwrap_or_else(nothing));
            *request.method_mut() = method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = headers.clone();
            let response = self.client.request(request).await.map_err(|error| lost(&url, error))?;
            let follow = method == Method::GET && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !follow {
                return Ok(response);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = to.and_then(|to| join(&url, to));
            url = next.ok_or_else(|| Error::invalid(format_args!("{}: redirects to nowhere", shown(&url))))?;
        }
        Err(Error::invalid(format_args!("more than {} redirects", self.redirects)))
    }

    /// Writes `content` to a URL by PUT, as often as the budget of tries allows; a stream once, since its bytes are gone.
    pub(super) async fn put(&self, url: &Uri, mut content: Content, mode: &Put) -> Result<Outcome> {
        let mut budget = Budget::default();
        loop {
            let again = content.again();
            match (self.put_once(url, content, mode).await, again) {
                (Err(why), Some(again)) => {
                    sleep(budget.spend(why, 0)?).await;
                    content = again;
                }
                (done, _) => return done,
            }
        }
    }

    async fn put_once(&self, url: &Uri, content: Content, mode: &Put) -> Result<Outcome> {
        let mut headers = own_headers();
        match mode {
            Put::Overwrite => {}
            Put::Create => _ = headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Put::Match(version) => _ = headers.insert(IF_MATCH, version.as_str().parse().or_invalid()?),
        }
        let progress = content.progress.clone();
        let (len, mut content) = content.measured().await?;
        if let Some(len) = len {
            headers.insert(CONTENT_LENGTH, len.into());
        }
        // At the pace that a download must have too.
        let pace = len.map_or(self.within, |len| WINDOW.mul_f64((len / LEAST) as f64).saturating_add(ANSWER_WITHIN));
        let limit = pace.min(self.within);
        let (taken, mut pieces) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(1);
        let send = async move {
            while let Some(piece) = content.next().await {
                let piece = piece.map_err(|why| std::io::Error::other(why.to_string()));
                if taken.send(piece).await.is_err() {
                    break;
                }
            }
        };
        let body = stream::poll_fn(move |cx| pieces.poll_recv(cx)).map_ok(Frame::data);
        let body = StreamBody::new(body).boxed_unsync();
        let request = self.send(Method::PUT, url, &headers, body);
        let both = async { tokio::join!(send, request).1 };
        let late = |_| Err(Error::transient(format_args!("not done within {limit:?}")));
        let response = timeout(limit, both).await.unwrap_or_else(late)?;
        let version = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
        match response.status() {
            StatusCode::PRECONDITION_FAILED => Ok(Outcome::Conflict),
            status if status.is_success() => {
                progress.expect(len.unwrap_or_default());
                progress.moved(len.unwrap_or_default());
                Ok(Outcome::Stored(Version::new(version)))
            }
            status => Err(refused(status)),
        }
    }
}

impl From<Guard> for Https {
    fn from(guard: Guard) -> Self {
        Https::new(guard)
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, redirects, within, .. } = self;
        let mut shown = f.debug_struct("Https");
        shown.field("guard", guard).field("redirects", redirects).field("within", within).finish_non_exhaustive()
    }
}

fn client(guard: Guard, resolver: Arc<dyn Resolve>, tls: ClientConfig) -> HttpClient {
    let connector = net::connector(guard, resolver, tls);
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE)
        .http1_max_buf_size(BUFFER)
        .http1_max_headers(100)
        .build(connector)
}

pub(super) fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn own_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// A failed request: the guard's no, or the network.
fn lost(url: &Uri, error: hyper_util::client::legacy::Error) -> Error {
    let error = Error::new(Fault::Transient, error);
    match error.find::<Refused>() {
        Some(refused) => Error::invalid(refused),
        None => error.context(shown(url)),
    }
}

/// What a status says that is no answer.
pub(super) fn refused(status: StatusCode) -> Error {
    let why = format_args!("the server answered with {status}").to_string();
    match status.as_u16() {
        408 | 409 | 425 | 429 | 500.. => Error::transient(why),
        _ => Error::invalid(why),
    }
}

/// Where a redirect leads.
fn join(from: &Uri, to: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let url = match to {
        "" => return None,
        to if to.contains("://") && !to.starts_with(['/', '?', '.']) => to.to_owned(),
        to if to.starts_with("//") => format!("{scheme}:{to}"),
        to if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        to if to.starts_with('?') => format!("{scheme}://{authority}{}{to}", from.path()),
        to => format!("{scheme}://{authority}{folder}/{to}"),
    };
    url.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let from: Uri = "https://h.example/a/b?c".parse().unwrap();
        let cases = [
            ("https://g.example/x", "https://g.example/x"),
            ("//g.example/x", "https://g.example/x"),
            ("/x?y", "https://h.example/x?y"),
            ("x", "https://h.example/a/x"),
            ("?x", "https://h.example/a/b?x"),
            ("/x?to=https://g.example", "https://h.example/x?to=https://g.example"),
        ];
        for (to, expected) in cases {
            assert_eq!(join(&from, to).unwrap().to_string(), expected);
        }
        assert_eq!(join(&from, ""), None);
    }
}
