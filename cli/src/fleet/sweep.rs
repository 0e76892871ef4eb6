//! The same nodes with fixed intervals, for comparison with the automatic one.
//!
//! All have the same seed, so that what differs is the intervals alone.

use std::thread;
use std::time::Duration;

use forebay::checkpoint::interval::Interval;
use forebay::fleet::{Fleet, Outcome};
use forebay::{Error, Result};

/// Seconds: half a minute to an hour, even on a logarithmic scale, as far as people say such times.
const GRID: [u64; 16] = [30, 45, 60, 90, 120, 160, 220, 300, 400, 540, 720, 960, 1300, 1800, 2500, 3600];

/// A fixed interval, and what became of the fleet with it.
pub struct Swept {
    pub interval: Duration,
    pub outcome: Outcome,
}

/// On all processors, from short to long.
pub fn all(fleet: &Fleet) -> Result<Vec<Swept>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let play = |first: usize| -> Result<Vec<Swept>> {
        let mine = GRID.iter().skip(first).step_by(threads);
        mine.map(|seconds| {
            let interval = Duration::from_secs(*seconds);
            let outcome = Fleet { interval: Interval::every(interval), ..fleet.clone() }.run()?;
            Ok(Swept { interval, outcome })
        })
        .collect()
    };
    let mut swept = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let playing: Vec<_> = (0..threads).map(|first| scope.spawn(move || play(first))).collect();
        for thread in playing {
            swept.extend(thread.join().map_err(|_| Error::failed("a simulation panicked"))??);
        }
        Ok(())
    })?;
    swept.sort_by_key(|swept| swept.interval);
    Ok(swept)
}

/// That which wastes least.
pub fn best(swept: &[Swept]) -> Option<&Swept> {
    swept.iter().min_by(|a, b| a.outcome.waste().total_cmp(&b.outcome.waste()))
}
