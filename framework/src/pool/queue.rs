//! The way to the threads of a stage, and its closing.
//!
//! It is bounded by the places of the stage: whoever finds none waits in [`Line`] for one. It promises that closing
//! refuses what is still queued, so that nobody waits for an answer that cannot come: a channel of crossbeam (0.5,
//! bounded) keeps queued messages alive after its last receiver has gone, and their waiters hang.
//!
//! A mutex rather than ownership, because many threads take from it; it is held for a push or a pop only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::panic::fence_drop;
use super::places::{Door, Entrant, Line, Place, Task};
use super::turns::Turns;
use crate::error::Error;
use crate::telemetry::StageMeter;

/// How long a thread lets others run and looks again before it sleeps: about as long as it takes to wake it, which
/// costs the waker too (competitive spinning, Karlin et al. 1991).
pub(crate) const LINGER_AWAKE: Duration = Duration::from_micros(50);

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

struct State<T> {
    /// Those who have a place.
    items: Turns<T>,
    line: Line<T>,
    idle: usize,
    closed: Option<Error>,
}

impl<T: Task> Queue<T> {
    pub(crate) fn new(places: usize, meter: StageMeter) -> Self {
        let state = State { items: Turns::default(), line: Line::new(places, meter), idle: 0, closed: None };
        Queue { state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Queues a task, which gives up its place `before` when it has one here; or refuses it, if the queue is closed.
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

    /// Waits for the next task, and gives it with its place; `None` once the queue is closed.
    pub(crate) fn pop(self: &Arc<Self>) -> Option<(T, Place)>
    where
        T: 'static,
    {
        let mut waiting_since = None;
        let mut state = self.lock();
        loop {
            if let Some(task) = state.items.pop() {
                return Some((task, Place::of(self.clone())));
            }
            if state.closed.is_some() {
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

    fn let_in(&self, mut state: MutexGuard<'_, State<T>>, enters: Option<Entrant<T>>) {
        let Some((task, before)) = enters else {
            return;
        };
        state.items.push(task.job().turn(), task);
        let wake = state.idle > 0;
        drop(state);
        drop(before);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Refuses those that wait and further tasks with `why`, and lets the threads end.
    pub(crate) fn close(&self, why: Error) {
        let mut state = self.lock();
        let why = state.closed.get_or_insert(why).clone();
        let left = std::mem::take(&mut state.items).into_iter().chain(state.line.clear());
        drop(state);
        self.ready.notify_all();
        left.for_each(|task| fence_drop(|| task.refuse(why.clone())));
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Task> Door for Queue<T> {
    fn leave(&self) {
        let mut state = self.lock();
        let enters = state.line.next();
        self.let_in(state, enters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use tokio::sync::oneshot;

    struct With<T>(Job, T);

    impl<T: Send> Task for With<T> {
        fn job(&self) -> &Job {
            &self.0
        }

        fn refuse(self, _: Error) {}
    }

    fn queue<T: Send>(places: usize) -> Arc<Queue<With<T>>> {
        Arc::new(Queue::new(places, StageMeter::new("queue")))
    }

    fn push<T: Send>(queue: &Queue<With<T>>, what: T) -> Job {
        let job = Job::new("job");
        queue.push(With(job.clone(), what), None);
        job
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_releases_every_waiter() {
        for _ in 0..50 {
            let queue = queue(16);
            let waiters: Vec<_> = (0..64)
                .map(|_| {
                    let (reply, answer) = oneshot::channel::<()>();
                    push(&queue, reply);
                    tokio::spawn(answer)
                })
                .collect();
            let thread = {
                let queue = queue.clone();
                std::thread::spawn(move || (0..4).filter_map(|_| queue.pop()).count())
            };
            queue.close(Error::transient("closed"));
            assert!(thread.join().unwrap() <= 4);
            for waiter in waiters {
                assert!(waiter.await.unwrap().is_err());
            }
            let (reply, answer) = oneshot::channel();
            push(&queue, reply);
            assert!(answer.await.is_err(), "a closed queue drops what comes");
        }
    }

    #[test]
    fn tasks_come_out_in_order_until_it_is_closed() {
        let queue = queue(3);
        (0..5).for_each(|i| drop(push(&queue, i)));
        let out: Vec<_> = (0..4).filter_map(|_| queue.pop().map(|(task, _place)| task.1)).collect();
        assert_eq!(out, [0, 1, 2, 3], "each place that is given up lets the next in");
        queue.close(Error::transient("closed"));
        assert!(queue.pop().is_none(), "what was queued is dropped");
    }

    #[test]
    fn a_place_passes_on_down_the_stages_when_it_is_given_up() {
        let (first, second) = (queue(1), queue(1));
        let jobs: Vec<Job> = (0..3).map(|i| push(&first, i)).collect();
        let stages = || jobs.iter().map(|job| job.stage()).collect::<Vec<_>>();
        assert_eq!(stages(), ["queue", "start", "start"]);

        let (task, place) = first.pop().unwrap();
        second.push(task, Some(place));
        assert_eq!(stages(), ["queue", "queue", "start"], "it went on, and let the next in");

        let (task, place) = first.pop().unwrap();
        second.push(task, Some(place));
        assert_eq!(stages(), ["queue", "queue", "start"], "it waits before the second stage and keeps its place");

        drop(second.pop());
        assert_eq!(stages(), ["queue", "queue", "queue"], "one gave up its place, and both behind went on");
    }
}
