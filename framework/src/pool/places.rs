//! The places of a stage: how many jobs may be in it or wait right in front of it.
//!
//! A job keeps its place in one stage until it holds a place in the next, so that a slow stage stops the ones before
//! it. A place belongs to one stage of one pipeline and is never shared, so there is no cycle to deadlock in.
//!
//! An async stage has [`Places`]: the job's task waits for one and goes on. A stage of threads has a [`Line`]: the
//! job joins it with all that is needed to work on it; places pass from job to job without waking anybody between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::turns::Turns;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::telemetry::StageMeter;

/// One job's place in one stage; dropped, it is free again.
pub(crate) struct Place(Arc<dyn Door>);

/// What a place belongs to.
pub(crate) trait Door: Send + Sync {
    /// A place has become free.
    fn leave(&self);
}

impl Place {
    /// A place that was taken at the door before.
    pub(crate) fn of(door: Arc<dyn Door>) -> Self {
        Place(door)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The places of an async stage.
pub(crate) struct Places(Mutex<State>);

struct State {
    free: usize,
    waiting: Turns<oneshot::Sender<()>>,
    open: bool,
}

impl Places {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Places(Mutex::new(State { free: count, waiting: Turns::default(), open: true })))
    }

    pub(crate) async fn enter(self: &Arc<Self>, job: &Job) -> Result<Place> {
        let closed = || Error::transient("the stage is closed");
        let mut waiting = {
            let mut state = self.lock();
            if !state.open {
                return Err(closed());
            }
            if state.free > 0 {
                state.free -= 1;
                return Ok(Place::of(self.clone()));
            }
            let (tell, told) = oneshot::channel();
            state.waiting.push(job.turn(), tell);
            Waiting { places: self, told }
        };
        (&mut waiting.told).await.map_err(|_| closed())?;
        Ok(Place::of(self.clone()))
    }

    /// Nobody enters any more; those who wait at the door are told.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door for Places {
    fn leave(&self) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.waiting.pop() else {
                state.free += 1;
                return;
            };
            drop(state);
            if next.send(()).is_ok() {
                return;
            }
        }
    }
}

/// Somebody who waits at the door, and may go away.
struct Waiting<'a> {
    places: &'a Places,
    told: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.told.is_terminated() {
            return;
        }
        self.told.close();
        match self.told.try_recv() {
            // It was this one's turn in this very moment.
            Ok(()) => self.places.leave(),
            Err(_) => self.places.lock().waiting.retain(|other| !other.is_closed()),
        }
    }
}

/// What a job hands to a stage of threads.
pub(crate) trait Task: Send {
    fn job(&self) -> &Job;
    /// Tells the job's task that the stage is closed.
    fn refuse(self, why: Error);
}

/// The jobs in front of a stage of threads that have no place in it yet. Each still has its place in the stage before.
///
/// A job whose caller has gone stays in line, and leaves when its turn comes.
pub(crate) struct Line<T> {
    free: usize,
    waiting: Turns<Entrant<T>>,
    meter: StageMeter,
}

/// A task with a place to be given up once it has one here; outside of every lock, since that lets others in there.
pub(crate) type Entrant<T> = (T, Option<Place>);

impl<T: Task> Line<T> {
    pub(crate) fn new(places: usize, meter: StageMeter) -> Self {
        Line { free: places, waiting: Turns::default(), meter }
    }

    /// Joins the line; whoever may enter now.
    pub(crate) fn join(&mut self, entrant: Entrant<T>) -> Option<Entrant<T>> {
        if self.free == 0 {
            self.waiting.push(entrant.0.job().turn(), entrant);
            return None;
        }
        self.free -= 1;
        self.enters(entrant)
    }

    /// A place has become free; who gets it.
    pub(crate) fn next(&mut self) -> Option<Entrant<T>> {
        match self.waiting.pop() {
            Some(entrant) => self.enters(entrant),
            None => {
                self.free += 1;
                None
            }
        }
    }

    /// Takes everybody out.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.waiting).into_iter().map(|(task, _before)| task)
    }

    fn enters(&self, entrant: Entrant<T>) -> Option<Entrant<T>> {
        self.meter.enters(entrant.0.job());
        Some(entrant)
    }
}
