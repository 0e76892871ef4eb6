//! States on the device thread: who joins, who leaves, who fails, and what is left behind.

mod away;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::checkpoint::interval::Interval;
use crate::checkpoint::{Saved, Saving, Snapshot, TakenOver, Workplace};
use crate::error::Fault;
use crate::store::{Memory, Store};
use crate::{Batching, Error, Job, Model, Pipeline, Progress, Result, Running, Stepper, Stepping};

/// Counts to a number, one a step.
#[derive(Clone, Default)]
struct Counter(Arc<Book>);

/// What counters do.
#[derive(Default)]
struct Book {
    /// The jobs of each step.
    groups: Mutex<Vec<Vec<u32>>>,
    loaded: AtomicUsize,
    dropped: AtomicUsize,
    restored: Mutex<Vec<u32>>,
    /// Whether steps wait to be told.
    gate: Mutex<Option<mpsc::Receiver<()>>>,
    /// What a count does when a job with this end has got there.
    mishaps: Mutex<BTreeMap<u32, (u32, Mishap)>>,
}

#[derive(Clone, Copy)]
enum Mishap {
    Fail,
    Panic,
    /// Before the first step, whatever the count.
    PanicAtOnce,
}

struct Count {
    at: u32,
    end: u32,
    book: Arc<Book>,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.book.dropped.fetch_add(1, SeqCst);
    }
}

impl Stepper for Counter {
    type Spec = u32;
    type State = Count;
    type Output = u32;
    const FORMAT: &'static str = "count 1";

    fn begin(&mut self, end: &u32, _: &Workplace) -> Result<Count> {
        let mishap = self.0.mishaps.lock().unwrap().get(end).copied();
        assert!(!matches!(mishap, Some((_, Mishap::PanicAtOnce))), "it went very wrong at once");
        Ok(Count { at: 0, end: *end, book: self.0.clone() })
    }

    fn step(&mut self, counts: &mut [&mut Count]) -> Result<Vec<Progress>> {
        if let Some(gate) = &*self.0.gate.lock().unwrap() {
            let _ = gate.recv();
        }
        self.0.groups.lock().unwrap().push(counts.iter().map(|count| count.end).collect());
        let mishaps = self.0.mishaps.lock().unwrap().clone();
        let advance = |count: &mut &mut Count| {
            match mishaps.get(&count.end) {
                Some((at, Mishap::Fail)) if *at == count.at => return Err(Error::failed("it went wrong")),
                Some((at, Mishap::Panic)) if *at == count.at => panic!("it went very wrong"),
                _ => {}
            }
            count.at += 1;
            Ok(if count.at >= count.end { Progress::done() } else { Progress::of(count.at as f32 / count.end as f32) })
        };
        counts.iter_mut().map(advance).collect()
    }

    fn finish(&mut self, count: Count) -> Result<u32> {
        Ok(count.at)
    }

    fn save(&mut self, count: &mut Count) -> Result<Snapshot> {
        Ok(Snapshot::new().bytes("at", count.at.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, end: &u32, _: &Workplace, saved: Saved) -> Result<Count> {
        let at = u32::from_le_bytes(saved.bytes("at")?[..].try_into()?);
        self.0.restored.lock().unwrap().push(at);
        Ok(Count { at, end: *end, book: self.0.clone() })
    }
}

async fn running(stepping: Stepping, book: &Arc<Book>) -> Arc<Running<u32, u32>> {
    let book = book.clone();
    let pipeline = Pipeline::new().gpu_steps("count", stepping, move || {
        book.loaded.fetch_add(1, SeqCst);
        Ok(Counter(book.clone()))
    });
    Arc::new(pipeline.start().await.unwrap())
}

type Called = tokio::task::JoinHandle<Result<u32>>;

fn call(running: &Arc<Running<u32, u32>>, job: &Job, end: u32) -> Called {
    let (running, job) = (running.clone(), job.clone());
    tokio::spawn(async move { running.call_as(&job, end).await })
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect(what);
}

fn gated(book: &Book) -> mpsc::Sender<()> {
    let (open, gate) = mpsc::channel();
    *book.gate.lock().unwrap() = Some(gate);
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_join_and_leave_between_steps() {
    let book = Arc::default();
    let running = running(Stepping::jobs(2), &book).await;
    let open = gated(&book);
    let jobs = [3, 10, 5].map(|end: u32| Job::new(end.to_string()));
    let calls: Vec<Called> = jobs.iter().zip([3, 10, 5]).map(|(job, end)| call(&running, job, end)).collect();
    // No step ends before there are two to join.
    until("both seats are taken", || jobs.iter().filter(|job| job.stage() == "count").count() == 2).await;
    for _ in 0..100 {
        open.send(()).unwrap();
    }
    for (called, end) in calls.into_iter().zip([3, 10, 5]) {
        assert_eq!(called.await.unwrap().unwrap(), end);
    }
    let groups = book.groups.lock().unwrap().clone();
    assert!(groups.iter().all(|group| group.len() <= 2));
    assert!(groups.iter().any(|group| group.len() == 2));
    for end in [3, 10, 5] {
        assert_eq!(groups.iter().filter(|group| group.contains(&end)).count(), end as usize);
    }
    drop(running);
    until("all states are gone", || book.dropped.load(SeqCst) == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_nobody_waits_for_is_dropped_after_its_step() {
    let book = Arc::default();
    let running = running(Stepping::jobs(2), &book).await;
    let (endless, other) = (Job::new("endless"), Job::new("other"));
    let called = call(&running, &endless, u32::MAX);
    until("it is stepped", || !book.groups.lock().unwrap().is_empty()).await;
    called.abort();
    until("it is dropped", || book.dropped.load(SeqCst) == 1).await;
    assert_eq!(call(&running, &other, 7).await.unwrap().unwrap(), 7);
}

struct Echo;

impl Model for Echo {
    type Input = u32;
    type Output = u32;
    fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
        Ok(inputs.to_vec())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_model_of_the_device_has_its_turns() {
    let book: Arc<Book> = Arc::default();
    let (count, answered) = (book.clone(), Arc::new(AtomicUsize::new(0)));
    let answers = answered.clone();
    let pipeline = Pipeline::new()
        .gpu("echo", Batching::items(1), || Ok(Echo))
        .cpu("answered", 1, move |_, x| {
            answers.fetch_add(1, SeqCst);
            Ok(x)
        })
        .gpu_steps("count", Stepping::jobs(1), move || Ok(Counter(count.clone())));
    let running = Arc::new(pipeline.start().await.unwrap());
    let endless = call(&running, &Job::new("endless"), u32::MAX);
    until("it is stepped", || !book.groups.lock().unwrap().is_empty()).await;
    let other = call(&running, &Job::new("other"), 3);
    until("the echo answers between steps", || answered.load(SeqCst) == 2).await;
    assert!(!endless.is_finished());
    endless.abort();
    assert_eq!(other.await.unwrap().unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_takes_its_jobs_and_each_comes_back_alone() {
    let book: Arc<Book> = Arc::default();
    book.mishaps.lock().unwrap().insert(9, (4, Mishap::Fail));
    let running = running(Stepping::jobs(4), &book).await;
    let open = gated(&book);
    let jobs: Vec<Job> = [7, 8, 9].map(|end: u32| Job::new(end.to_string())).into();
    let first: Vec<Called> = jobs.iter().zip([7, 8, 9]).map(|(job, end)| call(&running, job, end)).collect();
    for _ in 0..200 {
        open.send(()).unwrap();
    }
    let mut failed = 0;
    for called in first {
        if let Err(why) = called.await.unwrap() {
            // Of several jobs none is blamed.
            let together = why.to_string().contains("jobs together");
            assert_eq!(why.fault(), if together { Fault::Transient } else { Fault::Failed }, "{why}");
            assert!(why.to_string().starts_with("stage `count`: "), "{why}");
            failed += 1;
        }
    }
    assert!(failed >= 1);
    book.groups.lock().unwrap().clear();
    let again: Vec<Called> = jobs.iter().zip([7, 8, 9]).map(|(job, end)| call(&running, job, end)).collect();
    let mut ends = Vec::new();
    for called in again {
        ends.push(called.await.unwrap().map_err(|why| why.to_string()));
    }
    assert_eq!(ends[..2], [Ok(7), Ok(8)]);
    assert_eq!(ends[2], Err("stage `count`: step 5 here: it went wrong".to_owned()));
    assert_eq!(book.loaded.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_loads_the_stepper_anew_and_two_in_a_row_are_fatal() {
    let book: Arc<Book> = Arc::default();
    book.mishaps.lock().unwrap().extend([(8, (2, Mishap::Panic)), (9, (2, Mishap::Panic))]);
    let running = running(Stepping::jobs(1), &book).await;
    let why = call(&running, &Job::new("a"), 8).await.unwrap().unwrap_err();
    assert_eq!((why.fault(), why.to_string().contains("panicked: it went very wrong")), (Fault::Failed, true));
    assert_eq!(book.loaded.load(SeqCst), 2);
    assert_eq!(call(&running, &Job::new("b"), 5).await.unwrap().unwrap(), 5);
    for job in ["a", "a"] {
        let why = call(&running, &Job::new(job), 8).await.unwrap().unwrap_err();
        assert_eq!(why.fault(), Fault::Failed, "one bad job, however often");
        // Its first steps pass; it is for the next job not to be blamed for the one before.
    }
    book.mishaps.lock().unwrap().extend([(8, (0, Mishap::Panic)), (9, (0, Mishap::Panic))]);
    let why = call(&running, &Job::new("a"), 8).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Failed);
    let why = call(&running, &Job::new("c"), 9).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Failed);
    let why = call(&running, &Job::new("d"), 5).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal, "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_panics_in_a_row_before_a_first_step_are_fatal_too() {
    let book: Arc<Book> = Arc::default();
    book.mishaps.lock().unwrap().extend([(8, (0, Mishap::PanicAtOnce)), (9, (0, Mishap::PanicAtOnce))]);
    let running = running(Stepping::jobs(1), &book).await;
    let faults = async |jobs: [(&'static str, u32); 3]| {
        let mut faults = Vec::new();
        for (job, end) in jobs {
            faults.push(call(&running, &Job::new(job), end).await.unwrap().map_err(|why| why.fault()));
        }
        faults
    };
    assert_eq!(faults([("a", 8), ("a", 8), ("b", 5)]).await, [Err(Fault::Failed), Err(Fault::Failed), Ok(5)]);
    let twice = faults([("a", 8), ("c", 9), ("d", 5)]).await;
    assert_eq!(twice, [Err(Fault::Failed), Err(Fault::Failed), Err(Fault::Fatal)]);
}

fn saving(store: &Arc<Memory>) -> Saving {
    Saving::to(store.clone()).every(Duration::from_millis(5))
}

/// Until a state of the job is in the store.
async fn saved(store: &Arc<Memory>, at_least: usize) {
    let states = async {
        loop {
            let store: &dyn Store = &**store;
            if store.list_all("jobs/1/state/states/").await.unwrap().len() >= at_least {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), states).await.expect("a state is saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_from_its_last_state() {
    let (book, store): (Arc<Book>, Arc<Memory>) = Default::default();
    for worker in 0..5 {
        let running = running(Stepping::jobs(1).saving(saving(&store)), &book).await;
        let called = call(&running, &Job::new("1"), u32::MAX);
        saved(&store, 2).await;
        until("all but the first go on", || book.restored.lock().unwrap().len() == worker).await;
        called.abort();
        drop(running);
    }
    let restored = book.restored.lock().unwrap().clone();
    assert!(restored.is_sorted(), "{restored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_handed_over_saves_where_it_is() {
    let (book, store): (Arc<Book>, Arc<Memory>) = Default::default();
    // Nothing is due for an hour: only the hand-over saves.
    let saving = Saving::to(store.clone()).every(Duration::from_secs(3600));
    let running = running(Stepping::jobs(1).saving(saving), &book).await;
    let job = Job::new("1");
    let open = gated(&book);
    let called = call(&running, &job, 1000);
    for _ in 0..41 {
        open.send(()).unwrap();
    }
    until("it is at 41", || book.groups.lock().unwrap().len() == 41).await;
    job.cancel();
    open.send(()).unwrap();
    let why = called.await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Transient);
    let said = why.to_string();
    let steps: u32 = said.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(said.contains("handed over after") && (41..=42).contains(&steps), "{said}");
    let again = call(&running, &Job::new("1"), 1000);
    for _ in 0..1000 {
        let _ = open.send(());
    }
    assert_eq!(again.await.unwrap().unwrap(), 1000);
    assert_eq!(*book.restored.lock().unwrap(), [steps]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_taken_over_ends_here_and_goes_on_there() {
    let (book, store): (Arc<Book>, Arc<Memory>) = Default::default();
    let first = running(Stepping::jobs(1).saving(saving(&store)), &book).await;
    let zombie = call(&first, &Job::new("1"), u32::MAX);
    saved(&store, 1).await;
    let second = running(Stepping::jobs(1).saving(saving(&store)), &book).await;
    let successor = call(&second, &Job::new("1"), u32::MAX);
    let why = zombie.await.unwrap().unwrap_err();
    assert!(why.find::<TakenOver>().is_some(), "{why}");
    let before = book.groups.lock().unwrap().len();
    until("the successor goes on", || book.groups.lock().unwrap().len() > before + 10).await;
    assert!(!successor.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_needed_and_cannot_be_read() {
    let (book, store): (Arc<Book>, Arc<Memory>) = Default::default();
    let running = running(Stepping::jobs(1).saving(saving(&store)), &book).await;
    let called = call(&running, &Job::new("1"), u32::MAX);
    saved(&store, 1).await;
    called.abort();
    let state: &dyn Store = &*store;
    until("it is dropped", || book.dropped.load(SeqCst) == 1).await;
    state.delete_all("jobs/1/state/data").await.unwrap();
    state.delete_all("jobs/1/state/states").await.unwrap();
    let why = call(&running, &Job::new("1"), 5).await.unwrap().unwrap_err();
    assert!(why.to_string().contains("is needed, and is not there"), "{why}");
    assert_eq!(book.restored.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_save_a_stage_that_saves_is_refused_loudly() {
    struct NoSave;
    impl Stepper for NoSave {
        type Spec = u32;
        type State = u32;
        type Output = u32;
        const FORMAT: &'static str = "";
        fn begin(&mut self, _: &u32, _: &Workplace) -> Result<u32> {
            Ok(0)
        }
        fn step(&mut self, states: &mut [&mut u32]) -> Result<Vec<Progress>> {
            Ok(vec![Progress::some(); states.len()])
        }
        fn finish(&mut self, state: u32) -> Result<u32> {
            Ok(state)
        }
    }
    let saving = Saving::to(Memory::new()).interval(Interval::every(Duration::ZERO));
    let pipeline = Pipeline::new().gpu_steps("none", Stepping::jobs(1).saving(saving), || Ok(NoSave));
    let running = pipeline.start().await.unwrap();
    let why = running.call(1).await.unwrap_err();
    assert!(why.to_string().contains("has no `save`"), "{why}");
}
