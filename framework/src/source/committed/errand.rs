//! What is done once for a job, as a task of its own: whoever waits for it may be cut off for its slowness, and finds
//! it going or done when it comes again.

use std::sync::OnceLock;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::error::{Context, Error, Result};

pub(super) struct Errand<T> {
    /// At most one task. Dropped, it ends. An async mutex, held while it is waited for.
    going: Mutex<JoinSet<Result<T>>>,
    done: OnceLock<T>,
}

impl<T> Default for Errand<T> {
    fn default() -> Self {
        Errand { going: Mutex::default(), done: OnceLock::new() }
    }
}

impl<T: Send + 'static> Errand<T> {
    pub(super) fn is_done(&self) -> bool {
        self.done.get().is_some()
    }

    /// What came of it, once it is done. It is begun on that runtime, or on this one, unless it is going; after an
    /// error it is begun anew.
    pub(super) async fn run<F>(&self, on: Option<&Handle>, begin: impl FnOnce() -> Result<F>) -> Result<&T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut going = self.going.lock().await;
        if let Some(done) = self.done.get() {
            return Ok(done);
        }
        if going.is_empty() {
            match on {
                Some(runtime) => going.spawn_on(begin()?, runtime),
                None => going.spawn(begin()?),
            };
        }
        let ended = going.join_next().await.ok_or_else(|| Error::failed("what was begun for the job has gone"))?;
        let ended = ended.context("what was begun for the job was cut off")??;
        Ok(self.done.get_or_init(|| ended))
    }
}
