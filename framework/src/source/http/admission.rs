//! Who gets in: a request that would not be answered in time is refused at once, with when to come back.
//!
//! The forecast is the pipeline's [`Outlook`] for the requests that are inside, corrected by how wrong it was lately:
//! their mean error and four mean deviations on top, as TCP does for its timer (RFC 6298). Under overload the line is
//! always as long as it may be, and whatever holds up the device makes everybody in it later: so at least a tenth of
//! the time in line is kept in reserve.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::outlook::Outlook;

/// How much a new error counts in the mean, and in the mean deviation (RFC 6298); divided by how many requests are
/// inside, since those that were in line together were delayed together (RFC 7323, appendix G).
const NEW_ERROR: f64 = 0.125;
const NEW_DEVIATION: f64 = 0.25;
/// The least reserve, in parts of the time in line.
const RESERVE: u32 = 10;

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
        let (forecast, expected) = state.expect(outlook, at);
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
        let (_, expected) = state.expect(outlook, Instant::now());
        state.inside < self.most && expected <= within
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long one more request would take: as forecast, and with what the forecast may be wrong by.
    fn expect(&self, outlook: &Outlook, now: Instant) -> (Duration, Duration) {
        let forecast = outlook.finish_behind(self.inside).saturating_duration_since(now);
        let in_line = forecast.saturating_sub(outlook.finish_behind(0).saturating_duration_since(now));
        (forecast, forecast.saturating_add(self.margin().max(in_line / RESERVE)))
    }

    fn margin(&self) -> Duration {
        Duration::try_from_secs_f64((self.error + 4.0 * self.deviation).max(0.0)).unwrap_or(Duration::MAX)
    }

    fn learn(&mut self, forecast: Duration, took: Duration) {
        let error = took.as_secs_f64() - forecast.as_secs_f64();
        let together = self.inside.max(1) as f64;
        self.deviation += NEW_DEVIATION / together * ((error - self.error).abs() - self.deviation);
        self.error += NEW_ERROR / together * (error - self.error);
    }
}

impl Admitted {
    /// The job was done, or its deadline passed: how long it took, or at least that long, teaches the forecast.
    pub(super) fn ended(&self) {
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
        assert!((6.9..7.1).contains(&late), "30 s, and a tenth of 20 s in line: {late}");
        assert!(admission.enter(&outlook, within(33.0)).is_ok(), "with more patience it does");
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
    fn a_delay_of_many_in_line_is_not_forgotten_with_the_next_batch() {
        let admission = Admission::new(1000);
        let mut state = admission.lock();
        state.inside = 400;
        // As many as were in line when it happened.
        (0..400).for_each(|_| state.learn(Duration::from_millis(1800), Duration::from_millis(2000)));
        let then = state.margin();
        assert!(then > Duration::from_millis(100), "{then:?}");
        (0..8).for_each(|_| state.learn(Duration::from_millis(1800), Duration::from_millis(1800)));
        assert!(state.margin() > then.mul_f64(0.95), "{:?} after {then:?}", state.margin());
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
