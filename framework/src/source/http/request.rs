//! One request as a job: its receipt, and its caller's wish.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outbox::Outbox;
use crate::error::Result;
use crate::job::{Event, Timings};
use crate::source::{CallOff, Extended, Receipt};
use crate::verdict::Verdict;

/// A request that waits for its verdict. The worker's thread and the server's share it, so what changes is behind
/// atomics and a mutex that is locked once or twice.
pub(super) struct Request {
    reply: Mutex<Option<oneshot::Sender<Verdict>>>,
    call_off: OnceLock<CallOff>,
    gone: AtomicBool,
    timings: Arc<Timings>,
    until: Instant,
    /// For what the job tells before its end, if somebody listens.
    outbox: Option<Arc<Outbox>>,
}

/// The caller's side of a request. Dropped before the answer, as when the connection ends, it calls the job off.
pub(super) struct Caller {
    request: Arc<Request>,
    answer: oneshot::Receiver<Verdict>,
    answered: bool,
}

impl Request {
    /// A request that keeps its lease until `until`.
    pub(super) fn new(until: Instant, outbox: Option<Arc<Outbox>>) -> (Arc<Self>, Caller) {
        let (reply, answer) = oneshot::channel();
        let request = Arc::new(Request {
            reply: Mutex::new(Some(reply)),
            call_off: OnceLock::new(),
            gone: AtomicBool::new(false),
            timings: Arc::default(),
            until,
            outbox,
        });
        (request.clone(), Caller { request, answer, answered: false })
    }
}

impl Receipt for Request {
    fn extend(&self, _: Duration) -> BoxFuture<'_, Result<Extended>> {
        let extended = match self.gone.load(Ordering::SeqCst) {
            true => Extended::Cancelled,
            false => Extended::Until(self.until),
        };
        Box::pin(std::future::ready(Ok(extended)))
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            // A caller who left this moment has nobody else's job.
            let _ = reply.send(verdict.clone());
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn begun(&self, call_off: &CallOff) {
        let call_off = self.call_off.get_or_init(|| call_off.clone());
        if self.gone.load(Ordering::SeqCst) {
            call_off.now();
        }
    }

    fn timings(&self) -> Option<Arc<Timings>> {
        Some(self.timings.clone())
    }

    fn emit(&self, event: Event) {
        if self.outbox.as_ref().is_some_and(|outbox| !outbox.push(event)) {
            // Whoever waits for the verdict learns that none comes, and calls the job off.
            drop(self.reply.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Caller {
    /// Waits for the verdict; `None` if the worker dropped the job, or did not answer by `until`.
    pub(super) async fn verdict(&mut self, until: Instant) -> Option<Verdict> {
        let verdict = tokio::time::timeout_at(until, &mut self.answer).await.ok()?.ok();
        self.answered = verdict.is_some();
        verdict
    }

    pub(super) fn timings(&self) -> &Timings {
        &self.request.timings
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // In this order, as `begun` looks in the other: one of the two sees both.
        self.request.gone.store(true, Ordering::SeqCst);
        if let Some(call_off) = self.request.call_off.get() {
            call_off.now();
        }
    }
}
