//! A thread beside the device thread that prepares a model's next batch while one runs.
//!
//! It holds at most one batch, and can be asked for it with a bound on the wait. A panic in the model's `collate` is fenced and becomes that batch's failure.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::batcher::Batch;
use crate::error::{Context, Error, Result};
use crate::model::{Collated, Model};
use crate::pool::panic::fence;

pub(crate) type Prepared<M> = (Batch<<M as Model>::Input>, Result<Collated>);

pub(crate) struct Collator<M: Model> {
    // Field order is drop order: the thread ends when its input has gone, and only then is joined.
    to: Option<SyncSender<Batch<M::Input>>>,
    from: Receiver<Prepared<M>>,
    holds: bool,
    thread: Option<JoinHandle<()>>,
}

impl<M: Model> Collator<M> {
    pub(crate) fn start(name: &'static str) -> Result<Self> {
        let (to, batches) = sync_channel::<Batch<M::Input>>(1);
        let (prepared, from) = sync_channel(1);
        let work = move || {
            for batch in batches {
                let collated = collate::<M>(&batch.inputs);
                if prepared.send((batch, collated)).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new()
            .name(format!("{name}-collate"))
            .spawn(work)
            .with_context(|| format!("starting the collating thread of stage `{name}`"))?;
        Ok(Collator { to: Some(to), from, holds: false, thread: Some(thread) })
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// Begins to prepare a batch. Only while it holds none.
    pub(crate) fn begin(&mut self, batch: Batch<M::Input>) -> Result<()> {
        let to = self.to.as_ref().ok_or_else(ended)?;
        to.send(batch).map_err(|_| ended())?;
        self.holds = true;
        Ok(())
    }

    /// Waits for the batch that was begun.
    pub(crate) fn finish(&mut self) -> Result<Prepared<M>> {
        self.holds = false;
        self.from.recv().map_err(|_| ended())
    }

    /// The batch that was begun, if it is prepared in time; or else the collator goes on and still holds it.
    pub(crate) fn finish_within(&mut self, bound: Duration) -> Result<Option<Prepared<M>>> {
        match self.from.recv_timeout(bound) {
            Ok(prepared) => {
                self.holds = false;
                Ok(Some(prepared))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

impl<M: Model> Drop for Collator<M> {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            // Its loop is fenced and cannot panic.
            let _ = thread.join();
        }
    }
}

pub(crate) fn collate<M: Model>(inputs: &[M::Input]) -> Result<Collated> {
    fence(|| M::collate(inputs)).map_err(|failure| failure.into_error())
}

fn ended() -> Error {
    Error::fatal("the collating thread has ended")
}
