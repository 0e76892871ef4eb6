//! The body of a request that uploads: bytes of a file or a buffer, read as the link takes them.
//!
//! It owns how a body is framed and counted. With a trailer, it is in the encoding `aws-chunked`: its checksum follows
//! its bytes, so that they are read only once. Nothing is held but what is being read and sent.
//! See <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::store::checksum::Counter;
use crate::store::content::piece;
use crate::store::progress::Share;
use crate::store::transfer::{Lanes, Mark};
use crate::store::{Algorithm, Crc, blocking};

/// Bytes that are read at once, and a chunk of the encoding.
const READ: u64 = 256 << 10;
/// Bytes that are given at once: a link of 2 KB/s takes them within the time in which something has to move.
const FRAME: usize = 16 << 10;

/// Where bytes are taken from, again for each try.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(Arc<File>),
    Bytes(Bytes),
}

/// How far a body is: what its sender and its watcher share.
#[derive(Debug)]
pub(super) struct Pulse {
    moved: AtomicU64,
    /// When something was taken last.
    last: Mutex<Mark>,
    crc: OnceLock<Crc>,
    sent: Notify,
    share: Arc<Share>,
    lanes: Lanes,
}

impl Pulse {
    pub(super) fn new(share: Arc<Share>, lanes: Lanes) -> Arc<Self> {
        let (moved, last) = (AtomicU64::new(0), Mutex::new(lanes.mark()));
        Arc::new(Pulse { moved, last, crc: OnceLock::new(), sent: Notify::new(), share, lanes })
    }

    /// Payload bytes that were taken.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether it stands still though it need not.
    pub(super) fn is_stalled(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.lanes.stalled_since(last)
    }

    /// Waits until all of the body was taken.
    pub(super) async fn sent(&self) {
        self.sent.notified().await;
    }

    /// The check of what was sent, once all of it was.
    pub(super) fn crc(&self) -> Option<Crc> {
        self.crc.get().copied()
    }

    /// What was sent is of no use: it will be sent again.
    pub(super) fn undo(&self) {
        self.share.undo(self.moved.swap(0, Ordering::Relaxed));
    }

    fn take(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.share.moved(bytes);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = self.lanes.moved(bytes);
    }

    fn end(&self, crc: Crc) {
        let _ = self.crc.set(crc);
        self.sent.notify_one();
    }
}

/// The body itself.
pub(super) struct PartBody {
    source: Source,
    /// What is still to be read.
    rest: Range<u64>,
    reading: Option<JoinHandle<Result<Bytes>>>,
    /// What is to be given next; of payload, how much of it is.
    ready: VecDeque<(Bytes, u64)>,
    counter: Counter,
    /// Whether the checksum follows.
    trailer: bool,
    forged: bool,
    /// Bytes that are still to be given, with all that the encoding adds.
    len: u64,
    pulse: Arc<Pulse>,
}

impl PartBody {
    pub(super) fn new(
        source: Source,
        range: Range<u64>,
        algorithm: Algorithm,
        trailer: bool,
        pulse: Arc<Pulse>,
    ) -> Self {
        let len = range.end - range.start;
        let len = if trailer { encoded(len, algorithm) } else { len };
        let (counter, ready) = (Counter::new(algorithm), VecDeque::new());
        PartBody { source, rest: range, reading: None, ready, counter, trailer, forged: false, len, pulse }
    }

    /// The same with a wrong checksum behind it, to see whether anybody looks.
    pub(super) fn forged(mut self) -> Self {
        self.forged = true;
        self
    }

    /// The next bytes of the source.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        let len = READ.min(self.rest.end - self.rest.start);
        let (at, start) = (self.rest.start, self.rest.start as usize);
        let bytes = match &self.source {
            Source::Bytes(bytes) => bytes.slice(start..start + len as usize),
            Source::File(file) => {
                let reading = self.reading.get_or_insert_with(|| {
                    let file = Arc::clone(file);
                    tokio::task::spawn_blocking(move || piece(&file, at, len as usize))
                });
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                match read {
                    Ok(read) => read?,
                    Err(why) => return Poll::Ready(Err(Error::failed(format_args!("file thread: {why}")))),
                }
            }
        };
        self.rest.start += len;
        Poll::Ready(Ok(bytes))
    }

    fn give(&mut self, mut bytes: Bytes) {
        self.counter.add(&bytes);
        if self.trailer {
            self.ready.push_back((format!("{:x}\r\n", bytes.len()).into(), 0));
        }
        while !bytes.is_empty() {
            let frame = bytes.split_to(FRAME.min(bytes.len()));
            let len = frame.len() as u64;
            self.ready.push_back((frame, len));
        }
        if self.trailer {
            self.ready.push_back((Bytes::from_static(b"\r\n"), 0));
        }
    }

    fn close(&mut self) {
        let crc = self.counter.crc();
        if self.trailer {
            let value = if self.forged { !crc.value } else { crc.value };
            let text = format!("0\r\n{}:{}\r\n\r\n", header(crc.algorithm), text(Crc { value, ..crc }));
            self.ready.push_back((text.into(), 0));
            self.trailer = false;
        }
    }
}

impl Body for PartBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some((bytes, payload)) = self.ready.pop_front() {
                self.len -= bytes.len() as u64;
                self.pulse.take(payload);
                if self.len == 0 {
                    // The client does not ask again after the last byte.
                    self.pulse.end(self.counter.crc());
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.rest.is_empty() {
                if self.trailer {
                    self.close();
                    continue;
                }
                self.pulse.end(self.counter.crc());
                return Poll::Ready(None);
            }
            match ready!(self.poll_read(cx)) {
                Ok(bytes) => self.give(bytes),
                Err(why) => return Poll::Ready(Some(Err(why.to_string().into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.len == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

impl Drop for PartBody {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

/// The header of a checksum.
pub(super) fn header(algorithm: Algorithm) -> String {
    format!("x-amz-checksum-{}", algorithm.name())
}

/// A check as the header spells it.
pub(super) fn text(crc: Crc) -> String {
    BASE64_STANDARD.encode(crc.algorithm.bytes(crc.value))
}

/// What [`text`] spells.
pub(super) fn value(text: &str) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let mut all = [0; 8];
    all.get_mut(8_usize.checked_sub(bytes.len())?..)?.copy_from_slice(&bytes);
    Some(u64::from_be_bytes(all))
}

/// Length of `len` bytes in the encoding, with the trailer.
pub(super) fn encoded(len: u64, algorithm: Algorithm) -> u64 {
    let chunk = |len: u64| format!("{len:x}").len() as u64 + len + 4;
    let (whole, rest) = (len / READ, len % READ);
    let chunks = whole * chunk(READ) + if rest > 0 { chunk(rest) } else { 0 };
    let text = text(Crc { algorithm, value: 0, len: 0 });
    chunks + (3 + header(algorithm).len() + 1 + text.len() + 4) as u64
}

/// The check of a source's range, where it has to be known before the first byte is sent.
pub(super) async fn count(source: Source, range: Range<u64>, algorithm: Algorithm) -> Result<Crc> {
    let counter = Counter::new(algorithm);
    Ok(through(source, range, counter, Counter::add).await?.crc())
}

/// The MD5 of a source's range, as the header `Content-MD5` spells it.
pub(super) async fn md5(source: Source, range: Range<u64>) -> Result<String> {
    use md5::{Digest, Md5};
    let md5 = through(source, range, Md5::new(), |md5, bytes| md5.update(bytes)).await?;
    Ok(BASE64_STANDARD.encode(md5.finalize()))
}

/// Puts all bytes of a range through `sum`.
async fn through<S: Send + 'static>(
    source: Source,
    range: Range<u64>,
    mut sum: S,
    add: impl Fn(&mut S, &[u8]) + Send + 'static,
) -> Result<S> {
    let work = move || {
        let mut at = range.start;
        while at < range.end {
            let len = READ.min(range.end - at) as usize;
            let bytes = match &source {
                Source::Bytes(bytes) => bytes.slice(at as usize..at as usize + len),
                Source::File(file) => piece(file, at, len)?,
            };
            add(&mut sum, &bytes);
            at += len as u64;
        }
        Ok(sum)
    };
    blocking(work).await
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(len: usize, trailer: bool) -> (Vec<u8>, u64, Arc<Pulse>) {
        let bytes: Bytes = (0..len).map(|i| (i % 251) as u8).collect();
        let pulse = Pulse::new(Arc::new(crate::store::Progress::new().share()), Lanes::new());
        let body =
            PartBody::new(Source::Bytes(bytes), 0..len as u64, Algorithm::Crc64Nvme, trailer, Arc::clone(&pulse));
        let said = body.size_hint().exact().unwrap();
        (body.collect().await.unwrap().to_bytes().to_vec(), said, pulse)
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_says_and_counts_its_payload() {
        for len in [0, 1, 15, 16, READ as usize, READ as usize + 1, 3 * READ as usize + 77] {
            for trailer in [false, true] {
                let (bytes, said, pulse) = body(len, trailer).await;
                assert_eq!(bytes.len() as u64, said, "{len} {trailer}");
                assert_eq!(pulse.moved(), len as u64, "{len} {trailer}");
                pulse.sent().await;
                assert_eq!(pulse.crc().unwrap().len, len as u64);
            }
        }
    }

    #[tokio::test]
    async fn the_trailer_is_spelt_as_the_protocol_has_it() {
        let (bytes, ..) = body(3, true).await;
        let expected = b"3\r\n\x00\x01\x02\r\n0\r\nx-amz-checksum-crc64nvme:";
        assert_eq!(&bytes[..expected.len()], expected);
        let check = std::str::from_utf8(&bytes[expected.len()..]).unwrap();
        assert!(check.ends_with("=\r\n\r\n"));
        assert_eq!(value(check.trim_end()), Some(Algorithm::Crc64Nvme.of(&[0, 1, 2])));
    }
}
