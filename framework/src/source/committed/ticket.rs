//! The receipt of a committed job: its source's own, with the end written before the source is told.
//!
//! Nothing is written once the lease has ended by the worker's own clock, less a margin: somebody else may have the
//! job by then. What is written all the same, since it was on its way, loses the race for the end or wins it; either
//! way there is one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Shared;
use super::look::Turn;
use crate::error::{Context, Error, Result};
use crate::job::{Event, Timings};
use crate::source::ends::{End, Output};
use crate::source::{CallOff, Delivery, Extended, Receipt, Watch, margin};
use crate::verdict::Verdict;
use crate::witness::crash;
use crate::witness::marker::Marker;

/// At most one task. Dropped, it ends. An async mutex, held while it is waited for.
type Keeping = tokio::sync::Mutex<JoinSet<Result<()>>>;

pub(super) struct Ticket {
    shared: Arc<Shared>,
    /// The source's.
    receipt: Arc<dyn Receipt>,
    id: String,
    attempt: u32,
    gives: &'static str,
    /// How often it was in a crash, as far as the store knows.
    crashes: usize,
    /// When the lease ends, and its length at the first. A mutex, since it changes through a shared receipt.
    until: Mutex<Instant>,
    length: Duration,
    /// The end that this worker writes, made at its first try and the same at each.
    end: OnceLock<End>,
    /// Puts its result into the store, on the runtime of the jobs: a large one must not be in the way of leases. A try
    /// to settle that is cut off for its slowness leaves it going.
    keeping: Keeping,
    /// The result is in the store.
    kept: OnceLock<()>,
    /// What the source is to be told: the verdict of the end that stands.
    standing: OnceLock<Verdict>,
    seat: Option<Arc<Seat>>,
}

/// A job's place in the worker, from its delivery until the last of it is dropped.
struct Seat {
    id: String,
    /// `None` where no account is kept.
    marker: Option<Arc<Marker>>,
    /// Given up last: whoever comes next finds this job gone.
    _turn: Turn,
}

impl Ticket {
    pub(super) fn of(shared: Arc<Shared>, delivery: &Delivery, crashes: usize) -> Self {
        Ticket {
            gives: shared.gives(delivery.meta.route.as_deref()),
            shared,
            receipt: delivery.receipt.clone(),
            id: delivery.id.clone(),
            attempt: delivery.attempt,
            crashes,
            until: Mutex::new(delivery.until),
            length: delivery.until.saturating_duration_since(Instant::now()),
            end: OnceLock::new(),
            keeping: Keeping::default(),
            kept: OnceLock::new(),
            standing: OnceLock::new(),
            seat: None,
        }
    }

    /// For a job that the worker gets: until it is dropped, it is there.
    pub(super) fn seated(mut self, turn: Turn, until: Instant) -> Self {
        let marker = self.shared.marker.get().cloned();
        self.seat = Some(Arc::new(Seat::take(self.id.clone(), marker, turn)));
        self.length = until.saturating_duration_since(Instant::now());
        self.until = Mutex::new(until);
        self
    }

    async fn settle_as(&self, verdict: &Verdict) -> Result<()> {
        if matches!(verdict, Verdict::Retry { .. }) {
            return self.receipt.settle(verdict).await;
        }
        let standing = match self.standing.get() {
            Some(standing) => standing,
            None => {
                let committed = self.commit(verdict).await?;
                self.standing.get_or_init(|| committed)
            }
        };
        self.receipt.settle(standing).await
    }

    /// Ends the job in the store, unless it has ended: what its source is to be told.
    async fn commit(&self, verdict: &Verdict) -> Result<Verdict> {
        let late =
            |_| Err(Error::transient(format_args!("the store did not take the end of job `{}` in time", self.id)));
        timeout(self.left()?, self.write(verdict)).await.unwrap_or_else(late)
    }

    async fn write(&self, verdict: &Verdict) -> Result<Verdict> {
        let ends = &self.shared.ends;
        let end = self.end.get_or_init(|| match verdict {
            Verdict::Done(result) => End::done(self.attempt, self.gives, result.len()),
            Verdict::Reject { why } => End::failed(why),
            Verdict::Retry { .. } => End::failed(&Error::failed("given back")),
        });
        if let (Verdict::Done(result), Some(output), None) = (verdict, &end.result, self.kept.get()) {
            self.keep(output, result).await?;
            self.kept.get_or_init(|| ());
            self.clear().await;
        }
        // The result may have taken long.
        self.left()?;
        if let Some(other) = ends.end(&self.id, self.attempt, end).await? {
            debug!(job = self.id, "the job had ended already; its first end stands");
            return ends.verdict(&self.id, &other).await;
        }
        Ok(verdict.clone())
    }

    /// Nothing is held any more against a job that ran through. Before its end, so that a worker lost in between leaves
    /// nothing that nobody would remove.
    async fn clear(&self) {
        if self.crashes == 0 {
            return;
        }
        if let Err(why) = crash::forget(&self.shared.ends, &self.id).await {
            debug!(job = self.id, error = %why, "the job's crashes are left in the store");
        }
    }

    async fn keep(&self, output: &Output, result: &Bytes) -> Result<()> {
        let mut keeping = self.keeping.lock().await;
        if keeping.is_empty() {
            let (shared, id, left) = (self.shared.clone(), self.id.clone(), self.left()?);
            let (output, result) = (output.clone(), result.clone());
            let keep = async move {
                let late =
                    |_| Err(Error::transient(format_args!("the store did not take the result of job `{id}` in time")));
                timeout(left, shared.ends.keep(&id, &output, result)).await.unwrap_or_else(late)
            };
            match self.shared.jobs.get() {
                Some(jobs) => keeping.spawn_on(keep, jobs),
                None => keeping.spawn(keep),
            };
        }
        match keeping.join_next().await {
            Some(kept) => kept.context("keeping a result")?,
            None => Err(Error::failed("a result was not kept")),
        }
    }

    /// How long the lease lasts for whatever others could see.
    fn left(&self) -> Result<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now()).saturating_sub(margin(self.length));
        match left.is_zero() {
            true => Err(Error::invalid(format_args!("the lease of job `{}` has ended; nothing was written", self.id))),
            false => Ok(left),
        }
    }

    fn set_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[deny(clippy::missing_trait_methods)]
impl Receipt for Ticket {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(async move {
            let extended = self.receipt.extend(by).await;
            match &extended {
                Ok(Extended::Until(until) | Extended::Last { until, .. }) => self.set_until(*until),
                Ok(Extended::Lost | Extended::Cancelled) => self.set_until(Instant::now()),
                Err(_) => {}
            }
            extended
        })
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.settle_as(verdict))
    }

    fn begun(&self, call_off: &CallOff) {
        self.receipt.begun(call_off);
    }

    fn timings(&self) -> Option<Arc<Timings>> {
        self.receipt.timings()
    }

    fn emit(&self, event: Event) {
        self.receipt.emit(event);
    }

    fn watch(&self) -> Option<Arc<dyn Watch>> {
        let seat = self.seat.clone().filter(|seat| seat.marker.is_some())?;
        Some(seat)
    }
}

impl Seat {
    fn take(id: String, marker: Option<Arc<Marker>>, turn: Turn) -> Self {
        let seat = Seat { id, marker, _turn: turn };
        seat.note(Marker::came);
        seat
    }

    fn note(&self, what: fn(&Marker, &str)) {
        if let Some(marker) = &self.marker {
            what(marker, &self.id);
        }
    }
}

impl Watch for Seat {
    fn works(&self) {
        self.note(Marker::works);
    }

    fn rests(&self) {
        self.note(Marker::rests);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.note(Marker::left);
    }
}
