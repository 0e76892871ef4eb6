//! I1: every delivery gets exactly one verdict that its source took, or its lease is lost, whatever the source's calls
//! do; what was lost is never settled, and what is being settled is never extended. A busy device, busy pools and a
//! busy runtime delay no lease.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use forebay::source::memory::Memory;
use forebay::{Batching, Bytes, DeadlinePassed, Error, Event, Fault, Job, Meta, Pipeline, Report, Verdict, Worker};
use forebay_tests::{Entry, Extend, Gate, Ledger, Random, Settle, eventually, model, run_beside, start, within};
use tokio::time::{Instant, sleep};

const LEASE: Duration = Duration::from_millis(400);

fn ms(count: usize) -> Duration {
    Duration::from_millis(count as u64)
}

/// A job whose payload says how long it works, in milliseconds, or that it fails.
async fn work(_: Job, payload: Bytes) -> forebay::Result<Bytes> {
    let text = String::from_utf8(payload.to_vec())?;
    match text.split_once(' ') {
        Some(("invalid", time)) => {
            sleep(ms(time.parse()?)).await;
            Err(Error::invalid("as it was asked to"))
        }
        Some(("transient", time)) => {
            sleep(ms(time.parse()?)).await;
            Err(Error::transient("as it was asked to"))
        }
        _ => {
            sleep(ms(text.parse()?)).await;
            Ok(payload)
        }
    }
}

/// Counts the futures that were dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Runs the jobs of a ledger to their ends.
async fn run(source: &Ledger) -> Report {
    let worker = Worker::bytes(Pipeline::new().io("work", 64, work)).source(source.clone()).in_flight(16);
    within("the worker ends", run_beside(worker)).await.unwrap()
}

async fn run_one(payload: &str, extends: &[Extend], settles: &[Settle]) -> (Entry, Report) {
    let source = Ledger::new(LEASE);
    source.push("one", payload.to_owned(), extends, settles);
    let report = run(&source).await;
    assert_eq!(source.broken(), Vec::<String>::new());
    (source.entry("one").unwrap(), report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_ends_once_under_random_faults() {
    let source = Ledger::new(LEASE);
    let mut random = Random::new(5);
    for n in 0..400 {
        let time = random.below(3 * LEASE.as_millis() as usize / 2);
        let payload = match random.below(8) {
            0 => format!("invalid {time}"),
            1 => format!("transient {time}"),
            _ => time.to_string(),
        };
        let extends: Vec<Extend> = (0..random.below(6))
            .map(|_| match random.below(10) {
                0 => Extend::Lost,
                1 => Extend::Cancelled,
                2 | 3 => Extend::Fail,
                4 => Extend::Hang,
                5 => Extend::KeepAfter(ms(random.below(100))),
                _ => Extend::Keep,
            })
            .collect();
        let settles: Vec<Settle> = (0..random.below(4))
            .map(|_| match random.below(4) {
                0 => Settle::Hang,
                1 => Settle::TakeAfter(ms(random.below(200))),
                _ => Settle::Fail,
            })
            .collect();
        source.push(format!("job-{n}"), payload, &extends, &settles);
    }
    let report = run(&source).await;
    assert_eq!(source.broken(), Vec::<String>::new());
    let entries = source.entries();
    assert_eq!(entries.len(), 400);
    assert!(source.most_unsettled() <= 16);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in &entries {
        let ending = match entry.taken[..] {
            [verdict] => verdict,
            [] if entry.is_lost() => "lost",
            _ => panic!("neither settled once nor lost: {entry:?}"),
        };
        *counts.entry(ending).or_default() += 1;
    }
    let told = [("done", report.done), ("retry", report.retried), ("reject", report.rejected), ("lost", report.lost)];
    assert_eq!(counts, BTreeMap::from(told));
    // The faults are many enough that each ending occurs.
    assert!(counts.values().all(|&count| count > 10), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_job_is_settled_once_and_never_extended() {
    let (entry, report) = run_one("0", &[], &[]).await;
    assert_eq!((entry.taken, entry.settles, entry.extends), (vec!["done"], 1, 0));
    assert_eq!(report.done, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_job_keeps_its_lease() {
    let (entry, report) = run_one("2000", &[], &[]).await;
    assert_eq!((entry.taken, report.done), (vec!["done"], 1));
    // Five lease lengths, renewed at a third each: about 15; at least once a length.
    assert!((5..=30).contains(&entry.extends), "{}", entry.extends);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_extension_is_tried_again_while_there_is_time() {
    let (entry, report) = run_one("1000", &[Extend::Fail, Extend::Hang, Extend::Keep, Extend::Fail], &[]).await;
    assert_eq!((entry.taken, report.done), (vec!["done"], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_verdict_is_told_again() {
    let (entry, report) = run_one("0", &[], &[Settle::Fail, Settle::Fail]).await;
    assert_eq!((entry.taken, entry.settles), (vec!["done"], 3));
    assert_eq!((report.done, report.lost), (1, 0));
}

/// A job that would work for ever on a lease that is lost: it is dropped, and nothing is settled.
async fn loses(extends: &[Extend]) -> Entry {
    let source = Ledger::new(LEASE);
    source.push("one", "x", extends, &[]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let counts = dropped.clone();
    let pipeline = Pipeline::new().io("for-ever", 4, move |_, x: Bytes| {
        let guard = Dropped(counts.clone());
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok(x)
        }
    });
    let worker = Worker::bytes(pipeline).source(source.clone());
    let report = within("the worker ends", run_beside(worker)).await.unwrap();
    assert_eq!(source.broken(), Vec::<String>::new());
    assert_eq!((report.done, report.retried, report.rejected, report.lost), (0, 0, 0, 1));
    assert_eq!(dropped.load(SeqCst), 1, "the job was dropped");
    let entry = source.entry("one").unwrap();
    assert_eq!(entry.settles, 0);
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_drops_its_job_and_settles_nothing() {
    assert_eq!(loses(&[Extend::Keep, Extend::Lost]).await.extends, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_called_off_is_dropped() {
    assert_eq!(loses(&[Extend::Cancelled]).await.extends, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_extends_is_lost_in_time() {
    let begun = Instant::now();
    let entry = loses(&[Extend::Fail; 1_000]).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!((3..=20).contains(&entry.extends), "at least three attempts fit, but no storm: {}", entry.extends);
    loses(&[Extend::Hang; 1_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_grow_any_more_is_lost_at_its_end() {
    // A broker with a limit on the whole lease goes on saying yes, but to an end that stays where it is.
    let entry = loses(&[Extend::UpTo(Duration::from_millis(900))]).await;
    assert!((2..=40).contains(&entry.extends), "extended {} times", entry.extends);
}

/// A runtime of two threads, both blocked by async stages, beside CPU threads and a device that are blocked as well.
#[test]
fn nothing_that_is_busy_delays_a_lease() {
    let lease = Duration::from_millis(800);
    let queue = Memory::with_lease(lease);
    let gate = Gate::new();
    let blocks = |queue: &Memory, route: &str, count: usize| {
        for n in 0..count {
            let meta = Meta { route: Some(route.to_owned()), ..Meta::default() };
            queue.push_with(format!("{route}-{n}"), "1", meta);
        }
    };
    let (in_io, in_cpu, on_device) = (gate.clone(), gate.clone(), gate.clone());
    let io = Pipeline::new().io("io", 8, move |_, x: u64| {
        let gate = in_io.clone();
        async move {
            gate.pass();
            Ok(x)
        }
    });
    let cpu = Pipeline::new().cpu("cpu", 2, move |_, x: u64| {
        in_cpu.pass();
        Ok(x)
    });
    let gpu = Pipeline::new().gpu("gpu", Batching::items(2), move || {
        let gate = on_device.clone();
        Ok(model(move |xs: &[u64]| {
            gate.pass();
            Ok(xs.to_vec())
        }))
    });
    // First the pools, while the runtime can still hand jobs to them; then the runtime itself.
    blocks(&queue, "cpu", 3);
    blocks(&queue, "gpu", 3);
    let worker = Worker::new(io).route("cpu", cpu).route("gpu", gpu).source(queue.clone()).in_flight(16);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let entered = runtime.enter();
    let mut ended = start(worker);
    drop(entered);
    eventually("the pools are blocked", || gate.waiting() == 3 && queue.leased() == 6);
    for n in 0..4 {
        queue.push(format!("io-{n}"), "1");
    }
    eventually("the runtime is blocked", || gate.waiting() == 5 && queue.leased() == 10);
    let begun = Instant::now();
    while begun.elapsed() < 4 * lease {
        assert_eq!((queue.leased(), queue.waiting()), (10, 0));
        std::thread::sleep(Duration::from_millis(10));
    }
    gate.open();
    queue.close();
    let report = runtime.block_on(within("the worker ends", &mut ended)).unwrap().unwrap();
    assert_eq!((report.done, report.lost), (10, 0));
    assert!(queue.settled().iter().all(|settled| settled.attempt == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_job_tells_its_cpu_stage_to_stop() {
    let source = Ledger::new(LEASE);
    source.push("one", "x", &[Extend::Lost], &[]);
    let stopped = Arc::new(AtomicUsize::new(0));
    let counts = stopped.clone();
    let pipeline = Pipeline::new().cpu("loop", 1, move |job, x: Bytes| {
        while !job.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        counts.fetch_add(1, SeqCst);
        Ok(x)
    });
    let report = within("the worker ends", run_beside(Worker::bytes(pipeline).source(source.clone()))).await.unwrap();
    assert_eq!((report.lost, stopped.load(SeqCst)), (1, 1));
    assert_eq!(source.entry("one").unwrap().settles, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_tells_its_cpu_stage_to_stop() {
    let (entered, stopped) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    entered.open();
    let (passes, counts) = (entered.clone(), stopped.clone());
    let pipeline = Pipeline::new().cpu("loop", 1, move |job: &Job, x: u64| {
        passes.pass();
        let begun = Instant::now();
        while !job.is_cancelled() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        counts.fetch_add(job.is_cancelled() as usize, SeqCst);
        Ok(x)
    });
    let running = Arc::new(pipeline.start().await.unwrap());
    let call = tokio::spawn({
        let running = running.clone();
        async move { running.call(1).await }
    });
    eventually("the call is on its thread", || entered.passed() == 1);
    call.abort();
    eventually("the thread has stopped", || stopped.load(SeqCst) == 1);
}

/// Ends the queue's jobs and gives what became of each, by id.
async fn settled(queue: &Memory, worker: Worker) -> BTreeMap<String, Verdict> {
    queue.close();
    within("the worker ends", run_beside(worker.source(queue.clone()))).await.unwrap();
    queue.settled().into_iter().map(|settled| (settled.id, settled.verdict)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_its_deadline_a_job_is_rejected_and_stops() {
    let queue = Memory::new();
    let meta = Meta { deadline: Some(Instant::now() + Duration::from_millis(300)), ..Meta::default() };
    queue.push_with("late", "1", meta.clone());
    queue.push_with("later", "2", meta);
    let stopped = Arc::new(AtomicUsize::new(0));
    let counts = stopped.clone();
    let pipeline = Pipeline::new()
        .io("wait", 4, async |_, x: u64| {
            if x == 1 {
                std::future::pending::<()>().await;
            }
            Ok(x)
        })
        .cpu("loop", 1, move |job, x| {
            let begun = Instant::now();
            while !job.is_cancelled() && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
            counts.fetch_add(job.is_cancelled() as usize, SeqCst);
            Ok(x)
        });
    let settled = settled(&queue, Worker::new(pipeline)).await;
    for id in ["late", "later"] {
        let Some(Verdict::Reject { why }) = settled.get(id) else {
            panic!("{id}: {settled:?}");
        };
        assert_eq!(why.fault(), Fault::Invalid);
        assert!(why.find::<DeadlinePassed>().is_some(), "{why}");
    }
    eventually("the CPU stage was told to stop", || stopped.load(SeqCst) == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_leads_to_its_pipeline() {
    let queue = Memory::new();
    let to = |route: Option<&str>| Meta { route: route.map(str::to_owned), ..Meta::default() };
    queue.push_with("default", "1", to(None));
    queue.push_with("double", "1", to(Some("double")));
    queue.push_with("nowhere", "1", to(Some("triple")));
    let worker = Worker::new(Pipeline::new().cpu("same", 1, |_, x: u64| Ok(x)))
        .route("double", Pipeline::new().cpu("double", 1, |_, x: u64| Ok(2 * x)));
    let settled = settled(&queue, worker).await;
    assert!(matches!(&settled["default"], Verdict::Done(output) if output == "1"));
    assert!(matches!(&settled["double"], Verdict::Done(output) if output == "2"));
    let Verdict::Reject { why } = &settled["nowhere"] else {
        panic!("{settled:?}");
    };
    assert_eq!(why.to_string(), "this worker has no route `triple`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_cannot_be_read_is_rejected() {
    let queue = Memory::new();
    queue.push("torn", "{\"n\": ");
    queue.push("whole", "3");
    let settled = settled(&queue, Worker::new(Pipeline::new().cpu("same", 1, |_, x: u64| Ok(x)))).await;
    assert!(matches!(&settled["whole"], Verdict::Done(output) if output == "3"));
    assert!(matches!(&settled["torn"], Verdict::Reject { why } if why.fault() == Fault::Invalid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_job_is_rejected_at_its_last_attempt() {
    let queue = Memory::new();
    queue.push("poison", "1");
    let attempts = Arc::new(AtomicUsize::new(0));
    let counts = attempts.clone();
    let pipeline = Pipeline::new().cpu("fail", 1, move |job, _: u64| -> forebay::Result<u64> {
        assert_eq!(job.attempt() as usize, counts.fetch_add(1, SeqCst) + 1);
        Err(Error::failed("poison"))
    });
    let settled = settled(&queue, Worker::new(pipeline).max_attempts(2)).await;
    let Verdict::Reject { why } = &settled["poison"] else {
        panic!("{settled:?}");
    };
    assert_eq!(why.to_string(), "gave up after 2 attempts: stage `fail`: poison");
    assert_eq!(attempts.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_emits_reaches_its_source() {
    let queue = Memory::new();
    queue.push("talks", "1");
    let pipeline = Pipeline::new()
        .io("first", 1, async |job: Job, x: u64| {
            job.emit(Event::Progress(0.5));
            Ok(x)
        })
        .cpu("second", 1, |job, x| {
            job.emit(Event::Partial("a piece".into()));
            Ok(x)
        });
    settled(&queue, Worker::new(pipeline)).await;
    let id = || "talks".to_owned();
    assert_eq!(queue.events(), [(id(), Event::Progress(0.5)), (id(), Event::Partial("a piece".into()))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_ends_a_job_early() {
    let after = Arc::new(AtomicUsize::new(0));
    let counts = after.clone();
    let cached = async |_, x: u64| match x {
        0..10 => Ok(ControlFlow::Break(format!("cached {x}"))),
        _ => Ok(ControlFlow::Continue(x)),
    };
    let pipeline = Pipeline::new().gate("cache", 1, cached).cpu("work", 1, move |_, x| {
        counts.fetch_add(1, SeqCst);
        Ok(format!("worked out {x}"))
    });
    let running = pipeline.start().await.unwrap();
    for x in 0..20 {
        let expected = if x < 10 { format!("cached {x}") } else { format!("worked out {x}") };
        assert_eq!(within("a job", running.call(x)).await.unwrap(), expected);
    }
    assert_eq!(after.load(SeqCst), 10);
}

#[tokio::test]
async fn a_gate_must_end_with_what_the_pipeline_ends_with() {
    let break_with = async |_, x: u64| Ok(if x == 0 { ControlFlow::Break(1_u8) } else { ControlFlow::Continue(x) });
    let why = Pipeline::new().gate("cache", 1, break_with).start().await.err().unwrap();
    assert_eq!(why.fault(), Fault::Invalid);
    assert_eq!(why.to_string(), "stage `cache` ends jobs with a `u8`, but the pipeline ends with a `u64`");
}

#[tokio::test]
async fn two_stages_of_one_name_cannot_start() {
    let pipeline = Pipeline::new().cpu("same", 1, |_, x: u64| Ok(x)).io("same", 1, async |_, x| Ok(x));
    let why = pipeline.start().await.err().unwrap();
    assert_eq!(why.fault(), Fault::Invalid);
    assert_eq!(why.to_string(), "two stages are named `same`; a stage's name must be its own");

    // Nor in two pipelines of one worker.
    let one = || Pipeline::new().cpu("same", 1, |_, x: u64| Ok(x));
    let worker = Worker::new(one()).route("other", one()).source(Memory::new());
    let why = within("the start", run_beside(worker)).await.unwrap_err();
    assert_eq!(why.to_string(), "two stages are named `same`; a stage's name must be its own");
}
