//! The receipt of a deferred job: its queue's own, and what its caller may come and see.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::debug;

use super::envelope::Header;
use super::records::Work;
use super::registry::Registry;
use crate::error::{Error, Result};
use crate::job::{Event, Meta};
use crate::source::ends::End;
use crate::source::{CallOff, Delivery, Extended, Receipt};
use crate::verdict::Verdict;

/// How often progress is noted, and a cancellation noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the lease shall last while the end is written. A worker that is lost meanwhile keeps others waiting as long.
const TO_SETTLE: Duration = Duration::from_secs(10);

pub(super) struct Ticket {
    registry: Arc<Registry>,
    /// The queue's.
    receipt: Arc<dyn Receipt>,
    id: String,
    attempt: u32,
    gives: &'static str,
    progress: watch::Sender<f32>,
    /// Watches over the job while it runs. A mutex, because it is made and ended through a shared receipt.
    attendant: Mutex<Option<AbortHandle>>,
}

impl Ticket {
    /// The job that a delivery of the queue carries.
    pub(super) fn deliver(
        registry: Arc<Registry>,
        delivery: Delivery,
        header: Header,
        payload: Bytes,
        gives: &'static str,
    ) -> Delivery {
        let Delivery { attempt, until, receipt, .. } = delivery;
        let Header { id, route, content_type, trace, labels } = header;
        let meta = Meta { route, content_type, trace, labels, ..Meta::default() };
        let ticket = Ticket {
            registry,
            receipt,
            id: id.clone(),
            attempt,
            gives,
            progress: watch::channel(0.0).0,
            attendant: Mutex::default(),
        };
        Delivery { id, attempt, payload, until, meta, receipt: Arc::new(ticket) }
    }

    fn dismiss(&self) {
        let attendant = self.attendant.lock().unwrap_or_else(PoisonError::into_inner).take();
        attendant.inspect(AbortHandle::abort);
    }

    async fn settle_as(&self, verdict: &Verdict) -> Result<()> {
        self.dismiss();
        match verdict {
            Verdict::Retry { .. } => self.receipt.settle(verdict).await,
            Verdict::Done(result) => {
                self.keep().await?;
                let end = End::done(self.attempt, self.gives, result.len());
                if let Some(output) = &end.result {
                    self.registry.records.ends.keep(&self.id, output, result.clone()).await?;
                }
                self.end(end).await
            }
            Verdict::Reject { why } => {
                self.keep().await?;
                self.end(End::failed(why)).await
            }
        }
    }

    /// Whoever has lost the job to another must not end it, and whoever has it needs time to.
    async fn keep(&self) -> Result<()> {
        match self.receipt.extend(TO_SETTLE).await? {
            Extended::Until(_) | Extended::Last { .. } => Ok(()),
            Extended::Lost | Extended::Cancelled => {
                let id = &self.id;
                Err(Error::invalid(format_args!("the lease of job `{id}` has ended; it was not settled")))
            }
        }
    }

    async fn end(&self, end: End) -> Result<()> {
        if self.registry.records.ends.end(&self.id, self.attempt, &end).await?.is_some() {
            debug!(job = self.id, "the job had ended already; its first end stands");
        }
        self.registry.close(&self.id, &*self.receipt).await
    }
}

/// Notes the job's progress, and calls it off once it has ended elsewhere, as when it was cancelled.
async fn attend(
    registry: Arc<Registry>,
    id: String,
    attempt: u32,
    mut progress: watch::Receiver<f32>,
    call_off: CallOff,
) {
    let mut noted = None;
    loop {
        let work = Work { attempt, progress: *progress.borrow_and_update() };
        if noted != Some(work) {
            match registry.records.working(&id, work).await {
                Ok(()) => noted = Some(work),
                Err(why) => debug!(job = id, error = %why, "progress could not be noted"),
            }
        }
        match registry.records.ended(&id).await {
            Ok(Some(_)) => return call_off.now(),
            Ok(None) => {}
            Err(why) => debug!(job = id, error = %why, "cannot see whether the job was cancelled"),
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Receipt for Ticket {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        self.receipt.extend(by)
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.settle_as(verdict))
    }

    fn overtaken(&self) {
        self.receipt.overtaken();
    }

    fn begun(&self, call_off: &CallOff) {
        let progress = self.progress.subscribe();
        let attend = attend(self.registry.clone(), self.id.clone(), self.attempt, progress, call_off.clone());
        let attendant = tokio::spawn(attend).abort_handle();
        *self.attendant.lock().unwrap_or_else(PoisonError::into_inner) = Some(attendant);
    }

    /// Progress is noted; pieces of a result have nobody who listens.
    fn emit(&self, event: Event) {
        if let Event::Progress(progress) = event {
            self.progress.send_replace(progress);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.dismiss();
    }
}
