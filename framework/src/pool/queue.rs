//! A queue from async tasks to threads, and its closing.
//!
//! Its bound is the [places](super::places) of the stage in front of it: whoever pushes holds one. It promises that
//! closing drops what is still queued, so that nobody waits for an answer that cannot come: a channel of crossbeam
//! (0.5, bounded) keeps queued messages alive after its last receiver has gone, and their waiters hang.
//!
//! A mutex rather than ownership, because many threads take from it; it is held for a push or a pop only.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread lets others run and looks again before it sleeps: about as long as it takes to wake it, which
/// costs the waker too (competitive spinning, Karlin et al. 1991).
pub(crate) const LINGER_AWAKE: Duration = Duration::from_micros(50);

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    idle: usize,
    open: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let state = State { items: VecDeque::new(), idle: 0, open: true };
        Queue { state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Queues an item, or gives it back if the queue is closed. Never blocks for room.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if !state.open {
            return Err(item);
        }
        state.items.push_back(item);
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for the next item; `None` once the queue is closed.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut waiting_since = None;
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if !state.open {
                return None;
            }
            if waiting_since.get_or_insert_with(Instant::now).elapsed() < LINGER_AWAKE {
                drop(state);
                std::thread::yield_now();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Refuses further items, drops those that wait, and lets the threads end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.ready.notify_all();
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_releases_every_waiter() {
        for _ in 0..50 {
            let queue = Arc::new(Queue::new());
            let waiters: Vec<_> = (0..64)
                .map(|_| {
                    let (reply, answer) = oneshot::channel::<()>();
                    queue.push(reply).map_err(|_| "closed").unwrap();
                    tokio::spawn(answer)
                })
                .collect();
            let thread = {
                let queue = queue.clone();
                std::thread::spawn(move || (0..4).filter_map(|_| queue.pop()).count())
            };
            queue.close();
            assert!(thread.join().unwrap() <= 4);
            for waiter in waiters {
                assert!(waiter.await.unwrap().is_err());
            }
            assert!(queue.push(oneshot::channel().0).is_err());
        }
    }

    #[test]
    fn items_come_out_in_order_until_it_is_closed() {
        let queue = Queue::new();
        (0..5).for_each(|i| queue.push(i).unwrap());
        assert_eq!((0..3).filter_map(|_| queue.pop()).collect::<Vec<_>>(), [0, 1, 2]);
        queue.close();
        assert_eq!(queue.pop(), None, "what was queued is dropped");
    }
}
