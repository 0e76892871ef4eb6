//! How far it is that a URL is told of a job's end.
//!
//! That stands in a store and not on a queue, since a pause may be longer than a worker lives.

use serde::{Deserialize, Serialize};

/// The outcome of an attempt that arrived.
pub(super) const DELIVERED: &str = "delivered";

/// How far the webhook is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub(crate) struct Told {
    pub(crate) attempts: u32,
    /// When the next attempt is due, in seconds since 1970; after the last one, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
    pub(crate) outcome: String,
}

impl Told {
    /// Whether it arrived at the first attempt.
    pub(crate) fn arrived_at_once(&self) -> bool {
        self.attempts == 1 && self.outcome == DELIVERED
    }
}
