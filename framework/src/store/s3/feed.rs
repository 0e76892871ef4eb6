//! The parts of an upload, in order: of a file or a buffer as ranges that are read again for each try, of a stream as
//! buffers that are held until they are there.
//!
//! It owns how large parts are and how much of a stream is in memory. It does not know when a part is sent.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::part::Source;
use crate::error::{Error, Result};
use crate::store::transfer::PART;

/// S3's smallest part, but for the last: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
const LEAST: u64 = 5 << 20;
/// S3's largest number of parts.
pub(super) const MOST_PARTS: u64 = 10_000;
/// Parts of a stream that are in memory at once: with these, 48 MB at the most.
const HELD: usize = 9;

/// A part to be sent.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) number: u32,
    pub(super) source: Source,
    pub(super) range: Range<u64>,
    /// Its place in memory.
    pub(super) _held: Option<OwnedSemaphorePermit>,
}

pub(super) enum Feed {
    Ranges { source: Source, len: u64, part: u64, number: u32 },
    Stream(Streamed),
}

/// What is read of a stream, in a state that can be left and come back to at any await.
pub(super) struct Streamed {
    stream: Option<BoxStream<'static, Result<Bytes>>>,
    /// What has come of the next part, and what came beyond it.
    filling: BytesMut,
    over: Bytes,
    place: Option<OwnedSemaphorePermit>,
    places: Arc<Semaphore>,
    number: u32,
}

/// Length of the parts of an object of `len` bytes, for so many lanes: 10 MB, less where there would be fewer parts than
/// lanes, more where there would be more than S3 takes.
pub(super) fn part_len(len: u64, lanes: usize) -> u64 {
    let even = len.div_ceil(lanes.max(1) as u64).clamp(LEAST, PART);
    even.max(len.div_ceil(MOST_PARTS))
}

impl Feed {
    pub(super) fn file(file: Arc<File>, len: u64, part: u64) -> Self {
        Feed::Ranges { source: Source::File(file), len, part, number: 0 }
    }

    pub(super) fn bytes(bytes: Bytes, part: u64) -> Self {
        let len = bytes.len() as u64;
        Feed::Ranges { source: Source::Bytes(bytes), len, part, number: 0 }
    }

    /// Where its ranges are taken from; a stream has none.
    pub(super) fn source(&self) -> Option<Source> {
        match self {
            Feed::Ranges { source, .. } => Some(source.clone()),
            Feed::Stream(_) => None,
        }
    }

    /// The next part; `None` after the last. May be dropped at any time and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Next>> {
        match self {
            Feed::Ranges { source, len, part, number } => {
                let start = u64::from(*number) * *part;
                if start >= *len {
                    return Ok(None);
                }
                *number += 1;
                let range = start..(start + *part).min(*len);
                Ok(Some(Next { number: *number, source: source.clone(), range, _held: None }))
            }
            Feed::Stream(streamed) => streamed.next().await,
        }
    }
}

impl Streamed {
    pub(super) fn new(stream: BoxStream<'static, Result<Bytes>>) -> Self {
        Streamed {
            stream: Some(stream),
            filling: BytesMut::new(),
            over: Bytes::new(),
            place: None,
            places: Arc::new(Semaphore::new(HELD)),
            number: 0,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Next>> {
        if self.place.is_none() {
            // Nobody closes it.
            self.place = Arc::clone(&self.places).acquire_owned().await.ok();
        }
        while (self.filling.len() as u64) < LEAST {
            if self.over.is_empty() {
                let Some(stream) = &mut self.stream else { break };
                match stream.next().await {
                    Some(some) => self.over = some?,
                    None => self.stream = None,
                }
            }
            if self.filling.capacity() == 0 {
                self.filling.reserve(LEAST as usize);
            }
            let room = (LEAST as usize - self.filling.len()).min(self.over.len());
            self.filling.extend_from_slice(&self.over.split_to(room));
        }
        if self.filling.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if u64::from(self.number) > MOST_PARTS {
            let most = LEAST * MOST_PARTS;
            return Err(Error::invalid(format_args!("a stream of more than {most} bytes: write it to a file first")));
        }
        let bytes = std::mem::take(&mut self.filling).freeze();
        let range = 0..bytes.len() as u64;
        Ok(Some(Next { number: self.number, source: Source::Bytes(bytes), range, _held: self.place.take() }))
    }

    /// Whether there is nothing after what was given.
    pub(super) async fn is_over(&mut self) -> Result<bool> {
        while self.over.is_empty() {
            let Some(stream) = &mut self.stream else { return Ok(true) };
            match stream.next().await {
                Some(some) => self.over = some?,
                None => self.stream = None,
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[test]
    fn parts_are_as_large_as_they_should_be() {
        let mb = 1_000_000;
        assert_eq!(part_len(300 * mb, 10), 10 * mb);
        assert_eq!(part_len(64 * mb, 10), 6_400_000);
        assert_eq!(part_len(12 * mb, 10), LEAST);
        assert_eq!(part_len(5_000 * mb, 10), 10 * mb);
        let tera = 1_000_000 * mb;
        assert!(tera.div_ceil(part_len(tera, 10)) <= MOST_PARTS);
    }

    #[tokio::test]
    async fn a_stream_is_cut_into_equal_parts_whatever_its_pieces() {
        let all: Vec<u8> = (0..2 * LEAST as usize + 3).map(|i| (i % 251) as u8).collect();
        for size in [1_000, LEAST as usize, LEAST as usize + 1, all.len()] {
            let pieces: Vec<_> = all.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let mut feed = Feed::Stream(Streamed::new(stream::iter(pieces).boxed()));
            let mut came = Vec::new();
            let mut lens = Vec::new();
            while let Some(next) = feed.next().await.unwrap() {
                let Source::Bytes(bytes) = next.source else { panic!("a buffer") };
                lens.push(bytes.len() as u64);
                came.extend_from_slice(&bytes);
            }
            assert!(came == all, "{size}");
            assert_eq!(lens, [LEAST, LEAST, 3], "{size}");
        }
    }

    #[tokio::test]
    async fn no_more_of_a_stream_is_held_than_has_a_place() {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 20])));
        let mut feed = Feed::Stream(Streamed::new(endless.boxed()));
        let mut held = Vec::new();
        for _ in 0..HELD {
            held.push(feed.next().await.unwrap().unwrap());
        }
        assert!(futures_util::FutureExt::now_or_never(feed.next()).is_none(), "a part more would be too much");
        held.pop();
        assert!(feed.next().await.unwrap().is_some());
        assert!(HELD as u64 * LEAST <= 48_000_000);
    }
}
