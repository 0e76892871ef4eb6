//! What a store says of committed jobs, for programs that ask after results or have a job run again.

use std::sync::Arc;

use crate::error::Result;
use crate::source::ends::{Ends, path};
use crate::store::Store;
use crate::verdict::Verdict;
use crate::witness::crash::{self, Crash};

/// The ends, results and crashes of jobs, in the store that was given to [`Committed::new`](super::Committed::new).
/// Cheap to clone. Each request to the store may take 30 s.
#[derive(Clone)]
pub struct Records(Arc<Ends>);

impl Records {
    /// The records in a store.
    pub fn new(store: impl Store) -> Self {
        Records(Arc::new(Ends::new(Arc::new(store))))
    }

    /// How the job ended: `Done` with its result, or `Reject` with the reason; `None` if it has not, or is not known.
    ///
    /// # Errors
    /// If the store cannot be read, or `id` cannot be a key.
    pub async fn outcome(&self, id: &str) -> Result<Option<Verdict>> {
        match self.0.ended(id).await? {
            Some(end) => self.0.verdict(id, &end).await.map(Some),
            None => Ok(None),
        }
    }

    /// The crashes that the job was in. They are removed when it is done, and kept when it is rejected.
    ///
    /// # Errors
    /// As for [`outcome`](Records::outcome).
    pub async fn crashes(&self, id: &str) -> Result<Vec<Crash>> {
        crash::of(&self.0, id).await
    }

    /// Removes all that is known of the job, results too, so that it is run when it is delivered again.
    ///
    /// # Errors
    /// If the store cannot be changed. It may be repeated.
    pub async fn forget(&self, id: &str) -> Result<()> {
        crash::forget(&self.0, id).await?;
        self.0.remove(&path(id)).await
    }
}
