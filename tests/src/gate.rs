//! A gate in front of user code, to stop a device or a thread exactly where a test wants it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longer than any test waits, so that a failed test ends all the same.
const AT_LAST: Duration = Duration::from_secs(60);

/// Closed at first. Clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: bool,
    tickets: usize,
    waiting: usize,
    passed: usize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Gate::default()
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.lock().open = true;
        self.0.changed.notify_all();
    }

    /// Whether everybody may go through.
    pub fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Stops whoever comes from now on.
    pub fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.tickets = 0;
    }

    /// Lets so many through, those that wait or those that come.
    pub fn admit(&self, count: usize) {
        self.lock().tickets += count;
        self.0.changed.notify_all();
    }

    /// How many stand in front of it.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// How many have gone through.
    pub fn passed(&self) -> usize {
        self.lock().passed
    }

    /// Goes through, once it may. Blocks the thread.
    pub fn pass(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        let shut = |state: &mut State| !state.open && state.tickets == 0;
        let (mut state, _) =
            self.0.changed.wait_timeout_while(state, AT_LAST, shut).unwrap_or_else(PoisonError::into_inner);
        state.tickets = state.tickets.saturating_sub(1);
        state.waiting -= 1;
        state.passed += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
