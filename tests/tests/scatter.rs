//! I4 and I5: a job's outputs come in the order of its items, whatever batches they ran in, and each item runs once;
//! a job of one item is not held up by a job of thousands. Batches keep to the limits that the stage was given.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use forebay::{Batching, Collated, Error, Fault, Model, Pipeline, Result};
use forebay_tests::{Gate, Random, eventually, model, within};
use futures_util::future::join_all;

/// Every batch that ran.
#[derive(Clone)]
struct Seen<I>(Arc<Mutex<Vec<Vec<I>>>>);

impl<I: Clone> Seen<I> {
    fn new() -> Self {
        Seen(Arc::default())
    }

    fn add(&self, batch: &[I]) {
        self.0.lock().unwrap().push(batch.to_vec());
    }

    fn batches(&self) -> Vec<Vec<I>> {
        self.0.lock().unwrap().clone()
    }
}

type Each<I> = Pipeline<Vec<I>, Vec<I>>;

/// A pipeline that scatters over a model which gives back its inputs and notes every batch.
fn echo<I: Clone + Send + Sync + 'static>(batching: Batching, seen: &Seen<I>, gate: &Gate) -> Each<I> {
    let (seen, gate) = (seen.clone(), gate.clone());
    Pipeline::new()
        .io("split", 1_000, async |_, items: Vec<I>| Ok(((), items)))
        .gpu_each("echo", batching, move || {
            let (seen, gate) = (seen.clone(), gate.clone());
            Ok(model(move |items: &[I]| {
                seen.add(items);
                gate.pass();
                Ok(items.to_vec())
            }))
        })
        .io("join", 1_000, async |_, (_, items): ((), Vec<I>)| Ok(items))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_and_each_item_runs_once() {
    let (seen, gate) = (Seen::new(), Gate::new());
    gate.open();
    let running = Arc::new(echo(Batching::items(7).places(20), &seen, &gate).start().await.unwrap());
    let mut random = Random::new(1);
    let sizes: Vec<usize> = (0..300).map(|n| if n % 10 == 0 { 0 } else { random.range(0, 30) }).collect();
    let calls = sizes.iter().enumerate().map(|(job, &size)| {
        let running = running.clone();
        let items: Vec<(usize, usize)> = (0..size).map(|item| (job, item)).collect();
        tokio::spawn(async move { (running.call(items.clone()).await.unwrap(), items) })
    });
    for joined in within("all jobs", join_all(calls)).await {
        let (outputs, items) = joined.unwrap();
        assert_eq!(outputs, items);
    }
    let mut runs: HashMap<(usize, usize), usize> = HashMap::new();
    for batch in seen.batches() {
        assert!((1..=7).contains(&batch.len()), "a batch of {}", batch.len());
        batch.into_iter().for_each(|item| *runs.entry(item).or_default() += 1);
    }
    assert_eq!(runs.len(), sizes.iter().sum::<usize>());
    assert!(runs.values().all(|&count| count == 1));
}

#[tokio::test]
async fn no_items_are_answered_while_the_device_stands_still() {
    let (seen, gate) = (Seen::new(), Gate::new());
    let running = Arc::new(echo(Batching::items(4), &seen, &gate).start().await.unwrap());
    let stuck = {
        let running = running.clone();
        tokio::spawn(async move { running.call(vec![1]).await })
    };
    let empty = within("a job without items", running.call(Vec::new())).await.unwrap();
    assert_eq!(empty, Vec::<i32>::new());
    gate.open();
    assert_eq!(within("the other", stuck).await.unwrap().unwrap(), [1]);
    assert_eq!(seen.batches(), [[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_item_passes_two_thousand() {
    const LARGE: usize = 2_000;
    let (seen, gate) = (Seen::new(), Gate::new());
    let running = Arc::new(echo(Batching::items(16), &seen, &gate).start().await.unwrap());
    let call = |items: Vec<usize>| {
        let running = running.clone();
        tokio::spawn(async move { running.call(items).await.unwrap() })
    };
    let large = call((0..LARGE).collect());
    gate.admit(3);
    eventually("the fourth batch is on the device", || gate.passed() == 3 && gate.waiting() == 1);
    let small = call(vec![LARGE]);

    // It cannot be in the batch that runs; one more may have been cut before it came.
    let mut batches = 0;
    while !small.is_finished() {
        batches += 1;
        assert!(batches <= 3, "the small job was not in the next batches");
        gate.admit(1);
        let passed = 3 + batches;
        eventually("a batch has run", || gate.passed() == passed && (gate.waiting() == 1 || small.is_finished()));
        // The answer is on its way before the next batch starts.
        if seen.batches()[..passed].concat().contains(&LARGE) {
            break;
        }
    }
    assert_eq!(within("the small job", small).await.unwrap(), [LARGE]);
    assert!(!large.is_finished());
    gate.open();
    assert_eq!(within("the large job", large).await.unwrap(), (0..LARGE).collect::<Vec<_>>());
    // The places that the small job took cost the large one nothing else: every batch but the last was full.
    assert_eq!(seen.batches().len(), (LARGE + 1).div_ceil(16));
}

/// An item that says what it weighs and with which others it may run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    weight: usize,
    key: u64,
    number: usize,
}

struct Weighed(Seen<Item>);

impl Model for Weighed {
    type Input = Item;
    type Output = usize;

    fn infer(&mut self, items: &[Item]) -> Result<Vec<usize>> {
        self.0.add(items);
        Ok(items.iter().map(|item| item.number).collect())
    }

    fn weight(item: &Item) -> usize {
        item.weight
    }

    fn key(item: &Item) -> u64 {
        item.key
    }
}

/// Runs 200 jobs of random items, and gives the batches.
async fn weighed(batching: Batching, heaviest: usize, keys: usize) -> Vec<Vec<Item>> {
    let seen = Seen::new();
    let loads = seen.clone();
    let pipeline = Pipeline::new().io("split", 100, async |_, items: Vec<Item>| Ok(((), items))).gpu_each(
        "weighed",
        batching.places(100),
        move || Ok(Weighed(loads.clone())),
    );
    let running = Arc::new(pipeline.start().await.unwrap());
    let mut random = Random::new(2);
    let mut number = 0;
    let mut items = |count| -> Vec<Item> {
        let item = |_| {
            number += 1;
            Item { weight: random.below(heaviest), key: random.below(keys) as u64, number }
        };
        (0..count).map(item).collect()
    };
    let jobs: Vec<Vec<Item>> = (0..200).map(|n| items(n % 12)).collect();
    let calls = jobs.iter().map(|items| running.call(items.clone()));
    for (outputs, items) in within("all jobs", join_all(calls)).await.into_iter().zip(&jobs) {
        assert_eq!(outputs.unwrap().1, items.iter().map(|item| item.number).collect::<Vec<_>>());
    }
    let batches = seen.batches();
    assert_eq!(batches.concat().len(), jobs.concat().len());
    batches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_to_its_weight() {
    for batch in weighed(Batching::items(10).weight(50), 60, 1).await {
        let weight: usize = batch.iter().map(|item| item.weight).sum();
        assert!(batch.len() <= 10 && (weight <= 50 || batch.len() == 1), "{batch:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_padded_batch_keeps_to_its_weight() {
    for batch in weighed(Batching::items(10).weight(200).padded(), 60, 1).await {
        let weight = batch.len() * batch.iter().map(|item| item.weight).max().unwrap();
        assert!(batch.len() <= 10 && (weight <= 200 || batch.len() == 1), "{batch:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_items_of_one_key_run_together() {
    for padded in [false, true] {
        let batching = Batching::items(10).weight(300);
        let batching = if padded { batching.padded() } else { batching };
        for batch in weighed(batching, 60, 3).await {
            assert!(batch.iter().all(|item| item.key == batch[0].key), "{batch:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weight_without_bound_is_no_bound() {
    assert!(!weighed(Batching::items(8).weight(usize::MAX), 60, 1).await.is_empty());
    assert!(!weighed(Batching::items(8).weight(usize::MAX).padded(), 60, 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_failed_job_is_not_run() {
    let (seen, gate) = (Seen::new(), Gate::new());
    let (notes, at_gate) = (seen.clone(), gate.clone());
    let pipeline = Pipeline::new().io("split", 10, async |_, items: Vec<i32>| Ok(((), items))).gpu_each(
        "picky",
        Batching::items(4),
        move || {
            let (seen, gate) = (notes.clone(), at_gate.clone());
            Ok(model(move |items: &[i32]| {
                seen.add(items);
                gate.pass();
                match items.iter().find(|&&item| item < 0) {
                    Some(item) => Err(Error::invalid(format_args!("{item} is below zero"))),
                    None => Ok(items.to_vec()),
                }
            }))
        },
    );
    let running = Arc::new(pipeline.start().await.unwrap());
    let call = |items: Vec<i32>| {
        let running = running.clone();
        tokio::spawn(async move { running.call(items).await.map(|(_, outputs)| outputs) })
    };
    let first = call(vec![1]);
    eventually("the device is held", || gate.waiting() == 1);
    let bad = call(vec![-2, 3, 4, 5, 6, 7, 8, 9]);
    gate.open();
    let why = within("the bad job", bad).await.unwrap().unwrap_err();
    assert_eq!((why.fault(), why.to_string().as_str()), (Fault::Invalid, "stage `picky`: -2 is below zero"));
    assert_eq!(within("the first", first).await.unwrap().unwrap(), [1]);
    assert_eq!(within("one more", call(vec![10])).await.unwrap().unwrap(), [10]);
    assert_eq!(seen.batches(), [vec![1], vec![-2, 3, 4, 5], vec![-2], vec![10]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_fails_alone() {
    let (seen, gate) = (Seen::new(), Gate::new());
    let (notes, at_gate) = (seen.clone(), gate.clone());
    let pipeline = Pipeline::new().gpu("picky", Batching::items(8), move || {
        let (seen, gate) = (notes.clone(), at_gate.clone());
        Ok(model(move |items: &[i32]| {
            gate.pass();
            seen.add(items);
            match items.contains(&5) {
                true => Err(Error::failed("5")),
                false => Ok(items.to_vec()),
            }
        }))
    });
    let running = Arc::new(pipeline.start().await.unwrap());
    let failed = Arc::new(AtomicUsize::new(0));
    let call = |item: i32| {
        let (running, failed) = (running.clone(), failed.clone());
        tokio::spawn(async move {
            match running.call(item).await {
                Ok(output) => assert_eq!(output, item),
                Err(why) => {
                    assert_eq!((item, why.fault()), (5, Fault::Failed));
                    failed.fetch_add(1, SeqCst);
                }
            }
        })
    };
    let first = call(0);
    eventually("the device is held", || gate.waiting() == 1);
    let rest: Vec<_> = (1..=8).map(call).collect();
    gate.open();
    within("the first", first).await.unwrap();
    within("the rest", join_all(rest)).await.into_iter().for_each(|joined| joined.unwrap());
    assert_eq!(failed.load(SeqCst), 1);
    // Each item at most twice: in its batch, and alone after that batch failed.
    let mut runs: HashMap<i32, usize> = HashMap::new();
    seen.batches().concat().into_iter().for_each(|item| *runs.entry(item).or_default() += 1);
    assert_eq!(runs.len(), 9);
    assert!(runs.values().all(|&count| count <= 2), "{runs:?}");
    let alone = seen.batches().into_iter().filter(|batch| batch.as_slice() == [5]).count();
    assert_eq!(alone, 1);
}

/// A model whose batches are prepared off the device thread; below zero that fails, and far below it panics.
struct Collating(Seen<i32>, Gate);

impl Model for Collating {
    type Input = i32;
    type Output = i32;
    const COLLATES: bool = true;

    fn infer(&mut self, items: &[i32]) -> Result<Vec<i32>> {
        self.0.add(items);
        match items.iter().any(|&item| item < 0) {
            true => Err(Error::invalid("below zero")),
            false => Ok(items.to_vec()),
        }
    }

    fn collate(items: &[i32]) -> Result<Collated> {
        assert!(items.iter().all(|&item| item > -100), "far below");
        match items.iter().any(|&item| item < 0) {
            true => Err(Error::invalid("below zero")),
            false => Ok(Collated::new(items.to_vec())),
        }
    }

    fn infer_collated(&mut self, items: &[i32], collated: Collated) -> Result<Vec<i32>> {
        self.0.add(items);
        self.1.pass();
        assert_eq!(collated.take::<Vec<i32>>().as_deref(), Some(items), "another batch's preparation");
        Ok(items.to_vec())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_collated_belongs_to_its_batch() {
    let (seen, gate) = (Seen::new(), Gate::new());
    let (notes, at_gate) = (seen.clone(), gate.clone());
    let load = move || Ok(Collating(notes.clone(), at_gate.clone()));
    let pipeline = Pipeline::new().gpu("collating", Batching::items(4).places(100), load);
    let running = Arc::new(pipeline.start().await.unwrap());
    let call = |item: i32| {
        let running = running.clone();
        tokio::spawn(async move { (item, running.call(item).await) })
    };
    let first = call(1);
    eventually("the device is held", || gate.waiting() == 1);
    let rest: Vec<_> = (2..90).map(|item| call(if item % 20 == 0 { -item } else { item })).collect();
    gate.open();
    assert_eq!(within("the first", first).await.unwrap().1.unwrap(), 1);
    for joined in within("the rest", join_all(rest)).await {
        let (item, answer) = joined.unwrap();
        match answer {
            Ok(output) => assert!(output == item && item > 0),
            Err(why) => assert_eq!((item % 20, why.fault()), (0, Fault::Invalid)),
        }
    }
    let mut runs: HashMap<i32, usize> = HashMap::new();
    seen.batches().concat().into_iter().for_each(|item| *runs.entry(item).or_default() += 1);
    // An item runs in its batch or, where that could not be collated, alone.
    assert!(runs.len() == 89 && runs.values().all(|&count| count == 1), "{runs:?}");
    assert!(within("a lone panic", call(-100)).await.unwrap().1.is_err());
    assert_eq!(within("the next", call(7)).await.unwrap().1.unwrap(), 7);
}
