//! What the jobs in a pipeline hold together, in bytes, and the door that bounds it.
//!
//! A job is counted with what it holds now, but never with less than the largest that jobs have lately grown to,
//! since that is what it will grow to in turn. Only the door waits: inside, a job that grows is counted and goes on.
//! So nothing can deadlock; what is held exceeds the budget only by how much jobs outgrow all before them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Gauge, gauge};
use tokio::sync::{Mutex as Turnstile, Notify};

use crate::job::Job;
use crate::telemetry::HELD_BYTES;

#[derive(Clone)]
pub(crate) struct Budget(Option<Arc<Door>>);

struct Door {
    limit: usize,
    state: Mutex<State>,
    /// One at a time waits for room, the others behind it: first come, first in.
    turnstile: Turnstile<()>,
    left: Notify,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    jobs: usize,
    /// Sum of what the jobs hold.
    held: usize,
    /// The largest that a job grew to; forgotten slowly, so that one giant does not rule for ever.
    largest: f64,
}

/// What a job that has left holds: the thread that had it may still come to count it.
const LEFT: usize = usize::MAX;

/// How much of the largest size remains after a job that is smaller has left.
const MEMORY: f64 = 0.99;

impl State {
    fn has_room(&self, limit: usize, bytes: usize) -> bool {
        let each = (self.largest as usize).max(bytes);
        let expected = self.held.max(self.jobs.saturating_mul(self.largest as usize));
        self.jobs == 0 || expected.saturating_add(each) <= limit
    }
}

impl Budget {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Budget(limit.map(|limit| {
            Arc::new(Door {
                limit,
                state: Mutex::default(),
                turnstile: Turnstile::default(),
                left: Notify::new(),
                gauge: gauge!(HELD_BYTES),
            })
        }))
    }

    /// Waits until there is room for a job that comes with so many bytes.
    pub(crate) async fn enter(&self, job: &Job, bytes: usize) -> Held {
        let Some(door) = &self.0 else {
            return Held(None);
        };
        let _turn = door.turnstile.lock().await;
        loop {
            let left = door.left.notified();
            {
                let mut state = door.lock();
                if state.has_room(door.limit, bytes) {
                    state.jobs += 1;
                    state.held += bytes;
                    state.largest = state.largest.max(bytes as f64);
                    break;
                }
            }
            left.await;
        }
        job.set_bytes(bytes);
        door.gauge.increment(bytes as f64);
        Held(Some((door.clone(), job.clone())))
    }

    /// Counts a job inside with what it holds now.
    pub(crate) fn resize(&self, job: &Job, bytes: usize) {
        let Some(door) = &self.0 else {
            return;
        };
        let before = {
            let mut state = door.lock();
            let before = job.bytes();
            if before == LEFT {
                return;
            }
            job.set_bytes(bytes);
            state.held = state.held.saturating_sub(before) + bytes;
            state.largest = state.largest.max(bytes as f64);
            before
        };
        door.gauge.increment(bytes as f64 - before as f64);
        if bytes < before {
            door.left.notify_one();
        }
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |door| door.lock().held)
    }
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's part of what is held; dropped, it is free again.
pub(crate) struct Held(Option<(Arc<Door>, Job)>);

impl Drop for Held {
    fn drop(&mut self) {
        let Some((door, job)) = self.0.take() else {
            return;
        };
        let bytes = {
            let mut state = door.lock();
            // One that walks twice at once, which no worker's does, has left before.
            let bytes = Some(job.bytes()).filter(|bytes| *bytes != LEFT).unwrap_or_default();
            job.set_bytes(LEFT);
            state.jobs -= 1;
            state.held = state.held.saturating_sub(bytes);
            state.largest = (state.largest * MEMORY).max(bytes as f64);
            bytes
        };
        door.gauge.decrement(bytes as f64);
        door.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_has_left_is_not_counted_by_the_thread_that_still_had_it() {
        let budget = Budget::new(Some(100));
        let job = Job::new("job");
        let held = budget.enter(&job, 10).await;
        budget.resize(&job, 30);
        assert_eq!(budget.held(), 30);
        drop(held);
        budget.resize(&job, 50);
        assert_eq!(budget.held(), 0);
        let _held = budget.enter(&job, 20).await;
        budget.resize(&job, 40);
        assert_eq!(budget.held(), 40, "it may come again");
    }
}
