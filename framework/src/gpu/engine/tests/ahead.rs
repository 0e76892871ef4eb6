//! Batches launched ahead: in which order what is launched and fetched, and what becomes of failures meanwhile.

use proptest::collection::vec;
use proptest::prelude::*;

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;
use crate::error::OutOfMemory;
use crate::model::{Collated, Launched};

/// What a model does with an item, if anything is to go wrong.
type Mishap = fn(u32) -> Option<Goes>;

#[derive(Clone, Copy, PartialEq)]
enum Goes {
    LaunchFails,
    LaunchPanics,
    FinishFails,
    FinishPanics,
}

/// A model on a device that works while its thread does not wait. It has room for so many items at once, and each batch
/// that was launched keeps its room until it is finished or dropped.
struct Device {
    log: Log,
    mishap: Mishap,
    room: usize,
    on: Batches,
}

/// What is on the device, in the order of the launches.
#[derive(Clone, Default)]
struct Batches(Arc<Mutex<Vec<Vec<u32>>>>);

impl Batches {
    fn items(&self) -> usize {
        self.0.lock().unwrap().iter().map(Vec::len).sum()
    }

    /// How many there are with this one.
    fn enter(&self, items: &[u32]) -> usize {
        let mut batches = self.0.lock().unwrap();
        batches.push(items.to_vec());
        batches.len()
    }

    /// How many are before it.
    fn leave(&self, items: &[u32]) -> Option<usize> {
        let mut batches = self.0.lock().unwrap();
        let at = batches.iter().position(|other| other == items)?;
        batches.remove(at);
        Some(at)
    }
}

/// A batch on the device. It says when it goes.
struct OnDevice {
    items: Vec<u32>,
    on: Batches,
    log: Log,
    finished: bool,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        let before = self.on.leave(&self.items);
        match self.finished {
            true if before == Some(0) => {}
            true => self.log.add(format!("wrong: finished {} with {before:?} before it", list(&self.items))),
            false => self.log.add(format!("drop {}", list(&self.items))),
        }
    }
}

impl Device {
    fn goes(&self, items: &[u32], how: Goes) -> bool {
        items.iter().any(|&item| (self.mishap)(item) == Some(how))
    }
}

impl Model for Device {
    type Input = u32;
    type Output = u32;
    const LAUNCHES: bool = true;

    fn infer(&mut self, items: &[u32]) -> Result<Vec<u32>> {
        self.log.add(format!("infer {}", list(items)));
        assert!(items.len() == 1, "only items alone are run so");
        assert!(!self.goes(items, Goes::LaunchPanics) && !self.goes(items, Goes::FinishPanics), "bad item");
        match items.iter().any(|&item| (self.mishap)(item).is_some()) {
            true => Err(Error::failed("bad item")),
            false => Ok(items.iter().map(|item| 2 * item).collect()),
        }
    }

    fn launch(&mut self, items: &[u32], _: Collated) -> Result<Launched> {
        self.log.add(format!("launch {}", list(items)));
        if self.on.items() + items.len() > self.room {
            return Err(OutOfMemory::new("no room").into());
        }
        assert!(!self.goes(items, Goes::LaunchPanics), "bad item");
        if self.goes(items, Goes::LaunchFails) {
            return Err(Error::failed("bad item"));
        }
        if self.on.enter(items) > 2 {
            self.log.add(format!("wrong: {} is the third", list(items)));
        }
        let batch = OnDevice { items: items.to_vec(), on: self.on.clone(), log: self.log.clone(), finished: false };
        Ok(Launched::new(batch))
    }

    fn finish(&mut self, items: &[u32], launched: Launched) -> Result<Vec<u32>> {
        let mut batch: OnDevice = launched.take().unwrap();
        batch.finished = true;
        assert_eq!(batch.items, items, "finished with what it was launched with");
        self.log.add(format!("finish {}", list(items)));
        assert!(!self.goes(items, Goes::FinishPanics), "bad item");
        match self.goes(items, Goes::FinishFails) {
            true => Err(Error::failed("bad item")),
            false => Ok(items.iter().map(|item| 2 * item).collect()),
        }
    }
}

fn device(items: usize, room: usize, mishap: Mishap) -> (Driven<Device>, Log) {
    let log = Log::default();
    let (to, on) = (log.clone(), Batches::default());
    let driven = Driven::new(Batching::items(items), move || {
        to.add("load");
        Ok(Device { log: to.clone(), mishap, room, on: on.clone() })
    });
    assert_eq!(log.take(), ["load"]);
    (driven, log)
}

fn nothing(_: u32) -> Option<Goes> {
    None
}

/// Everybody has twice their item, but those who were to fail.
fn check_answers(driven: Driven<Device>, mishap: Mishap) {
    for (item, answer) in driven.answers().into_iter().enumerate() {
        let item = item as u32;
        match mishap(item) {
            None => assert_eq!(answer.unwrap(), [2 * item]),
            Some(_) => assert_eq!(answer.unwrap_err().fault(), Fault::Failed, "{item}"),
        }
    }
}

#[test]
fn a_full_batch_is_launched_before_the_one_before_is_finished() {
    let (mut driven, log) = device(2, 100, nothing);
    driven.call_each(0..7);
    driven.run_dry();
    let expected =
        ["launch 0,1", "launch 2,3", "finish 0,1", "launch 4,5", "finish 2,3", "finish 4,5", "launch 6", "finish 6"];
    assert_eq!(log.take(), expected, "one ahead and no more; what is not full is not launched ahead");
    check_answers(driven, nothing);
}

#[test]
fn a_batch_that_is_not_full_stays_open() {
    let (mut driven, log) = device(3, 100, nothing);
    driven.call_each(0..5);
    assert!(driven.turn(true).unwrap());
    assert_eq!(log.take(), ["launch 0,1,2", "finish 0,1,2"]);
    assert!(!driven.engine.is_launched());
    // What came meanwhile gets aboard.
    driven.call_each([5]);
    driven.run_dry();
    assert_eq!(log.take(), ["launch 3,4,5", "finish 3,4,5"]);
    check_answers(driven, nothing);
}

#[test]
fn who_comes_while_one_is_ahead_is_launched_in_the_next_turn() {
    let (mut driven, log) = device(2, 100, nothing);
    driven.call_each(0..4);
    assert!(driven.turn(true).unwrap());
    assert!(driven.engine.is_launched());
    assert_eq!(log.take(), ["launch 0,1", "launch 2,3", "finish 0,1"]);
    driven.call_each(4..6);
    assert!(driven.turn(true).unwrap());
    assert_eq!(log.take(), ["launch 4,5", "finish 2,3"]);
    driven.run_dry();
    check_answers(driven, nothing);
}

#[test]
fn in_the_turn_of_another_only_what_is_ahead_is_finished() {
    let (mut driven, log) = device(2, 100, nothing);
    driven.call_each(0..8);
    assert!(driven.turn(true).unwrap());
    log.take();
    assert!(driven.turn(false).unwrap());
    assert_eq!(log.take(), ["finish 2,3"]);
    assert!(!driven.engine.is_launched());
    driven.run_dry();
    check_answers(driven, nothing);
}

#[test]
fn answers_go_out_while_the_next_batch_is_on_the_device() {
    let (mut driven, _) = device(2, 100, nothing);
    driven.call_each(0..4);
    assert!(driven.turn(true).unwrap());
    assert!(driven.engine.is_launched());
    let first: Vec<_> = driven.answers.drain(..2).collect();
    let answers = driven.runtime.block_on(join_all(first));
    assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [[0], [2]]);
}

#[test]
fn a_batch_that_fails_is_run_item_by_item_after_what_is_behind_it() {
    let mishap: Mishap = |item| (item == 1).then_some(Goes::FinishFails);
    let (mut driven, log) = device(2, 100, mishap);
    driven.call_each(0..6);
    driven.run_dry();
    let expected =
        ["launch 0,1", "launch 2,3", "finish 0,1", "finish 2,3", "infer 0", "infer 1", "launch 4,5", "finish 4,5"];
    assert_eq!(log.take(), expected);
    check_answers(driven, mishap);
}

#[test]
fn a_launch_that_fails_is_dealt_with_after_what_is_before_it() {
    let mishap: Mishap = |item| (item == 3).then_some(Goes::LaunchFails);
    let (mut driven, log) = device(2, 100, mishap);
    driven.call_each(0..6);
    driven.run_dry();
    let expected = ["launch 0,1", "launch 2,3", "finish 0,1", "infer 2", "infer 3", "launch 4,5", "finish 4,5"];
    assert_eq!(log.take(), expected);
    check_answers(driven, mishap);
}

#[test]
fn a_panic_in_finish_loads_the_model_again_and_loses_nothing() {
    let mishap: Mishap = |item| (item == 0).then_some(Goes::FinishPanics);
    let (mut driven, log) = device(2, 100, mishap);
    driven.call_each(0..4);
    driven.run_dry();
    let expected = [
        "launch 0,1",
        "launch 2,3",
        "finish 0,1",
        "drop 2,3",
        "load",
        "infer 0",
        "load",
        "infer 1",
        "launch 2,3",
        "finish 2,3",
    ];
    assert_eq!(log.take(), expected);
    check_answers(driven, mishap);
}

#[test]
fn a_panic_in_launch_loads_the_model_again_and_loses_nothing() {
    let mishap: Mishap = |item| (item == 3).then_some(Goes::LaunchPanics);
    let (mut driven, log) = device(2, 100, mishap);
    driven.call_each(0..4);
    driven.run_dry();
    let expected =
        ["launch 0,1", "launch 2,3", "drop 0,1", "load", "infer 2", "infer 3", "load", "launch 0,1", "finish 0,1"];
    assert_eq!(log.take(), expected);
    check_answers(driven, mishap);
}

#[test]
fn without_memory_for_two_the_second_runs_whole_after_the_first_and_64_run_alone() {
    let (mut driven, log) = device(2, 3, nothing);
    let all = 2 * (2 + 64 + 1);
    driven.call_each(0..all);
    driven.run_dry();
    let mut expected: Vec<String> = ["launch 0,1", "launch 2,3", "finish 0,1"].map(String::from).into();
    // The first and 63 more are run alone.
    for n in 1..64 {
        let pair = list(&[2 * n, 2 * n + 1]);
        expected.extend([format!("launch {pair}"), format!("finish {pair}")]);
    }
    expected.extend(
        ["launch 128,129", "launch 130,131", "finish 128,129", "launch 130,131", "finish 130,131"].map(String::from),
    );
    expected.extend(["launch 132,133", "finish 132,133"].map(String::from));
    assert_eq!(log.take(), expected, "nothing is halved");
    check_answers(driven, nothing);
}

#[test]
fn a_batch_that_finds_no_memory_with_the_device_to_itself_is_halved() {
    let (mut driven, log) = device(4, 2, nothing);
    driven.call_each(0..4);
    driven.run_dry();
    assert_eq!(log.take(), ["launch 0,1,2,3", "launch 0,1", "finish 0,1", "launch 2,3", "finish 2,3"]);
    check_answers(driven, nothing);
}

#[test]
fn the_device_is_busy_while_one_is_ahead_and_no_moment_is_told_twice() {
    let between_turns = Duration::from_millis(20);
    let (mut driven, _) = device(2, 100, nothing);
    driven.call_each(0..6);
    let begun = Instant::now();
    let mut told = Duration::ZERO;
    for turn in 0..3 {
        driven.engine.receive().unwrap();
        told += driven.engine.run(true).unwrap();
        assert_eq!(driven.engine.is_launched(), turn < 2);
        std::thread::sleep(between_turns); // time that is to be told, and told once
    }
    // Twice one was ahead between the turns, and after the third turn none.
    let whole = begun.elapsed();
    assert!(told >= 2 * between_turns && told + between_turns <= whole, "{told:?} of {whole:?}");
    assert_eq!(driven.engine.run(true).unwrap(), Duration::ZERO);
    check_answers(driven, nothing);
}

#[test]
fn an_engine_that_ends_with_one_ahead_fails_its_callers() {
    let (mut driven, log) = device(2, 100, nothing);
    driven.call_each(0..4);
    assert!(driven.turn(true).unwrap());
    log.take();
    driven.engine.close(&Error::transient("stopping"));
    let faults: Vec<_> = driven.answers().into_iter().map(|answer| answer.map_err(|why| why.fault())).collect();
    assert_eq!(faults, [Ok(vec![0]), Ok(vec![2]), Err(Fault::Transient), Err(Fault::Transient)]);
    assert_eq!(log.take(), ["drop 2,3"]);
}

#[test]
fn a_launching_model_may_collate() {
    struct Both(Log);
    impl Model for Both {
        type Input = u32;
        type Output = u32;
        const COLLATES: bool = true;
        const LAUNCHES: bool = true;
        fn infer(&mut self, _: &[u32]) -> Result<Vec<u32>> {
            unreachable!("nothing fails")
        }
        fn collate(items: &[u32]) -> Result<Collated> {
            Ok(Collated::new(items.to_vec()))
        }
        fn launch(&mut self, items: &[u32], collated: Collated) -> Result<Launched> {
            self.0.add(format!("launch {}", list(items)));
            Ok(Launched::new(collated.take::<Vec<u32>>().unwrap()))
        }
        fn finish(&mut self, items: &[u32], launched: Launched) -> Result<Vec<u32>> {
            self.0.add(format!("finish {}", list(items)));
            Ok(launched.take::<Vec<u32>>().unwrap())
        }
    }
    let log = Log::default();
    let to = log.clone();
    let mut driven = Driven::new(Batching::items(2), move || Ok(Both(to.clone())));
    // As far as is known there is time enough to collate, however slow this machine is.
    driven.forecast.batch_ended(Duration::from_secs(600));
    driven.call_each(0..8);
    driven.run_dry();
    let expected = [
        "launch 0,1",
        "launch 2,3",
        "finish 0,1",
        "launch 4,5",
        "finish 2,3",
        "launch 6,7",
        "finish 4,5",
        "finish 6,7",
    ];
    assert_eq!(log.take(), expected);
    assert!(driven.answers().into_iter().enumerate().all(|(n, answer)| answer.unwrap() == [n as u32]));
}

/// Prepares an item with a gate when that is opened, or fails; and opens it when a batch is fetched.
struct Gated {
    log: Log,
    fetched: Sender<()>,
}

type GatedItem = (u32, Option<Arc<Mutex<Receiver<()>>>>);

impl Model for Gated {
    type Input = GatedItem;
    type Output = u32;
    const COLLATES: bool = true;
    const LAUNCHES: bool = true;

    fn infer(&mut self, _: &[GatedItem]) -> Result<Vec<u32>> {
        unreachable!("nothing fails")
    }

    fn collate(items: &[GatedItem]) -> Result<Collated> {
        for gate in items.iter().filter_map(|(_, gate)| gate.as_ref()) {
            gate.lock().unwrap().recv_timeout(Duration::from_secs(20))?;
        }
        Ok(Collated::nothing())
    }

    fn launch(&mut self, items: &[GatedItem], _: Collated) -> Result<Launched> {
        self.log.add(format!("launch {}", items[0].0));
        Ok(Launched::new(()))
    }

    fn finish(&mut self, items: &[GatedItem], _: Launched) -> Result<Vec<u32>> {
        self.log.add(format!("finish {}", items[0].0));
        self.fetched.send(()).unwrap();
        Ok(items.iter().map(|(number, _)| *number).collect())
    }
}

#[test]
fn a_batch_on_the_device_is_fetched_before_the_next_is_long_prepared() {
    let log = Log::default();
    let to = log.clone();
    let (fetched, gate) = mpsc::channel();
    let gate = Arc::new(Mutex::new(gate));
    let mut driven = Driven::new(Batching::items(1), move || Ok(Gated { log: to.clone(), fetched: fetched.clone() }));
    driven.call_each([(0, None), (1, Some(gate))]);
    assert!(driven.turn(true).unwrap());
    assert_eq!(log.take(), ["launch 0", "finish 0"]);
    assert!(driven.engine.in_hand(), "it is still being prepared");
    driven.run_dry();
    assert_eq!(log.take(), ["launch 1", "finish 1"]);
    assert!(driven.answers().into_iter().all(|answer| answer.is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever goes wrong where, and however little memory there is: everybody is answered as is due to them, no more
    /// than two batches are on the device, and each is finished in the order of its launch or dropped.
    #[test]
    fn everybody_is_answered(
        items in 1..5_usize,
        room in 1..12_usize,
        comes in vec((0..9_u32, any::<bool>()), 1..30),
        bad in 0..5_u32,
    ) {
        // One of 16 goes wrong, in each way by turns; never two panics in a row.
        let mishaps: [Mishap; 5] = [
            nothing,
            |n| (n % 16 == 3).then_some(Goes::LaunchFails),
            |n| (n % 16 == 5).then_some(Goes::FinishFails),
            |n| (n % 16 == 7).then_some(Goes::LaunchPanics),
            |n| (n % 16 == 11).then_some(Goes::FinishPanics),
        ];
        let mishap = mishaps[bad as usize];
        let (mut driven, log) = device(items, room, mishap);
        let mut number = 0;
        for (count, ahead) in comes {
            driven.call_each(number..number + count);
            number += count;
            driven.turn(ahead).unwrap();
        }
        driven.run_dry();
        let events = log.take();
        prop_assert!(!events.iter().any(|event| event.starts_with("wrong")), "{events:?}");
        check_answers(driven, mishap);
    }
}
