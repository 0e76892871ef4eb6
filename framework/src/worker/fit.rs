//! Whether the worker's node is fit: the seam between a worker and its `Fitness`, empty without the feature `node`, and
//! between it and the machine's cards, empty without `nvml`.
//!
//! A worker asks it before it loads models, lets it look on while jobs are at work, and leaves the node by it. It
//! measures and judges nothing.

#[cfg(feature = "node")]
use std::sync::Arc;

use super::stop::Stop;
use crate::error::{Error, Result};
#[cfg(feature = "node")]
use crate::node::Fitness;

/// Has the machine's cards in metrics from now on.
pub(super) fn watch_cards() {
    #[cfg(feature = "nvml")]
    crate::node::watch_cards();
}

/// What the worker wants of its node.
#[derive(Clone, Default)]
pub(super) struct Fit(#[cfg(feature = "node")] Option<Arc<Fitness>>);

#[cfg(feature = "node")]
impl Fit {
    pub(super) fn new(fitness: Fitness) -> Self {
        Fit(Some(Arc::new(fitness)))
    }

    /// Waits until the node is fit; `false` if the worker was told to stop before. `once`: it is measured once, and
    /// nothing but an error comes of it.
    pub(super) async fn admits(&self, stop: &mut Stop, once: bool) -> Result<bool> {
        let Some(fitness) = &self.0 else {
            return Ok(true);
        };
        let admitted = async {
            match once {
                true => fitness.check_once().await,
                false => fitness.admit().await,
            }
        };
        tokio::select! {
            admitted = admitted => match admitted {
                Ok(()) => Ok(true),
                Err(why) if once => Err(why),
                Err(why) => {
                    fitness.leave(fitness.at_start(), &why, stop.told(1)).await;
                    Err(why)
                }
            },
            () = stop.told(1) => Ok(false),
        }
    }

    /// Why the node has to be left, as soon as it has to be.
    pub(super) async fn watched(&self) -> Error {
        match &self.0 {
            Some(fitness) => fitness.watched().await,
            None => std::future::pending().await,
        }
    }

    /// Leaves the node, when all jobs have ended.
    pub(super) async fn leave(&self, why: &Error, stop: &mut Stop) {
        if let Some(fitness) = &self.0 {
            fitness.leave(fitness.at_work(), why, stop.told(1)).await;
        }
    }
}

#[cfg(not(feature = "node"))]
impl Fit {
    pub(super) async fn admits(&self, _: &mut Stop, _: bool) -> Result<bool> {
        Ok(true)
    }

    pub(super) async fn watched(&self) -> Error {
        std::future::pending().await
    }

    pub(super) async fn leave(&self, _: &Error, _: &mut Stop) {}
}
