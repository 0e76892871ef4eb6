//! What is handed to the device thread, and how it is woken.
//!
//! It is bounded by the places of the stage: whoever finds none waits in [`Line`] for one. Closing it says why, so
//! that whoever comes later gets the reason. A mutex, because many tasks push; the device thread takes all at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Instant;

use crate::error::Error;
use crate::pool::panic::fence_drop;
use crate::pool::places::{Door, Entrant, Line, Place, Task};
use crate::telemetry::StageMeter;

pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    device: Arc<Waker>,
}

struct State<T> {
    /// Those who have a place, and since when.
    items: Vec<(T, Instant)>,
    line: Line<T>,
    closed: Option<Error>,
}

/// Wakes one device thread; before the thread has started there is nothing to wake.
#[derive(Default)]
pub(crate) struct Waker(OnceLock<Thread>);

impl Waker {
    /// Called by the device thread itself.
    pub(crate) fn register(&self) {
        let _ = self.0.set(std::thread::current());
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

impl<T: Task> Inbox<T> {
    pub(crate) fn new(places: usize, meter: StageMeter, device: Arc<Waker>) -> Self {
        let state = State { items: Vec::new(), line: Line::new(places, meter), closed: None };
        Inbox { state: Mutex::new(state), device }
    }

    /// Hands a task over, which gives up its place `before` when it has one here; or refuses it, if the inbox is closed.
    pub(crate) fn push(&self, task: T, before: Option<Place>) {
        let mut state = self.lock();
        if let Some(why) = state.closed.clone() {
            // Nobody is told anything, and nothing is dropped, while the lock is held.
            drop(state);
            return fence_drop(|| task.refuse(why));
        }
        let enters = state.line.join((task, before));
        self.let_in(state, enters);
    }

    fn let_in(&self, mut state: MutexGuard<'_, State<T>>, enters: Option<Entrant<T>>) {
        let Some((task, before)) = enters else {
            return;
        };
        let first = state.items.is_empty();
        state.items.push((task, Instant::now()));
        drop(state);
        drop(before);
        // Whoever pushed the first of these has woken the thread already.
        if first {
            self.device.wake();
        }
    }

    /// Swaps what has come with `empty`. Each of them has a [`place`](Inbox::place).
    pub(crate) fn drain(&self, empty: &mut Vec<(T, Instant)>) {
        std::mem::swap(&mut self.lock().items, empty);
    }

    /// The place of one that was drained.
    pub(crate) fn place(self: &Arc<Self>) -> Place
    where
        T: 'static,
    {
        Place::of(self.clone())
    }

    /// Refuses those that wait and further tasks with `why`, or with the reason for which it was closed already.
    pub(crate) fn close(&self, why: Error) {
        let mut state = self.lock();
        let why = state.closed.get_or_insert(why).clone();
        let came = std::mem::take(&mut state.items).into_iter().map(|(task, _)| task);
        let left = came.chain(state.line.clear());
        drop(state);
        left.for_each(|task| fence_drop(|| task.refuse(why.clone())));
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Task> Door for Inbox<T> {
    fn leave(&self) {
        let mut state = self.lock();
        let enters = state.line.next();
        self.let_in(state, enters);
    }
}
