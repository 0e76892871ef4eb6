//! A stepper driven by hand, without its thread: who waits while it is away, and when it wants to be loaded again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::runtime::{Builder, Runtime};
use tracing::Span;

use super::super::*;
use crate::pool::replies::Replies;

/// More than any pause.
const LONG: Duration = Duration::from_secs(3600);

/// Takes jobs now, or later; none of them ends.
struct Choosy(Arc<AtomicBool>);

impl Stepper for Choosy {
    type Spec = ();
    type State = ();
    type Output = ();
    const FORMAT: &'static str = "";

    fn admit(&mut self, (): &()) -> Admit {
        if self.0.load(Relaxed) { Admit::Now } else { Admit::Later }
    }

    fn begin(&mut self, (): &(), _: &Workplace) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, states: &mut [&mut ()]) -> Result<Vec<Progress>> {
        Ok(vec![Progress::some(); states.len()])
    }

    fn finish(&mut self, (): ()) -> Result<()> {
        Ok(())
    }
}

struct Driven {
    engine: Box<dyn Engine>,
    gpu: Arc<GpuOfSteps<Choosy>>,
    takes: Arc<AtomicBool>,
    runtime: Runtime,
}

type Answer = BoxFuture<'static, Result<Ending<()>>>;

/// A stepper that is there, with one seat.
fn driven(takes: bool) -> Driven {
    let takes = Arc::new(AtomicBool::new(takes));
    let stepper = takes.clone();
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let meter = StageMeter::new("driven");
    let inbox = Arc::new(Inbox::new(100, meter.clone(), Arc::default()));
    let plan = Plan {
        name: "driven",
        jobs: 1,
        share: 1,
        load: Arc::new(move || Ok(Choosy(stepper.clone()))),
        inbox: inbox.clone(),
        meter,
        answers: Replies::start(runtime.handle()),
    };
    let mut engine = plan.engine().unwrap();
    engine.load().unwrap();
    let gpu = Arc::new(Gpu { inbox });
    Driven { engine, gpu, takes, runtime }
}

impl Driven {
    fn call(&self, job: &Job) -> Answer {
        let start = Start { spec: (), place: Workplace::new(job, None), saved: None, saves: None };
        let (gpu, job) = (self.gpu.clone(), job.clone());
        let call = async move {
            let ended = gpu.run(&job, smallvec![Some(start)], None, Instant::now(), Span::none()).await?;
            Ok(ended.value.into_iter().next().unwrap())
        };
        let mut answer = call.boxed();
        // Asked once, it has handed its job over.
        assert!((&mut answer).now_or_never().is_none());
        answer
    }

    /// What it says it would do then, having taken in what has come.
    fn next(&mut self, now: Instant) -> Next {
        self.engine.receive().unwrap();
        self.engine.next(now)
    }

    fn left_unstepped(&self, answer: Answer) -> bool {
        let answer = async { tokio::time::timeout(Duration::from_secs(20), answer).await };
        matches!(self.runtime.block_on(answer), Ok(Ok(Ending::Left(0))))
    }
}

#[test]
fn who_is_told_to_stop_while_the_stepper_is_away_is_answered_without_it() {
    let mut driven = driven(true);
    driven.engine.unload().unwrap();
    let (job, other) = (Job::new("told to stop"), Job::new("other"));
    let (answer, _other) = (driven.call(&job), driven.call(&other));
    let now = Instant::now();
    assert_eq!(driven.next(now), Next::Run);
    job.cancel();
    assert_eq!(driven.next(now), Next::Run, "for the other");
    assert!(driven.left_unstepped(answer));
    other.cancel();
    assert_eq!(driven.next(now), Next::Empty);
}

#[test]
fn who_is_told_to_stop_while_all_seats_are_taken_is_answered_and_the_others_go_on() {
    let mut driven = driven(true);
    let (first, second) = (Job::new("first"), Job::new("second"));
    let _first = driven.call(&first);
    driven.engine.receive().unwrap();
    driven.engine.run(true).unwrap();
    let waits = driven.call(&second);
    driven.engine.receive().unwrap();
    // It is to go for another, and takes no more.
    driven.engine.run(false).unwrap();
    second.cancel();
    driven.engine.receive().unwrap();
    assert!(driven.left_unstepped(waits));
    assert!(driven.engine.in_hand(), "the first is seated");
}

#[test]
fn a_stepper_that_has_put_off_all_jobs_is_loaded_again_only_after_a_pause() {
    let mut driven = driven(false);
    let mut now = Instant::now();
    let job = Job::new("put off");
    let _answer = driven.call(&job);
    for _ in 0..3 {
        assert_eq!(driven.next(now + LONG), Next::Run);
        now = Instant::now();
        driven.engine.run(true).unwrap();
        assert!(matches!(driven.next(now), Next::Ask(_)));
        driven.engine.unload().unwrap();
        for wait in [0, 999] {
            let soon = now + Duration::from_millis(wait);
            assert_eq!(driven.next(soon), Next::Ask(soon + ASK_AGAIN), "it looks who is told to stop");
        }
        assert_eq!(driven.next(now + LONG), Next::Run);
        driven.engine.load().unwrap();
    }
    driven.takes.store(true, Relaxed);
    driven.engine.run(true).unwrap();
    assert!(driven.engine.in_hand());
}

#[test]
fn a_new_job_ends_the_pause() {
    let mut driven = driven(false);
    let (first, second) = (Job::new("first"), Job::new("second"));
    let _first = driven.call(&first);
    let now = Instant::now();
    driven.next(now);
    driven.engine.run(true).unwrap();
    driven.engine.unload().unwrap();
    assert!(matches!(driven.next(now), Next::Ask(_)));
    let _second = driven.call(&second);
    assert_eq!(driven.next(now), Next::Run);
}

#[test]
fn who_was_only_not_asked_before_the_stepper_went_has_it_loaded_at_once() {
    let mut driven = driven(true);
    let job = Job::new("not asked");
    let _answer = driven.call(&job);
    let now = Instant::now();
    driven.next(now);
    driven.engine.run(false).unwrap();
    assert!(matches!(driven.next(now), Next::Ask(_)), "it takes nobody while it is to go");
    driven.engine.unload().unwrap();
    assert_eq!(driven.next(now), Next::Run);
}
