//! A fake of Amazon SQS that keeps the rules which the servers one can install do not all keep, and that fails on
//! command.
//!
//! It speaks the AWS JSON protocol, to the SDK within the process ([`FakeSqs::client`]) or over a loopback port
//! ([`FakeSqs::serve`]). Its time is tokio's, so that twelve hours pass in an instant where that clock is paused. It
//! checks no signatures, keeps nothing on disk, and loses or repeats no message by itself, as a standard queue may.
//!
//! | rule | here |
//! |---|---|
//! | a receipt handle | is new with each receive |
//! | deleting with the handle of an older receive | has no effect, and is no error; FIFO: `InvalidParameterValue` |
//! | deleting after the visibility timeout, before another receive | deletes; FIFO: `InvalidParameterValue` |
//! | extending after the visibility timeout | `MessageNotInflight`; FIFO: `InvalidParameterValue` |
//! | extending with the handle of an older receive | `InvalidParameterValue` |
//! | extending to more than 12 h after the receive | `InvalidParameterValue`; the timeout stays as it was |
//! | a message received `maxReceiveCount` times | goes to the dead-letter queue at the next receive |
//! | 120,000 messages in flight | `OverLimit` at the next receive; FIFO, 20,000: nothing comes |
//! | a group of a FIFO queue | is locked while one of its messages is in flight, and keeps its order |
//! | the same deduplication id within 5 minutes | answered as before, and nothing is added |

mod action;
mod calls;
mod client;
mod faults;
mod fifo;
mod message;
mod messages;
mod protocol;
mod queue;
mod refusal;
mod request;
mod server;
mod settings;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

pub use action::Action;
pub use calls::{Call, Outcome, Touched};
pub use faults::{Fault, Refuse};
pub use queue::Depth;
pub use server::Served;

use crate::error::{Error, Result};
use calls::Calls;
use faults::Faults;
use messages::{Answer, Trace};
use protocol::{Head, parse};
use refusal::Refusal;
use state::State;

/// A fake SQS. Clones are the same one.
#[derive(Clone)]
pub struct FakeSqs(Arc<Shared>);

struct Shared {
    /// A lock, since requests come from many tasks and each must see the queues whole. Never held across an await.
    inner: Mutex<Inner>,
    /// Messages may have become visible otherwise than by time.
    changed: Notify,
}

struct Inner {
    state: State,
    faults: Faults,
    calls: Calls,
}

/// The connection broke instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection broke, as the script of the fake SQS wants it")
    }
}

impl std::error::Error for Broken {}

/// A message as it stands in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub id: String,
    /// Its body.
    pub body: String,
    /// How often it was received.
    pub receives: u32,
    /// Until when it is hidden: in flight, or delayed.
    pub hidden_until: Option<Instant>,
}

impl Default for FakeSqs {
    fn default() -> Self {
        FakeSqs::new()
    }
}

impl fmt::Debug for FakeSqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSqs").finish_non_exhaustive()
    }
}

impl FakeSqs {
    /// Where its queues are for callers within the process.
    pub const ENDPOINT: &str = "http://sqs.fake";

    /// A fake without queues. Its time begins now, on tokio's clock.
    pub fn new() -> Self {
        let inner = Inner { state: State::new(), faults: Faults::default(), calls: Calls::default() };
        FakeSqs(Arc::new(Shared { inner: Mutex::new(inner), changed: Notify::new() }))
    }

    /// Creates a queue with attributes, named as in the reference of SQS, and gives its URL. An error says what SQS
    /// would have refused.
    pub fn create_queue(&self, name: &str, attributes: &[(&str, &str)]) -> Result<String> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let asked = request::CreateQueue { queue_name: name.to_owned(), attributes };
        let created = self.lock().state.create(&asked, Self::ENDPOINT, Instant::now());
        created.map_err(|refusal| Error::invalid(format_args!("queue `{name}`: {}", refusal.body())))?;
        Ok(state::url(Self::ENDPOINT, name))
    }

    /// From now on, these calls of an action go wrong: 1 is the next one. Where several rules mean a call, the oldest
    /// is the one that holds.
    pub fn fault(&self, action: Action, calls: RangeInclusive<u64>, fault: Fault) {
        self.lock().faults.add(action, calls, fault);
    }

    /// Every call goes wrong in this way until [`heal`](FakeSqs::heal).
    pub fn outage(&self, fault: Fault) {
        self.lock().faults.everywhere(fault);
    }

    /// Nothing goes wrong from now on. A call that hangs already does so for ever.
    pub fn heal(&self) {
        self.lock().faults.heal();
    }

    /// Every call so far, in the order in which they came; of very many, the last 200,000.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.list()
    }

    /// How many messages a queue has; `None` if there is no such queue.
    pub fn depth(&self, queue: &str) -> Option<Depth> {
        self.lock().state.queue(queue, Instant::now()).ok().map(|queue| queue.depth())
    }

    /// The messages of a queue in the order in which they came; none if there is no such queue.
    pub fn messages(&self, queue: &str) -> Vec<Stored> {
        let mut inner = self.lock();
        let queue = inner.state.queue(queue, Instant::now());
        let messages = queue.ok().into_iter().flat_map(|queue| queue.messages());
        let stored = messages.map(|message| Stored {
            id: message.id.clone(),
            body: message.body.clone(),
            receives: message.receives,
            hidden_until: message.hidden,
        });
        stored.collect()
    }

    /// Answers a request of the AWS JSON protocol, as a server does: after the poll, the delay or the fault that it
    /// calls for. Dropped before, it takes nothing more.
    pub async fn handle(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, Broken> {
        let head = Head::of(&request);
        let Some(action) = Action::of_target(&head.target) else {
            return Ok(self.respond(&Err(Refusal::unknown_action(&head.target)), 0, Duration::ZERO));
        };
        let body = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
        let (number, fault) = {
            let mut inner = self.lock();
            let number = inner.calls.begin(action, protocol::queue_of(&body), Instant::now());
            (number, inner.faults.next(action))
        };
        if let Some(Fault::Delay(time)) = &fault {
            sleep(*time).await;
        }
        let answer = match &fault {
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Break) => return Err(self.broken(number)),
            Some(Fault::Refuse(refuse)) => Err(refuse.refusal(action)),
            Some(Fault::Entries(places)) => self.apply_partly(action, &head, body, places, number).await,
            _ => self.apply(action, &head, body, number).await,
        };
        match fault {
            Some(Fault::HangAfter) => return std::future::pending().await,
            Some(Fault::BreakAfter) => return Err(self.broken(number)),
            Some(Fault::Late(time)) => sleep(time).await,
            _ => {}
        }
        let outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(refusal) => Outcome::Refused(refusal.status, refusal.code.to_owned()),
        };
        self.lock().calls.end(number, outcome);
        let skew = if let Some(Fault::Refuse(refuse)) = fault { refuse.skew() } else { Duration::ZERO };
        Ok(self.respond(&answer, number, skew))
    }

    fn respond(&self, answer: &Answer, number: u64, skew: Duration) -> Response<Bytes> {
        let date = self.lock().state.wall(Instant::now()) + skew;
        protocol::respond(answer, number, date)
    }

    fn broken(&self, number: u64) -> Broken {
        self.lock().calls.end(number, Outcome::Broken);
        Broken
    }

    async fn apply_partly(
        &self,
        action: Action,
        head: &Head,
        mut body: Value,
        places: &[usize],
        number: u64,
    ) -> Answer {
        let failed = protocol::withhold(&mut body, places);
        let nothing_left = !failed.is_empty() && body["Entries"].as_array().is_none_or(|entries| entries.is_empty());
        let answer = if nothing_left { json!({}) } else { self.apply(action, head, body, number).await? };
        Ok(protocol::with_failed(answer, &failed))
    }

    async fn apply(&self, action: Action, head: &Head, body: Value, number: u64) -> Answer {
        let mut trace = Trace::new();
        let answer = match head.check() {
            Err(refusal) => Err(refusal),
            Ok(()) if action == Action::ReceiveMessage => self.receive(body, &mut trace).await,
            Ok(()) => self.act(action, &head.base, body, &mut trace),
        };
        self.lock().calls.applied(number, Instant::now(), trace);
        answer
    }

    /// Every action but receive, which waits.
    fn act(&self, action: Action, base: &str, body: Value, trace: &mut Trace) -> Answer {
        let state = &mut self.lock().state;
        let now = Instant::now();
        let answer = match action {
            Action::CreateQueue => state.create(&parse(body)?, base, now),
            Action::DeleteQueue => state.delete(&parse(body)?, now),
            Action::GetQueueAttributes => state.attributes(&parse(body)?, now),
            Action::GetQueueUrl => state.url(&parse(body)?, base),
            Action::ListDeadLetterSourceQueues => state.sources(&parse(body)?, base, now),
            Action::ListQueues => Ok(state.list(&parse(body)?, base)),
            Action::PurgeQueue => state.purge(&parse(body)?, now),
            Action::SetQueueAttributes => state.set(&parse(body)?, now),
            Action::SendMessage => {
                let asked: request::SendMessage = parse(body)?;
                state.send(&asked.queue_url, &asked.message, now, trace)
            }
            Action::SendMessageBatch => state.send_batch(&parse(body)?, now, trace),
            Action::DeleteMessage => {
                let asked: request::DeleteMessage = parse(body)?;
                state.delete_message(&asked.queue_url, &asked.message, now, trace)
            }
            Action::DeleteMessageBatch => state.delete_batch(&parse(body)?, now, trace),
            Action::ChangeMessageVisibility => {
                let asked: request::ChangeMessageVisibility = parse(body)?;
                state.change(&asked.queue_url, &asked.message, now, trace)
            }
            Action::ChangeMessageVisibilityBatch => state.change_batch(&parse(body)?, now, trace),
            // It waits, and so is `receive`'s.
            Action::ReceiveMessage => Err(Refusal::internal()),
        };
        self.0.changed.notify_waiters();
        answer
    }

    async fn receive(&self, body: Value, trace: &mut Trace) -> Answer {
        let asked: request::ReceiveMessage = parse(body)?;
        let now = Instant::now();
        let deadline = now + self.lock().state.wait(&asked, now)?;
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // What changes after the look below shall not be missed.
            changed.as_mut().enable();
            let now = Instant::now();
            let (deliveries, next) = self.look(&asked, now, trace)?;
            if !deliveries.is_empty() {
                return Ok(json!({ "Messages": deliveries }));
            }
            if now >= deadline {
                return Ok(json!({}));
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// What there is to receive now, and when to look again.
    fn look(
        &self,
        asked: &request::ReceiveMessage,
        now: Instant,
        trace: &mut Trace,
    ) -> std::result::Result<(Vec<Value>, Option<Instant>), Refusal> {
        let state = &mut self.lock().state;
        let (deliveries, moved) = state.receive(asked, now, trace)?;
        if moved {
            // Somebody may wait at the dead-letter queue.
            self.0.changed.notify_waiters();
        }
        let next = state.queue(&asked.queue_url, now)?.next_change();
        Ok((deliveries, next))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
