//! Waiting for what must come, with a deadline that only a hang can reach.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a test waits for what should come.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a test looks on to see that something does not change.
const QUIET: Duration = Duration::from_millis(150);

/// Waits until the condition holds; panics if it does not in time. Blocks its thread, so that it works whatever the
/// runtime is doing.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks on for a while and checks that a value stays as it is.
#[track_caller]
pub fn stays<T: PartialEq + std::fmt::Debug>(expected: T, value: impl Fn() -> T) {
    let start = Instant::now();
    while start.elapsed() < QUIET {
        assert_eq!(value(), expected);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The future's output; panics if it takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not in {PATIENCE:?}: {what}"),
    }
}
