//! The least pace of an answer, and its length.
//!
//! It owns when an answer is broken off: silent for as long as nothing may move, slower than the least pace, or of
//! another length than was said.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Stream};
use tokio::time::{Instant, timeout};

use crate::error::{Error, Fault, Result};
use crate::store::transfer::MOVES_WITHIN;

/// An answer gives at least [`LEAST`] bytes in each [`WINDOW`], or it is broken off.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
pub(super) const LEAST: u64 = 64 << 10;

/// An answer, or an error after as long as nothing may move.
pub(super) async fn answer<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("no answer within {MOVES_WITHIN:?}")));
    timeout(MOVES_WITHIN, asking).await.unwrap_or_else(late)
}

/// The next bytes of an answer.
pub(super) async fn next(body: &mut BoxStream<'static, Result<Bytes>>) -> Result<Option<Bytes>> {
    answer(async { body.next().await.transpose() }).await
}

/// The bytes of an answer, `expected` of them where that is known and `most` in any case, at the least pace.
pub(super) fn paced<E: std::error::Error + Send + Sync + 'static>(
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

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::time::sleep;

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
}
