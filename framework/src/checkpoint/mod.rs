//! States of long jobs, saved where the next worker finds them.

mod snapshot;
mod workplace;

pub use snapshot::{Saved, Snapshot};
pub use workplace::Workplace;
