//! The places of a stage: how many jobs may be in it or wait in front of it.
//!
//! A job keeps its place in one stage until it holds a place in the next, so that a slow stage stops the ones before
//! it. A place belongs to one stage of one pipeline and is never shared, so there is no cycle to deadlock in.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// One job's place in one stage; dropped, it is free again.
pub(crate) type Place = OwnedSemaphorePermit;

#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Places(Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))))
    }

    pub(crate) async fn enter(&self) -> Result<Place> {
        let place = match self.0.clone().try_acquire_owned() {
            Ok(place) => return Ok(place),
            Err(_) => self.0.clone().acquire_owned().await,
        };
        place.map_err(|_| Error::transient("the stage is closed"))
    }

    /// Nobody enters any more; those who wait at the door are told.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}
