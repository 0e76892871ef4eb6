//! `https://`, spoken to servers that nobody vouches for.
//!
//! It owns the requests for a URL and what is believed of their answers. It promises that no request goes where the guard
//! does not allow, by no redirect either, and that no answer is longer, slower or of another range than it may be.
//! Trying again, and putting ranges together, is left to the engine of downloads.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{StreamExt, TryStreamExt};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION, RANGE,
    TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout};

use super::file::blocking;
use crate::error::{Classify, Context, Error, Fault, Result};
use crate::net::{self, Guard, Refused, Resolve, System, public_roots, shown};
use crate::store::progress::Share;
use crate::store::transfer::{Budget, Fetched, MOVES_WITHIN, Origin};
use crate::store::{Checksum, Content, Opened, Outcome, Progress, Put, Reading, Version};

/// Longest time for all of a download or upload, unless set.
const WITHIN: Duration = Duration::from_secs(3600);
/// Redirects that are followed, unless set.
const REDIRECTS: usize = 5;
/// What is read of an answer at once, and so of its head.
const BUFFER: usize = 256 << 10;
/// Connections that are kept for the next range.
const IDLE: usize = 10;
/// An answer gives at least [`LEAST`] bytes in each [`WINDOW`], or it is broken off.
const WINDOW: Duration = Duration::from_secs(30);
const LEAST: u64 = 64 << 10;
/// Longest wait for what an upload is answered with, after all of it has been sent.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
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
    async fn send(&self, method: Method, url: &Uri, headers: &HeaderMap, body: Body) -> Result<Response<Incoming>> {
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
            Put::Create => _ = headers.insert(IF_NONE_MATCH, http::HeaderValue::from_static("*")),
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

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn own_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, http::HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION"))));
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
fn refused(status: StatusCode) -> Error {
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

/// A server that does not say how long its answer is; it can be collected all the same.
#[derive(Debug)]
pub(super) struct NoLength;

impl fmt::Display for NoLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server does not say how long it is")
    }
}

impl std::error::Error for NoLength {}

/// What is at one URL.
#[derive(Debug)]
pub(super) struct Page {
    https: Https,
    url: Uri,
    name: String,
    /// Whether its ranges are not to be used: the server has none, or none that can be told to fit together.
    whole: AtomicBool,
}

impl Page {
    async fn get(&self, range: Option<&Range<u64>>, of: Option<&Version>) -> Result<Response<Incoming>> {
        let mut headers = own_headers();
        if let Some(range) = range {
            let last = range.end.saturating_sub(1);
            headers.insert(RANGE, format!("bytes={}-{last}", range.start).parse().or_invalid()?);
        }
        if let Some(of) = of {
            headers.insert(IF_MATCH, of.as_str().parse().or_invalid()?);
        }
        self.https.send(Method::GET, &self.url, &headers, nothing()).await
    }

    async fn open(&self, range: Range<u64>, of: Option<&Version>) -> Result<Opened> {
        if of.is_some_and(|of| !of.as_str().starts_with('"')) {
            // Each answer without a strong validator is a version of its own.
            return Ok(Opened::Changed);
        }
        let ranged = !self.whole.load(Ordering::Relaxed);
        let response = self.get(ranged.then_some(&range), of).await?;
        let (status, etag) = (response.status(), strong(response.headers()));
        let version = etag.clone().unwrap_or_else(|| Version::new(format!("answer {:016x}", fastrand::u64(..))));
        // Whoever asked for a version and is answered without one, or with another, cannot use it.
        if status.is_success() && of.is_some_and(|of| etag.as_ref() != Some(of)) {
            return Ok(Opened::Changed);
        }
        match status {
            StatusCode::OK => {
                let len = length(response.headers())?.ok_or_else(|| Error::new(Fault::Invalid, NoLength))?;
                self.found(response, len, version, 0..len)
            }
            StatusCode::PARTIAL_CONTENT if ranged => {
                let (given, len) = content_range(response.headers())
                    .ok_or_else(|| Error::invalid("the server gives a range and does not say which"))?;
                if given != (range.start..range.end.min(len)) {
                    let why =
                        format_args!("the server was asked for {range:?} and gives {given:?} of {len}").to_string();
                    return Err(Error::invalid(why));
                }
                if etag.is_none() && given != (0..len) {
                    return self.open_whole().await;
                }
                self.found(response, len, version, given)
            }
            // An empty file has no range. Where one of a version was asked for behind its end, all of it is there.
            StatusCode::RANGE_NOT_SATISFIABLE if ranged && of.is_none() => self.open_whole().await,
            StatusCode::RANGE_NOT_SATISFIABLE if unsatisfied(response.headers()) == Some(range.start) => {
                let (len, version, body) = (range.start, of.cloned().unwrap_or(version), stream::empty().boxed());
                Ok(Opened::Found(Reading { len, version, checksum: None, range: len..len, body }))
            }
            StatusCode::PRECONDITION_FAILED if of.is_some() => Ok(Opened::Changed),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Opened::Changed),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Opened::Missing),
            status => Err(refused(status)),
        }
    }

    /// All of it in one answer, from here on.
    fn open_whole(&self) -> BoxFuture<'_, Result<Opened>> {
        self.whole.store(true, Ordering::Relaxed);
        Box::pin(self.open(0..u64::MAX, None))
    }

    fn found(&self, response: Response<Incoming>, len: u64, version: Version, range: Range<u64>) -> Result<Opened> {
        let body = plain(response)?;
        let expected = range.end - range.start;
        if length(body.headers())?.is_some_and(|given| given != expected) {
            return Err(Error::invalid("the server's Content-Length and Content-Range contradict each other"));
        }
        let body = paced(body.into_body().into_data_stream(), Some(expected), expected);
        Ok(Opened::Found(Reading { len, version, checksum: None, range, body }))
    }

    /// All of it into memory, though nobody says how long it is.
    pub(super) async fn collect(&self, most: u64) -> Result<Bytes> {
        let mut budget = Budget::default();
        loop {
            match self.collect_once(most).await {
                Ok(all) => return Ok(all),
                Err(why) => sleep(budget.spend(why, 0)?).await,
            }
        }
    }

    async fn collect_once(&self, most: u64) -> Result<Bytes> {
        let mut all = BytesMut::new();
        let mut body = answer(self.stream(most)).await?;
        while let Some(some) = next(&mut body).await? {
            all.extend_from_slice(&some);
        }
        Ok(all.freeze())
    }

    /// All of it into a file, which gets its name when it is whole.
    pub(super) async fn collect_into(&self, to: &Path, most: u64, progress: &Progress) -> Result<Fetched> {
        let name = to.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::invalid(format_args!("{} is not the name of a file", to.display())))?;
        let new = to.with_file_name(format!(".{name}.collected.partial"));
        let mut budget = Budget::default();
        loop {
            let share = progress.share();
            match self.write_once(&new, most, &share).await {
                Ok(len) => {
                    let to = to.to_owned();
                    blocking(move || Ok(std::fs::rename(new, to)?)).await?;
                    return Ok(Fetched { len, version: Version::new("collected"), verified: false });
                }
                Err(why) => {
                    share.take_back();
                    sleep(budget.spend(why, 0)?).await;
                }
            }
        }
    }

    async fn write_once(&self, new: &Path, most: u64, progress: &Share) -> Result<u64> {
        let mut body = answer(self.stream(most)).await?;
        let new = new.to_owned();
        let mut file = blocking(move || Ok(File::create(new)?)).await?;
        let mut len = 0;
        while let Some(some) = next(&mut body).await? {
            let moved = some.len() as u64;
            file = blocking(move || Ok(file.write_all(&some).map(|()| file)?)).await?;
            progress.expect(moved);
            progress.moved(moved);
            len += moved;
        }
        Ok(len)
    }

    /// All of it, of any length up to `most`.
    async fn stream(&self, most: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        let response = self.get(None, None).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(Error::invalid("there is no such object")),
            status => return Err(refused(status)),
        }
        let len = length(response.headers())?;
        if len.is_none() && !response.headers().contains_key(TRANSFER_ENCODING) {
            return Err(Error::invalid("the server says neither how long it is nor where it ends"));
        }
        Ok(paced(plain(response)?.into_body().into_data_stream(), len, most))
    }
}

impl Origin for Page {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn read<'a>(&'a self, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(self.open(range, of))
    }

    fn checksum<'a>(&'a self, _: &'a Version) -> BoxFuture<'a, Result<Option<Checksum>>> {
        Box::pin(async { Ok(None) })
    }
}

/// An answer, or an error after as long as nothing may move.
async fn answer<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("no answer within {MOVES_WITHIN:?}")));
    timeout(MOVES_WITHIN, asking).await.unwrap_or_else(late)
}

async fn next(body: &mut BoxStream<'static, Result<Bytes>>) -> Result<Option<Bytes>> {
    answer(async { body.next().await.transpose() }).await
}

/// The same answer, unless somebody packed it.
fn plain(response: Response<Incoming>) -> Result<Response<Incoming>> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Error::invalid("the server sends it compressed, unasked")),
        _ => Ok(response),
    }
}

/// The bytes of an answer, `expected` of them where that is known and `most` in any case, at the least pace.
fn paced<E: std::error::Error + Send + Sync + 'static>(
    body: impl Stream<Item = std::result::Result<Bytes, E>> + Send + Unpin + 'static,
    expected: Option<u64>,
    most: u64,
) -> BoxStream<'static, Result<Bytes>> {
    let pace = Pace { began: Instant::now(), bytes: 0 };
    let came = 0;
    stream::try_unfold((body, pace, came), move |(mut body, mut pace, mut came)| async move {
        let Some(some) = body.next().await else {
            return match expected {
                Some(expected) if came < expected => {
                    Err(Error::transient(format_args!("the answer ended after {came} bytes of {expected}")))
                }
                _ => Ok(None),
            };
        };
        let some = some.map_err(|error| Error::new(Fault::Transient, error))?;
        came += some.len() as u64;
        if came > most {
            return Err(Error::invalid(format_args!("it is longer than {most} bytes")));
        }
        pace.moved(some.len() as u64)?;
        Ok(Some((some, (body, pace, came))))
    })
    .boxed()
}

/// Watches that an answer does not trickle.
struct Pace {
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn moved(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if self.began.elapsed() < WINDOW {
            return Ok(());
        }
        if self.bytes < LEAST {
            let bytes = self.bytes;
            return Err(Error::transient(format_args!("{bytes} bytes in {WINDOW:?} are too slow")));
        }
        *self = Pace { began: Instant::now(), bytes: 0 };
        Ok(())
    }
}

/// A validator that two different bodies never share.
fn strong(headers: &HeaderMap) -> Option<Version> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    (etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"')).then(|| Version::new(etag))
}

fn length(headers: &HeaderMap) -> Result<Option<u64>> {
    let parse = |text: &http::HeaderValue| text.to_str().ok().and_then(|text| text.parse().ok());
    match headers.get(CONTENT_LENGTH) {
        None => Ok(None),
        Some(text) => parse(text).map(Some).ok_or_else(|| Error::invalid("the server's Content-Length is no number")),
    }
}

/// `bytes 0-99/1234`, as the range and the whole length.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, len) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, len.parse().ok()?);
    (first <= last && last < len).then(|| (first..last + 1, len))
}

/// The whole length in `bytes */1234`.
fn unsatisfied(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// So many bytes at once, each time after a pause, for ever.
    fn drip(bytes: usize, pause: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
        Box::pin(stream::repeat(Bytes::from(vec![0; bytes])).then(move |some| async move {
            sleep(Duration::from_secs(pause)).await;
            Ok(some)
        }))
    }

    async fn came(mut body: BoxStream<'static, Result<Bytes>>) -> (usize, Error) {
        let mut came = 0;
        loop {
            match body.next().await {
                Some(Ok(some)) => came += some.len(),
                Some(Err(why)) => return (came, why),
                None => return (came, Error::failed("it ended")),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_trickles_is_broken_off() {
        let began = Instant::now();
        let (bytes, why) = came(paced(drip(1, 7), None, u64::MAX)).await;
        assert_eq!((bytes, why.fault()), (4, Fault::Transient), "{why}");
        assert!(began.elapsed() <= WINDOW + Duration::from_secs(7));
        // A slow one that gives what it has to goes on to its limit.
        let (bytes, why) = came(paced(drip(16 << 10, 7), None, 10 << 20)).await;
        assert_eq!((bytes, why.fault()), (10 << 20, Fault::Invalid), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn more_or_less_than_was_said_is_an_error() {
        let (bytes, why) = came(paced(drip(100, 0), Some(250), 250)).await;
        assert_eq!((bytes, why.to_string().as_str()), (200, "it is longer than 250 bytes"));
        let (bytes, why) = came(paced(drip(100, 0).take(2), Some(250), 250)).await;
        assert_eq!((bytes, why.to_string().as_str()), (200, "the answer ended after 200 bytes of 250"));
        assert_eq!(came(paced(drip(100, 0).take(2), Some(200), 200)).await.1.to_string(), "it ended");
    }

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
