//! When new work would be done, so that a source can refuse at once what would come too late.
//!
//! By the bottleneck of the pipeline: a job that comes behind others waits for the slowest stage to be done with them,
//! and takes each stage's own time besides. Devices tell their batches, and that a model is to be loaded first; of
//! other stages a sample of their times is kept. It promises no more than that: how long other models keep a device it
//! does not know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A forecast of when work handed to a pipeline now would be done.
#[derive(Clone, Default)]
pub struct Outlook(Arc<Mutex<Vec<Station>>>);

/// One stage of the forecast.
enum Station {
    Pool { pace: Arc<Pace>, parallel: usize },
    Device(Arc<Forecast>),
}

impl Outlook {
    /// When a job handed in now would come out, behind `ahead` jobs that are inside.
    pub fn finish_behind(&self, ahead: usize) -> Instant {
        let now = Instant::now();
        let (mut through, mut queue) = (Duration::ZERO, Duration::ZERO);
        for station in self.lock().iter() {
            let (own, behind) = station.times(ahead, now);
            through = through.saturating_add(own);
            queue = queue.max(behind);
        }
        now + through.saturating_add(queue).min(LONGEST)
    }

    /// A stage in which `parallel` jobs are worked on at once, each for as long as `pace` says.
    pub(crate) fn add_pool(&self, pace: Arc<Pace>, parallel: usize) {
        self.lock().push(Station::Pool { pace, parallel: parallel.max(1) });
    }

    /// A device stage with batches of `items` items.
    pub(crate) fn add_device(&self, items: usize) -> Arc<Forecast> {
        let forecast = Arc::new(Forecast::new(items));
        self.lock().push(Station::Device(forecast.clone()));
        forecast
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Station>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest forecast: nobody waits for more.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Station {
    /// How long the stage takes for a job, and how long for those ahead of it.
    fn times(&self, ahead: usize, now: Instant) -> (Duration, Duration) {
        match self {
            Station::Pool { pace, parallel } => {
                let run = pace.get();
                let rounds = u32::try_from(ahead / parallel).unwrap_or(u32::MAX);
                (run, run.saturating_mul(rounds))
            }
            Station::Device(forecast) => forecast.times(ahead, now),
        }
    }
}

/// How long a stage works on a job, smoothed. An atomic, because its threads all tell it; what two of them tell at
/// once may be lost, and one time in sixteen is enough.
#[derive(Default)]
pub(crate) struct Pace(AtomicU64);

/// How much a new time counts in an average.
const NEWEST: f64 = 0.2;

impl Pace {
    pub(crate) fn ran(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        if before > 0 && nanos & 15 != 0 {
            return;
        }
        let next = if before == 0 { nanos as f64 } else { before as f64 * (1.0 - NEWEST) + nanos as f64 * NEWEST };
        self.0.store(next as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What one model's engine knows of its own future.
pub(crate) struct Forecast(Mutex<State>);

#[derive(Clone, Copy)]
struct State {
    /// How long a batch takes that does not fail, smoothed.
    batch: Duration,
    /// How many items a full batch holds, smoothed: fewer than are allowed where the device has no memory for those.
    items: f64,
    /// How long the model takes to be loaded, while it is not there.
    load: Duration,
    /// How many items a job has, smoothed; 0 before the first.
    items_per_job: f64,
    busy_until: Option<Instant>,
}

impl Forecast {
    fn new(items: usize) -> Self {
        Forecast(Mutex::new(State {
            batch: Duration::ZERO,
            items: items.max(1) as f64,
            load: Duration::ZERO,
            items_per_job: 0.0,
            busy_until: None,
        }))
    }

    /// A batch starts; since the last, `jobs` jobs with `items` items have come.
    pub(crate) fn batch_started(&self, now: Instant, jobs: usize, items: usize) {
        let mut state = self.lock();
        state.busy_until = Some(now + state.batch);
        if jobs > 0 {
            let each = items as f64 / jobs as f64;
            let before = if state.items_per_job == 0.0 { each } else { state.items_per_job };
            state.items_per_job = before * (1.0 - NEWEST) + each * NEWEST;
        }
    }

    /// A batch has passed.
    pub(crate) fn batch_ended(&self, took: Duration) {
        let mut state = self.lock();
        state.batch = match state.batch {
            Duration::ZERO => took,
            before => before.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST),
        };
        state.busy_until = None;
    }

    /// A batch has failed: how soon it did says nothing of the next.
    pub(crate) fn batch_failed(&self) {
        self.lock().busy_until = None;
    }

    /// That a full batch holds so many items. What they take is smoothed as much, so both change together.
    pub(crate) fn full_batch(&self, items: usize) {
        let mut state = self.lock();
        state.items += (items.max(1) as f64 - state.items) * NEWEST;
    }

    /// How long the model takes to be loaded before its next batch: zero while it is there.
    pub(crate) fn loads_first(&self, took: Duration) {
        self.lock().load = took;
    }

    /// How much longer the batch on the device should take.
    pub(crate) fn busy_for(&self, now: Instant) -> Duration {
        self.lock().busy_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    fn times(&self, ahead: usize, now: Instant) -> (Duration, Duration) {
        let running = self.busy_for(now);
        let state = *self.lock();
        let batches = (ahead as f64 * state.items_per_job.max(1.0) / state.items) as u32;
        (state.batch.saturating_add(state.load), running.saturating_add(state.batch.saturating_mul(batches)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds_behind(outlook: &Outlook, ahead: usize) -> f64 {
        let now = Instant::now();
        (outlook.finish_behind(ahead) - now).as_secs_f64()
    }

    #[test]
    fn a_device_is_waited_for_by_whole_batches() {
        let outlook = Outlook::default();
        let forecast = outlook.add_device(8);
        assert!(seconds_behind(&outlook, 100) < 0.1, "nothing is known");
        forecast.batch_started(Instant::now(), 4, 8);
        forecast.batch_ended(Duration::from_secs(10));
        // Two items a job, so four jobs a batch.
        for (ahead, expected) in [(0, 10.0), (3, 10.0), (4, 20.0), (40, 110.0)] {
            let seconds = seconds_behind(&outlook, ahead);
            assert!((seconds - expected).abs() < 0.1, "{ahead} ahead: {seconds}");
        }
        forecast.batch_started(Instant::now(), 0, 0);
        let seconds = seconds_behind(&outlook, 0);
        assert!((seconds - 20.0).abs() < 0.1, "the running batch, and its own: {seconds}");
    }

    #[test]
    fn a_batch_that_failed_teaches_nothing() {
        let outlook = Outlook::default();
        let forecast = outlook.add_device(8);
        forecast.batch_started(Instant::now(), 1, 1);
        forecast.batch_ended(Duration::from_secs(10));
        forecast.batch_started(Instant::now(), 0, 0);
        forecast.batch_failed();
        let seconds = seconds_behind(&outlook, 0);
        assert!((seconds - 10.0).abs() < 0.1, "no batch runs, and the next takes as long as before: {seconds}");
    }

    #[test]
    fn a_device_without_memory_for_full_batches_is_waited_for_by_those_that_it_runs() {
        let outlook = Outlook::default();
        let forecast = outlook.add_device(8);
        forecast.batch_started(Instant::now(), 1, 1);
        forecast.batch_ended(Duration::from_secs(10));
        (0..100).for_each(|_| forecast.full_batch(1));
        let seconds = seconds_behind(&outlook, 80);
        assert!((seconds - 810.0).abs() < 10.1, "batches of one: {seconds}");
        (0..100).for_each(|_| forecast.full_batch(8));
        let seconds = seconds_behind(&outlook, 80);
        assert!((seconds - 110.0).abs() < 10.1, "there is memory again: {seconds}");
    }

    #[test]
    fn a_model_that_is_away_is_loaded_first() {
        let outlook = Outlook::default();
        let forecast = outlook.add_device(8);
        forecast.loads_first(Duration::from_secs(7));
        let seconds = seconds_behind(&outlook, 100);
        assert!((seconds - 7.0).abs() < 0.1, "{seconds}");
        forecast.loads_first(Duration::ZERO);
        assert!(seconds_behind(&outlook, 100) < 0.1);
    }

    #[test]
    fn the_slowest_stage_rules_and_every_stage_takes_its_own_time() {
        let outlook = Outlook::default();
        let (fast, slow) = (Arc::new(Pace::default()), Arc::new(Pace::default()));
        outlook.add_pool(fast.clone(), 1);
        outlook.add_pool(slow.clone(), 2);
        fast.ran(Duration::from_secs(1));
        slow.ran(Duration::from_secs(4));
        for (ahead, expected) in [(0, 5.0), (1, 6.0), (2, 9.0), (10, 25.0)] {
            let seconds = seconds_behind(&outlook, ahead);
            assert!((seconds - expected).abs() < 0.1, "{ahead} ahead: {seconds}");
        }
    }
}
