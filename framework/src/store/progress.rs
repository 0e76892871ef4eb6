//! How far transfers have come.
//!
//! It owns three numbers that only ever stand for payload: what a retry moves again is counted once. It does not know
//! how long anything takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far one or several transfers have come: a cheap handle, to be asked at any time from any thread.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    moved: AtomicU64,
    kept: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// A handle that has counted nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that are where they should be: those moved and those that were there already. It goes back by what has to
    /// be moved again.
    pub fn done(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed) + self.kept()
    }

    /// Bytes that did not have to be moved, since an earlier attempt did.
    pub fn kept(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// Bytes in all of the transfers that have begun, as far as anybody knows.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self, bytes: u64) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn keep(&self, bytes: u64) {
        self.0.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One transfer's part of it, which can be taken back as a whole.
    pub(crate) fn share(&self) -> Share {
        Share { all: self.clone(), own: Progress::new() }
    }
}

/// What one transfer has counted.
#[derive(Debug)]
pub(crate) struct Share {
    all: Progress,
    own: Progress,
}

impl Share {
    pub(crate) fn expect(&self, bytes: u64) {
        self.all.expect(bytes);
        self.own.expect(bytes);
    }

    pub(crate) fn moved(&self, bytes: u64) {
        self.all.moved(bytes);
        self.own.moved(bytes);
    }

    pub(crate) fn keep(&self, bytes: u64) {
        self.all.keep(bytes);
        self.own.keep(bytes);
    }

    /// What was counted is not there after all.
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "for stores over a network"))]
    pub(crate) fn undo(&self, bytes: u64) {
        for one in [&self.all, &self.own] {
            one.0.moved.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// As if it had never begun.
    pub(crate) fn take_back(&self) {
        let (all, own) = (&self.all.0, &self.own.0);
        for (all, own) in [(&all.moved, &own.moved), (&all.kept, &own.kept), (&all.total, &own.total)] {
            all.fetch_sub(own.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
