//! The same figures while jobs are at work: a moving window, shown in metrics, and acted on only when that is set.
//!
//! It promises to take no moment's dip for a slow node: a figure has to be short for minutes, of several samples, and
//! to forget that it was takes clearly more than the threshold. It asks the bucket itself now and then, and else lives on
//! what transfers tell of themselves.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::admit::unfit;
use super::figures::{Blame, Figure, Figures, Finding, together};
use super::{Fitness, Unfit, bucket};
use crate::error::{Error, Fault};
use crate::flow::WINDOW;
use crate::telemetry::NodeMeter;

/// How often is looked, and the bucket asked.
pub(super) const TICK: Duration = Duration::from_secs(20);
/// So many looks have to find a figure short: five minutes of them.
const LOOKS: u32 = 15;
/// So much better than wanted a figure has to be for its shortness to be over at once;
const CLEARLY: f64 = 1.25;
/// else it is over after so long without a look that found it short.
const OVER: Duration = Duration::from_secs(600);
/// After a worker was not let go, it asks again no sooner than this.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What is looked at while jobs are at work. Disk and memory are there to be used; they are only shown.
const WATCHED: [Figure; 6] =
    [Figure::Bucket, Figure::Latency, Figure::Upload, Figure::Download, Figure::FailedUploads, Figure::FailedDownloads];

/// One figure as it is now.
struct Look {
    figure: Figure,
    /// Below 1 is short; `None` is not known.
    score: Option<f64>,
    /// What is said of it if it is short.
    finding: Option<Finding>,
}

/// How long each figure has been short.
#[derive(Default)]
struct Shortness([Option<Short>; WATCHED.len()]);

#[derive(Clone, Copy)]
struct Short {
    since: Instant,
    last: Instant,
    looks: u32,
}

impl Fitness {
    /// Looks on until this node has to be left, and says why; for ever, if nothing is to be done.
    pub(crate) async fn watched(&self) -> Error {
        self.flow.watch();
        let mut shortness = Shortness::default();
        let mut not_before = Instant::now();
        loop {
            sleep(self.tick).await;
            let looks = self.look().await;
            let now = Instant::now();
            for (figure, finding) in shortness.see(&looks, now) {
                match finding {
                    Some(finding) => warn!(figure, finding, "this node falls short"),
                    None => info!(figure, "this node falls short no longer"),
                }
            }
            for look in &looks {
                NodeMeter::short(look.figure.as_str(), look.score.is_some_and(|score| score < 1.0));
            }
            if self.watch == Unfit::Warn || now < not_before {
                continue;
            }
            let (findings, since) = shortness.lasting(&looks, now, self.patience);
            let (Some(why), Some(since)) = (together(&findings), since) else {
                continue;
            };
            let counts = self.store.is_some() && !findings.iter().any(|finding| finding.figure == Figure::Bucket);
            match self.may_leave(counts, since, &why).await {
                Ok(()) => return unfit(why),
                Err(stays) => {
                    error!(error = %why, stays, "this node has become unfit; the worker stays");
                    not_before = Instant::now() + ASK_AGAIN;
                }
            }
        }
    }

    async fn look(&self) -> Vec<Look> {
        let mut answered = None;
        if let Some(store) = self.store.as_deref() {
            let answer = bucket::answer(store).await;
            if let Ok(latency) = answer {
                self.flow.answered(latency);
            }
            answered = Some(answer);
        }
        let seen = self.flow.seen();
        let mbit = |rate: Option<f64>| rate.map(|bits| bits / 1e6);
        let mut figures = Figures {
            latency: seen.latency,
            upload: mbit(seen.upload.rate),
            download: mbit(seen.download.rate),
            ..Figures::default()
        };
        self.examine_machine(&mut figures).await;
        NodeMeter::show(&figures);
        let look = |figure| {
            let (score, finding) = match figure {
                Figure::Bucket => reached(answered.as_ref()),
                Figure::FailedUploads => failing(figure, "uploads to", seen.upload.failed),
                Figure::FailedDownloads => failing(figure, "downloads from", seen.download.failed),
                _ => (self.wanted.score(figure, &figures), self.wanted.of_bucket(figure, &figures)),
            };
            Look { figure, score, finding }
        };
        WATCHED.into_iter().map(look).collect()
    }
}

/// Refused keys are told, but no other node would help.
fn reached(answered: Option<&Result<Duration, Error>>) -> (Option<f64>, Option<Finding>) {
    match answered {
        None => (None, None),
        Some(Ok(_)) => (Some(f64::INFINITY), None),
        Some(Err(why)) if why.fault() == Fault::Invalid => {
            warn!(error = %why, "the bucket refuses this worker's keys or settings");
            (None, None)
        }
        Some(Err(why)) => (Some(0.0), Some(Finding::bucket(why))),
    }
}

/// More than half is too many.
fn failing(figure: Figure, what: &str, failed: Option<(usize, usize)>) -> (Option<f64>, Option<Finding>) {
    let Some((failed, of)) = failed else {
        return (None, None);
    };
    let score = of as f64 / (2 * failed) as f64;
    let seconds = WINDOW.as_secs();
    let text = format!("{what} the bucket: {failed} of {of} failed in the last {seconds} s, wanted at most half");
    let finding = Finding { figure, blame: Blame::Node, text };
    (Some(score), (score < 1.0).then_some(finding))
}

impl Shortness {
    /// Takes in how the figures are now, and gives those that have become short, with what is said of it, and those
    /// that are so no longer.
    fn see(&mut self, looks: &[Look], now: Instant) -> Vec<(&'static str, Option<String>)> {
        let mut changed = Vec::new();
        for (state, look) in self.0.iter_mut().zip(looks) {
            let was = state.is_some();
            match look.score {
                Some(score) if score < 1.0 => {
                    let short = state.get_or_insert(Short { since: now, last: now, looks: 0 });
                    (short.last, short.looks) = (now, short.looks.saturating_add(1));
                }
                Some(score) if score >= CLEARLY => *state = None,
                // In between, or not known.
                _ => *state = state.filter(|short| now.saturating_duration_since(short.last) < OVER),
            }
            if state.is_some() != was {
                let finding = look.finding.as_ref().filter(|_| !was);
                changed.push((look.figure.as_str(), finding.map(|finding| finding.text.clone())));
            }
        }
        changed
    }

    /// What was found short often enough and still is, and since when. On a bucket that cannot be reached everything
    /// hangs, and it may be away for all: it gets `patience`.
    fn lasting(&self, looks: &[Look], now: Instant, patience: Duration) -> (Vec<Finding>, Option<Instant>) {
        let (mut findings, mut oldest) = (Vec::new(), None);
        for (state, look) in self.0.iter().zip(looks) {
            let (Some(short), Some(finding)) = (state, &look.finding) else {
                continue;
            };
            let enough = match look.figure {
                Figure::Bucket => now.saturating_duration_since(short.since) >= patience,
                _ => short.looks >= LOOKS,
            };
            if enough {
                oldest = Some(oldest.map_or(short.since, |oldest: Instant| oldest.min(short.since)));
                findings.push(finding.clone());
            }
        }
        (findings, oldest)
    }
}
