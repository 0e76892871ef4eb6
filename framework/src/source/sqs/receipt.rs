//! A message that is held: kept for as long as its job lives, and what becomes of it then.
//!
//! By its own clock it knows when the message may be somebody else's; from then on it asks for nothing and tells
//! nothing. Once it is settled it is over, so that nothing extends what was given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::warn;

use super::batch::Answer;
use super::broker::{CALL_WITHIN, Change};
use super::desk::Desk;
use super::letter::{self, Original};
use crate::error::{Error, Fault, Result};
use crate::source::limit;
use crate::source::{Extended, Receipt};
use crate::verdict::Verdict;

/// A message is kept by a call that takes no longer, so that it is over before the worker tries again.
const SHORTEST: Duration = Duration::from_secs(2);

pub(super) struct Ticket {
    desk: Arc<Desk>,
    handle: String,
    id: String,
    attempt: u32,
    original: Original,
    /// Before it was asked for.
    received: Instant,
    /// When it may be somebody else's. A mutex, since receipts are shared; it is never held over an await.
    until: Mutex<Instant>,
    /// Its dead letter is sent; what is left is to delete it.
    buried: AtomicBool,
}

impl Ticket {
    pub(super) fn new(
        desk: Arc<Desk>,
        handle: String,
        id: String,
        attempt: u32,
        original: Original,
        received: Instant,
    ) -> Self {
        let until = Mutex::new(received + desk.settings.lease);
        Ticket { desk, handle, id, attempt, original, received, until, buried: AtomicBool::new(false) }
    }

    pub(super) fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    async fn extend_by(&self, by: Duration) -> Result<Extended> {
        let now = Instant::now();
        let extension = limit::extension(self.received, now, by).filter(|_| now < self.until());
        let Some(limit::Extension { seconds, stop }) = extension else {
            return Ok(Extended::Lost);
        };
        let within = (by / 6).clamp(SHORTEST, CALL_WITHIN);
        match self.change(seconds, within).await? {
            Answer::Done => {
                let until = now + Duration::from_secs(seconds.into());
                self.set_until(until);
                Ok(stop.map_or(Extended::Until(until), |stop| Extended::Last { until, stop }))
            }
            Answer::Refused(why) if why.is_lost() => Ok(Extended::Lost),
            Answer::Refused(why) => Err(why.error("keeping the message")),
        }
    }

    async fn settle_as(&self, verdict: &Verdict) -> Result<()> {
        match verdict {
            Verdict::Done(_) => self.delete().await,
            Verdict::Retry { after, .. } => self.give_back(*after).await,
            Verdict::Reject { why } => {
                self.bury(why).await?;
                self.delete().await
            }
        }
    }

    async fn delete(&self) -> Result<()> {
        self.still_held()?;
        let answer = self.desk.deletes.add(self.handle.clone(), CALL_WITHIN).await?;
        self.over(answer, "deleting the message")
    }

    async fn give_back(&self, after: Duration) -> Result<()> {
        self.still_held()?;
        let seconds = limit::pause(self.received, Instant::now(), after);
        let answer = self.change(seconds, CALL_WITHIN).await?;
        self.over(answer, "giving the message back")
    }

    /// Sends the dead letter, once.
    async fn bury(&self, why: &Error) -> Result<()> {
        if self.buried.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.still_held()?;
        let (id, attempt) = (&self.id, self.attempt);
        let Some(graves) = &self.desk.graves else {
            warn!(job = id, attempt, error = %why, "a rejected job is dropped: there is no dead-letter queue");
            return Ok(());
        };
        let objects = &self.desk.settings.objects;
        let sent = async {
            let letter = letter::dead(&self.original, id, attempt, why, graves.is_fifo(), objects).await?;
            graves.send(letter).await
        };
        // Tried again whoever has to set it right: invalid would mean that the lease is lost.
        sent.await.map_err(|why| why.with_fault(Fault::Transient).context("sending a dead letter"))?;
        self.buried.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn change(&self, seconds: u32, within: Duration) -> Result<Answer> {
        self.desk.changes.add(Change { handle: self.handle.clone(), seconds }, within).await
    }

    fn still_held(&self) -> Result<()> {
        match Instant::now() < self.until() {
            true => Ok(()),
            false => Err(self.lost()),
        }
    }

    fn over(&self, answer: Answer, doing: &str) -> Result<()> {
        match answer {
            Answer::Done => {
                self.set_until(Instant::now());
                Ok(())
            }
            Answer::Refused(why) if why.is_lost() => Err(self.lost()),
            Answer::Refused(why) => Err(why.error(doing)),
        }
    }

    fn lost(&self) -> Error {
        let (id, message) = (&self.id, &self.original.message_id);
        Error::invalid(format_args!("the lease of job `{id}` (message {message}) has ended; it was not settled"))
    }
}

impl Receipt for Ticket {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(self.extend_by(by))
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.settle_as(verdict))
    }
}
