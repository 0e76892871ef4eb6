//! When new work would be finished, so that a source can refuse at once what would come too late.
//!
//! A forecast from what the device threads last said: when the running batch should end, what waits, and how long a
//! batch takes. It promises no more than that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A forecast of when work handed to a worker now would be finished.
#[derive(Clone, Default)]
pub struct Outlook(Arc<Mutex<Vec<Arc<Forecast>>>>);

/// What one model's engine knows of its own future.
pub(crate) struct Forecast {
    items: usize,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    waiting: usize,
    batch: Duration,
    busy_until: Option<Instant>,
}

/// How much a new batch time counts in the average.
const NEWEST: f64 = 0.2;

impl Outlook {
    /// When `items` items handed in now would leave the last device stage, counting what runs and what waits. The
    /// stages before and after are not counted.
    pub fn finish_of(&self, items: usize) -> Instant {
        let now = Instant::now();
        let forecasts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead: Duration = forecasts.iter().map(|forecast| forecast.time_for(items, now)).sum();
        now + ahead
    }

    pub(crate) fn add(&self, items: usize) -> Arc<Forecast> {
        let forecast = Arc::new(Forecast {
            items,
            state: Mutex::new(State { waiting: 0, batch: Duration::ZERO, busy_until: None }),
        });
        let mut forecasts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forecasts.push(forecast.clone());
        forecast
    }
}

impl Forecast {
    pub(crate) fn batch_started(&self, now: Instant, waiting: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting = waiting;
        state.busy_until = Some(now + state.batch);
    }

    pub(crate) fn batch_ended(&self, took: Duration, waiting: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.batch = match state.batch {
            Duration::ZERO => took,
            before => before.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST),
        };
        state.waiting = waiting;
        state.busy_until = None;
    }

    fn time_for(&self, items: usize, now: Instant) -> Duration {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let running = state.busy_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let batches = (state.waiting + items).div_ceil(self.items);
        running + state.batch.saturating_mul(batches as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_running_batch_and_what_waits() {
        let outlook = Outlook::default();
        let forecast = outlook.add(8);
        assert!(outlook.finish_of(1) <= Instant::now());
        forecast.batch_ended(Duration::from_secs(10), 0);
        let start = Instant::now();
        forecast.batch_started(start, 16);
        let seconds = (outlook.finish_of(8) - start).as_secs_f64();
        assert!((39.0..=40.1).contains(&seconds), "{seconds}");
    }
}
