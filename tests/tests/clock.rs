//! Trap 2: tokio's paused clock jumps over work on threads. A job that waits for a CPU stage looks idle to it, so a
//! test of times must not have one in it; this holds that the trap is still there, and so the rule.

use std::time::Duration;

use forebay::Pipeline;
use tokio::time::{Instant, timeout};

#[tokio::test(start_paused = true)]
async fn the_paused_clock_jumps_over_a_cpu_stage() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let pipeline = Pipeline::new().cpu("slow", 1, move |_, x: u32| {
        // Until the test says so, or it has gone.
        let _ = wait.lock().expect("nobody panics").recv();
        Ok(x)
    });
    let running = pipeline.start().await.expect("it starts");
    let (begun, paused) = (std::time::Instant::now(), Instant::now());
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, running.call(1)).await.is_err(), "the clock jumped to the end of the hour");
    assert!(paused.elapsed() >= hour && begun.elapsed() < Duration::from_secs(60));
    drop(go);
}
