//! What async tasks hand to the device thread, and how it is woken.
//!
//! Its bound is the places of the stage. Closing it says why, so that whoever comes later gets the reason. A mutex,
//! because many tasks push; the device thread takes all at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use crate::error::Error;

pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    device: Arc<Waker>,
}

struct State<T> {
    items: Vec<T>,
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

impl<T> Inbox<T> {
    pub(crate) fn new(device: Arc<Waker>) -> Self {
        let state = State { items: Vec::new(), closed: None };
        Inbox { state: Mutex::new(state), device }
    }

    pub(crate) fn push(&self, item: T) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        let first = state.items.is_empty();
        state.items.push(item);
        drop(state);
        // Whoever pushed the first of these has woken the thread already.
        if first {
            self.device.wake();
        }
        Ok(())
    }

    /// Swaps what has come with `empty`.
    pub(crate) fn drain(&self, empty: &mut Vec<T>) {
        std::mem::swap(&mut self.lock().items, empty);
    }

    /// Refuses further items with `why`, unless it is closed already, and drops those that wait.
    pub(crate) fn close(&self, why: Error) {
        let mut state = self.lock();
        state.closed.get_or_insert(why);
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(left);
    }

    /// Why it is closed.
    pub(crate) fn closed(&self) -> Option<Error> {
        self.lock().closed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
