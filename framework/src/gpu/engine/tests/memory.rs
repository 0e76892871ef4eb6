//! Batches for which the device has no memory: halved, remembered, and tried again later.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::{Context, OutOfMemory};
use crate::model::Collated;

/// What an item is: its number, its weight, its key.
type Item = (u32, usize, u64);

/// The batches that were run.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Vec<Item>>>>);

impl Calls {
    fn take(&self) -> Vec<Vec<Item>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn counts(&self) -> Vec<usize> {
        self.take().iter().map(Vec::len).collect()
    }
}

/// A model that has memory for batches of up to `room`, by `size`.
struct Small {
    room: Arc<AtomicUsize>,
    size: fn(&[Item]) -> usize,
    calls: Calls,
}

/// An item that fails whatever batch it is in, and one that panics.
const FAILS: u32 = 1_000_000;
const PANICS: u32 = 1_000_001;

impl Model for Small {
    type Input = Item;
    type Output = u32;

    fn weight(item: &Item) -> usize {
        item.1
    }

    fn key(item: &Item) -> u64 {
        item.2
    }

    fn infer(&mut self, items: &[Item]) -> Result<Vec<u32>> {
        self.calls.0.lock().unwrap().push(items.to_vec());
        if (self.size)(items) > self.room.load(Relaxed) {
            return Err(OutOfMemory::new("no room")).context("a batch");
        }
        assert!(items.iter().all(|item| item.0 != PANICS), "panicked as it was told");
        match items.iter().any(|item| item.0 == FAILS) {
            true => Err(Error::failed("failed as it was told")),
            false => Ok(items.iter().map(|item| item.0).collect()),
        }
    }
}

fn summed(items: &[Item]) -> usize {
    items.iter().map(|item| item.1).sum()
}

fn padded(items: &[Item]) -> usize {
    items.len() * items.iter().map(|item| item.1).max().unwrap_or(0)
}

struct Bench {
    driven: Driven<Small>,
    room: Arc<AtomicUsize>,
    calls: Calls,
}

fn bench(batching: Batching, room: usize, size: fn(&[Item]) -> usize) -> Bench {
    let (room, calls) = (Arc::new(AtomicUsize::new(room)), Calls::default());
    let model = (room.clone(), calls.clone());
    let driven = Driven::new(batching, move || Ok(Small { room: model.0.clone(), size, calls: model.1.clone() }));
    Bench { driven, room, calls }
}

fn items(count: u32) -> impl Iterator<Item = Item> {
    (0..count).map(|n| (n, 1, 0))
}

fn all_answered(driven: Driven<Small>, count: u32) {
    let answers: Vec<u32> = driven.answers().into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(answers, (0..count).collect::<Vec<_>>());
}

#[test]
fn a_batch_is_halved_until_it_fits_and_answered_part_by_part() {
    let mut bench = bench(Batching::items(8), 3, <[Item]>::len);
    bench.driven.call_each(items(8));
    bench.driven.run_dry();
    // The second four are halved at once: the first have failed.
    assert_eq!(bench.calls.counts(), [8, 4, 2, 2, 2, 2]);
    all_answered(bench.driven, 8);
}

#[test]
fn odd_batches_are_halved_too() {
    let mut bench = bench(Batching::items(7), 1, <[Item]>::len);
    bench.driven.call_each(items(7));
    bench.driven.run_dry();
    assert_eq!(bench.calls.counts(), [7, 3, 1, 1, 1, 1, 1, 1, 1]);
    all_answered(bench.driven, 7);
}

#[test]
fn later_batches_are_cut_below_the_ceiling_and_it_recovers() {
    let mut bench = bench(Batching::items(8), 3, <[Item]>::len);
    bench.driven.call_each(items(8 + 60 * 2 + 4 + 128 * 2 + 4));
    bench.driven.run_dry();
    let mut expected = vec![8, 4, 2, 2, 2, 2];
    // With the first four 64 good batches of two; then four are tried, and the halves count.
    expected.extend([2; 60]);
    expected.extend([4, 2, 2]);
    expected.extend([2; 126]);
    // 128 good ones.
    expected.extend([4, 2, 2]);
    expected.extend([2; 2]);
    assert_eq!(bench.calls.counts(), expected);

    // There is memory again: 252 more until it is four (256 in all), as many of four until it is eight, and then none.
    bench.room.store(8, Relaxed);
    let before = 8 + 60 * 2 + 4 + 128 * 2 + 4;
    let more = 252 * 2 + 256 * 4 + 256 * 8 + 8;
    bench.driven.call_each(items(before + more).skip(before as usize));
    bench.driven.run_dry();
    let expected = [vec![2; 252], vec![4; 256], vec![8; 257]].concat();
    assert_eq!(bench.calls.counts(), expected);
    all_answered(bench.driven, before + more);
}

#[test]
fn a_batch_at_the_ceiling_is_full_and_does_not_linger() {
    let batching = Batching::items(8).linger(std::time::Duration::from_secs(600));
    let mut bench = bench(batching, 4, <[Item]>::len);
    bench.driven.call_each(items(8));
    bench.driven.run_dry();
    assert_eq!(bench.calls.counts(), [8, 4, 4]);
    bench.driven.call_each([(8, 1, 0), (9, 1, 0), (10, 1, 0)]);
    assert!(!bench.driven.turn(true).unwrap(), "three wait for a fourth");
    bench.driven.call_each([(11, 1, 0)]);
    assert!(bench.driven.turn(true).unwrap());
    assert_eq!(bench.calls.counts(), [4]);
    all_answered(bench.driven, 12);
}

#[test]
fn the_forecast_learns_nothing_of_a_batch_that_failed_and_counts_by_batches_under_the_ceiling() {
    let mut bench = bench(Batching::items(8), 4, <[Item]>::len);
    bench.driven.forecast.batch_ended(Duration::from_secs(1000));
    bench.driven.call_each(items(8));
    assert!(bench.driven.turn(true).unwrap());
    let seconds = bench.driven.seconds_behind(0);
    assert!((999.0..=1000.0).contains(&seconds), "it failed at once, and that is not how long batches take: {seconds}");
    bench.driven.call_each((8..100).map(|n| (n, 1, 0)));
    bench.driven.run_dry();
    bench.driven.forecast.batch_ended(Duration::from_secs(1000));
    let (batch, behind) = (bench.driven.seconds_behind(0), bench.driven.seconds_behind(80));
    assert!((18.0..=21.5).contains(&(behind / batch)), "80 jobs are 20 batches of 4: {behind} of {batch}");
    all_answered(bench.driven, 100);
}

#[test]
fn a_ceiling_is_of_one_key() {
    let mut bench = bench(Batching::items(8), usize::MAX, |items| match items[0].2 {
        0 => usize::MAX / 2 + items.len(),
        _ => 0,
    });
    bench.room.store(usize::MAX / 2 + 4, Relaxed);
    bench.driven.call_each(items(8));
    bench.driven.run_dry();
    bench.driven.call_each((8..16).map(|n| (n, 1, 5)));
    bench.driven.run_dry();
    bench.driven.call_each((16..24).map(|n| (n, 1, 0)));
    bench.driven.run_dry();
    assert_eq!(bench.calls.counts(), [8, 4, 4, 8, 4, 4]);
    all_answered(bench.driven, 24);
}

#[test]
fn a_ceiling_is_in_the_unit_in_which_batches_are_cut() {
    for (batching, size) in [
        (Batching::items(64).weight(80), summed as fn(&[Item]) -> usize),
        (Batching::items(64).weight(80).padded(), padded),
    ] {
        let mut bench = bench(batching, 40, size);
        bench.driven.call_each((0..8).map(|n| (n, 10, 0)));
        bench.driven.run_dry();
        assert_eq!(bench.calls.counts(), [8, 4, 4]);
        // Lighter items fill the same weight; a heavy one runs alone.
        bench.driven.call_each((8..24).map(|n| (n, 5, 0)));
        bench.driven.run_dry();
        assert_eq!(bench.calls.counts(), [8, 8]);
        bench.room.store(60, Relaxed);
        bench.driven.call_each([(24, 60, 0), (25, 1, 0)]);
        bench.driven.run_dry();
        assert_eq!(bench.calls.counts(), [1, 1]);
        all_answered(bench.driven, 26);
    }
}

#[test]
fn an_item_that_finds_no_memory_alone_fails_alone_and_as_the_model_says() {
    let mut bench = bench(Batching::items(4).weight(100), 10, summed);
    bench.driven.call_each([(0, 1, 0), (1, 50, 0), (2, 1, 0), (3, 1, 0)]);
    bench.driven.run_dry();
    // The half with the heavy item is above the ceiling of 26 already.
    assert_eq!(bench.calls.counts(), [4, 1, 1, 2]);
    let answers = bench.driven.answers();
    let why = answers[1].as_ref().unwrap_err();
    assert_eq!(why.fault(), Fault::Failed);
    assert!(why.find::<OutOfMemory>().is_some(), "{why}");
    assert!([0, 2, 3].iter().all(|&n| answers[n].as_ref().unwrap()[..] == [n as u32]));
}

#[test]
fn a_half_that_fails_in_another_way_is_run_item_by_item() {
    for bad in [FAILS, PANICS] {
        let mut bench = bench(Batching::items(8), 4, <[Item]>::len);
        bench.driven.call_each(items(8).map(|item| if item.0 == 6 { (bad, 1, 0) } else { item }));
        bench.driven.run_dry();
        assert_eq!(bench.calls.counts(), [8, 4, 4, 1, 1, 1, 1]);
        for (n, answer) in bench.driven.answers().into_iter().enumerate() {
            match n {
                6 => assert_eq!(answer.unwrap_err().fault(), Fault::Failed),
                n => assert_eq!(answer.unwrap(), [n as u32]),
            }
        }
    }
}

#[test]
fn the_rest_of_a_job_that_has_failed_is_not_run() {
    let mut bench = bench(Batching::items(8), 2, <[Item]>::len);
    bench.driven.call(vec![(FAILS, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)]);
    bench.driven.call(vec![(4, 1, 0)]);
    bench.driven.run_dry();
    let calls = bench.calls.take();
    let ran = |n: u32| calls.iter().filter(|call| call.iter().any(|item| item.0 == n)).count();
    // In the whole, in its half, and alone; the other half falls away.
    assert_eq!((ran(FAILS), ran(3), calls.len()), (3, 1, 4), "{calls:?}");
    let answers = bench.driven.answers();
    assert!(answers[0].is_err());
    assert_eq!(answers[1].as_ref().unwrap()[..], [4]);
}

#[test]
fn no_memory_may_be_fatal_if_the_model_says_so() {
    let mut driven = Driven::new(Batching::items(4), || Ok(Fatal));
    driven.call_each([1, 2, 3, 4]);
    assert_eq!(driven.turn(true).unwrap_err().fault(), Fault::Fatal);
    assert!(driven.answers().iter().all(|answer| answer.as_ref().is_err_and(|why| why.fault() == Fault::Fatal)));
}

struct Fatal;

impl Model for Fatal {
    type Input = u32;
    type Output = u32;

    fn infer(&mut self, _: &[u32]) -> Result<Vec<u32>> {
        Err(Error::new(Fault::Fatal, OutOfMemory::new("no room")))
    }
}

/// Collates; notes what ran, and whether it was collated.
struct Collating {
    room: usize,
    log: Log,
}

impl Model for Collating {
    type Input = u32;
    type Output = u32;
    const COLLATES: bool = true;

    fn collate(items: &[u32]) -> Result<Collated> {
        Ok(Collated::new(items.to_vec()))
    }

    fn infer(&mut self, _: &[u32]) -> Result<Vec<u32>> {
        unreachable!("halves are collated too")
    }

    fn infer_collated(&mut self, items: &[u32], collated: Collated) -> Result<Vec<u32>> {
        assert_eq!(collated.take::<Vec<u32>>().unwrap(), items);
        self.log.add(list(items));
        if items.len() > self.room {
            return Err(OutOfMemory::new("no room").into());
        }
        Ok(items.to_vec())
    }
}

#[test]
fn a_batch_that_was_prepared_before_its_ceiling_was_found_is_halved_unrun() {
    let log = Log::default();
    let model = log.clone();
    let mut driven = Driven::new(Batching::items(4), move || Ok(Collating { room: 2, log: model.clone() }));
    driven.call_each(0..8);
    driven.run_dry();
    assert_eq!(log.take(), ["0,1,2,3", "0,1", "2,3", "4,5", "6,7"]);
    let answers: Vec<u32> = driven.answers().into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(answers, (0..8).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked for and however little memory there is: everybody is answered, once and with what is theirs;
    /// only what has no memory alone fails; and no batch is run above a ceiling that is known.
    #[test]
    fn everybody_is_answered(
        jobs in vec(vec((1..30_usize, 0..2_u64), 1..5), 1..16),
        room in 1..80_usize,
        weight in proptest::option::of(20..200_usize),
        is_padded in any::<bool>(),
    ) {
        let batching = weight.into_iter().fold(Batching::items(16), Batching::weight);
        let (batching, size) = match (is_padded, weight) {
            (true, _) => (batching.padded(), padded as fn(&[Item]) -> usize),
            (false, Some(_)) => (batching, summed as _),
            (false, None) => (batching, <[Item]>::len as _),
        };
        let alone = |item: &Item| size(std::slice::from_ref(item)) <= room;
        let mut bench = bench(batching, room, size);
        let mut number = 0;
        let jobs: Vec<Vec<Item>> = jobs.into_iter().map(|job| job.into_iter().map(|(weight, key)| {
            number += 1;
            (number, weight, key)
        }).collect()).collect();
        jobs.iter().for_each(|job| bench.driven.call(job.clone()));
        bench.driven.run_dry();
        let mut ceilings = std::collections::HashMap::new();
        let mut passed = std::collections::HashMap::new();
        for call in bench.calls.take() {
            let (size, ceiling) = (size(&call), ceilings.entry(call[0].2).or_insert(usize::MAX));
            // There are fewer items than the batches that would raise it.
            prop_assert!(call.len() == 1 || size <= *ceiling, "{size} above {ceiling}");
            if size <= room {
                call.iter().for_each(|item| *passed.entry(item.0).or_insert(0) += 1);
            } else if call.len() > 1 {
                *ceiling = (*ceiling).min(size / 2);
            }
        }
        prop_assert!(passed.values().all(|&count| count == 1), "an item ran twice");
        for (job, answer) in jobs.iter().zip(bench.driven.answers()) {
            match answer {
                Ok(outputs) => prop_assert_eq!(outputs, job.iter().map(|item| item.0).collect::<Vec<_>>()),
                Err(why) => {
                    prop_assert!(why.find::<OutOfMemory>().is_some(), "{}", why);
                    prop_assert!(!job.iter().all(alone));
                }
            }
        }
    }
}
