//! What polls have brought and the worker has not taken yet.
//!
//! Polls are tasks of their own: a poll that is cut off in the middle would hide messages from everybody until their
//! leases end. What comes when nobody wants it any more goes back at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::desk::Desk;
use super::{batch, message};
use crate::error::{Error, Result};
use crate::source::{Delivery, give_back};

/// Polls side by side, at most.
const WIDEST: usize = 8;
/// How long something waits to be taken, and then goes back.
const HOLD: Duration = Duration::from_secs(2);
/// The pause after a poll that found nothing and had not waited either: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) struct Shelf {
    state: Mutex<State>,
    changed: Notify,
    closed: watch::Sender<bool>,
}

struct State {
    ready: VecDeque<(Instant, Delivery)>,
    failure: Option<Error>,
    /// Polls under way, and what they may bring.
    polls: usize,
    asked: usize,
    /// How many polls may be under way: more while they come back full, one while there is nothing.
    width: usize,
    pause: Duration,
}

/// What a poll has brought: messages, and those of them that are jobs.
struct Brought {
    messages: usize,
    deliveries: Vec<Delivery>,
}

/// A poll under way.
struct Poll {
    shelf: Arc<Shelf>,
    asked: usize,
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut state = self.shelf.lock();
        state.polls -= 1;
        state.asked -= self.asked;
        drop(state);
        self.shelf.changed.notify_one();
    }
}

impl Shelf {
    pub(super) fn new() -> Arc<Self> {
        let state =
            State { ready: VecDeque::new(), failure: None, polls: 0, asked: 0, width: 1, pause: Duration::ZERO };
        Arc::new(Shelf { state: Mutex::new(state), changed: Notify::new(), closed: watch::Sender::new(false) })
    }

    /// What there is, at most `max`; else what went wrong; else nothing.
    pub(super) fn take(&self, max: usize) -> Result<Vec<Delivery>> {
        let mut state = self.lock();
        let count = max.min(state.ready.len());
        let taken: Vec<_> = state.ready.drain(..count).map(|(_, delivery)| delivery).collect();
        match state.failure.take() {
            Some(why) if taken.is_empty() => Err(why),
            why => {
                state.failure = why;
                Ok(taken)
            }
        }
    }

    /// Until something has come or a poll has ended.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Starts polls for what is wanted beyond what they may bring already.
    pub(super) fn poll(self: &Arc<Self>, desk: &Arc<Desk>, max: usize) {
        // Of one group of a FIFO queue only one message may be at work, and a poll could bring several.
        let most = if desk.broker.is_fifo() { 1 } else { batch::MOST };
        let mut state = self.lock();
        while state.asked < max && state.polls < state.width {
            let asked = most.min(max - state.asked);
            state.polls += 1;
            state.asked += asked;
            let poll = Poll { shelf: self.clone(), asked };
            tokio::spawn(poll.run(desk.clone(), state.pause));
        }
    }

    /// Nothing is wanted any more: what is there goes back, and so does what polls under way still bring.
    pub(super) fn close(&self) -> Vec<Delivery> {
        self.closed.send_replace(true);
        self.lock().ready.drain(..).map(|(_, delivery)| delivery).collect()
    }

    /// Until no poll is under way.
    pub(super) async fn emptied(&self) {
        while self.lock().polls > 0 {
            self.changed.notified().await;
        }
        // Whoever else waits shall see it too.
        self.changed.notify_one();
    }

    /// Puts what a poll brought on the shelf; what is not wanted any more comes back.
    fn put(&self, asked: usize, waited: bool, brought: Result<Brought>) -> Vec<Delivery> {
        let mut state = self.lock();
        let Brought { messages, deliveries } = match brought {
            Ok(brought) => brought,
            Err(why) => {
                (state.failure, state.width) = (Some(why), 1);
                return Vec::new();
            }
        };
        if messages == 0 {
            let longer = (state.pause * 2).clamp(PAUSES.0, PAUSES.1);
            (state.width, state.pause) = (1, if waited { Duration::ZERO } else { longer });
            return Vec::new();
        }
        if messages == asked {
            state.width = (state.width * 2).min(WIDEST);
        }
        state.pause = Duration::ZERO;
        if *self.closed.borrow() {
            return deliveries;
        }
        let now = Instant::now();
        state.ready.extend(deliveries.into_iter().map(|delivery| (now, delivery)));
        Vec::new()
    }

    /// What has waited for too long.
    fn stale(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        let fresh = state.ready.iter().position(|(since, _)| since.elapsed() < HOLD);
        let count = fresh.unwrap_or(state.ready.len());
        state.ready.drain(..count).map(|(_, delivery)| delivery).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Poll {
    async fn run(self, desk: Arc<Desk>, pause: Duration) {
        let shelf = self.shelf.clone();
        let mut closed = shelf.closed.subscribe();
        tokio::select! {
            () = sleep(pause) => {}
            _ = closed.wait_for(|closed| *closed) => return,
        }
        let asked = Instant::now();
        let brought = receive(&desk, self.asked, asked).await;
        let waited = asked.elapsed() >= desk.settings.wait / 2 && !desk.settings.wait.is_zero();
        let unwanted = shelf.put(self.asked, waited, brought);
        give_back(unwanted).await;
        drop((self, desk));
        sleep(HOLD).await;
        give_back(shelf.stale()).await;
    }
}

async fn receive(desk: &Arc<Desk>, most: usize, asked: Instant) -> Result<Brought> {
    let received = desk.broker.receive(most, desk.settings.wait, desk.settings.lease).await?;
    let messages = received.len();
    let opened = join_all(received.into_iter().map(|message| message::open(desk, message, asked))).await;
    Ok(Brought { messages, deliveries: opened.into_iter().flatten().collect() })
}
