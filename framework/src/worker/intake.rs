//! One source as the control loop sees it: idle, receiving, pausing after a failure, or at its end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use crate::error::{Error, Fault, Result};
use crate::job::Priority;
use crate::source::{AnySource, Delivery, Phase, Vitals};

/// The first and the longest pause after a source failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

pub(super) struct Intake {
    pub(super) name: &'static str,
    /// The highest that its jobs may have.
    pub(super) priority: Priority,
    accepts_ahead: bool,
    /// Gone while it receives, and after its end.
    idle: Option<Box<dyn AnySource>>,
    ended: bool,
    /// How many jobs the receive under way may bring.
    asked: usize,
    /// How many of its jobs are not settled yet.
    pub(super) held: usize,
    /// After failures: the pause before the next receive, and when it is over.
    pause: Option<(Duration, Instant)>,
    /// Ends the receive under way.
    recalled: Arc<Notify>,
}

/// What came of a receive, with the source to be given back.
pub(super) struct Received {
    pub(super) source: usize,
    pub(super) adapter: Box<dyn AnySource>,
    /// `None` if it was recalled.
    pub(super) result: Option<Result<Vec<Delivery>>>,
}

impl Intake {
    pub(super) fn new(priority: Priority, adapter: Box<dyn AnySource>) -> Self {
        let (name, accepts_ahead) = (adapter.name(), adapter.accepts_ahead());
        Intake {
            name,
            priority,
            accepts_ahead,
            idle: Some(adapter),
            ended: false,
            asked: 0,
            held: 0,
            pause: None,
            recalled: Arc::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.is_some()
    }

    /// Whether none of its jobs are here or will be without it being asked.
    pub(super) fn has_none(&self) -> bool {
        self.held + self.asked == 0
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it has still to hand over what it has accepted.
    pub(super) fn has_accepted(&self) -> bool {
        self.accepts_ahead && !self.ended
    }

    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Asks it, if it is idle, for at most `max` jobs. `index` is told with what comes.
    pub(super) fn receive(
        &mut self,
        index: usize,
        max: usize,
        vitals: &Vitals,
    ) -> Option<BoxFuture<'static, Received>> {
        let mut adapter = self.idle.take()?;
        self.asked = max;
        // A recall that came too late is not for this one.
        self.recalled = Arc::default();
        let (pause, recalled) = (self.pause, self.recalled.clone());
        let (vitals, accepts_ahead) = (vitals.clone(), self.accepts_ahead);
        Some(Box::pin(async move {
            let receive = async {
                if let Some((_, over)) = pause {
                    sleep_until(over).await;
                }
                adapter.receive(max).await
            };
            // Dropping a receive loses nothing, and nothing must come of it once the worker drains.
            let result = tokio::select! {
                biased;
                () = vitals.reaches(Phase::Draining), if !accepts_ahead => Some(Ok(Vec::new())),
                result = receive => Some(result),
                () = recalled.notified() => None,
            };
            Received { source: index, adapter, result }
        }))
    }

    /// Ends the receive under way, if it has brought nothing yet.
    pub(super) fn recall(&mut self) {
        self.recalled.notify_one();
    }

    /// A receive has ended.
    pub(super) fn returns(&mut self, adapter: Box<dyn AnySource>) {
        self.asked = 0;
        self.idle = Some(adapter);
    }

    /// It has answered; with nothing, it is at its end, and to be closed.
    pub(super) fn succeeded(&mut self, empty: bool) -> Option<Box<dyn AnySource>> {
        self.pause = None;
        if empty { self.end() } else { None }
    }

    /// It is asked again after a pause that grows.
    pub(super) fn failed(&mut self, why: &Error) {
        let pause = self.pause.map_or(PAUSES.0, |(pause, _)| (pause * 2).min(PAUSES.1));
        self.pause = Some((pause, Instant::now() + pause));
        let name = self.name;
        match why.fault() {
            Fault::Invalid => error!(source = name, error = %why, ?pause, "not ready: cannot receive"),
            _ => warn!(source = name, error = %why, ?pause, "cannot receive"),
        }
    }

    /// The worker drains: idle, it is at its end, and to be closed, unless jobs are still to come of it.
    pub(super) fn drain(&mut self) -> Option<Box<dyn AnySource>> {
        if self.accepts_ahead { None } else { self.end() }
    }

    /// Nothing is received any more: what is to be closed.
    pub(super) fn close(&mut self) -> Option<Box<dyn AnySource>> {
        self.idle.take()
    }

    /// A receive that is under way ends by itself.
    fn end(&mut self) -> Option<Box<dyn AnySource>> {
        let adapter = self.idle.take();
        self.ended |= adapter.is_some();
        adapter
    }
}
