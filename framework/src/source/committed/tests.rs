use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::time::{sleep, sleep_until};

use super::*;
use crate::source::Extended;
use crate::source::memory::Memory;
use crate::store::{self, Conditional, Key, Meta, Object, Outcome, Page, Put};
use crate::testing::source::{self, Bench, Ended};

const LEASE: Duration = Duration::from_millis(400);

struct CommittedBench {
    queue: Memory,
    store: store::Memory,
}

impl CommittedBench {
    fn new() -> Self {
        CommittedBench { queue: Memory::with_lease(LEASE), store: store::Memory::new() }
    }

    fn records(&self) -> Records {
        Records::new(self.store.clone())
    }

    /// A job that was delivered before, and was in the crashes that are told.
    async fn push_crashed(&mut self, id: &str, crashes: Vec<Crash>) {
        self.queue.push(id, "x");
        let taken = self.queue.receive(1).await.unwrap().remove(0);
        taken.receipt.settle(&Verdict::give_back()).await.unwrap();
        let crashes = crashes.into_iter().map(|crash| (id.to_owned(), crash)).collect();
        crash::tell(&Ends::new(Arc::new(self.store.clone())), crashes).await.unwrap();
    }
}

impl Bench for CommittedBench {
    type Source = Committed<Memory>;

    async fn reset(&mut self) {
        *self = CommittedBench::new();
    }

    fn source(&mut self) -> Committed<Memory> {
        Committed::new(self.queue.clone(), self.store.clone())
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        self.queue.push(name, payload.to_vec());
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        let settled = self.queue.settled();
        let told = settled.iter().rfind(|settled| settled.id == name).map(|settled| settled.verdict.as_str());
        let kept = self.records().outcome(name).await.unwrap();
        assert_eq!(told, kept.as_ref().map(Verdict::as_str), "queue and store say the same of {name}");
        Some(match kept? {
            Verdict::Done(_) => Ended::Done,
            _ => Ended::Rejected,
        })
    }
}

fn done(result: &'static str) -> Verdict {
    Verdict::Done(Bytes::from_static(result.as_bytes()))
}

fn result(verdict: Option<Verdict>) -> Bytes {
    match verdict {
        Some(Verdict::Done(result)) => result,
        other => panic!("{other:?}"),
    }
}

fn crash(worker: &str, process: &str, others: usize) -> Crash {
    let (worker, process, told) = (worker.to_owned(), process.to_owned(), format!("2026-01-0{process}"));
    Crash { worker, process, told, cause: "died by signal 6 (SIGABRT)".to_owned(), at_work: true, others }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    source::all(&mut CommittedBench::new()).await;
}

#[tokio::test]
async fn a_job_that_comes_again_after_it_was_done_is_not_run() {
    let mut bench = CommittedBench::new();
    bench.queue.push("job", "x");
    let taken = bench.source().receive(1).await.unwrap().remove(0);
    taken.receipt.settle(&done("first")).await.unwrap();
    for (name, verdict) in [("rejected", Verdict::Reject { why: Error::invalid("no good") }), ("other", done("2"))] {
        bench.queue.push(name, "x");
        bench.source().receive(1).await.unwrap().remove(0).receipt.settle(&verdict).await.unwrap();
    }

    // What a queue does that has lost its deletes.
    let again = Memory::new();
    for id in ["job", "rejected", "new", "other"] {
        again.push(id, "x");
    }
    let mut source = Committed::new(again.clone(), bench.store.clone());
    let taken = source.receive(10).await.unwrap();
    assert_eq!(taken.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["new"]);
    taken[0].receipt.settle(&done("new")).await.unwrap();
    again.close();
    assert!(source.receive(10).await.unwrap().is_empty());
    let mut told: Vec<_> = again.settled().into_iter().map(|job| format!("{} {:?}", job.id, job.verdict)).collect();
    told.sort();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].contains("job Done(b\"first\")"), "with the result that stands: {told:?}");
    assert!(told[3].contains("no good"), "with the reason that stands: {told:?}");
}

/// A source that believes its leases to last longer than they do, so that two workers end one job at a time.
struct Optimist(Memory);

struct Hopeful(Arc<dyn Receipt>);

impl Source for Optimist {
    fn name(&self) -> &'static str {
        "optimist"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let taken = self.0.receive(max).await?;
        let hope = |job: Delivery| {
            let until = job.until + Duration::from_secs(60);
            Delivery { until, receipt: Arc::new(Hopeful(job.receipt)), ..job }
        };
        Ok(taken.into_iter().map(hope).collect())
    }
}

impl Receipt for Hopeful {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        self.0.extend(by)
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        self.0.settle(verdict)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_workers_that_end_one_job_at_a_time_one_does() {
    for round in 0..20 {
        let queue = Memory::with_lease(Duration::from_millis(20));
        let store = store::Memory::new();
        queue.push("job", "x");
        let mut workers = [(); 2].map(|()| Committed::new(Optimist(queue.clone()), store.clone()));
        let first = workers[0].receive(1).await.unwrap().remove(0);
        // Its lease has ended on the queue, and it does not know.
        let second = workers[1].receive(1).await.unwrap().remove(0);
        assert_eq!((first.attempt, second.attempt), (1, 2));
        let settle = |delivery: Delivery, name: &'static str| {
            tokio::spawn(async move { delivery.receipt.settle(&done(name)).await })
        };
        let (a, b) = (settle(first, "first"), settle(second, "second"));
        let (a, b) = (a.await.unwrap(), b.await.unwrap());
        let kept = result(Records::new(store.clone()).outcome("job").await.unwrap());
        assert!(a.is_err(), "the queue has given its job to another");
        if b.is_ok() {
            let told = queue.settled();
            assert_eq!((told.len(), result(Some(told[0].verdict.clone()))), (1, kept), "round {round}");
        }
        let store: &dyn Store = &store;
        let left = store.list_all("").await.unwrap();
        assert_eq!(left.len(), 2, "one end and the result that it names: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_shortly_before_the_lease_ends_or_later() {
    for early in [Duration::from_millis(1990), Duration::ZERO] {
        let queue = Memory::with_lease(Duration::from_secs(30));
        let store = store::Memory::new();
        queue.push("job", "x");
        let taken = Committed::new(queue.clone(), store.clone()).receive(1).await.unwrap().remove(0);
        sleep_until(taken.until - early).await;
        for verdict in [done("late"), Verdict::Reject { why: Error::invalid("late") }] {
            let told = taken.receipt.settle(&verdict).await;
            assert!(told.is_err_and(|why| why.fault() == crate::Fault::Invalid), "{early:?}");
        }
        let store: &dyn Store = &store;
        assert!(store.list_all("").await.unwrap().is_empty());
        assert!(queue.settled().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_extended_lease_has_time_to_write() {
    let queue = Memory::with_lease(Duration::from_secs(30));
    let store = store::Memory::new();
    queue.push("job", "x");
    let taken = Committed::new(queue.clone(), store.clone()).receive(1).await.unwrap().remove(0);
    for _ in 0..5 {
        sleep(Duration::from_secs(20)).await;
        taken.receipt.extend(Duration::from_secs(30)).await.unwrap();
    }
    taken.receipt.settle(&done("x")).await.unwrap();
    assert_eq!(result(Records::new(store).outcome("job").await.unwrap()), "x");
}

/// A store whose puts lose their answers: each happens, and says that it failed, at its first try.
#[derive(Clone)]
struct Lossy(store::Memory, Arc<std::sync::Mutex<std::collections::BTreeSet<Key>>>);

/// A store without conditional puts.
#[derive(Clone)]
struct Plain(store::Memory);

macro_rules! the_rest {
    () => {
        fn get_range<'a>(&'a self, key: &'a Key, range: std::ops::Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
            self.0.get_range(key, range)
        }
        fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
            self.0.head(key)
        }
        fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
            self.0.delete(key)
        }
        fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
            self.0.list(prefix, after, limit)
        }
    };
}

impl Store for Lossy {
    the_rest!();

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.0.get(key)
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let outcome = self.0.put(key, bytes, mode).await?;
            match self.1.lock().unwrap().insert(key.clone()) {
                true => Err(Error::transient("the connection was reset")),
                false => Ok(outcome),
            }
        })
    }

    fn conditional(&self) -> Conditional {
        self.0.conditional()
    }
}

impl Store for Plain {
    the_rest!();

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.0.get(key)
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        match mode {
            Put::Overwrite => self.0.put(key, bytes, mode),
            _ => Box::pin(async { Err(Error::invalid("no conditional puts here")) }),
        }
    }

    fn conditional(&self) -> Conditional {
        Conditional::None
    }
}

#[tokio::test]
async fn a_lost_answer_is_no_lost_race() {
    let queue = Memory::new();
    let store = Lossy(store::Memory::new(), Arc::default());
    queue.push("job", "x");
    let taken = Committed::new(queue.clone(), store.clone()).receive(1).await.unwrap().remove(0);
    let mut tries = 0;
    while let Err(why) = taken.receipt.settle(&done("mine")).await {
        assert_eq!(why.fault(), crate::Fault::Transient);
        tries += 1;
        assert!(tries < 5);
    }
    assert_eq!(result(Records::new(store.clone()).outcome("job").await.unwrap()), "mine");
    let store: &dyn Store = &store;
    assert_eq!(store.list_all("").await.unwrap().len(), 2);
    assert_eq!(queue.done(), 1);
}

#[tokio::test]
async fn a_store_without_conditional_puts_keeps_one_end_all_the_same() {
    let queue = Memory::with_lease(LEASE);
    let store = Plain(store::Memory::new());
    queue.push("job", "x");
    let mut workers = [(); 2].map(|()| Committed::new(Optimist(queue.clone()), store.clone()));
    let first = workers[0].receive(1).await.unwrap().remove(0);
    let second = workers[1].receive(1).await.unwrap().remove(0);
    second.receipt.settle(&done("second")).await.unwrap();
    assert!(first.receipt.settle(&done("first")).await.is_err());
    assert_eq!(result(Records::new(store.clone()).outcome("job").await.unwrap()), "second");

    // Both wrote before either looked: the later lease's counts, and everybody agrees.
    let ends = Ends::new(Arc::new(store.clone()));
    let zombie = super::super::ends::End::done(1, "text/plain", 5);
    ends.keep("job", zombie.result.as_ref().unwrap(), Bytes::from_static(b"first")).await.unwrap();
    let key = super::super::ends::key("job", &format!("end-{:010}-{}", 1, zombie.name)).unwrap();
    ends.write(&key, &zombie, Put::Overwrite).await.unwrap();
    assert_eq!(result(Records::new(store).outcome("job").await.unwrap()), "second");
}

#[tokio::test]
async fn a_poison_job_is_rejected_with_its_reason_and_not_run() {
    let mut bench = CommittedBench::new();
    let crashes = vec![crash("a", "1", 4), crash("b", "2", 0), crash("c", "3", 0)];
    bench.push_crashed("poison", crashes).await;
    bench.queue.push("good", "x");
    let mut source = bench.source();
    let taken = source.receive(10).await.unwrap();
    assert_eq!(taken.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["good"]);
    taken[0].receipt.settle(&done("x")).await.unwrap();
    bench.queue.close();
    assert!(source.receive(10).await.unwrap().is_empty());
    assert_eq!(bench.ended("poison").await, Some(Ended::Rejected));
    let Some(Verdict::Reject { why }) = bench.records().outcome("poison").await.unwrap() else {
        panic!("it is rejected");
    };
    assert!(why.to_string().contains("crashed its worker 3 times, on 3 workers"), "{why}");
    assert!(why.to_string().contains("SIGABRT"), "{why}");
    assert_eq!(bench.records().crashes("poison").await.unwrap().len(), 3, "they are kept as evidence");
    // Somebody has mended it, and has it run again.
    bench.records().forget("poison").await.unwrap();
    assert!(bench.records().outcome("poison").await.unwrap().is_none());
}

#[tokio::test]
async fn a_suspect_runs_alone_and_keeps_its_lease_until_then() {
    let mut bench = CommittedBench::new();
    bench.queue.push("first", "x");
    let mut source = bench.source();
    let first = source.receive(10).await.unwrap().remove(0);
    bench.push_crashed("suspect", vec![crash("a", "1", 1)]).await;
    assert!(timeout(LEASE / 4, source.receive(10)).await.is_err(), "the suspect has to wait");

    // While the first is there it waits, for several leases, and nothing else is taken.
    bench.queue.push("later", "x");
    let until = Instant::now() + 3 * LEASE;
    while Instant::now() < until {
        let received = timeout(LEASE / 4, source.receive(10)).await;
        assert!(received.is_err(), "what came after it has to wait too");
        assert_eq!(bench.queue.waiting(), 1, "and waits where others may take it");
        first.receipt.extend(LEASE).await.unwrap();
    }
    first.receipt.settle(&done("x")).await.unwrap();
    drop(first);
    let mut taken = source.receive(10).await.unwrap();
    let suspect = taken.remove(0);
    assert_eq!((suspect.id.as_str(), suspect.attempt, taken.len()), ("suspect", 2, 0), "its lease was never lost");
    assert!(timeout(LEASE / 2, source.receive(10)).await.is_err(), "while it runs, it is alone");
    suspect.receipt.settle(&done("x")).await.unwrap();
    drop(suspect);
    let later = source.receive(10).await.unwrap();
    assert_eq!(later[0].id, "later");
    assert!(bench.records().crashes("suspect").await.unwrap().is_empty(), "it is done, and cleared");
}

#[tokio::test]
async fn who_waits_for_its_turn_is_given_back_when_the_source_goes() {
    let mut bench = CommittedBench::new();
    bench.queue = Memory::new();
    bench.queue.push("first", "x");
    let mut source = bench.source();
    let first = source.receive(10).await.unwrap().remove(0);
    bench.push_crashed("suspect", vec![crash("a", "1", 1)]).await;
    assert!(timeout(LEASE / 4, source.receive(10)).await.is_err());
    assert_eq!(bench.queue.waiting(), 0);
    drop(source);
    let back = async {
        while bench.queue.waiting() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), back).await.unwrap();
    drop(first);
}

#[tokio::test]
async fn jobs_are_marked_while_they_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::at(folder.path()).unwrap();
    let mut bench = CommittedBench::new();
    bench.queue.push("job", "x");
    let mut source = bench.source();
    drop(source.shared.marker.set(Arc::new(witness.mark(None).unwrap())));
    let taken = source.receive(1).await.unwrap().remove(0);
    let journal = || {
        let process = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let process = process.into_iter().find(|path| path.is_dir()).unwrap();
        std::fs::read_to_string(process.join("journal")).unwrap()
    };
    assert_eq!(journal(), "+\"job\"\n");
    let watch = taken.receipt.watch().unwrap();
    watch.works();
    assert_eq!(journal(), "+\"job\"\nw\"job\"\n");
    watch.rests();
    drop((watch, taken));
    drop(source);
    assert!(std::fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().path().is_file()), "a clean end");
}

/// A store that is away until it is mended, and takes its time for results.
#[derive(Clone)]
struct Slow(store::Memory, Arc<AtomicBool>);

impl Store for Slow {
    the_rest!();

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        match self.1.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(Error::transient("the store is away")) }),
            false => self.0.get(key),
        }
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            if key.as_str().contains("/result-") {
                sleep(Duration::from_secs(25)).await;
            }
            self.0.put(key, bytes, mode).await
        })
    }

    fn conditional(&self) -> Conditional {
        self.0.conditional()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_said_and_its_jobs_come_again() {
    let queue = Memory::new();
    let away = Arc::new(AtomicBool::new(true));
    queue.push("job", "x");
    let mut source = Committed::new(queue.clone(), Slow(store::Memory::new(), away.clone()));
    let why = source.receive(10).await.map(|taken| taken.len()).unwrap_err();
    assert!(why.to_string().contains("the store is away"), "{why}");
    away.store(false, Ordering::Relaxed);
    let again = source.receive(10).await.unwrap().remove(0);
    assert_eq!((again.id.as_str(), again.attempt), ("job", 2));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_takes_long_is_not_begun_anew_at_each_try() {
    let queue = Memory::with_lease(Duration::from_secs(60));
    let store = store::Memory::new();
    queue.push("job", "x");
    let mut source = Committed::new(queue.clone(), Slow(store.clone(), Arc::default()));
    let taken = source.receive(1).await.unwrap().remove(0);
    let begun = Instant::now();
    // As the worker does, which gives each try 10 s.
    let mut tries = 1;
    let result = done("large");
    while timeout(Duration::from_secs(10), taken.receipt.settle(&result)).await.is_err() {
        tries += 1;
    }
    assert_eq!((tries, begun.elapsed().as_secs()), (3, 25));
    assert_eq!(queue.done(), 1);

    // One whose lease ends before leaves nothing.
    let queue = Memory::with_lease(Duration::from_secs(20));
    queue.push("other", "x");
    let mut source = Committed::new(queue.clone(), Slow(store.clone(), Arc::default()));
    let taken = source.receive(1).await.unwrap().remove(0);
    assert!(taken.receipt.settle(&done("late")).await.is_err());
    sleep(Duration::from_secs(60)).await;
    let store: &dyn Store = &store;
    assert!(store.list_all("jobs/other/").await.unwrap().is_empty());
}
