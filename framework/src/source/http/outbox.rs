//! What a job has told its caller and the caller has not read yet: progress, pieces of the result, the end.
//!
//! Progress is replaced by what is newer. Pieces are never dropped: when there are too many, the caller was too slow
//! and is told nothing more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::answer::Problem;
use crate::job::Event;

/// Pieces that may wait for their caller, and their bytes together.
const PIECES: usize = 1024;
const BYTES: usize = 4 << 20;

/// A mutex, because stages' threads write it and the server's thread reads it.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// The newest, and how many of the pieces were told before it.
    progress: Option<(f32, usize)>,
    end: Option<End>,
    /// Nothing is taken any more: the end was told, or there were too many pieces.
    closed: bool,
    overflowed: bool,
}

/// What a caller is told.
#[derive(Debug)]
pub(super) enum Said {
    Progress(f32),
    Partial(Bytes),
    /// The last of it.
    Ended(End),
    /// The caller was too slow to read.
    CutOff,
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) outcome: Result<Bytes, Problem>,
    /// Where the time went, as in `Server-Timing`.
    pub(super) times: String,
}

impl Outbox {
    /// Takes what the job tells; whether there was room. Without, the caller is cut off.
    pub(super) fn push(&self, event: Event) -> bool {
        let mut state = self.lock();
        if state.closed {
            return true;
        }
        match event {
            // Not a number: nothing is known.
            Event::Progress(done) if done.is_nan() => return true,
            Event::Progress(done) => state.progress = Some((done.clamp(0.0, 1.0), state.pieces.len())),
            Event::Partial(piece) => {
                state.bytes += piece.len();
                state.pieces.push_back(piece);
            }
        }
        if state.pieces.len() > PIECES || state.bytes > BYTES {
            *state = State { closed: true, overflowed: true, ..State::default() };
        }
        let fits = !state.overflowed;
        drop(state);
        self.news.notify_one();
        fits
    }

    /// The job has ended, and what it tells after that is not taken; whether its caller is told, who may be cut off.
    pub(super) fn end(&self, end: End) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        (state.closed, state.end) = (true, Some(end));
        drop(state);
        self.news.notify_one();
        true
    }

    /// What comes next. One at a time may wait for it. Cancel safe.
    pub(super) async fn next(&self) -> Said {
        loop {
            // Bound to a name, since the lock would else be held while waiting.
            let said = self.lock().take();
            match said {
                Some(said) => return said,
                None => self.news.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Said> {
        if self.overflowed {
            return Some(Said::CutOff);
        }
        if let Some((done, _)) = self.progress.take_if(|(_, before)| *before == 0) {
            return Some(Said::Progress(done));
        }
        let Some(piece) = self.pieces.pop_front() else {
            return self.end.take().map(Said::Ended);
        };
        self.bytes -= piece.len();
        if let Some((_, before)) = &mut self.progress {
            *before -= 1;
        }
        Some(Said::Partial(piece))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn all(outbox: &Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.next().now_or_never()).map(|said| format!("{said:?}")).collect()
    }

    #[test]
    fn a_newer_progress_replaces_one_that_was_not_read_and_comes_in_its_own_place() {
        let outbox = Outbox::default();
        for event in [
            Event::Progress(0.1),
            Event::Partial("a".into()),
            Event::Progress(0.2),
            Event::Progress(f32::NAN),
            Event::Partial("b".into()),
            Event::Progress(0.5),
            Event::Partial("c".into()),
        ] {
            assert!(outbox.push(event));
        }
        assert_eq!(all(&outbox), ["Partial(b\"a\")", "Partial(b\"b\")", "Progress(0.5)", "Partial(b\"c\")"]);
        outbox.push(Event::Progress(7.0));
        assert!(outbox.end(End { outcome: Ok("d".into()), times: String::new() }));
        assert!(outbox.push(Event::Partial("late".into())));
        let rest = all(&outbox);
        assert_eq!((rest.len(), rest[0].as_str()), (2, "Progress(1.0)"));
        assert!(rest[1].starts_with("Ended"), "{rest:?}");
    }

    #[test]
    fn pieces_are_bounded_by_number_and_bytes() {
        let outbox = Outbox::default();
        assert!((0..PIECES).all(|_| outbox.push(Event::Partial("x".into()))));
        assert_eq!(all(&outbox).len(), PIECES, "what was read has room again");
        assert!((0..PIECES).all(|_| outbox.push(Event::Partial("x".into()))));
        assert!(!outbox.push(Event::Partial("x".into())));
        assert!(matches!(outbox.next().now_or_never(), Some(Said::CutOff)));

        let outbox = Outbox::default();
        assert!((0..4).all(|_| outbox.push(Event::Partial(vec![0; 1 << 20].into()))));
        assert!(!outbox.push(Event::Partial("x".into())));
    }
}
