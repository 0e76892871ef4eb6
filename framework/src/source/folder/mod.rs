//! Every file under an inbox is a job, and its result appears under an outbox: the default that needs no broker.
//!
//! Any number of workers may share the two folders. Beside a result stands a record of what was done
//! (`NAME.done.json`); a file that failed for good leaves one that says why (`NAME.failed.json`). A claim is an
//! object in a [`Store`](crate::store::Folder) under the outbox, kept alive by being rewritten: whoever sees it
//! unchanged for its lease, by a clock of their own, may take it over, so that no clocks need agree. A result is put
//! in place by a hard link, which fails where there is one already: what is done is never overwritten.

mod claim;
mod ending;
mod queue;
mod scan;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Delivery, Source, give_back};
use crate::error::{Context, Error, Result};
use crate::store;
pub use queue::FolderQueue;
use scan::Scanner;

/// How long a claim lasts by default.
const LEASE: Duration = Duration::from_secs(20);
/// The shortest that can be kept up.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
/// How often an inbox without open files is looked at by default.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A folder as a source of jobs.
///
/// A job's id is its file's path below the inbox, its payload the file's content, its result a file of the same path
/// with [`suffix`](Folder::suffix) below the outbox. Hidden files are left out. A file that changes after it was
/// done is done again.
pub struct Folder {
    shared: Arc<Shared>,
    /// At rest between receives.
    scanner: Option<Scanner>,
    /// The look for jobs under way: a task, so that dropping a receive leaves no claim that nobody knows of.
    looking: Option<JoinHandle<(Scanner, Result<Vec<Delivery>>)>>,
    /// Claimed, and not given out yet.
    claimed: VecDeque<Delivery>,
    ended: bool,
}

/// What the source's tasks and receipts share.
pub(crate) struct Shared {
    inbox: PathBuf,
    outbox: PathBuf,
    suffix: String,
    lease: Duration,
    look_every: Duration,
    once: bool,
    by_path: bool,
    consuming: bool,
    claims: store::Folder,
    /// Tells this worker's claims from all others.
    owner: String,
    /// The worker has gone: no more claims.
    stopped: AtomicBool,
}

impl Folder {
    /// Takes jobs from `inbox` and puts results into `outbox`, which is made if it is missing. It goes on watching
    /// for new files unless told otherwise by [`once`](Folder::once). Blocks briefly.
    ///
    /// # Errors
    /// [`Invalid`](crate::Fault::Invalid) if the inbox is not a folder or the outbox cannot be written.
    pub fn open(inbox: impl AsRef<Path>, outbox: impl AsRef<Path>) -> Result<Self> {
        let (inbox, outbox) = (inbox.as_ref(), outbox.as_ref());
        if !inbox.is_dir() {
            let inbox = inbox.display();
            return Err(Error::invalid(format_args!("`{inbox}` is not a folder; name one with the files to work on")));
        }
        let cannot = || format!("the folder for results, `{}`", outbox.display());
        std::fs::create_dir_all(outbox).with_context(cannot)?;
        let claims = store::Folder::open(outbox.join(".forebay")).with_context(cannot)?;
        let shared = Shared {
            inbox: inbox.canonicalize().with_context(|| inbox.display().to_string())?,
            outbox: outbox.canonicalize().with_context(cannot)?,
            suffix: ".out".to_owned(),
            lease: LEASE,
            look_every: LOOK_EVERY,
            once: false,
            by_path: false,
            consuming: false,
            claims,
            owner: claim::new_owner(),
            stopped: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        Ok(Folder {
            scanner: Some(Scanner::new(shared.clone())),
            shared,
            looking: None,
            claimed: VecDeque::new(),
            ended: false,
        })
    }

    /// What a result's file name ends with, after the input's whole name. Default `.out`.
    pub fn suffix(self, suffix: impl Into<String>) -> Self {
        self.set(|shared| shared.suffix = suffix.into())
    }

    /// How long a claim lasts without being extended: how long a dead worker's files wait for another. Default 20 s, at
    /// least 100 ms.
    pub fn lease(self, lease: Duration) -> Self {
        self.set(|shared| shared.lease = lease.max(SHORTEST_LEASE))
    }

    /// Ends once every file is done or has failed, instead of watching for new ones.
    pub fn once(self) -> Self {
        self.set(|shared| shared.once = true)
    }

    /// Payloads are the files' paths instead of their content, for pipelines that read as they go.
    pub fn by_path(self) -> Self {
        self.set(|shared| shared.by_path = true)
    }

    /// Removes a job's file when it is done, instead of writing a result: the folder as a queue.
    pub fn consuming(self) -> Self {
        self.set(|shared| shared.consuming = true)
    }

    /// The way to put jobs into the inbox. To be asked for after the settings are made.
    pub fn queue(&self) -> FolderQueue {
        FolderQueue::new(self.shared.clone())
    }

    /// How many files there are to do now: neither done, nor failed, nor hidden. Blocks.
    ///
    /// # Errors
    /// If the inbox cannot be read.
    pub fn open_files(&self) -> Result<usize> {
        Ok(scan::open_files(&self.shared, &mut scan::Known::default())?.len())
    }

    fn set(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        // Settings come before the first receive, so nothing else holds it but the scanner made here.
        self.scanner = None;
        if let Some(only) = Arc::get_mut(&mut self.shared) {
            change(only);
        }
        self.scanner = Some(Scanner::new(self.shared.clone()));
        self
    }

    /// Claims nothing more; the future gives back what was claimed and not given out.
    fn leave(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let (looking, mut claimed) = (self.looking.take(), std::mem::take(&mut self.claimed));
        async move {
            if let Some(Ok((_, Ok(found)))) = futures_util::future::OptionFuture::from(looking).await {
                claimed.extend(found);
            }
            give_back(claimed).await;
        }
    }
}

impl Drop for Folder {
    /// Claims nothing more, and gives back what was claimed and not given out.
    fn drop(&mut self) {
        let left = self.leave();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(left);
    }
}

impl Source for Folder {
    fn name(&self) -> &'static str {
        "folder"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        while self.claimed.is_empty() && !self.ended {
            if let Some(mut scanner) = self.scanner.take() {
                self.looking = Some(tokio::spawn(async move {
                    let found = scanner.look(max).await;
                    (scanner, found)
                }));
            }
            let Some(looking) = &mut self.looking else {
                return Err(Error::failed("the look for files has been lost"));
            };
            let outcome = looking.await;
            self.looking = None;
            let Ok((scanner, found)) = outcome else {
                self.scanner = Some(Scanner::new(self.shared.clone()));
                return Err(Error::failed("the look for files was cut off"));
            };
            self.scanner = Some(scanner);
            let found = found?;
            self.ended = found.is_empty();
            self.claimed.extend(found);
        }
        let count = max.min(self.claimed.len());
        Ok(self.claimed.drain(..count).collect())
    }

    async fn close(&mut self) {
        self.leave().await;
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
