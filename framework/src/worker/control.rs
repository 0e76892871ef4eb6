//! The control loop: receives jobs while there is room, keeps their leases, settles them, and drains.
//!
//! It owns every receipt, so that what was lost is never settled and what is being settled is never extended, and
//! so that a drain can give back the lease of a job that does not stop. It runs on the control thread; jobs run on
//! the runtime that started the worker.

mod drain;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use super::intake::{Intake, Received};
use super::job::{Desk, Lease, Outcome, Routes, run};
use super::leases::{Due, Leases, State};
use super::report::Report;
use super::stop::Stop;
use crate::checkpoint::TakenOver;
use crate::config::Config;
use crate::error::{Error, Fault, Result};
use crate::job::{Job, Priority};
use crate::source::vitals::Pulse;
use crate::source::{AnySource, CallOff, Delivery, Extended, Receipt};
use crate::telemetry::{ExtensionOutcome, SourceMeter};
use crate::verdict::{Verdict, judge};

/// How long a job that is handed over may take to write down how far it is.
pub(crate) const WIND_UP: Duration = Duration::from_secs(60);
/// One attempt to tell a verdict.
const SETTLE_ATTEMPT: Duration = Duration::from_secs(10);

/// The part of the jobs in flight that is kept free for a source above others: one in so many.
const SHARE: usize = 4;

pub(super) struct Control {
    /// Those of the highest priority first.
    sources: Vec<Intake>,
    meters: Vec<SourceMeter>,
    desk: Arc<Desk>,
    jobs: Handle,
    in_flight: usize,
    grace: Duration,
    once: bool,
    pulse: Arc<Pulse>,

    leases: Leases,
    outcomes: UnboundedReceiver<Outcome>,
    called_off: UnboundedReceiver<u64>,
    /// Of the job that has begun last; sources that can call jobs off keep a clone.
    call_off: CallOff,
    receiving: FuturesUnordered<BoxFuture<'static, Received>>,
    renewing: FuturesUnordered<BoxFuture<'static, (u64, Result<Extended>)>>,
    settling: FuturesUnordered<BoxFuture<'static, (u64, Verdict, Result<()>)>>,
    /// Sources that give back what they took.
    closing: FuturesUnordered<BoxFuture<'static, ()>>,
    report: Report,
    failure: Option<Error>,
}

/// How a run ended.
pub(super) struct End {
    pub(super) report: Report,
    pub(super) failure: Option<Error>,
}

impl Control {
    pub(super) fn new(
        mut sources: Vec<(Priority, Box<dyn AnySource>)>,
        routes: Routes,
        jobs: Handle,
        in_flight: usize,
        config: &Config,
        once: bool,
        pulse: Arc<Pulse>,
    ) -> Self {
        let (to_outcomes, outcomes) = unbounded_channel();
        let (to_called_off, called_off) = unbounded_channel();
        let source_count = sources.len();
        sources.sort_by_key(|(priority, _)| *priority);
        Control {
            meters: sources.iter().map(|(_, source)| SourceMeter::new(source.name())).collect(),
            sources: sources.into_iter().map(|(priority, source)| Intake::new(priority, source)).collect(),
            desk: Arc::new(Desk { routes, max_attempts: config.max_attempts, outcomes: to_outcomes }),
            jobs,
            in_flight: in_flight.max(source_count),
            grace: config.grace,
            once,
            pulse,
            leases: Leases::new(),
            outcomes,
            called_off,
            call_off: CallOff { lease: 0, to_worker: to_called_off },
            receiving: FuturesUnordered::new(),
            renewing: FuturesUnordered::new(),
            settling: FuturesUnordered::new(),
            closing: FuturesUnordered::new(),
            report: Report::default(),
            failure: None,
        }
    }

    /// Serves until the sources end, a signal to stop, the worker's future is dropped, or a fault of the node; then
    /// drains.
    pub(super) async fn run(mut self, mut stop: Stop, dropped: impl Future<Output = ()>) -> End {
        let mut dropped = pin!(dropped);
        while !self.is_done() {
            self.receive_more();
            tokio::select! {
                () = self.step() => {}
                () = stop.told(1) => break,
                () = &mut dropped => break,
            }
        }
        self.drain(stop).await
    }

    fn is_done(&self) -> bool {
        let ended = self.sources.iter().all(Intake::has_ended);
        self.failure.is_some() || (ended && self.leases.len() == 0)
    }

    /// Handles whatever happens next. Cancel safe: each event is taken and handled without an await between.
    async fn step(&mut self) {
        let due = self.leases.next_due();
        let renewal = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(outcome) = self.outcomes.recv() => {
                self.ended(outcome);
                // Many jobs of one batch end together.
                while let Ok(outcome) = self.outcomes.try_recv() {
                    self.ended(outcome);
                }
            }
            Some(number) = self.called_off.recv() => self.call_off(number),
            Some((number, verdict, result)) = self.settling.next() => self.settled(number, &verdict, result),
            Some((number, result)) = self.renewing.next() => self.renewed(number, result),
            Some(received) = self.receiving.next() => self.received(received),
            Some(()) = self.closing.next() => {}
            () = renewal => self.renew_due(),
        }
    }

    /// Asks idle sources for as many jobs as there is room for, those of the highest priority first.
    fn receive_more(&mut self) {
        for index in 0..self.sources.len() {
            let max = self.share(index);
            if max == 0 {
                self.recall_lower(index);
            } else if let Some(receive) = self.sources[index].receive(index, max, self.pulse.vitals()) {
                self.receiving.push(receive);
            }
        }
    }

    /// What a source may be asked for: not what is kept free for higher ones, nor one job for each lower one that has
    /// none; and a part only, if there are lower ones. For one job there is always room, once there is any.
    fn share(&self, index: usize) -> usize {
        let this = &self.sources[index];
        let part = self.in_flight.div_ceil(SHARE);
        let kept = |source: &Intake| part.saturating_sub(source.held + source.asked());
        let others = || self.sources.iter().filter(|source| !source.has_ended());
        let for_higher: usize = others().filter(|source| source.priority < this.priority).map(kept).sum();
        let lower = || others().filter(|source| source.priority > this.priority);
        let for_lower = lower().filter(|source| source.has_none()).count();
        let equals = others().filter(|source| source.priority == this.priority && source.is_idle()).count();

        let room = self.room();
        let divided = room.saturating_sub(for_higher + for_lower).div_ceil(equals.max(1));
        let most = if lower().next().is_some() { part } else { room };
        let least = usize::from(this.has_none()).min(room);
        divided.min(most).max(least)
    }

    /// Jobs that may still be asked for.
    fn room(&self) -> usize {
        let asked: usize = self.sources.iter().map(Intake::asked).sum();
        self.in_flight.saturating_sub(self.leases.len() + asked)
    }

    /// A source that finds no room, since lower ones were asked for jobs that they do not have: they are asked anew, for
    /// what it leaves.
    fn recall_lower(&mut self, index: usize) {
        let priority = self.sources[index].priority;
        if self.sources[index].is_idle() {
            let lower = self.sources.iter_mut().filter(|source| source.priority > priority);
            lower.filter(|source| source.held + source.asked() > 1).for_each(Intake::recall);
        }
    }

    fn received(&mut self, received: Received) {
        let source = &mut self.sources[received.source];
        source.returns(received.adapter);
        let Some(result) = received.result else {
            return;
        };
        match result {
            Ok(deliveries) => {
                let ended = source.succeeded(deliveries.is_empty());
                self.closing.extend(ended.map(closed));
                for delivery in deliveries {
                    self.begin(received.source, delivery);
                }
            }
            Err(why) if self.once || why.fault() == Fault::Fatal => {
                let name = source.name;
                self.failure.get_or_insert(why.context(format_args!("receiving from {name}")));
            }
            Err(why) => source.failed(&why),
        }
    }

    fn begin(&mut self, source: usize, delivery: Delivery) {
        let Delivery { id, attempt, payload, until, mut meta, receipt } = delivery;
        meta.priority = meta.priority.max(self.sources[source].priority);
        let span = info_span!("job", id = %id, source = self.sources[source].name, attempt);
        let job = Job::delivered(id.into(), attempt, meta, Some(receipt.clone()));
        let number = self.leases.enter(Instant::now(), source, until, receipt.clone(), job.clone());
        self.call_off.lease = number;
        receipt.begun(&self.call_off);
        let walk = run(job, payload, Lease::new(number, self.desk.clone()));
        let task = self.jobs.spawn(walk.instrument(span)).abort_handle();
        if let Some(held) = self.leases.get(number) {
            held.task = Some(task);
        }
        self.meters[source].in_flight.increment(1.0);
        self.sources[source].held += 1;
    }

    /// A job has ended, or was dropped.
    fn ended(&mut self, outcome: Outcome) {
        if let Some(why) = outcome.fatal {
            self.failure.get_or_insert(why);
        }
        let Some(held) = self.leases.get(outcome.lease) else {
            return;
        };
        held.task = None;
        if let Verdict::Retry { why: Some(why), .. } = &outcome.verdict
            && why.find::<TakenOver>().is_some()
        {
            return self.overtaken(outcome.lease);
        }
        let verdict = match outcome.verdict {
            Verdict::Done(result) => Verdict::Done(result),
            _ if held.handed_over => Verdict::give_back(),
            verdict => verdict,
        };
        match &mut held.state {
            State::Working => self.settle(outcome.lease, verdict),
            State::Renewing(ended) => *ended = Some(verdict),
            State::Settling => {}
            State::Lost => self.forget(outcome.lease),
        }
    }

    /// Another worker has the job's states, so it is not for this one to say anything of it.
    fn overtaken(&mut self, number: u64) {
        if let Some(held) = self.leases.get(number) {
            held.job.may_write_until(Instant::now());
            held.receipt.overtaken();
            self.report.lost += 1;
        }
        self.forget(number);
    }

    fn settle(&mut self, number: u64, verdict: Verdict) {
        self.leases.forget_renewal(number);
        let Some(held) = self.leases.get(number) else {
            return;
        };
        held.state = State::Settling;
        let receipt = held.receipt.clone();
        let within = held.time_to_tell(Instant::now());
        let mut telling = Box::pin(async move {
            let told = timeout(within, tell(&*receipt, &verdict)).await;
            let told = told.unwrap_or_else(|_| Err(Error::transient("the source did not answer in time")));
            (number, verdict, told)
        });
        // A source that is at hand answers at once.
        match (&mut telling).now_or_never() {
            Some((number, verdict, told)) => self.settled(number, &verdict, told),
            None => self.settling.push(telling),
        }
    }

    fn settled(&mut self, number: u64, verdict: &Verdict, result: Result<()>) {
        let Some(held) = self.leases.get(number) else {
            return;
        };
        let meter = &self.meters[held.source];
        match result {
            Ok(()) => {
                meter.settled(verdict, held.job.received().elapsed());
                self.report.count(verdict);
            }
            Err(why) => {
                let (job, verdict) = (held.job.id(), verdict.as_str());
                warn!(job, verdict, error = %why, "a verdict could not be told; the job will be delivered again");
                meter.settle_failures.increment(1);
                self.report.lost += 1;
            }
        }
        // A job that a drain gave back may still be at work.
        if held.task.is_none() {
            self.forget(number);
        } else {
            held.state = State::Lost;
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(held) = self.leases.remove(number) {
            self.meters[held.source].in_flight.decrement(1.0);
            self.sources[held.source].held -= 1;
        }
    }

    fn renew_due(&mut self) {
        while let Some(due) = self.leases.take_due(Instant::now()) {
            let (number, within, length) = match due {
                Due::Renewal { number, within, length } => (number, within, length),
                Due::Stop(number) => {
                    self.stop(number);
                    continue;
                }
            };
            let Some(held) = self.leases.get(number) else {
                continue;
            };
            let receipt = held.receipt.clone();
            self.renewing.push(Box::pin(async move {
                let extended = timeout(within, receipt.extend(length)).await;
                let late = |_| Err(Error::transient("the source did not answer in time"));
                (number, extended.unwrap_or_else(late))
            }));
        }
    }

    fn renewed(&mut self, number: u64, result: Result<Extended>) {
        let Some(held) = self.leases.get(number) else {
            return;
        };
        let source = held.source;
        let verdict = match std::mem::replace(&mut held.state, State::Working) {
            State::Renewing(verdict) => verdict,
            other => {
                held.state = other;
                return;
            }
        };
        let now = Instant::now();
        let (outcome, kept) = match &result {
            Ok(Extended::Until(until)) => {
                let grows = self.leases.renewed(now, number, *until);
                (ExtensionOutcome::Kept, grows || verdict.is_some())
            }
            Ok(Extended::Last { until, stop }) => {
                let time = self.leases.renewed_for_good(now, number, *until, *stop);
                (ExtensionOutcome::Kept, time || verdict.is_some())
            }
            Ok(Extended::Lost) => (ExtensionOutcome::Lost, false),
            Ok(Extended::Cancelled) => (ExtensionOutcome::Cancelled, false),
            Err(_) => (ExtensionOutcome::Failed, verdict.is_some() || self.leases.not_renewed(now, number)),
        };
        self.meters[source].extended(outcome);
        match (kept, verdict) {
            (true, Some(verdict)) => self.settle(number, verdict),
            (true, None) => {}
            (false, ended) => self.lose(number, ended.is_some(), &result),
        }
    }

    /// The source lets nobody hold the job for longer: it is handed over if its progress is kept, and else it ends, with
    /// time left to say so.
    fn stop(&mut self, number: u64) {
        // It may have ended this moment.
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.ended(outcome);
        }
        let Some(held) = self.leases.get(number).filter(|held| matches!(held.state, State::Working)) else {
            return;
        };
        held.job.cancel();
        if held.job.can_be_handed_over() && !held.handed_over {
            held.handed_over = true;
            info!(job = held.job.id(), "its source lets no worker hold the job for longer: it is handed over");
            self.leases.stop_after(number, Instant::now(), WIND_UP);
            return;
        }
        if let Some(task) = &held.task {
            task.abort();
        }
        if held.handed_over {
            warn!(job = held.job.id(), "the job did not end within {WIND_UP:?}; it is handed over as it is");
            return self.settle(number, Verdict::give_back());
        }
        let (stage, minutes) = (held.job.stage(), held.job.received().elapsed().as_secs() / 60);
        let why = Error::invalid(format_args!(
            "still in stage `{stage}` after {} h {} min, and its source lets no worker hold a job for longer",
            minutes / 60,
            minutes % 60,
        ));
        warn!(job = held.job.id(), stage, error = %why, "job stopped");
        let verdict = judge(Err(why), held.job.id(), held.job.attempt(), self.desk.max_attempts);
        self.settle(number, verdict);
    }

    /// The source has called the job off.
    fn call_off(&mut self, number: u64) {
        let Some(held) = self.leases.get(number) else {
            return;
        };
        let job_ended = match &held.state {
            State::Working => false,
            State::Renewing(verdict) => verdict.is_some(),
            State::Settling | State::Lost => return,
        };
        self.meters[held.source].extended(ExtensionOutcome::Cancelled);
        self.lose(number, job_ended, &Ok(Extended::Cancelled));
    }

    /// The lease is gone: the job stops and nothing is settled.
    fn lose(&mut self, number: u64, job_ended: bool, result: &Result<Extended>) {
        let Some(held) = self.leases.get(number) else {
            return;
        };
        let job = held.job.id();
        match result {
            Ok(Extended::Cancelled) => debug!(job, "job was called off"),
            Ok(_) => warn!(job, stage = held.job.stage(), "lease lost, dropping the job"),
            Err(why) => {
                warn!(job, stage = held.job.stage(), error = %why, "lease could not be renewed, dropping the job")
            }
        }
        self.report.lost += 1;
        held.state = State::Lost;
        held.job.may_write_until(Instant::now());
        held.job.cancel();
        if let Some(task) = &held.task {
            task.abort();
        }
        self.leases.forget_renewal(number);
        if job_ended {
            self.forget(number);
        }
    }
}

/// Lets a source give back what it took.
fn closed(mut adapter: Box<dyn AnySource>) -> BoxFuture<'static, ()> {
    Box::pin(async move { adapter.close().await })
}

/// Tells a verdict, again after each failure, with pauses that double.
async fn tell(receipt: &dyn Receipt, verdict: &Verdict) -> Result<()> {
    let mut pause = Duration::from_millis(100);
    loop {
        let told = timeout(SETTLE_ATTEMPT, receipt.settle(verdict)).await;
        match told {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) if why.fault() == Fault::Invalid => return Err(why),
            Ok(Err(why)) => warn!(error = %why, ?pause, "telling a verdict failed"),
            Err(_) => warn!(?pause, "telling a verdict took too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(SETTLE_ATTEMPT);
    }
}

#[cfg(test)]
#[cfg(all(feature = "testing", feature = "sqs"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
