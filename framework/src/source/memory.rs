//! A queue in memory with real expiry: the reference that the conformance suite is read against.
//!
//! A job received is hidden until its lease ends, and then delivered again with its attempt counted. It promises
//! what a good broker promises, and nothing outlives the process.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Delivery, Extended, Queue, Receipt, Source};
use crate::error::{Error, Result};
use crate::job::{Event, Meta};
use crate::verdict::Verdict;

/// How long a job is hidden by default.
const LEASE: Duration = Duration::from_secs(30);

/// A queue in memory. Clones are the same queue: keep one to push jobs and read results.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    lease: Duration,
    keep: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    visible: VecDeque<Message>,
    /// Given back with a pause, by when it is over.
    later: BTreeMap<(Instant, u64), Message>,
    /// Under a lease, by its receipt's number, which is new each time.
    leased: HashMap<u64, (Instant, Message)>,
    /// When each lease ends.
    ends: BTreeSet<(Instant, u64)>,
    numbers: u64,
    closed: bool,
    settled: Vec<Settled>,
    done: u64,
    rejected: u64,
    events: Vec<(String, Event)>,
}

struct Message {
    id: Arc<str>,
    attempts: u32,
    payload: Bytes,
    meta: Meta,
}

/// How a job of the memory queue ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The job.
    pub id: String,
    /// Which delivery it was.
    pub attempt: u32,
    /// `Done` or `Reject`: a job given back has not ended.
    pub verdict: Verdict,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl Memory {
    /// An empty queue whose leases last 30 s.
    pub fn new() -> Self {
        Memory::with_lease(LEASE)
    }

    /// An empty queue whose leases last `lease`.
    pub fn with_lease(lease: Duration) -> Self {
        Memory(Arc::new(Shared::new(lease, true)))
    }

    /// A queue that counts results instead of keeping them.
    pub fn counting() -> Self {
        Memory(Arc::new(Shared::new(LEASE, false)))
    }

    /// Adds a job.
    pub fn push(&self, id: impl Into<String>, payload: impl Into<Bytes>) {
        self.push_with(id, payload, Meta::default());
    }

    /// Adds a job with what comes beside its payload.
    pub fn push_with(&self, id: impl Into<String>, payload: impl Into<Bytes>, meta: Meta) {
        let message = Message { id: id.into().into(), attempts: 0, payload: payload.into(), meta };
        self.0.lock().visible.push_back(message);
        self.0.changed.notify_one();
    }

    /// No more jobs will be added: once every job has ended, the source is at its end.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }

    /// How the jobs ended so far, in the order in which they did. Not kept by a [`counting`](Memory::counting) queue.
    pub fn settled(&self) -> Vec<Settled> {
        self.0.lock().settled.clone()
    }

    /// How many jobs are done.
    pub fn done(&self) -> u64 {
        self.0.lock().done
    }

    /// How many jobs were rejected.
    pub fn rejected(&self) -> u64 {
        self.0.lock().rejected
    }

    /// Jobs that nobody holds.
    pub fn waiting(&self) -> usize {
        let state = self.0.lock();
        state.visible.len() + state.later.len()
    }

    /// Jobs under a lease that has not ended.
    pub fn leased(&self) -> usize {
        let now = Instant::now();
        self.0.lock().leased.values().filter(|(until, _)| *until > now).count()
    }

    /// Partial results so far, with their jobs' ids.
    pub fn events(&self) -> Vec<(String, Event)> {
        self.0.lock().events.clone()
    }
}

impl Shared {
    fn new(lease: Duration, keep: bool) -> Self {
        Shared { lease, keep, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is visible; if there is nothing, when to look again, or that it is the end.
    fn take(self: &Arc<Self>, max: usize) -> Taken {
        let now = Instant::now();
        let state = &mut *self.lock();
        state.make_visible(now);
        let count = max.min(state.visible.len());
        let messages: Vec<Message> = state.visible.drain(..count).collect();
        if messages.is_empty() {
            let ended = state.closed && state.leased.is_empty() && state.later.is_empty();
            return match ended {
                true => Taken::End,
                false => Taken::Nothing(state.next_change()),
            };
        }
        let lease = |message| self.lease_out(state, message, now);
        Taken::Some(messages.into_iter().map(lease).collect())
    }

    fn lease_out(self: &Arc<Self>, state: &mut State, mut message: Message, now: Instant) -> Delivery {
        message.attempts += 1;
        state.numbers += 1;
        let number = state.numbers;
        let until = now + self.lease;
        let delivery = Delivery {
            id: message.id.to_string(),
            attempt: message.attempts,
            payload: message.payload.clone(),
            until,
            meta: message.meta.clone(),
            receipt: Arc::new(Ticket { queue: self.clone(), number, id: message.id.clone() }),
        };
        state.begin_lease(number, until, message);
        delivery
    }
}

impl State {
    /// Puts back what was given back long enough ago and what is held no longer.
    fn make_visible(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            self.visible.push_back(entry.remove());
        }
        while let Some(&(until, number)) = self.ends.first()
            && until <= now
        {
            let ended = self.end_lease(number);
            self.visible.extend(ended.map(|(_, message)| message));
        }
    }

    fn begin_lease(&mut self, number: u64, until: Instant, message: Message) {
        self.leased.insert(number, (until, message));
        self.ends.insert((until, number));
    }

    fn end_lease(&mut self, number: u64) -> Option<(Instant, Message)> {
        let (until, message) = self.leased.remove(&number)?;
        self.ends.remove(&(until, number));
        Some((until, message))
    }

    fn holds(&self, id: &str) -> bool {
        let waiting = self.visible.iter().chain(self.later.values());
        let leased = self.leased.values().map(|(_, message)| message);
        waiting.chain(leased).any(|message| *message.id == *id)
    }

    fn next_change(&self) -> Option<Instant> {
        let later = self.later.keys().next().map(|(at, _)| *at);
        let leased = self.ends.first().map(|(until, _)| *until);
        later.into_iter().chain(leased).min()
    }
}

enum Taken {
    Some(Vec<Delivery>),
    Nothing(Option<Instant>),
    End,
}

impl Source for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let changed = self.0.changed.notified();
            match self.0.take(max) {
                Taken::Some(deliveries) => return Ok(deliveries),
                Taken::End => {
                    // Whoever else waits shall see the end too.
                    self.0.changed.notify_one();
                    return Ok(Vec::new());
                }
                Taken::Nothing(None) => changed.await,
                Taken::Nothing(Some(at)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

impl Queue for Memory {
    fn push<'a>(&'a self, id: &'a str, payload: Bytes) -> BoxFuture<'a, Result<()>> {
        if !self.0.lock().holds(id) {
            Memory::push(self, id, payload);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Ticket {
    queue: Arc<Shared>,
    number: u64,
    id: Arc<str>,
}

impl Receipt for Ticket {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        let now = Instant::now();
        let mut state = self.queue.lock();
        let extended = match state.end_lease(self.number) {
            Some((until, message)) if until > now => {
                let until = until.max(now + by);
                state.begin_lease(self.number, until, message);
                Extended::Until(until)
            }
            Some((_, expired)) => {
                state.visible.push_back(expired);
                self.queue.changed.notify_one();
                Extended::Lost
            }
            None => Extended::Lost,
        };
        Box::pin(std::future::ready(Ok(extended)))
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(self.end(verdict)))
    }

    fn emit(&self, event: Event) {
        self.queue.lock().events.push((self.id.to_string(), event));
    }
}

impl Ticket {
    fn end(&self, verdict: &Verdict) -> Result<()> {
        let now = Instant::now();
        let state = &mut *self.queue.lock();
        let message = match state.end_lease(self.number) {
            Some((until, message)) if until > now => message,
            Some((_, expired)) => {
                state.visible.push_back(expired);
                self.queue.changed.notify_one();
                return Err(lost(&self.id));
            }
            None => return Err(lost(&self.id)),
        };
        match verdict {
            Verdict::Done(_) => state.done += 1,
            Verdict::Reject { .. } => state.rejected += 1,
            Verdict::Retry { after, .. } => {
                state.later.insert((now + *after, self.number), message);
                self.queue.changed.notify_one();
                return Ok(());
            }
        }
        if self.queue.keep {
            state.settled.push(Settled {
                id: message.id.to_string(),
                attempt: message.attempts,
                verdict: verdict.clone(),
            });
        }
        if state.closed && state.leased.is_empty() {
            self.queue.changed.notify_one();
        }
        Ok(())
    }
}

fn lost(id: &str) -> Error {
    Error::invalid(format_args!("the lease of job `{id}` has ended; it was not settled"))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use crate::testing::source;

    #[tokio::test]
    async fn conforms() {
        source::all(&mut source::memory()).await;
    }
}
