//! I2 and hand over hand: with the device stopped, exactly as many jobs stand in each stage as it has places, exactly
//! the budget's bytes are held, and never more than `in_flight` deliveries are unsettled. When the device goes on,
//! everything does: no chain of stages, however small, can deadlock.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forebay::telemetry::{STAGE_ENTERED, STAGE_LEFT, Telemetry};
use forebay::{Batching, Error, Pipeline, Running, Worker};
use forebay_tests::{Gate, Ledger, Random, Settle, eventually, model, start, stays, within};
use futures_util::future::join_all;

/// How many jobs have entered the user code of each stage.
#[derive(Clone, Default)]
struct Entered(Arc<[AtomicUsize; 4]>);

impl Entered {
    fn one_more(&self, stage: usize) {
        self.0[stage].fetch_add(1, SeqCst);
    }

    fn counts(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|stage| self.0[stage].load(SeqCst))
    }
}

/// Fetch (io 3) -> cut (cpu 2) -> infer (4 items) -> write (io 2), with a gate before the device's every batch.
fn four_stages(names: [&'static str; 4], entered: &Entered, gate: &Gate) -> Pipeline<u64, u64> {
    let [fetch, cut, infer, write] = names;
    let counted = |stage: usize| {
        let entered = entered.clone();
        move || entered.one_more(stage)
    };
    let (fetched, was_cut, written) = (counted(0), counted(1), counted(3));
    let (entered, gate) = (entered.clone(), gate.clone());
    Pipeline::new()
        .io(fetch, 3, move |_, x: u64| {
            fetched();
            async move { Ok(x) }
        })
        .cpu(cut, 2, move |_, x| {
            was_cut();
            Ok(x)
        })
        .gpu(infer, Batching::items(4), move || {
            let (entered, gate) = (entered.clone(), gate.clone());
            Ok(model(move |xs: &[u64]| {
                gate.pass();
                xs.iter().for_each(|_| entered.one_more(2));
                Ok(xs.to_vec())
            }))
        })
        .io(write, 2, move |_, x| {
            written();
            async move { Ok(x) }
        })
}

/// Calls the pipeline once for each number below `jobs`, all at the same time.
fn call_all(running: &Arc<Running<u64, u64>>, jobs: u64) -> tokio::task::JoinHandle<Vec<u64>> {
    let running = running.clone();
    tokio::spawn(async move {
        let calls = (0..jobs).map(|x| {
            let running = running.clone();
            tokio::spawn(async move { running.call(x).await.expect("no stage fails") })
        });
        join_all(calls).await.into_iter().map(|joined| joined.expect("no call panics")).collect()
    })
}

/// The recorder of this process.
fn telemetry() -> &'static Telemetry {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    TELEMETRY.get_or_init(|| forebay::telemetry::init().expect("nobody else installs one"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_device_stops_every_stage_at_its_places() {
    let telemetry = telemetry();
    let (entered, gate) = (Entered::default(), Gate::new());
    let names = ["fetch", "cut", "infer", "write"];
    let running = Arc::new(four_stages(names, &entered, &gate).start().await.unwrap());
    let calls = call_all(&running, 200);

    // The device's places are 4 batches of 4; the CPU stage's 2 threads and 128 more; the first stage's its limit.
    let (at_gpu, at_cpu, at_io) = (16, 130, 3);
    let expected = [at_gpu + at_cpu + at_io, at_gpu + at_cpu, 0, 0];
    eventually("every stage is full", || entered.counts() == expected && gate.waiting() == 1);
    stays(expected, || entered.counts());
    let snapshot = telemetry.snapshot();
    let told = |metric: &str| names.map(|stage| snapshot.counter(metric, &[("stage", stage)]) as usize);
    assert_eq!(told(STAGE_ENTERED), [149, 146, 16, 0]);
    assert_eq!(told(STAGE_LEFT), [149, 146, 0, 0]);

    gate.open();
    let outputs = within("everything moves on", calls).await.unwrap();
    assert_eq!(outputs, (0..200).collect::<Vec<u64>>());
    assert_eq!(entered.counts(), [200; 4]);
    let snapshot = telemetry.snapshot();
    names.iter().for_each(|stage| assert_eq!(snapshot.counter(STAGE_LEFT, &[("stage", stage)]), 200, "{stage}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_places_are_exact_too() {
    let (entered, gate) = (Entered::default(), Gate::new());
    let pipeline = four_stages(["fetch-2", "cut-2", "infer-2", "write-2"], &entered, &gate);
    let options = "fetch-2.limit=1 cut-2.threads=1 cut-2.places=1 infer-2.items=2 infer-2.places=1";
    let running = Arc::new(pipeline.configure(options).unwrap().start().await.unwrap());
    let calls = call_all(&running, 20);
    eventually("every stage is full", || entered.counts() == [3, 2, 0, 0] && gate.waiting() == 1);
    stays([3, 2, 0, 0], || entered.counts());

    // One batch of the one job in place; each stage moves up by one.
    gate.admit(1);
    eventually("all move up by one", || entered.counts() == [4, 3, 1, 1] && gate.waiting() == 1);
    stays([4, 3, 1, 1], || entered.counts());
    gate.open();
    assert_eq!(within("everything moves on", calls).await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_end_stops_the_device() {
    // The last stage is shut: the device runs until its places are all held by what it has finished.
    let ran = Arc::new(AtomicUsize::new(0));
    let shut = Arc::new(tokio::sync::Semaphore::new(0));
    let (counts, door) = (ran.clone(), shut.clone());
    let pipeline = Pipeline::new()
        .gpu("run", Batching::items(2), move || {
            let ran = counts.clone();
            Ok(model(move |xs: &[u64]| {
                ran.fetch_add(xs.len(), SeqCst);
                Ok(xs.to_vec())
            }))
        })
        .io("upload", 3, move |_, x| {
            let door = door.clone();
            async move {
                let _through = door.acquire().await?;
                Ok(x)
            }
        });
    let running = Arc::new(pipeline.start().await.unwrap());
    let calls = call_all(&running, 50);
    eventually("the device has nothing left that it may run", || ran.load(SeqCst) == 3 + 8);
    stays(11, || ran.load(SeqCst));
    shut.add_permits(1);
    assert_eq!(within("everything moves on", calls).await.unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_budget_is_held() {
    let gate = Gate::new();
    let entered = Arc::new(AtomicUsize::new(0));
    let (at_gate, counts) = (gate.clone(), entered.clone());
    let pipeline = Pipeline::new()
        .io("load", 64, move |_, x: u64| {
            counts.fetch_add(1, SeqCst);
            async move { Ok(vec![x; 125]) }
        })
        .sized(|loaded| 8 * loaded.len())
        .gpu("first", Batching::items(16), move || {
            let gate = at_gate.clone();
            Ok(model(move |xs: &[Vec<u64>]| {
                gate.pass();
                Ok(xs.iter().map(|loaded| loaded[0]).collect())
            }))
        })
        .sized(|_| 8)
        .budget(10_500);
    let running = Arc::new(pipeline.start().await.unwrap());

    // One job alone teaches how large jobs grow.
    gate.open();
    assert_eq!(within("one job", running.call(7)).await.unwrap(), 7);
    assert_eq!(running.held_bytes(), 0);
    gate.close();

    entered.store(0, SeqCst);
    let calls = call_all(&running, 100);
    eventually("10 jobs of 1,000 bytes are in", || entered.load(SeqCst) == 10 && running.held_bytes() == 10_000);
    stays((10, 10_000), || (entered.load(SeqCst), running.held_bytes()));

    gate.open();
    assert_eq!(within("everything moves on", calls).await.unwrap(), (0..100).collect::<Vec<u64>>());
    assert_eq!(running.held_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_above_the_budget_goes_in_alone() {
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (inside.clone(), most.clone());
    let pipeline = Pipeline::new()
        .sized(|_: &u64| 5_000)
        .io("big", 8, move |_, x: u64| {
            let (now, peak) = (now.clone(), peak.clone());
            async move {
                peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, SeqCst);
                Ok(x)
            }
        })
        .budget(1_000);
    let running = Arc::new(pipeline.start().await.unwrap());
    within("the first teaches their size", running.call(0)).await.unwrap();
    most.store(0, SeqCst);
    assert_eq!(within("all, one by one", call_all(&running, 30)).await.unwrap().len(), 30);
    assert_eq!(most.load(SeqCst), 1);
    assert_eq!(running.held_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_give_their_places_and_bytes_back() {
    let (entered, gate) = (Entered::default(), Gate::new());
    let pipeline = four_stages(["fetch-3", "cut-3", "infer-3", "write-3"], &entered, &gate);
    let running = Arc::new(pipeline.sized(|_| 10).budget(1_000_000).start().await.unwrap());
    for round in 1..=3 {
        let calls: Vec<_> = (0..200)
            .map(|x| {
                let running = running.clone();
                tokio::spawn(async move { running.call(x).await })
            })
            .collect();
        eventually("every stage is full", || entered.counts()[..2] == [149, 146] && gate.waiting() == 1);
        calls.iter().for_each(|call| call.abort());
        join_all(calls).await;
        // The batch that runs is not interrupted; what waits behind it is dropped before it is cut.
        let before = entered.counts()[2];
        gate.open();
        within("another job", running.call(0)).await.unwrap();
        let ran = entered.counts()[2] - before;
        assert!(ran <= 5, "round {round}: {ran} items ran of jobs that had gone");
        assert_eq!(running.held_bytes(), 0);
        gate.close();
        entered.0.iter().for_each(|count| count.store(0, SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_in_flight_are_unsettled() {
    let gate = Gate::new();
    let source = Ledger::new(Duration::from_secs(60));
    // Settling is slow, and a job counts until its verdict was taken.
    let slow = [Settle::TakeAfter(Duration::from_millis(5))];
    (0..60).for_each(|n| source.push(format!("job-{n}"), n.to_string(), &[], &slow));
    let at_gate = gate.clone();
    let pipeline = Pipeline::new().cpu("pass", 2, |_, x: u64| Ok(x)).gpu("hold", Batching::items(4), move || {
        let gate = at_gate.clone();
        Ok(model(move |xs: &[u64]| {
            gate.pass();
            Ok(xs.to_vec())
        }))
    });
    let worker = start(Worker::new(pipeline).source(source.clone()).in_flight(7));
    eventually("7 are delivered", || source.entries().len() == 7 && gate.waiting() == 1);
    stays(7, || source.entries().len());
    gate.open();
    let report = within("the worker ends", worker).await.unwrap().unwrap();
    assert_eq!((report.done, report.retried, report.rejected, report.lost), (60, 0, 0, 0));
    assert_eq!(source.most_unsettled(), 7);
    assert_eq!(source.broken(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_the_places_bound_what_is_unsettled() {
    let gate = Gate::new();
    let source = Ledger::new(Duration::from_secs(60));
    (0..100).for_each(|n| source.push(format!("job-{n}"), n.to_string(), &[], &[]));
    let at_gate = gate.clone();
    let pipeline = Pipeline::new().io("five", 5, async |_, x: u64| Ok(x)).gpu("eight", Batching::items(2), move || {
        let gate = at_gate.clone();
        Ok(model(move |xs: &[u64]| {
            gate.pass();
            Ok(xs.to_vec())
        }))
    });
    let worker = start(Worker::new(pipeline).source(source.clone()));
    eventually("13 are delivered", || source.entries().len() == 13);
    stays(13, || source.entries().len());
    gate.open();
    let report = within("the worker ends", worker).await.unwrap().unwrap();
    assert_eq!(report.done, 100);
    assert_eq!(source.most_unsettled(), 13);
}

#[tokio::test]
async fn a_stage_without_limit_still_moves() {
    // `io` with a limit of 0 is taken as 1, as every other size is.
    let running = Pipeline::new().io("none", 0, async |_, x: u64| Ok(x)).start().await.unwrap();
    let called = tokio::time::timeout(Duration::from_secs(5), running.call(1)).await;
    assert_eq!(called.expect("a stage of limit 0 holds its jobs for ever").unwrap(), 1);
}

/// What walks through random chains: a job's number, and its items.
type Load = (u64, Vec<u64>);

const NAMES: [&str; 6] = ["stage-0", "stage-1", "stage-2", "stage-3", "stage-4", "stage-5"];

/// A chain of random stages, each as small as it may be; what it makes of a job's number is the same number. Jobs whose
/// number can be divided by 7 fail in its second stage if that is an async one.
fn random_chain(random: &mut Random) -> Pipeline<Load, Load> {
    let mut pipeline = Pipeline::new();
    for (index, name) in NAMES.into_iter().take(random.range(1, NAMES.len())).enumerate() {
        let batching = Batching::items(random.range(1, 4)).places(random.range(1, 6)).device(random.below(2));
        pipeline = match random.below(5) {
            0 => pipeline.io(name, random.range(1, 3), move |_, load: Load| async move {
                if load.0.is_multiple_of(2) {
                    tokio::task::yield_now().await;
                }
                match index == 1 && load.0.is_multiple_of(7) {
                    true => Err(Error::failed("a seventh")),
                    false => Ok(load),
                }
            }),
            1 => pipeline.gate(name, random.range(1, 3), async |_, load: Load| {
                Ok(if load.0.is_multiple_of(5) { ControlFlow::Break(load) } else { ControlFlow::Continue(load) })
            }),
            2 => pipeline.cpu(name, random.range(1, 2), |_, load| Ok(load)),
            3 => pipeline.gpu(name, batching, || Ok(model(|loads: &[Load]| Ok(loads.to_vec())))),
            _ => pipeline.gpu_each(name, batching, || Ok(model(|items: &[u64]| Ok(items.to_vec())))),
        };
        if random.one_in(2) {
            pipeline = pipeline.sized(|(_, items)| 8 * items.len());
        }
    }
    // Of 1 place, where nothing else was said.
    let threads: Vec<String> = NAMES.iter().map(|name| format!("{name}.places=1")).collect();
    for option in threads.iter().filter(|_| random.one_in(2)) {
        pipeline = match pipeline.to_string().contains(&format!("{}[cpu", option.replace(".places=1", ""))) {
            true => pipeline.configure(option).unwrap(),
            false => pipeline,
        };
    }
    if random.one_in(2) { pipeline.budget(random.range(1, 500)) } else { pipeline }
}

/// Runs jobs through a random chain, of which some are dropped on their way.
async fn survives(seed: u64) {
    let mut random = Random::new(seed);
    let pipeline = random_chain(&mut random);
    let described = format!("seed {seed}: {pipeline}");
    let running = Arc::new(within(&described, pipeline.start()).await.unwrap());
    let calls: Vec<_> = (0..random.range(1, 40) as u64)
        .map(|number| {
            let load = (number, (0..random.below(6) as u64).collect::<Vec<u64>>());
            let patience = random.one_in(3).then(|| random.below(40));
            let running = running.clone();
            tokio::spawn(async move {
                let call = running.call(load.clone());
                let Some(patience) = patience else {
                    match call.await {
                        Ok(output) => assert_eq!(output, load),
                        Err(why) => assert!(number % 7 == 0, "{why}"),
                    }
                    return;
                };
                tokio::select! {
                    biased;
                    _ = call => {}
                    () = async { for _ in 0..patience { tokio::task::yield_now().await } } => {}
                }
            })
        })
        .collect();
    for joined in within(&described, join_all(calls)).await {
        joined.unwrap();
    }
    assert_eq!(running.held_bytes(), 0, "{described}");
    // Whatever was dropped, the chain is as good as new.
    assert_eq!(within(&described, running.call((1, vec![1, 2]))).await.unwrap(), (1, vec![1, 2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_chains_do_not_deadlock() {
    for seed in 0..1_000 {
        survives(seed).await;
    }
}
