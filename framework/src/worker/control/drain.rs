//! The end of the control loop: no more jobs are taken, those there are get their time, and the rest is given back.
//!
//! Each step has its own deadline, so that a worker ends whatever user code or sources do.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::{Control, End, closed};
use crate::error::Fault;
use crate::source::Phase;
use crate::verdict::Verdict;
use crate::worker::intake::Intake;
use crate::worker::leases::{Held, State};
use crate::worker::stop::Stop;

/// How often a drain says who is still running.
const SAY_WHO: Duration = Duration::from_secs(5);
/// How long a drain waits for verdicts to be told, after it has given jobs back.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

impl Control {
    /// Stops taking jobs, waits for those there are, gives back the rest, and waits for the verdicts to be told.
    pub(super) async fn drain(mut self, mut stop: Stop) -> End {
        self.pulse.set(Phase::Draining);
        // Receives under way end with that, unless jobs are still to come of them; so do idle sources.
        self.closing.extend(self.sources.iter_mut().filter_map(Intake::drain).map(closed));
        let fatal = self.failure.as_ref().is_some_and(|why| why.fault() == Fault::Fatal);
        if self.leases.len() > 0 || self.accepts_ahead() {
            let grace = if fatal { Duration::ZERO } else { self.grace };
            info!(jobs = self.leases.len(), ?grace, "draining: no more jobs are taken");
            let patience = self.wait_for_jobs(grace);
            tokio::select! {
                () = patience => {}
                () = stop.told(2) => info!("told to stop again: not waiting for jobs"),
            }
        }
        // Those of sources that have accepted nothing ahead have ended by now.
        while let Some(Some(received)) = unconstrained(self.receiving.next()).now_or_never() {
            self.received(received);
        }
        self.receiving.clear();
        self.closing.extend(self.sources.iter_mut().filter_map(Intake::close).map(closed));
        // Those that ended meanwhile are done, not given back.
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.ended(outcome);
        }
        self.give_back();
        let told = timeout(SETTLE_WITHIN, self.wait_for_verdicts()).await;
        if told.is_err() {
            let (jobs, sources) = (self.settling.len(), self.closing.len());
            warn!(jobs, sources, "not everything was told in time; those jobs will be delivered again");
        }
        End { report: self.report, failure: self.failure }
    }

    async fn wait_for_jobs(&mut self, grace: Duration) {
        let end = Instant::now() + grace;
        let mut say = Instant::now() + SAY_WHO;
        while (self.leases.len() > 0 || self.accepts_ahead()) && Instant::now() < end {
            self.receive_more();
            self.hand_over();
            tokio::select! {
                () = self.step() => {}
                () = sleep_until(end) => return,
                () = sleep_until(say) => {
                    info!(still_running = %self.who(), "draining");
                    say += SAY_WHO;
                }
            }
        }
    }

    /// Jobs that keep their progress do not use up the grace: they are told to write down how far they are, and go on
    /// elsewhere.
    fn hand_over(&mut self) {
        for number in self.leases.numbers() {
            let Some(held) = self.leases.get(number) else {
                continue;
            };
            if held.job.can_be_handed_over() && !held.handed_over {
                held.handed_over = true;
                held.job.cancel();
                info!(job = held.job.id(), "told to write down how far it is");
            }
        }
    }

    /// Whether a source has still to hand over what it has accepted.
    fn accepts_ahead(&self) -> bool {
        self.sources.iter().any(Intake::has_accepted)
    }

    /// Who is still running: how many jobs in each stage, and the age of the oldest.
    fn who(&self) -> String {
        let mut stages: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
        for held in self.leases.iter() {
            let (count, oldest) = stages.entry(held.job.stage()).or_default();
            *count += 1;
            *oldest = (*oldest).max(held.job.received().elapsed());
        }
        let say = |(stage, (count, oldest)): (_, &(usize, Duration))| {
            format!("{count} in {stage} (oldest {:.1} s)", oldest.as_secs_f64())
        };
        stages.iter().map(|(stage, jobs)| say((stage, jobs))).collect::<Vec<_>>().join(", ")
    }

    /// Cancels what still runs and gives its lease back without waiting for it.
    fn give_back(&mut self) {
        if self.leases.len() > 0 {
            info!(jobs = self.leases.len(), running = %self.who(), "giving back what is not done");
        }
        for number in self.leases.numbers() {
            let Some(held) = self.leases.get(number) else {
                continue;
            };
            held.job.cancel();
            if let Some(task) = &held.task {
                task.abort();
            }
            match &mut held.state {
                State::Working => self.settle(number, Verdict::give_back()),
                State::Renewing(verdict) => drop(verdict.get_or_insert_with(Verdict::give_back)),
                State::Settling | State::Lost => {}
            }
        }
    }

    /// Until every verdict is told, sources have given back what they took and, since they were aborted, the jobs have
    /// ended.
    async fn wait_for_verdicts(&mut self) {
        let waits = |held: &Held| !matches!(held.state, State::Lost) || held.task.is_some();
        while self.leases.iter().any(waits) || !self.closing.is_empty() {
            self.step().await;
        }
    }
}
