//! Threads for a model on the CPU: many single-threaded lanes side by side, or all of them on one thing.
//!
//! Owns the rayon pools. The encoder and candle use as many threads as the pool they are called in, so a lane is a
//! pool of one thread: small pieces side by side, each in its core's cache, are faster than one large piece on all
//! cores. It promises results in the order of the pieces; it does not decide what a piece is.

use std::sync::atomic::{AtomicUsize, Ordering};

use forebay::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

pub(crate) struct Lanes {
    all: ThreadPool,
    lanes: Vec<ThreadPool>,
}

impl Lanes {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let pool = |name: &'static str, lane: usize, threads: usize| {
            ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(move |i| format!("{name}-{}", lane + i))
                .build()
                .context("starting the threads of a model on the CPU")
        };
        let lanes = (0..threads).map(|i| pool("lane", i, 1)).collect::<Result<_>>()?;
        Ok(Self { all: pool("lanes", 0, threads)?, lanes })
    }

    /// How many threads there are.
    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// `f` of every piece, in order; the first error if there is one.
    ///
    /// Pieces run side by side where there are enough of them to keep half of the threads busy, else one after the
    /// other with all threads on each.
    pub(crate) fn run<T: Sync, R: Send>(&self, pieces: &[T], f: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
        if pieces.len() * 2 <= self.len() || pieces.len() < 2 {
            return self.all.install(|| pieces.iter().map(&f).collect());
        }
        // Shared between the lanes on purpose: a lane that is done early takes the next piece.
        let next = AtomicUsize::new(0);
        let taken = self.all.broadcast(|at| {
            self.lanes[at.index()].install(|| {
                let mine = std::iter::from_fn(|| {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    pieces.get(i).map(|piece| Ok((i, f(piece)?)))
                });
                mine.collect::<Result<Vec<_>>>()
            })
        });
        let mut results = taken.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
        results.sort_unstable_by_key(|(i, _)| *i);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}
