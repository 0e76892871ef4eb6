//! What a connection may send before a whole message has come: bytes that there is room for, and not too slowly.
//!
//! A body's length is told before it comes, a message's is not seen. So room is made as its bytes arrive, but for the
//! first few, and is given up when the message is whole, whose own room is made then.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body;

/// So much of a message is not counted, nor how long it takes.
const UNCOUNTED: usize = 64 * 1024;

/// Of one connection. A mutex, since the protocol's codec is between those who share it.
#[derive(Clone)]
pub(super) struct Meter {
    room: Arc<Semaphore>,
    message: Arc<Mutex<Message>>,
}

/// The message that is being read.
#[derive(Default)]
struct Message {
    read: usize,
    since: Option<Instant>,
    held: Option<OwnedSemaphorePermit>,
}

/// A connection under its meter.
pub(super) struct Metered<S> {
    io: S,
    meter: Meter,
}

impl Meter {
    /// `room` is in KiB.
    pub(super) fn new(room: Arc<Semaphore>) -> Self {
        Meter { room, message: Arc::default() }
    }

    pub(super) fn over<S>(&self, io: S) -> Metered<S> {
        Metered { io, meter: self.clone() }
    }

    /// A message is whole.
    pub(super) fn start_anew(&self) {
        *self.lock() = Message::default();
    }

    fn count(&self, bytes: usize) -> Result<()> {
        let mut message = self.lock();
        message.read += bytes;
        let taken = message.since.get_or_insert_with(Instant::now).elapsed();
        let Some(counted) = message.read.checked_sub(UNCOUNTED) else {
            return Ok(());
        };
        if taken > body::time_for(message.read) {
            return Err(Error::new(ErrorKind::TimedOut, "the message came too slowly"));
        }
        let held = message.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(counted.div_ceil(1024) - held).unwrap_or(u32::MAX);
        let full = |_| Error::new(ErrorKind::QuotaExceeded, "too many bytes are waiting");
        let more = self.room.clone().try_acquire_many_owned(more).map_err(full)?;
        match &mut message.held {
            Some(held) => held.merge(more),
            held => *held = Some(more),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Message> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let Metered { io, meter } = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        Poll::Ready(meter.count(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_holds_room_while_it_comes_and_a_small_one_none() {
        let room = Arc::new(Semaphore::new(100));
        let (large, other) = (Meter::new(room.clone()), Meter::new(room.clone()));
        large.count(UNCOUNTED).unwrap();
        assert_eq!(room.available_permits(), 100);
        large.count(10 * 1024).unwrap();
        large.count(1).unwrap();
        assert_eq!(room.available_permits(), 89);
        assert_eq!(other.count(UNCOUNTED + 90 * 1024).unwrap_err().kind(), ErrorKind::QuotaExceeded);
        large.start_anew();
        assert_eq!(room.available_permits(), 100);
    }

    #[test]
    fn a_large_message_must_not_dribble() {
        let meter = Meter::new(Arc::new(Semaphore::new(100)));
        meter.count(UNCOUNTED).unwrap();
        meter.lock().since = Instant::now().checked_sub(body::time_for(UNCOUNTED + 1024));
        assert_eq!(meter.count(1).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
