//! A device with made-up models and made-up time: exact sequences, and what must hold in all of them.

use proptest::collection::vec;
use proptest::prelude::*;

use std::time::Instant;

use super::super::batcher::Next;
use super::super::thread::{Step, Turns, next_step};
use super::*;
use crate::error::Fault;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A model of which all is known.
#[derive(Clone, Debug)]
struct Fake {
    bytes: u64,
    load: Duration,
    batch: Duration,
    share: u32,
    /// How many batches it gets in hand at once when it may run ahead: a batch prepared, or a job's steps.
    ahead: usize,
}

impl Fake {
    fn new(bytes: u64) -> Self {
        Fake { bytes, load: ms(5), batch: ms(10), share: 1, ahead: 0 }
    }
}

/// A device thread as `thread::take_turns` is, but for what is made up.
struct Device {
    budget: u64,
    fakes: Vec<Fake>,
    turns: Turns,
    memory: Memory,
    /// Batches that wait.
    work: Vec<usize>,
    in_hand: Vec<usize>,
    now: Duration,
    /// Since when each has had work and did not run.
    waits: Vec<Option<Duration>>,
    log: Vec<String>,
}

impl Device {
    fn start(budget: u64, fakes: Vec<Fake>) -> Self {
        let count = fakes.len();
        let mut device = Device {
            budget,
            turns: Turns::new(fakes.iter().map(|fake| fake.share).collect()),
            memory: Memory::new(Some(budget), fakes.iter().map(|fake| fake.bytes)),
            fakes,
            work: vec![0; count],
            in_hand: vec![0; count],
            now: Duration::ZERO,
            waits: vec![None; count],
            log: Vec::new(),
        };
        for (index, stays) in device.memory.at_start() {
            device.load(index, &[]);
            if !stays {
                device.memory.gone(index);
                device.log.push(format!("drop {index}"));
            }
        }
        device
    }

    fn give(&mut self, index: usize, batches: usize) {
        self.work[index] += batches;
        if batches > 0 {
            self.waits[index].get_or_insert(self.now);
        }
    }

    /// One turn; whether there was anything to do.
    fn turn(&mut self) -> bool {
        let has_work = |index: usize| self.work[index] + self.in_hand[index] > 0;
        let nexts: Vec<Next> =
            (0..self.fakes.len()).map(|index| if has_work(index) { Next::Run } else { Next::Empty }).collect();
        match next_step(&mut self.turns, &self.memory, &nexts, |index| self.in_hand[index] > 0) {
            Step::Run { index, ahead } => self.run(index, ahead),
            Step::Load { index, instead } => self.load(index, &instead),
            step => {
                assert_eq!(step, Step::Sleep);
                assert!(!nexts.contains(&Next::Run), "{nexts:?}");
                return false;
            }
        }
        true
    }

    fn run(&mut self, index: usize, ahead: bool) {
        assert!(self.memory.is_there(index));
        match self.in_hand[index] {
            0 => self.work[index] -= 1,
            _ => self.in_hand[index] -= 1,
        }
        if ahead && self.in_hand[index] == 0 {
            self.in_hand[index] = self.fakes[index].ahead.min(self.work[index]);
            self.work[index] -= self.in_hand[index];
        }
        let took = self.fakes[index].batch;
        self.now += took;
        self.memory.ran(index, took);
        self.turns.ran(index, took);
        self.waits[index] = (self.work[index] + self.in_hand[index] > 0).then_some(self.now);
        self.log.push(format!("run {index}"));
    }

    fn load(&mut self, index: usize, instead: &[usize]) {
        for &other in instead {
            assert_eq!(self.in_hand[other], 0, "model {other} goes with something in hand");
            assert!(self.memory.is_there(other) && self.fakes[other].bytes > 0);
            self.memory.gone(other);
            self.log.push(format!("drop {other}"));
        }
        assert!(!self.memory.is_there(index));
        let took = self.fakes[index].load;
        self.now += took;
        self.memory.loaded(index, took);
        self.log.push(format!("load {index}"));
        let there = |&index: &usize| self.memory.is_there(index);
        let sum: u64 = (0..self.fakes.len()).filter(there).map(|index| self.fakes[index].bytes).sum();
        assert!(sum <= self.budget, "{sum} bytes are there");
    }

    /// What was done since the last call, repetitions counted.
    fn told(&mut self) -> Vec<String> {
        let log = std::mem::take(&mut self.log);
        let runs = log.chunk_by(|a, b| a == b);
        let tell = |run: &[String]| if run.len() > 1 { format!("{} x{}", run[0], run.len()) } else { run[0].clone() };
        runs.map(tell).collect()
    }

    fn turns(&mut self, count: usize) -> Vec<String> {
        for _ in 0..count {
            assert!(self.turn(), "there is work");
        }
        self.told()
    }
}

#[test]
fn what_fits_together_is_loaded_in_order_and_stays() {
    let mut device = Device::start(10, vec![Fake::new(4), Fake::new(0), Fake::new(6)]);
    assert_eq!(device.told(), ["load 0", "load 1", "load 2"]);
    (0..3).for_each(|index| device.give(index, 2));
    assert_eq!(device.turns(6), ["run 0", "run 1", "run 2", "run 0", "run 1", "run 2"]);
}

#[test]
fn what_has_no_room_is_tried_alone_before_the_others() {
    let sizes = [6, 6, 0, 4, 1];
    let mut device = Device::start(10, sizes.map(Fake::new).to_vec());
    let expected = ["load 1", "drop 1", "load 4", "drop 4", "load 0", "load 2", "load 3"];
    assert_eq!(device.told(), expected);
}

#[test]
fn two_that_do_not_fit_together_take_turns_that_are_worth_the_loading() {
    let mut device = Device::start(10, vec![Fake::new(6), Fake::new(6)]);
    device.told();
    (0..2).for_each(|index| device.give(index, 100));
    let expected = ["run 0 x4", "drop 0", "load 1", "run 1 x4", "drop 1", "load 0", "run 0 x4", "drop 0", "load 1"];
    assert_eq!(device.turns(12 + 3), expected);
}

#[test]
fn a_slow_load_is_worth_more_turns_of_both() {
    let slow = Fake { load: ms(50), ..Fake::new(6) };
    let mut device = Device::start(10, vec![Fake::new(6), slow]);
    device.told();
    (0..2).for_each(|index| device.give(index, 1000));
    // Four times 55 ms, whichever goes.
    let expected = ["run 0 x22", "drop 0", "load 1", "run 1 x22", "drop 1", "load 0", "run 0 x22", "drop 0", "load 1"];
    assert_eq!(device.turns(3 * 22 + 3), expected);
}

#[test]
fn a_busy_model_with_a_short_load_does_not_go_soon_for_each_job_of_one_with_a_long_load() {
    let slow = Fake { load: ms(1000), ..Fake::new(6) };
    let mut device = Device::start(10, vec![Fake::new(6), slow]);
    device.told();
    device.give(0, 10_000);
    for _ in 0..3 {
        device.give(1, 1);
        // Four times 1005 ms; who has no more work goes at once.
        let expected = ["run 0 x402", "drop 0", "load 1", "run 1", "drop 1", "load 0"];
        assert_eq!(device.turns(402 + 3), expected);
    }
}

#[test]
fn who_puts_off_all_its_work_stays_away_for_eight_loads_and_at_least_a_second() {
    assert_eq!(away_for(ms(10)), ms(1000));
    assert_eq!(away_for(ms(10_000)), ms(80_000));
    assert_eq!(away_for(Duration::MAX), Duration::MAX);
}

#[test]
fn who_has_no_work_goes_at_once_and_the_least_recently_used_first() {
    let mut device = Device::start(8, [4, 4, 4, 0].map(Fake::new).to_vec());
    assert_eq!(device.told(), ["load 2", "drop 2", "load 0", "load 1", "load 3"]);
    let mut one = |index| {
        device.give(index, 1);
        while device.turn() {}
        device.told()
    };
    assert_eq!(one(0), ["run 0"]);
    // The one that says nothing was used before any other, and stays.
    assert_eq!(one(2), ["drop 1", "load 2", "run 2"]);
    assert_eq!(one(0), ["run 0"]);
    assert_eq!(one(1), ["drop 2", "load 1", "run 1"]);
    assert_eq!(one(3), ["run 3"]);
    assert_eq!(one(2), ["drop 0", "load 2", "run 2"]);
}

#[test]
fn several_go_for_a_large_one_and_the_others_run_meanwhile() {
    let mut device = Device::start(8, [4, 4, 8, 0].map(Fake::new).to_vec());
    device.told();
    device.give(0, 100);
    assert_eq!(device.turns(2), ["run 0 x2"]);
    device.give(1, 100);
    device.give(2, 1);
    device.give(3, 4);
    // The large one's turn is the second. The first two keep their places for four batches each.
    let runs = [1, 3, 0, 1, 3, 0, 1, 3, 0, 1].map(|index| format!("run {index}"));
    assert_eq!(device.turns(runs.len()), runs);
    assert_eq!(device.turns(2), ["drop 0", "drop 1", "load 2", "run 2"]);
}

#[test]
fn who_has_a_batch_in_hand_finishes_it_and_begins_no_other() {
    let steps = Fake { ahead: 10, ..Fake::new(6) };
    let mut device = Device::start(10, vec![steps, Fake::new(6)]);
    device.told();
    device.give(0, 100);
    assert_eq!(device.turns(1), ["run 0"]);
    device.give(1, 1);
    // Worth its loading after four, it has ten in hand, and then takes no more of those that wait.
    assert_eq!(device.turns(12), ["run 0 x10", "drop 0", "load 1", "run 1"]);
    assert_eq!(device.turns(2), ["drop 1", "load 0", "run 0"]);
}

#[test]
fn those_who_are_to_go_do_not_take_turns_in_having_something_in_hand() {
    let few = Fake { ahead: 3, ..Fake::new(4) };
    let many = Fake { ahead: 7, ..Fake::new(4) };
    let mut device = Device::start(8, vec![few, many, Fake::new(8)]);
    device.told();
    (0..3).for_each(|index| device.give(index, 100));
    // Worth their loading after four, the one finishes its eight; the other runs meanwhile, and has nothing in hand then.
    let runs: Vec<String> = (0..8).flat_map(|_| ["run 0".to_owned(), "run 1".to_owned()]).collect();
    assert_eq!(device.turns(16), runs);
    assert_eq!(device.turns(2), ["drop 0", "drop 1", "load 2", "run 2"]);
}

#[test]
fn a_model_larger_than_the_budget_is_refused_with_both_numbers_and_what_to_do() {
    let why = check("large", 3 << 30, 1, Some(2 << 30)).unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
    let text = "stage `large` keeps 3 GiB (3221225472 bytes) on device 1, where all models together may keep 2 GiB \
                (2147483648 bytes); allow more with FOREBAY_DEVICE_MEMORY or Worker::device_memory, or have the stage \
                keep less and say so with its `memory`";
    assert_eq!(why.to_string(), text);
    assert!(check("fits", 2 << 30, 0, Some(2 << 30)).is_ok());
    assert!(check("unbounded", u64::MAX, 0, None).is_ok());
}

#[test]
fn sizes_are_read_by_people() {
    let cases = [(1, "1 B"), (1023, "1023 B"), (1 << 10, "1 KiB"), (3 << 19, "1.5 MiB"), (80 << 30, "80 GiB")];
    for (bytes, text) in cases {
        assert_eq!(Size(bytes).to_string(), text);
    }
}

const BUDGET: u64 = 10;
const LONGEST_LOAD: u64 = 20;
const LONGEST_BATCH: u64 = 20;
const MOST_AHEAD: usize = 5;
const MOST_SHARE: u32 = 3;

fn fakes() -> impl Strategy<Value = Vec<Fake>> {
    let fake = (0..=BUDGET, 0..=LONGEST_LOAD, 5..=LONGEST_BATCH, 1..=MOST_SHARE, 0..=MOST_AHEAD);
    let fake = fake.prop_map(|(bytes, load, batch, share, ahead)| Fake {
        bytes,
        load: ms(load),
        batch: ms(batch),
        share,
        ahead,
    });
    vec(fake, 1..5)
}

/// Nobody with work waits for longer. A model runs on while it is worth its loading and finishes what it has in hand;
/// by as much it may be ahead of its share, and each of the others then catches up before its turn comes again.
fn longest_wait(fakes: &[Fake]) -> Duration {
    let slowest = fakes.iter().map(|fake| fake.load).max().unwrap_or_default();
    let worth = |fake: &Fake| (fake.load + slowest) * WORTH_THE_LOADING;
    let hold = |fake: &Fake| fake.load + worth(fake) + fake.batch * (fake.ahead as u32 + 2);
    let longest = fakes.iter().map(hold).max().unwrap_or_default();
    longest * MOST_SHARE * 2 * fakes.len() as u32
}

proptest! {
    /// That the budget holds and nobody goes with something in hand, the device sees to.
    #[test]
    fn whoever_has_work_gets_its_turn(fakes in fakes(), jobs in vec((0usize..5, 0usize..20, 0usize..10), 1..60)) {
        let longest = longest_wait(&fakes);
        let count = fakes.len();
        let mut device = Device::start(BUDGET, fakes);
        for (index, batches, turns) in jobs {
            device.give(index % count, batches);
            for _ in 0..turns {
                device.turn();
                for (index, since) in device.waits.iter().enumerate() {
                    let waits = since.map_or(Duration::ZERO, |since| device.now - since);
                    prop_assert!(waits <= longest, "model {index} waits {waits:?}, at most {longest:?}\n{:?}", device.told());
                }
            }
        }
        while device.turn() {}
        prop_assert_eq!(device.work.iter().chain(&device.in_hand).sum::<usize>(), 0);
    }

    /// However many take turns, loading takes a bounded part of the time while all have work, and nobody waits for long.
    #[test]
    fn loading_takes_at_most_a_fifth(fakes in fakes()) {
        let (count, longest) = (fakes.len(), longest_wait(&fakes));
        let mut device = Device::start(BUDGET, fakes);
        device.told();
        let begun = device.now;
        (0..count).for_each(|index| device.give(index, 100_000));
        let mut loading = Duration::ZERO;
        for _ in 0..2000 {
            let before = device.now;
            device.turn();
            if device.log.last().is_some_and(|done| done.starts_with("load")) {
                loading += device.now - before;
            }
            let waits = device.waits.iter().flatten().map(|since| device.now - *since).max();
            prop_assert!(waits <= Some(longest), "{waits:?}, at most {longest:?}");
        }
        // What is not yet paid back is at most what each was loaded with last.
        let owed = ms(LONGEST_LOAD) * count as u32;
        prop_assert!(loading <= (device.now - begun) / (WORTH_THE_LOADING + 1) + owed, "{loading:?}");
    }
}

#[test]
fn a_linger_ends_when_another_waits_for_the_room() {
    let mut memory = Memory::new(Some(10), [6, 6]);
    memory.loaded(0, ms(10));
    let mut turns = Turns::new(vec![1, 1]);
    turns.ran(0, ms(1));
    let later = Instant::now() + ms(1000);
    let step = next_step(&mut turns, &memory, &[Next::Wait(later), Next::Run], |_| false);
    assert_eq!(step, Step::Run { index: 0, ahead: true });
    let step = next_step(&mut turns, &memory, &[Next::Ask(later), Next::Run], |_| false);
    assert_eq!(step, Step::Load { index: 1, instead: vec![0] }, "who takes no more keeps no place");
}
