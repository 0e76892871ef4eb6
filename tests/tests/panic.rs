//! I7 and the fences: a panic is charged to the item or job that causes it and to nobody else, and where the model
//! itself is to blame the device ends, fails every waiter and hangs none. After each contained panic the next job
//! succeeds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use forebay::{Admit, Batching, Error, Fault, Model, Pipeline, Result, Running};
use forebay_tests::{Gate, eventually, model, within};
use futures_util::future::join_all;
use tokio::task::JoinHandle;

type Calls = Arc<Running<i32, i32>>;

fn call(running: &Calls, item: i32) -> JoinHandle<Result<i32>> {
    let running = running.clone();
    tokio::spawn(async move { running.call(item).await })
}

/// A model that panics on batches with an item below zero; it counts its loads.
fn touchy(loads: &Arc<AtomicUsize>, gate: &Gate, items: usize) -> Pipeline<i32, i32> {
    let (loads, gate) = (loads.clone(), gate.clone());
    Pipeline::new().gpu("touchy", Batching::items(items), move || {
        loads.fetch_add(1, SeqCst);
        let gate = gate.clone();
        Ok(model(move |items: &[i32]| {
            gate.pass();
            if let Some(item) = items.iter().find(|&&item| item < 0) {
                panic!("cannot take {item}");
            }
            Ok(items.to_vec())
        }))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_guilty_item_fails() {
    let (loads, gate) = (Arc::new(AtomicUsize::new(0)), Gate::new());
    let running = Arc::new(touchy(&loads, &gate, 8).start().await.unwrap());
    let first = call(&running, 0);
    eventually("the device is held", || gate.waiting() == 1);
    let rest: Vec<_> = [1, 2, 3, -4, 5, 6, 7].map(|item| call(&running, item)).into();
    gate.open();
    assert_eq!(within("the first", first).await.unwrap().unwrap(), 0);
    for (joined, item) in within("the rest", join_all(rest)).await.into_iter().zip([1, 2, 3, -4, 5, 6, 7]) {
        match joined.unwrap() {
            Ok(output) => assert!(output == item && item > 0),
            Err(why) => {
                assert_eq!((item, why.fault()), (-4, Fault::Failed));
                assert_eq!(why.to_string(), "stage `touchy`: panicked: cannot take -4");
            }
        }
    }
    // At the start; after the batch's panic; after the item's own.
    assert_eq!(loads.load(SeqCst), 3);
    assert_eq!(within("the next job", call(&running, 9)).await.unwrap().unwrap(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guilty_items_with_a_success_between_are_no_end() {
    let (loads, gate) = (Arc::new(AtomicUsize::new(0)), Gate::new());
    gate.open();
    let running = Arc::new(touchy(&loads, &gate, 8).start().await.unwrap());
    for round in 1..=5 {
        let why = within("a guilty item", call(&running, -round)).await.unwrap().unwrap_err();
        assert_eq!(why.fault(), Fault::Failed);
        assert_eq!(within("a good one", call(&running, round)).await.unwrap().unwrap(), round);
    }
    assert_eq!(loads.load(SeqCst), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guilty_items_in_a_row_end_the_device() {
    let (loads, gate) = (Arc::new(AtomicUsize::new(0)), Gate::new());
    gate.open();
    let running = Arc::new(touchy(&loads, &gate, 8).start().await.unwrap());
    let first = within("the first", call(&running, -1)).await.unwrap().unwrap_err();
    let second = within("the second", call(&running, -2)).await.unwrap().unwrap_err();
    assert_eq!([first.fault(), second.fault()], [Fault::Failed; 2]);
    // Whoever comes now is told why.
    let why = within("the next", call(&running, 3)).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert!(why.to_string().contains("panicked on 2 jobs in a row"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_of_many_guilty_items_fails_alone() {
    let pipeline = Pipeline::new().io("split", 8, async |_, items: Vec<i32>| Ok(((), items))).gpu_each(
        "touchy",
        Batching::items(4),
        || {
            Ok(model(|items: &[i32]| {
                assert!(items.iter().all(|&item| item >= 0), "cannot take one of {items:?}");
                Ok(items.to_vec())
            }))
        },
    );
    let running = pipeline.start().await.unwrap();
    let poisoned = within("a poisoned job", running.call(vec![-1; 10])).await.unwrap_err();
    assert_eq!(poisoned.fault(), Fault::Failed);
    // It was one job's fault, not the node's.
    assert_eq!(within("the next", running.call(vec![1, 2])).await.unwrap().1, [1, 2]);
}

/// 64 waiters behind a closed gate, on a device that is about to die; how each of them fared.
async fn sixty_four(pipeline: &Pipeline<i32, i32>, gate: &Gate) -> Vec<Result<i32>> {
    gate.close();
    let running = Arc::new(pipeline.start().await.unwrap());
    let calls: Vec<_> = (0..64).map(|item| call(&running, item)).collect();
    eventually("the device is held", || gate.waiting() == 1);
    gate.open();
    let answers = within("no waiter hangs", join_all(calls)).await;
    // And nobody who comes later does.
    let late = within("a late caller", call(&running, 64)).await.unwrap();
    assert_eq!(late.unwrap_err().fault(), Fault::Fatal);
    answers.into_iter().map(|joined| joined.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_always_panics_fails_everybody() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let pipeline = Pipeline::new().gpu("broken", Batching::items(4).places(48), move || {
        let gate = at_gate.clone();
        Ok(model(move |_: &[i32]| -> Result<Vec<i32>> {
            gate.pass();
            panic!("broken")
        }))
    });
    for round in 0..50 {
        let answers = sixty_four(&pipeline, &gate).await;
        let faults: Vec<Fault> = answers.into_iter().map(|answer| answer.unwrap_err().fault()).collect();
        let charged = faults.iter().filter(|&&fault| fault == Fault::Failed).count();
        // Items of at most two batches are charged with their own panic; all others hear that the device has ended.
        assert!((2..=8).contains(&charged), "round {round}: {charged}");
        assert_eq!(faults.iter().filter(|&&fault| fault == Fault::Fatal).count(), 64 - charged, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_number_of_outputs_is_fatal() {
    for extra in [false, true] {
        let gate = Gate::new();
        let at_gate = gate.clone();
        let pipeline = Pipeline::new().gpu("miscount", Batching::items(4), move || {
            let gate = at_gate.clone();
            Ok(model(move |items: &[i32]| {
                gate.pass();
                Ok(vec![0; if extra { items.len() + 1 } else { items.len() - 1 }])
            }))
        });
        for answer in sixty_four(&pipeline, &gate).await {
            let why = answer.unwrap_err();
            assert_eq!(why.fault(), Fault::Fatal);
            assert!(why.to_string().contains("outputs for"), "{why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_error_of_the_model_fails_everybody() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let pipeline = Pipeline::new().gpu("device", Batching::items(4), move || {
        let gate = at_gate.clone();
        Ok(model(move |_: &[i32]| -> Result<Vec<i32>> {
            gate.pass();
            Err(Error::fatal("illegal address"))
        }))
    });
    for answer in sixty_four(&pipeline, &gate).await {
        let why = answer.unwrap_err();
        assert_eq!((why.fault(), why.to_string().as_str()), (Fault::Fatal, "stage `device`: illegal address"));
    }
}

/// Panics when it is dropped on the device thread, which no fence expects: the thread itself dies of it.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        let thread = std::thread::current();
        if thread.name() == Some("gpu0") && !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_device_thread_releases_every_waiter() {
    for round in 0..50 {
        let gate = Gate::new();
        let at_gate = gate.clone();
        let load = move || {
            let gate = at_gate.clone();
            Ok(model(move |bombs: &[Bomb]| {
                gate.pass();
                Ok(vec![0; bombs.len()])
            }))
        };
        let batching = Batching::items(4).places(48);
        let pipeline = Pipeline::new().cpu("arm", 1, |_, _: i32| Ok(Bomb)).gpu("thread", batching, load);
        let answers = sixty_four(&pipeline, &gate).await;
        // The first batch was answered before its inputs were dropped.
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!((60..=63).contains(&failed), "round {round}: {failed}");
        assert!(answers.into_iter().filter_map(Result::err).all(|why| why.fault() == Fault::Fatal));
    }
}

/// A model whose measures panic for some items.
struct Measured;

impl Model for Measured {
    type Input = i32;
    type Output = i32;

    fn infer(&mut self, items: &[i32]) -> Result<Vec<i32>> {
        Ok(items.to_vec())
    }

    fn weight(&item: &i32) -> usize {
        assert_ne!(item, -1, "cannot weigh it");
        1
    }

    fn key(&item: &i32) -> u64 {
        assert_ne!(item, -2, "has no key");
        0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weight_or_key_that_panics_fails_its_own_job() {
    for (item, message) in [(-1, "cannot weigh it"), (-2, "has no key")] {
        let running = Pipeline::new().gpu("measured", Batching::items(4), || Ok(Measured)).start().await.unwrap();
        let why = within("the guilty item", running.call(item)).await.unwrap_err();
        assert_eq!(why.fault(), Fault::Failed, "{why}");
        assert!(why.to_string().contains(message), "{why}");
        assert_eq!(within("the next job", running.call(1)).await.unwrap(), 1);
    }
}

/// A model that is half changed when its `admit` panics.
struct Admitting(bool);

impl Model for Admitting {
    type Input = i32;
    type Output = i32;

    fn infer(&mut self, items: &[i32]) -> Result<Vec<i32>> {
        assert!(!self.0, "half changed");
        Ok(items.to_vec())
    }

    fn admit(&mut self, &item: &i32) -> Admit {
        self.0 = true;
        assert_ne!(item, -1, "cannot admit it");
        self.0 = false;
        Admit::Now
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_panics_in_admit_is_made_anew() {
    let loads = Arc::new(AtomicUsize::new(0));
    let counts = loads.clone();
    let pipeline = Pipeline::new().gpu("admitting", Batching::items(4), move || {
        counts.fetch_add(1, SeqCst);
        Ok(Admitting(false))
    });
    let running = Arc::new(pipeline.start().await.unwrap());
    let why = within("the guilty item", call(&running, -1)).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Failed);
    assert!(why.to_string().contains("cannot admit it"), "{why}");
    assert_eq!(within("the next", call(&running, 1)).await.unwrap().unwrap(), 1);
    assert_eq!(loads.load(SeqCst), 2, "what was borrowed by code that panicked is not used again");
}

/// A model that is ill from its warm-up on, or is never loaded.
struct Cold;

impl Model for Cold {
    type Input = i32;
    type Output = i32;

    fn infer(&mut self, _: &[i32]) -> Result<Vec<i32>> {
        panic!("cold")
    }

    fn warm_up(&mut self) -> Result<()> {
        panic!("no kernel")
    }
}

#[tokio::test]
async fn a_warm_up_that_panics_fails_the_start() {
    let pipeline = Pipeline::new().gpu("cold", Batching::items(4), || Ok(Cold));
    let why = within("the start", pipeline.start()).await.err().unwrap();
    assert_eq!(why.to_string(), "loading the model of stage `cold`: panicked: no kernel");
}

#[tokio::test]
async fn a_loader_that_fails_or_panics_fails_the_start() {
    let pipeline = Pipeline::new().gpu("absent", Batching::items(4), || Err::<Cold, _>(Error::invalid("no weights")));
    let why = within("the start", pipeline.start()).await.err().unwrap();
    assert_eq!(why.fault(), Fault::Invalid);
    assert_eq!(why.to_string(), "loading the model of stage `absent`: no weights");
    let pipeline = Pipeline::new().gpu("torn", Batching::items(4), || -> Result<Cold> { panic!("torn weights") });
    let why = within("the start", pipeline.start()).await.err().unwrap();
    assert_eq!(why.to_string(), "loading the model of stage `torn`: panicked: torn weights");
}

#[tokio::test]
async fn a_failed_start_ends_the_threads_that_had_started() {
    let held = Arc::new(());
    let theirs = held.clone();
    let pipeline = Pipeline::new()
        .cpu("started", 3, move |_, x: i32| {
            let _held = &theirs;
            Ok(x)
        })
        .gpu("absent", Batching::items(4), || Err::<Cold, _>(Error::invalid("no weights")));
    assert!(within("the start", pipeline.start()).await.is_err());
    drop(pipeline);
    eventually("the threads have ended", || Arc::strong_count(&held) == 1);
}

/// A model that cannot be made again after its first panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_made_again_ends_the_device() {
    let loads = Arc::new(AtomicUsize::new(0));
    let counts = loads.clone();
    let pipeline = Pipeline::new().gpu("once", Batching::items(4), move || match counts.fetch_add(1, SeqCst) {
        0 => Ok(model(|_: &[i32]| -> Result<Vec<i32>> { panic!("first") })),
        _ => Err(Error::transient("no weights any more")),
    });
    let running = Arc::new(pipeline.start().await.unwrap());
    let why = within("the job", call(&running, 1)).await.unwrap().unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal, "{why}");
    assert!(why.to_string().contains("no weights any more"), "{why}");
    assert_eq!(within("the next", call(&running, 1)).await.unwrap().unwrap_err().fault(), Fault::Fatal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_stage_is_its_jobs_failure() {
    let pipeline = Pipeline::new()
        .io("fetch", 1, async |_, x: i32| {
            tokio::task::yield_now().await;
            assert_ne!(x, 1, "in the future");
            Ok(x)
        })
        .io("open", 1, |_, x: i32| {
            assert_ne!(x, 2, "before the future");
            async move { Ok(x) }
        })
        .cpu("cut", 1, |_, x: i32| {
            assert_ne!(x, 3, "on the thread");
            Ok(x)
        })
        .sized(|&x| {
            assert_ne!(x, 4, "in its size");
            1
        })
        .budget(10);
    let running = Arc::new(pipeline.start().await.unwrap());
    let cases = [
        (1, "stage `fetch`", "in the future"),
        (2, "stage `open`", "before the future"),
        (3, "stage `cut`", "on the thread"),
        (4, "stage `cut`", "in its size"),
    ];
    // Each place there is would be lost if a panic kept it, and each thread if a panic ended it.
    for _ in 0..40 {
        for (item, stage, message) in cases {
            let why = within(message, call(&running, item)).await.unwrap().unwrap_err();
            assert_eq!(why.fault(), Fault::Failed);
            let why = why.to_string();
            assert!(why.contains(stage) && why.contains("panicked: ") && why.contains(message), "{why}");
            assert_eq!(within("the next job", call(&running, 5)).await.unwrap().unwrap(), 5);
        }
    }
    assert_eq!(running.held_bytes(), 0);
}
