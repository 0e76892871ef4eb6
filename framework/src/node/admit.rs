//! The way in: a node is measured until it is fit, and left if it stays unfit.
//!
//! It owns the one examination and the rule of who may leave. It promises that only a node is left, never a setting
//! that is wrong everywhere, and only as fast as the ledger or patience allows. What it does not do is end the process.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::figures::{Figure, Figures, Finding, together};
use super::{Fitness, Unfit, bucket, ledger};
use crate::error::{Error, Fault, Result};
use crate::telemetry::NodeMeter;

/// Between two measurements of one node; the pause doubles once the node is known to be unfit.
const PAUSE: Duration = Duration::from_secs(20);
/// The longest pause. A measurement costs the bucket some 60 requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After the platform has been asked for another node: it takes this one away within seconds.
pub(super) const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// A node as it was found.
pub(super) struct Examined {
    pub(super) figures: Figures,
    pub(super) findings: Vec<Finding>,
    /// Whether objects can be counted in the bucket.
    counts: bool,
}

impl Fitness {
    /// Measures this node once, in two or three minutes at most.
    ///
    /// # Errors
    /// All that is wrong at once, each figure beside its threshold. [`Invalid`](Fault::Invalid) if it would be the same
    /// on every node, [`Transient`](Fault::Transient) if the bucket cannot be reached, and else
    /// [`Fatal`](Fault::Fatal).
    pub async fn check(&self) -> Result<Figures> {
        let examined = self.examine().await;
        match together(&examined.findings) {
            None => Ok(examined.figures),
            Some(why) => Err(why),
        }
    }

    /// [`check`](Self::check), for a worker that does one round of work.
    pub(crate) async fn check_once(&self) -> Result<()> {
        match self.check().await {
            Ok(figures) => info!(%figures, "this node is fit"),
            Err(why) if self.unfit == Unfit::Warn => {
                warn!(error = %why, "this node is unfit; the worker works all the same")
            }
            Err(why) => return Err(why.context("this node is unfit")),
        }
        Ok(())
    }

    /// Waits until this node is fit. An error says why it has to be left now.
    pub(crate) async fn admit(&self) -> Result<()> {
        let began = Instant::now();
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            let examined = self.examine().await;
            let Some(why) = together(&examined.findings) else {
                info!(figures = %examined.figures, "this node is fit");
                return Ok(());
            };
            if self.unfit == Unfit::Warn {
                warn!(error = %why, "this node is unfit; the worker works all the same");
                return Ok(());
            }
            tries += 1;
            let stays = match why.fault() {
                Fault::Invalid => "it would be no better on another node",
                _ if tries < self.tries => "it is measured again",
                _ => match self.may_leave(examined.counts, began, &why).await {
                    Ok(()) => return Err(unfit(why)),
                    Err(stays) => stays,
                },
            };
            error!(error = %why, stays, retry_s = pause.as_secs(), "not ready: this node is unfit");
            sleep(pause).await;
            if tries >= self.tries {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Whether this node may be left now, or else why it has to stay. `since`: how long it has been unfit.
    pub(super) async fn may_leave(&self, counts: bool, since: Instant, why: &Error) -> Result<(), &'static str> {
        let Some(store) = self.store.as_deref().filter(|_| counts) else {
            return match since.elapsed() >= self.patience {
                true => Ok(()),
                false => Err("nobody can say how many have left, so the worker waits (FOREBAY_NODE_PATIENCE)"),
            };
        };
        match ledger::may_leave(store, self.leaves, &why.to_string()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("too many workers have left their nodes within the hour (FOREBAY_NODE_LEAVES)"),
            Err(failed) => {
                warn!(error = %failed, "how many workers have left could not be seen in the bucket");
                Err("how many have left could not be seen")
            }
        }
    }

    /// Asks the platform for another node, where that is wanted and possible, and gives it time to take this one away:
    /// until `taken` ends, or some seconds. Then the process should end.
    pub(crate) async fn leave(&self, how: Unfit, why: &Error, taken: impl Future<Output = ()>) {
        let Some(metadata) = self.metadata.as_ref().filter(|_| how == Unfit::Reallocate) else {
            return info!("leaving this node by the exit code alone");
        };
        match metadata.reallocate(&format!("forebay: {why}")).await {
            Ok(()) => {
                info!(reason = %why, "asked the platform for another node");
                // Either way the process ends.
                let _ = timeout(self.taken_within, taken).await;
            }
            Err(failed) => error!(error = %failed, "the platform could not be asked for another node"),
        }
    }

    pub(crate) fn at_start(&self) -> Unfit {
        self.unfit
    }

    pub(crate) fn at_work(&self) -> Unfit {
        self.watch
    }

    pub(super) async fn examine(&self) -> Examined {
        let (mut figures, mut findings, counts) = self.examine_bucket().await;
        findings.extend(self.examine_machine(&mut figures).await);
        findings.extend(self.examine_gpu(&mut figures).await);
        NodeMeter::show(&figures);
        for figure in Figure::ALL {
            NodeMeter::short(figure.as_str(), findings.iter().any(|finding| finding.figure == figure));
        }
        Examined { figures, findings, counts }
    }

    async fn examine_bucket(&self) -> (Figures, Vec<Finding>, bool) {
        let Some(store) = self.store.as_deref() else {
            return (Figures::default(), Vec::new(), false);
        };
        let (figures, mut error) = bucket::measure(store).await;
        if error.is_none() {
            // Who may not list learns of it now, and not when a node has to be left.
            error = bucket::listed(store, ledger::BELOW).await.err();
        }
        let counts = error.is_none();
        let mut findings: Vec<_> = error.iter().map(Finding::bucket).collect();
        let ways = [Figure::Latency, Figure::Upload, Figure::Download];
        findings.extend(ways.iter().filter_map(|figure| self.wanted.of_bucket(*figure, &figures)));
        (figures, findings, counts)
    }

    /// Adds its figures to `figures`.
    pub(super) async fn examine_machine(&self, figures: &mut Figures) -> Vec<Finding> {
        let (machine, folder) = (self.machine.clone(), self.folder.clone());
        let look = move || (machine.disk(&folder), machine.memory(), machine.cpus());
        // A disk that hangs must not hold up what else the runtime does.
        let Ok((disk, memory, cpus)) = tokio::task::spawn_blocking(look).await else {
            return Vec::new();
        };
        figures.disk = disk.as_ref().ok().copied();
        figures.memory = least(memory.machine, memory.container);
        figures.cpus = least(Some(cpus.machine), cpus.container);
        let findings =
            [self.wanted.of_disk(&self.folder, &disk), self.wanted.of_memory(memory), self.wanted.of_cpus(cpus)];
        findings.into_iter().flatten().collect()
    }
}

/// For the process's end: a fault of the node, whatever it was.
pub(super) fn unfit(why: Error) -> Error {
    why.with_fault(Fault::Fatal)
}

fn least<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b < a { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl fmt::Debug for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fitness").field("wanted", &self.wanted).field("unfit", &self.unfit).finish_non_exhaustive()
    }
}
