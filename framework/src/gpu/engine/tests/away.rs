//! A model that was dropped for others: when it wants to be loaded again, and what the forecast says meanwhile.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;

/// More than any pause.
const LONG: Duration = Duration::from_secs(3600);

/// Takes what comes now, or later.
struct Choosy(Arc<AtomicBool>);

impl Model for Choosy {
    type Input = u32;
    type Output = u32;

    fn admit(&mut self, _: &u32) -> Admit {
        if self.0.load(Relaxed) { Admit::Now } else { Admit::Later }
    }

    fn infer(&mut self, items: &[u32]) -> Result<Vec<u32>> {
        Ok(items.to_vec())
    }
}

fn choosy(takes: bool) -> (Driven<Choosy>, Arc<AtomicBool>) {
    let takes = Arc::new(AtomicBool::new(takes));
    let model = takes.clone();
    (Driven::new(Batching::items(1), move || Ok(Choosy(model.clone()))), takes)
}

#[test]
fn a_model_that_has_put_off_all_its_work_is_loaded_again_only_after_a_pause() {
    let (mut driven, takes) = choosy(false);
    driven.call_each([0]);
    let mut now = Instant::now();
    for _ in 0..3 {
        assert_eq!(driven.next(now), Next::Ask(now + ASK_AGAIN));
        driven.engine.unload().unwrap();
        let soon = now + Duration::from_millis(999);
        assert_eq!(driven.next(now), Next::Ask(now + ASK_AGAIN), "it looks who has gone");
        assert_eq!(driven.next(soon), Next::Ask(soon + ASK_AGAIN));
        now += LONG;
        assert_eq!(driven.next(now), Next::Run);
        driven.engine.load().unwrap();
    }
    takes.store(true, Relaxed);
    driven.run_dry();
    assert_eq!(driven.answers()[0].as_ref().unwrap()[..], [0]);
}

#[test]
fn a_new_request_ends_the_pause() {
    let (mut driven, _) = choosy(false);
    driven.call_each([0]);
    let now = Instant::now();
    driven.next(now);
    driven.engine.unload().unwrap();
    assert_eq!(driven.next(now), Next::Ask(now + ASK_AGAIN));
    driven.call_each([1]);
    assert_eq!(driven.next(now), Next::Run);
    assert_eq!(driven.next(now), Next::Run, "until it is loaded");
}

#[test]
fn a_model_that_goes_with_work_that_it_has_taken_wants_to_come_back_at_once() {
    let (mut driven, takes) = choosy(true);
    let now = Instant::now();
    driven.call_each([0]);
    assert_eq!(driven.next(now), Next::Run);
    takes.store(false, Relaxed);
    driven.call_each([1]);
    assert_eq!(driven.next(now), Next::Run);
    driven.engine.unload().unwrap();
    assert_eq!(driven.next(now), Next::Run);
}

#[test]
fn the_forecast_counts_the_load_of_a_model_that_is_away() {
    const LOAD: Duration = Duration::from_millis(5);
    let mut driven = Driven::new(Batching::items(1), || {
        let begun = Instant::now();
        while begun.elapsed() < LOAD {
            std::hint::spin_loop();
        }
        Ok(Choosy(Arc::default()))
    });
    assert!(driven.outlook.finish_behind(0) <= Instant::now(), "it is there, and no batch was seen");
    let now = Instant::now();
    driven.engine.unload().unwrap();
    assert!(driven.outlook.finish_behind(0) >= now + LOAD);
    driven.engine.load().unwrap();
    assert!(driven.outlook.finish_behind(0) <= Instant::now());
}
