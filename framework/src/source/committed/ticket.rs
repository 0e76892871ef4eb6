//! The receipt of a committed job: its source's own, with the end written, and told to whoever is to know, before the
//! source is told.
//!
//! Nothing is written once the lease has ended by the worker's own clock, less a margin: somebody else may have the
//! job by then. What is written all the same, since it was on its way, loses the race for the end or wins it; either
//! way there is one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Shared;
use super::errand::Errand;
use super::look::Turn;
use super::outlets::Outlet;
use super::telling::{self, Telling};
use crate::error::{Error, Result};
use crate::job::{Event, Timings};
use crate::source::ends::{End, Output};
use crate::source::notice::notice;
use crate::source::{CallOff, Delivery, Extended, Receipt, Watch, margin};
use crate::verdict::Verdict;
use crate::witness::crash;
use crate::witness::marker::Marker;

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
    /// Puts its result into the store, on the runtime of the jobs: a large one must not be in the way of leases.
    keeping: Errand<()>,
    /// The end that stands, once that is known.
    standing: OnceLock<Standing>,
    /// Who is to know of it beside the source.
    outlet: Outlet,
    /// Tells them, there too. What the source is told then instead of the end, if anything is left to tell.
    telling: Errand<Option<Verdict>>,
    seat: Option<Arc<Seat>>,
}

/// How the job has ended, once and for all.
struct Standing {
    end: End,
    /// What the source is told of it.
    verdict: Verdict,
    /// This worker has written it, and so nobody else has told it yet.
    is_new: bool,
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
        let outlet = shared.outlets.of(&delivery.meta);
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
            keeping: Errand::default(),
            standing: OnceLock::new(),
            outlet,
            telling: Errand::default(),
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

    /// For a job that has ended, and is not run again.
    pub(super) fn ended(self, end: End, verdict: &Verdict) -> Self {
        let standing = OnceLock::from(Standing { end, verdict: verdict.clone(), is_new: false });
        Ticket { standing, ..self }
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
        let left_to_tell = self.tell(standing).await?;
        self.receipt.settle(left_to_tell.unwrap_or(&standing.verdict)).await
    }

    /// Ends the job in the store, unless it has ended: how it stands.
    async fn commit(&self, verdict: &Verdict) -> Result<Standing> {
        let late =
            |_| Err(Error::transient(format_args!("the store did not take the end of job `{}` in time", self.id)));
        timeout(self.left()?, self.write(verdict)).await.unwrap_or_else(late)
    }

    async fn write(&self, verdict: &Verdict) -> Result<Standing> {
        let ends = &self.shared.ends;
        let end = self.end.get_or_init(|| match verdict {
            Verdict::Done(result) => End::done(self.attempt, self.gives, result.len()),
            Verdict::Reject { why } => End::failed(why),
            Verdict::Retry { .. } => End::failed(&Error::failed("given back")),
        });
        if let (Verdict::Done(result), Some(output), false) = (verdict, &end.result, self.keeping.is_done()) {
            self.keep(output, result).await?;
            self.clear().await;
        }
        // The result may have taken long.
        self.left()?;
        if let Some(other) = ends.end(&self.id, self.attempt, end).await? {
            debug!(job = self.id, "the job had ended already; its first end stands");
            let verdict = ends.verdict(&self.id, &other).await?;
            return Ok(Standing { end: other, verdict, is_new: false });
        }
        Ok(Standing { end: end.clone(), verdict: verdict.clone(), is_new: true })
    }

    /// Tells the end to whoever is to know beside the source: what that is told instead, if anything is left to tell.
    async fn tell(&self, standing: &Standing) -> Result<Option<&Verdict>> {
        if self.outlet.is_nobody() {
            return Ok(None);
        }
        let begin = || {
            let left = self.left()?;
            let telling = self.telling_of(standing)?;
            // Whoever gets the job next has a whole lease for it.
            let fits = left >= (self.length / 2).min(telling::WITHIN);
            let id = self.id.clone();
            Ok(async move {
                let late = |_| Err(Error::transient(format_args!("the end of job `{id}` could not be told in time")));
                match fits {
                    true => timeout(left, telling.run(left)).await.unwrap_or_else(late),
                    false => Ok(Some(telling.not_now())),
                }
            })
        };
        let told = self.telling.run(self.shared.jobs.get(), begin).await?;
        Ok(told.as_ref())
    }

    fn telling_of(&self, standing: &Standing) -> Result<Telling> {
        let result = match &standing.verdict {
            Verdict::Done(result) => Some(result),
            _ => None,
        };
        Ok(Telling {
            shared: self.shared.clone(),
            id: self.id.clone(),
            attempt: self.attempt,
            to: self.outlet.clone(),
            document: notice(&self.id, &standing.end, result)?,
            is_new: standing.is_new,
        })
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
        let begin = || {
            let (shared, id, left) = (self.shared.clone(), self.id.clone(), self.left()?);
            let (output, result) = (output.clone(), result.clone());
            Ok(async move {
                let late =
                    |_| Err(Error::transient(format_args!("the store did not take the result of job `{id}` in time")));
                timeout(left, shared.ends.keep(&id, &output, result)).await.unwrap_or_else(late)
            })
        };
        self.keeping.run(self.shared.jobs.get(), begin).await.copied()
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

    fn overtaken(&self) {
        self.set_until(Instant::now());
        self.receipt.overtaken();
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
