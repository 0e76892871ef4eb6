//! What a source may know of the worker that it feeds: how far it is, which pipelines it has, when work would be done.
//!
//! Sources that serve people need it before the models are loaded, and until the last answer has left.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};

use crate::pipeline::outlook::Outlook;

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its models are being loaded.
    Starting,
    /// It takes jobs.
    Ready,
    /// It was told to stop: it finishes what it has accepted.
    Draining,
    /// Every verdict has been told.
    Ended,
}

/// A worker as its sources see it. Clones are the same.
#[derive(Clone)]
pub struct Vitals {
    phase: watch::Receiver<Phase>,
    routes: Arc<[RouteInfo]>,
    hold: mpsc::WeakSender<()>,
}

/// One of a worker's pipelines.
pub struct RouteInfo {
    /// Its name; empty for the first one of a worker.
    pub name: String,
    /// The media type that its jobs come as; `None` where any will do.
    pub takes: Option<&'static str>,
    /// The media type of its results.
    pub gives: &'static str,
    outlook: OnceLock<Outlook>,
}

/// Keeps a worker from ending; dropped, it may.
pub struct Hold(#[allow(dead_code, reason = "its drop is what tells")] Option<mpsc::Sender<()>>);

impl RouteInfo {
    pub(crate) fn new(name: String, takes: Option<&'static str>, gives: &'static str) -> Self {
        RouteInfo { name, takes, gives, outlook: OnceLock::new() }
    }

    /// When its work would be done; before the worker is ready, nothing is known.
    pub fn outlook(&self) -> Option<&Outlook> {
        self.outlook.get()
    }

    pub(crate) fn set_outlook(&self, outlook: Outlook) {
        // Set once, when the worker has started.
        let _ = self.outlook.set(outlook);
    }
}

impl Vitals {
    /// How far the worker is now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the worker is at `phase` or past it.
    pub async fn reaches(&self, phase: Phase) {
        // If it was dropped, it has ended.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }

    /// The worker's pipelines, in the order in which they were added.
    pub fn routes(&self) -> &[RouteInfo] {
        &self.routes
    }

    /// Keeps the worker, once it has [`ended`](Phase::Ended), from ending its process before the source has said all
    /// that it has to say. It waits for a few seconds at most.
    pub fn hold(&self) -> Hold {
        Hold(self.hold.upgrade())
    }
}

/// The worker's end of its vitals. Dropped, the worker has ended.
pub(crate) struct Pulse {
    phase: watch::Sender<Phase>,
    vitals: Vitals,
    hold: Option<mpsc::Sender<()>>,
    released: mpsc::Receiver<()>,
}

impl Pulse {
    pub(crate) fn new(routes: Vec<RouteInfo>) -> Self {
        let (phase, now) = watch::channel(Phase::Starting);
        let (hold, released) = mpsc::channel(1);
        let vitals = Vitals { phase: now, routes: routes.into(), hold: hold.downgrade() };
        Pulse { phase, vitals, hold: Some(hold), released }
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The worker has ended; waits until every hold is released.
    pub(crate) async fn end(mut self) {
        self.set(Phase::Ended);
        self.hold = None;
        // Nothing is ever sent: it closes with the last hold.
        let _ = self.released.recv().await;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.set(Phase::Ended);
    }
}
