//! An object that is being read: what it is, and its bytes as they come.
//!
//! It owns the answers that opening an object can have. It does not know where the bytes come from.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::timeout;

use super::{Checksum, Version};
use crate::error::{Error, Result};

/// How opening an object ended.
#[derive(Debug)]
#[must_use = "there may be no such object"]
pub enum Opened {
    /// It is there.
    Found(Reading),
    /// There is none.
    Missing,
    /// There is one, but not of the version that was asked for.
    Changed,
}

/// An object that was opened.
pub struct Reading {
    /// Length of the whole object, in bytes.
    pub len: u64,
    /// The write that it is from.
    pub version: Version,
    /// What the store says of the *whole* object's bytes, where it did.
    pub checksum: Option<Checksum>,
    /// About when that write was, by the store's clock.
    pub modified: SystemTime,
    /// The bytes that follow: what was asked for, or more.
    pub range: Range<u64>,
    /// Those bytes. The stream ends with an error, or when all of them have come.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl Reading {
    /// The same bytes, with an error where none comes for as long as `within`.
    pub fn moving(mut self, within: Duration) -> Self {
        let body = self.body;
        let watched = stream::unfold(Some(body), move |body| async move {
            let mut body = body?;
            match timeout(within, body.next()).await {
                Ok(some) => Some((some?, Some(body))),
                Err(_) => Some((Err(Error::transient(format_args!("nothing came for {within:?}"))), None)),
            }
        });
        self.body = watched.boxed();
        self
    }

    /// All bytes in one piece. `Invalid` if they are more than `most`, before the first is read.
    pub async fn collect(mut self, most: usize) -> Result<Bytes> {
        let len = self.range.end - self.range.start;
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= most) else {
            return Err(Error::invalid(format_args!("{len} bytes, but at most {most} are taken into memory")));
        };
        let mut bytes = BytesMut::with_capacity(len);
        while let Some(some) = self.body.next().await {
            bytes.extend_from_slice(&some?);
        }
        if bytes.len() != len {
            let got = bytes.len();
            return Err(Error::transient(format_args!("{got} bytes came of {len}")));
        }
        Ok(bytes.freeze())
    }
}

impl Opened {
    /// What was found, where something was.
    pub fn found(self) -> Option<Reading> {
        match self {
            Self::Found(reading) => Some(reading),
            Self::Missing | Self::Changed => None,
        }
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { len, version, checksum, range, .. } = self;
        let mut shown = f.debug_struct("Reading");
        shown.field("len", len).field("version", version).field("checksum", checksum).field("range", range);
        shown.finish_non_exhaustive()
    }
}
