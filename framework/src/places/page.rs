//! What is at one URL, as far as its server's answers can be believed.
//!
//! It owns the reading of answers. It promises that no answer is taken for another range, version or length than it is
//! of. Trying again, and putting ranges together, is left to the engine of downloads; an answer of unknown length is
//! collected here, from its beginning each time.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, LAST_MODIFIED, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::sleep;

use super::https::{Https, nothing, own_headers, refused};
use super::pace::{answer, next, paced};
use crate::error::{Classify, Error, Fault, Result};
use crate::store::blocking;
use crate::store::progress::Share;
use crate::store::transfer::{Budget, Fetched, Origin};
use crate::store::{Checksum, Opened, Progress, Reading, Version};

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
    pub(super) https: Https,
    pub(super) url: Uri,
    pub(super) name: String,
    /// Whether its ranges are not to be used: the server has none, or none that can be told to fit together.
    pub(super) whole: AtomicBool,
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
                let modified = modified(response.headers());
                Ok(Opened::Found(Reading { len, version, checksum: None, modified, range: len..len, body }))
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
        let modified = modified(body.headers());
        let body = paced(body.into_body().into_data_stream(), Some(expected), expected);
        Ok(Opened::Found(Reading { len, version, checksum: None, modified, range, body }))
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

/// The same answer, unless somebody packed it.
fn plain(response: Response<Incoming>) -> Result<Response<Incoming>> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Error::invalid("the server sends it compressed, unasked")),
        _ => Ok(response),
    }
}

/// A validator that two different bodies never share.
fn strong(headers: &HeaderMap) -> Option<Version> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    (etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"')).then(|| Version::new(etag))
}

fn length(headers: &HeaderMap) -> Result<Option<u64>> {
    let parse = |text: &HeaderValue| text.to_str().ok().and_then(|text| text.parse().ok());
    match headers.get(CONTENT_LENGTH) {
        None => Ok(None),
        Some(text) => parse(text).map(Some).ok_or_else(|| Error::invalid("the server's Content-Length is no number")),
    }
}

/// When it was written, as the server says; else now.
fn modified(headers: &HeaderMap) -> SystemTime {
    let said = headers.get(LAST_MODIFIED).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    said.unwrap_or_else(SystemTime::now)
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
