//! A body on its way through the proxy: at a place that was drawn it is cut, stalled, or one bit of it is changed.
//!
//! It goes on as it comes, and holds no more of it than the piece in which the place is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::line::break_off;
use super::{AnyBody, Failure, Fault, Shared};

/// What happens to a body, and where.
pub(super) struct Turn {
    pub(super) fault: Fault,
    pub(super) place: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) broken: Arc<AtomicBool>,
}

/// A body on its way, to which something happens at a place.
pub(super) struct Changed {
    body: Incoming,
    /// Bytes until then.
    left: u64,
    turn: Option<Turn>,
    waits: Option<Pin<Box<Sleep>>>,
    /// What came before has had its time to be sent.
    flushed: bool,
    /// Data that comes after it.
    rest: Option<Bytes>,
}

impl Changed {
    pub(super) fn of(body: Incoming, length: u64, turn: Option<Turn>) -> AnyBody {
        let left = turn.as_ref().map_or(0, |turn| turn.place % length.max(1));
        let changed = Changed { body, left, turn, waits: None, flushed: false, rest: None };
        changed.boxed_unsync()
    }

    /// What is to happen before this data goes on.
    fn turn(&mut self, context: &mut Context<'_>, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(turn) = &self.turn else { return Poll::Ready(Some(Ok(Frame::data(data)))) };
        if (data.len() as u64) <= self.left {
            self.left -= data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.left > 0 {
            let before = data.slice(..self.left as usize);
            self.rest = Some(data.slice(self.left as usize..));
            self.left = 0;
            return Poll::Ready(Some(Ok(Frame::data(before))));
        }
        match turn.fault {
            Fault::FlippedAnswer | Fault::FlippedRequest => {
                let mut flipped = BytesMut::from(data);
                flipped[0] ^= 1 << (turn.place >> 32 & 7);
                turn.shared.happened(turn.fault);
                self.turn = None;
                Poll::Ready(Some(Ok(Frame::data(flipped.freeze()))))
            }
            Fault::Stalled => {
                if self.waits.is_none() {
                    turn.shared.happened(turn.fault);
                }
                let stall = turn.shared.settings.stall;
                let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                if waits.as_mut().poll(context).is_pending() {
                    self.rest = Some(data);
                    return Poll::Pending;
                }
                self.turn = None;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            _ if !self.flushed => {
                self.flushed = true;
                self.rest = Some(data);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Fault::Truncated => {
                turn.shared.happened(turn.fault);
                Poll::Ready(Some(Err("truncated, as drawn".into())))
            }
            _ => {
                turn.shared.happened(turn.fault);
                Poll::Ready(Some(Err(break_off(&turn.broken))))
            }
        }
    }
}

impl Body for Changed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(rest) = self.rest.take() {
            return self.turn(context, rest);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => Poll::Ready(None),
            Some(Err(why)) => Poll::Ready(Some(Err(why.into()))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.turn(context, data),
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            // The head has been sent with the true one.
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}
