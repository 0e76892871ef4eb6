//! A call that blocks and may hang, on a thread of its own and with a deadline.
//!
//! It promises that at most one such call is at work at a time, so that one that hangs costs one thread, however often
//! it is asked for. The thread is left behind at the process's end: the runtime's own blocking threads would hold that up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::error::{Context, Error, Result};
use crate::pool::panic::{Failure, fence};

/// The call, to be made any number of times.
pub(super) struct Bounded<T> {
    /// The thread's name.
    name: &'static str,
    within: Duration,
    call: Arc<dyn Fn() -> Result<T> + Send + Sync>,
    /// Whether a thread is at it, which may outlive whoever has asked: so nobody owns this alone.
    at_work: Arc<AtomicBool>,
    /// Of those who share the call one asks at a time.
    turn: Arc<Mutex<()>>,
}

impl<T: Send + 'static> Bounded<T> {
    pub(super) fn new(
        name: &'static str,
        within: Duration,
        call: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Bounded { name, within, call: Arc::new(call), at_work: Arc::default(), turn: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// What it answers. A panic in it, no answer in time, and one that was asked before and still hangs are errors.
    pub(super) async fn ask(&self) -> Result<T> {
        let late = || Error::fatal(format_args!("no answer within {} s", self.within.as_secs_f64()));
        let _turn = timeout(self.within, self.turn.lock()).await.map_err(|_| late())?;
        if self.at_work.swap(true, Ordering::AcqRel) {
            return Err(Error::fatal("there was no answer, and there still is none"));
        }
        let (sender, answer) = oneshot::channel();
        let (call, at_work) = (self.call.clone(), self.at_work.clone());
        let work = move || {
            let answer = fence(|| call()).map_err(Failure::into_error);
            at_work.store(false, Ordering::Release);
            // Nobody may be waiting any more.
            let _ = sender.send(answer);
        };
        if let Err(why) = std::thread::Builder::new().name(self.name.to_owned()).spawn(work) {
            self.at_work.store(false, Ordering::Release);
            return Err(why).context("starting a thread");
        }
        match timeout(self.within, answer).await {
            Ok(answer) => answer.map_err(|_| Error::fatal("its thread has ended"))?,
            Err(_) => Err(late()),
        }
    }
}

impl<T> Clone for Bounded<T> {
    fn clone(&self) -> Self {
        let Bounded { name, within, call, at_work, turn } = self;
        Bounded { name, within: *within, call: call.clone(), at_work: at_work.clone(), turn: turn.clone() }
    }
}
