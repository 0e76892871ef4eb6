//! What is done with a delivery before it becomes a job: see how the job ended, if it has, and what is held against
//! it, and wait for its turn.
//!
//! Its lease is kept meanwhile. Jobs take their turns together; a suspect has its turn when no other job is there, and
//! until it has gone no other job has one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::Shared;
use super::ticket::Ticket;
use crate::error::{Error, Fault, Result};
use crate::source::ends::End;
use crate::source::{Delivery, Extended, Receipt, margin};
use crate::verdict::Verdict;
use crate::witness::crash::{self, Opinion};

/// How long the store may take to say what it knows of a job.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// When a job of which that could not be learned is delivered again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What became of a delivery.
pub(super) enum Looked {
    /// It is a job to be run. Boxed, since it is much larger than the others.
    Job(Box<Delivery>),
    /// It is not to be run here, and this is to be told.
    Over { id: String, receipt: Arc<dyn Receipt>, verdict: Verdict },
    /// Its lease was lost.
    Lost,
}

/// A turn at being in the worker; dropped, it is over.
pub(super) enum Turn {
    Together(#[allow(dead_code, reason = "its drop is what tells")] OwnedRwLockReadGuard<()>),
    Alone(#[allow(dead_code, reason = "its drop is what tells")] OwnedRwLockWriteGuard<()>),
}

/// What the store knows of a job.
enum Known {
    /// It has ended so, and this is what its source is told.
    Ended(End, Verdict),
    Open {
        crashes: usize,
        opinion: Opinion,
    },
}

pub(super) async fn look(shared: Arc<Shared>, delivery: Delivery) -> Looked {
    let id = delivery.id.clone();
    let receipt = delivery.receipt.clone();
    let mut lease = Lease::of(&delivery);
    let over = |receipt, verdict| Looked::Over { id: delivery.id.clone(), receipt, verdict };

    let within = lease.left().min(LOOK_WITHIN);
    let late = |_| Err(Error::transient("the store took too long to say what it knows of the job"));
    let known = timeout(within, known(&shared, &delivery)).await.unwrap_or_else(late);
    let (crashes, opinion) = match known {
        Ok(Known::Ended(end, verdict)) => {
            let ticket = Ticket::of(shared, &delivery, 0).ended(end, &verdict);
            return over(Arc::new(ticket), verdict);
        }
        Ok(Known::Open { crashes, opinion }) => (crashes, opinion),
        Err(why) => {
            debug!(job = id, error = %why, "cannot see whether the job has ended; it is not run now");
            return over(receipt, not_now(why));
        }
    };
    if opinion == Opinion::Poison {
        return match reject(&shared, &delivery).await {
            Ok(verdict) => over(Arc::new(Ticket::of(shared, &delivery, crashes)), verdict),
            Err(why) => over(receipt, not_now(why)),
        };
    }
    if let Err(why) = shared.outlets.check(&delivery.meta) {
        warn!(job = id, error = %why, "the job is rejected");
        return over(Arc::new(Ticket::of(shared, &delivery, crashes)), Verdict::Reject { why });
    }
    let alone = opinion == Opinion::Suspect;
    if alone {
        info!(job = id, crashes, "the job was there when a worker crashed: it waits to run alone");
    }
    let mut alive = shared.alive.clone();
    let turn = tokio::select! {
        turn = turn(&shared, alone, &*receipt, &mut lease) => turn,
        // Nobody waits for it any more.
        _ = alive.changed() => return over(receipt, Verdict::give_back()),
    };
    let Some(turn) = turn else {
        warn!(job = id, "the lease was lost while the job waited for its turn");
        return Looked::Lost;
    };
    let ticket = Ticket::of(shared, &delivery, crashes).seated(turn, lease.until);
    Looked::Job(Box::new(Delivery { until: lease.until, receipt: Arc::new(ticket), ..delivery }))
}

fn not_now(why: Error) -> Verdict {
    match why.fault() {
        // A name that the store cannot take is the job's own fault.
        Fault::Invalid => Verdict::Reject { why },
        _ => Verdict::Retry { after: LOOK_AGAIN, why: Some(why) },
    }
}

async fn known(shared: &Shared, delivery: &Delivery) -> Result<Known> {
    let id = &delivery.id;
    if let Some(end) = shared.ends.ended(id).await? {
        let verdict = shared.ends.verdict(id, &end).await?;
        return Ok(Known::Ended(end, verdict));
    }
    // What was never delivered before was in no crash.
    if delivery.attempt <= 1 {
        return Ok(Known::Open { crashes: 0, opinion: Opinion::Innocent });
    }
    let crashes = crash::of(&shared.ends, id).await?;
    Ok(Known::Open { crashes: crashes.len(), opinion: crash::opinion(&crashes) })
}

async fn reject(shared: &Shared, delivery: &Delivery) -> Result<Verdict> {
    let crashes = crash::of(&shared.ends, &delivery.id).await?;
    let why = crash::reason(&crashes);
    warn!(job = delivery.id, error = %why, "the job is rejected");
    Ok(Verdict::Reject { why })
}

/// Waits for the job's turn and keeps its lease meanwhile; `None` if that is lost.
async fn turn(shared: &Shared, alone: bool, receipt: &dyn Receipt, lease: &mut Lease) -> Option<Turn> {
    let gate = shared.gate.clone();
    let mut turn: BoxFuture<Turn> = match alone {
        true => Box::pin(gate.write_owned().map(Turn::Alone)),
        false => Box::pin(gate.read_owned().map(Turn::Together)),
    };
    if let Some(turn) = (&mut turn).now_or_never() {
        return Some(turn);
    }
    loop {
        let renewal = Instant::now() + lease.left() / 3;
        tokio::select! {
            // The worker gets a whole lease, not what is left of one.
            turn = &mut turn => return lease.renew(receipt).await.then_some(turn),
            () = sleep_until(renewal) => if !lease.renew(receipt).await {
                return None;
            },
        }
    }
}

/// A lease while the worker does not keep it yet.
struct Lease {
    until: Instant,
    length: Duration,
}

impl Lease {
    fn of(delivery: &Delivery) -> Self {
        Lease { until: delivery.until, length: delivery.until.saturating_duration_since(Instant::now()) }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).saturating_sub(margin(self.length))
    }

    /// Whether the lease goes on. A renewal that fails is tried again while there is time.
    async fn renew(&mut self, receipt: &dyn Receipt) -> bool {
        match timeout(self.length / 6, receipt.extend(self.length)).await {
            Ok(Ok(Extended::Until(until) | Extended::Last { until, .. })) => self.until = until,
            Ok(Ok(Extended::Lost | Extended::Cancelled)) => return false,
            Ok(Err(_)) | Err(_) => {}
        }
        !self.left().is_zero()
    }
}
