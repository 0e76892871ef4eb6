//! Who gets in: a request that would not be answered in time is refused at once, with when to come back.
//!
//! The forecast is the pipeline's [`Outlook`] for the requests that are inside, corrected by how wrong it was lately:
//! their mean error and four mean deviations on top, as TCP does for its timer (RFC 6298).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::outlook::Outlook;

/// How much a new error counts in the mean, and in the mean deviation (RFC 6298).
const NEW_ERROR: f64 = 0.125;
const NEW_DEVIATION: f64 = 0.25;

/// The door of one pipeline. A mutex, because requests' tasks come in and leave on their own.
pub(super) struct Admission {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inside: usize,
    /// Of the forecast, in seconds: mean, and mean deviation.
    error: f64,
    deviation: f64,
}

/// A request's place inside; dropped, it has left.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    at: Instant,
    forecast: Duration,
}

impl Admission {
    /// At most `most` requests inside.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Admission { most, state: Mutex::default() })
    }

    /// Lets a request in that has to be answered by `deadline`; or says in how long it might be.
    pub(super) fn enter(self: &Arc<Self>, outlook: &Outlook, deadline: Instant) -> Result<Admitted, Duration> {
        let mut state = self.lock();
        let at = Instant::now();
        let forecast = outlook.finish_behind(state.inside).saturating_duration_since(at);
        let expected = forecast.saturating_add(state.margin());
        let late = expected.saturating_sub(deadline.saturating_duration_since(at));
        if !late.is_zero() {
            return Err(late);
        }
        if state.inside >= self.most {
            return Err(forecast);
        }
        state.inside += 1;
        Ok(Admitted { admission: self.clone(), at, forecast })
    }

    /// Requests that are inside.
    pub(super) fn inside(&self) -> usize {
        self.lock().inside
    }

    /// Whether a request that may take so long would get in.
    pub(super) fn has_room(&self, outlook: &Outlook, within: Duration) -> bool {
        let state = self.lock();
        let expected = outlook.finish_behind(state.inside).saturating_duration_since(Instant::now());
        state.inside < self.most && expected.saturating_add(state.margin()) <= within
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn margin(&self) -> Duration {
        Duration::try_from_secs_f64((self.error + 4.0 * self.deviation).max(0.0)).unwrap_or(Duration::MAX)
    }

    fn learn(&mut self, forecast: Duration, took: Duration) {
        let error = took.as_secs_f64() - forecast.as_secs_f64();
        self.deviation += NEW_DEVIATION * ((error - self.error).abs() - self.deviation);
        self.error += NEW_ERROR * (error - self.error);
    }
}

impl Admitted {
    /// The job was done: how long it took teaches the forecast.
    pub(super) fn done(&self) {
        self.admission.lock().learn(self.forecast, self.at.elapsed());
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.lock().inside -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(batch: Duration) -> Outlook {
        let outlook = Outlook::default();
        let forecast = outlook.add_device(2);
        forecast.batch_started(Instant::now(), 1, 1);
        forecast.batch_ended(batch);
        outlook
    }

    fn within(seconds: f64) -> Instant {
        Instant::now() + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn lets_in_what_would_be_answered_in_time() {
        let admission = Admission::new(100);
        let outlook = device(Duration::from_secs(10));
        let inside: Vec<_> = (0..6).map_while(|_| admission.enter(&outlook, within(25.0)).ok()).collect();
        assert_eq!(inside.len(), 4, "two batches of two fit into 25 s, a third does not");
        let late = admission.enter(&outlook, within(25.0)).err().unwrap().as_secs_f64();
        assert!((4.9..5.1).contains(&late), "{late}");
        assert!(admission.enter(&outlook, within(31.0)).is_ok(), "with more patience it does");
        drop(inside);
        assert!(admission.enter(&outlook, within(15.0)).is_ok());
    }

    #[test]
    fn what_takes_longer_than_forecast_is_forecast_to_take_longer() {
        let admission = Admission::new(100);
        let mut state = admission.lock();
        (0..100).for_each(|_| state.learn(Duration::from_secs(1), Duration::from_secs(4)));
        let margin = state.margin().as_secs_f64();
        assert!((2.9..3.1).contains(&margin), "{margin}");
        (0..100).for_each(|_| state.learn(Duration::from_secs(4), Duration::from_secs(1)));
        assert_eq!(state.margin(), Duration::ZERO, "being early is no reason to let more in than the forecast says");
    }

    #[test]
    fn never_more_than_the_most() {
        let admission = Admission::new(3);
        let nothing_known = Outlook::default();
        let inside: Vec<_> = (0..5).filter_map(|_| admission.enter(&nothing_known, within(9.0)).ok()).collect();
        assert_eq!(inside.len(), 3);
        assert!(!admission.has_room(&nothing_known, Duration::from_secs(9)));
        drop(inside);
        assert!(admission.has_room(&nothing_known, Duration::from_secs(9)));
    }
}
