//! What a worker has done, in numbers.

use std::fmt;

use crate::verdict::Verdict;

/// How the jobs of a worker's run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Jobs done.
    pub done: u64,
    /// Times that a job was given back.
    pub retried: u64,
    /// Jobs rejected.
    pub rejected: u64,
    /// Jobs whose lease was lost on the way.
    pub lost: u64,
}

impl Report {
    pub(super) fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Done(_) => self.done += 1,
            Verdict::Retry { .. } => self.retried += 1,
            Verdict::Reject { .. } => self.rejected += 1,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { done, retried, rejected, lost } = self;
        write!(f, "{done} done, {retried} given back, {rejected} rejected, {lost} lost")
    }
}
