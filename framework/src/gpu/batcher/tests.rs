//! I3, I4 and I5 of the batcher, against a model too simple to be wrong: a list of jobs and what is left of each.
//! Nothing is lost or run twice, limits hold, whose turn it is is in the next batch, nobody starves, and a full batch
//! never waits; time is made up, so that lingers are exact.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What an item is: which of which job, what it weighs, and its key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    job: usize,
    index: usize,
    weight: usize,
    key: u64,
}

type Tested = Batcher<Item, Item, Reply>;

/// Who asked, and whether they have gone.
#[derive(Clone)]
struct Reply {
    job: usize,
    gone: Rc<Cell<bool>>,
}

fn batcher(batching: Batching) -> Tested {
    Batcher::new(batching, Measure { weight: |item: &Item| item.weight, key: |item: &Item| item.key })
}

/// A job in the naive model.
struct Naive {
    left: Vec<Option<Item>>,
    reply: Reply,
    due: Instant,
    budget: Duration,
    /// Finished, failed or gone.
    over: bool,
    runs: Vec<usize>,
}

impl Naive {
    fn waits(&self) -> bool {
        !self.over && !self.reply.gone.get() && self.left.iter().any(Option::is_some)
    }

    fn next_item(&self) -> Option<Item> {
        self.left.iter().flatten().next().copied()
    }
}

/// The batcher beside its naive model.
struct Bench {
    batching: Batching,
    batcher: Tested,
    jobs: Vec<Naive>,
    now: Instant,
    cuts: usize,
    /// What batches of a key may be at most since one ran out of memory.
    ceilings: HashMap<u64, usize>,
}

impl Bench {
    fn new(batching: Batching) -> Self {
        let batcher = batcher(batching.clone());
        Bench { batching, batcher, jobs: Vec::new(), now: Instant::now(), cuts: 0, ceilings: HashMap::new() }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// Adds a job of items with these weights and keys.
    fn push(&mut self, measures: &[(usize, u64)], priority: Priority) -> usize {
        let job = self.jobs.len();
        let item = |(index, &(weight, key)): (usize, &(usize, u64))| Some(Item { job, index, weight, key });
        let left: Vec<Option<Item>> = measures.iter().enumerate().map(item).collect();
        let reply = Reply { job, gone: Rc::default() };
        self.batcher.push(Request {
            items: left.clone().into(),
            arrived: self.now,
            priority,
            deadline: None,
            reply: reply.clone(),
        });
        let budget = priority.budget();
        let runs = vec![0; left.len()];
        self.jobs.push(Naive { left, reply, due: self.now + budget, budget, over: false, runs });
        job
    }

    fn cut(&mut self) -> Option<Batch<Item>> {
        // The jobs whose turn it is: those that have waited longest by their class.
        let waiting = || self.jobs.iter().filter(|job| job.waits());
        let soonest = waiting().map(|job| job.due).min();
        let heads: Vec<Item> = waiting().filter(|job| Some(job.due) == soonest).filter_map(Naive::next_item).collect();
        let batch = self.batcher.cut(self.now, |reply| reply.gone.get());
        let Some(batch) = batch else {
            assert!(heads.is_empty(), "nothing was cut, but {heads:?} wait");
            return None;
        };
        self.cuts += 1;
        assert!(batch.inputs.iter().any(|item| heads.contains(item)), "{heads:?} waited for this batch");
        self.check_limits(&batch);
        assert_eq!(batch.inputs.len(), batch.origins.len());
        for item in &batch.inputs {
            let job = &mut self.jobs[item.job];
            assert!(!job.over && !job.reply.gone.get(), "{item:?} ran, but its job is over");
            assert_eq!(job.left[item.index].take(), Some(*item), "run twice");
            job.runs[item.index] += 1;
            job.due = self.now + job.budget;
        }
        Some(batch)
    }

    fn check_limits(&self, batch: &Batch<Item>) {
        let (items, count) = (&batch.inputs, batch.inputs.len());
        assert!((1..=self.batching.items).contains(&count), "{count} items");
        assert!(items.iter().all(|item| item.key == items[0].key), "keys differ: {items:?}");
        let weight = self.weight(items);
        if let Some(limit) = self.batching.weight {
            assert!(weight <= limit || count == 1, "{weight} of {limit}: {items:?}");
        }
        let ceiling = self.ceilings.get(&items[0].key);
        let by_weight = self.batching.padded || self.batching.weight.is_some();
        let size = if by_weight { weight } else { count };
        assert!(count == 1 || ceiling.is_none_or(|&ceiling| size <= ceiling), "{size} above {ceiling:?}: {items:?}");
        assert!(batch.fill > 0.0 && (batch.fill <= 1.0 || count == 1), "fill {}", batch.fill);
    }

    fn weight(&self, items: &[Item]) -> usize {
        match self.batching.padded {
            true => items.len() * items.iter().map(|item| item.weight).max().unwrap_or(0),
            false => items.iter().map(|item| item.weight).sum(),
        }
    }

    /// A batch finds no memory; its halves, if it has any.
    fn run_out(&mut self, batch: Batch<Item>) -> Vec<Batch<Item>> {
        if batch.inputs.len() == 1 {
            return vec![batch];
        }
        let by_weight = self.batching.padded || self.batching.weight.is_some();
        let size = if by_weight { self.weight(&batch.inputs) } else { batch.inputs.len() };
        let ceiling = self.ceilings.entry(batch.inputs[0].key).or_insert(usize::MAX);
        *ceiling = (*ceiling).min(size / 2).max(1);
        self.batcher.ran_out(&batch.inputs);
        let all: Vec<Item> = batch.inputs.clone();
        let halves = batch.halves();
        assert_eq!(halves.iter().flat_map(|half| half.inputs.clone()).collect::<Vec<_>>(), all);
        assert!(halves.iter().all(|half| !half.inputs.is_empty() && half.inputs.len() == half.origins.len()));
        halves.into()
    }

    /// Hands in a batch's outputs; those of the jobs in `fails` fail instead.
    fn complete(&mut self, batch: Batch<Item>, fails: impl Fn(usize) -> bool) {
        for (origin, item) in batch.origins.into_iter().zip(batch.inputs) {
            if fails(item.job) {
                let job = &mut self.jobs[item.job];
                let failed = self.batcher.fail(origin).map(|reply| reply.job);
                // A job whose caller has gone may have been dropped before.
                let expected = if job.reply.gone.get() { failed } else { (!job.over).then_some(item.job) };
                assert_eq!(failed, expected);
                job.over = true;
                continue;
            }
            let finished = self.batcher.complete(origin, item);
            let job = &mut self.jobs[item.job];
            let last = !job.over && job.left.iter().all(Option::is_none) && {
                job.runs[item.index] += 1_000;
                job.runs.iter().all(|&runs| runs == 1_001)
            };
            if !last {
                job.runs[item.index] = 1_001;
            }
            assert_eq!(finished.is_some(), last, "{item:?}");
            if let Some(finished) = finished {
                assert_eq!(finished.reply.job, item.job);
                let order: Vec<usize> = finished.outputs.iter().map(|output| output.index).collect();
                assert_eq!(order, (0..job.left.len()).collect::<Vec<_>>(), "outputs out of order");
                assert!(finished.outputs.iter().all(|output| output.job == item.job));
                job.over = true;
            }
        }
    }

    fn waiting(&self) -> usize {
        self.jobs.iter().filter(|job| job.waits()).map(|job| job.left.iter().flatten().count()).sum()
    }
}

/// Something that happens to a batcher.
#[derive(Clone, Debug)]
enum Op {
    Push(Vec<(usize, u64)>, Priority),
    Cut,
    /// The oldest running batch ends; every `n`th job's items fail, none if 0.
    Complete(usize),
    /// The oldest running batch finds no memory.
    RunOut,
    /// A job's caller goes away.
    Gone(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    prop_oneof![
        4 => (vec((0..40_usize, 0..3_u64), 1..12), priority).prop_map(|(items, priority)| Op::Push(items, priority)),
        4 => Just(Op::Cut),
        3 => (0..6_usize).prop_map(Op::Complete),
        1 => Just(Op::RunOut),
        1 => (0..40_usize).prop_map(Op::Gone),
        2 => (0..400_u64).prop_map(Op::Pass),
    ]
}

fn batching() -> impl Strategy<Value = Batching> {
    (1..9_usize, proptest::option::of(1..120_usize), any::<bool>()).prop_map(|(items, weight, padded)| {
        let batching = weight.into_iter().fold(Batching::items(items), Batching::weight);
        if padded { batching.padded() } else { batching }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_model(batching in batching(), ops in vec(op(), 1..80)) {
        let mut bench = Bench::new(batching);
        let mut running = Vec::new();
        for op in ops {
            match op {
                Op::Push(items, priority) => drop(bench.push(&items, priority)),
                Op::Cut => running.extend(bench.cut()),
                Op::Complete(_) if running.is_empty() => {}
                Op::Complete(n) => bench.complete(running.remove(0), |job| n > 0 && job % n == n - 1),
                Op::RunOut if running.is_empty() => {}
                Op::RunOut => {
                    let batch = running.remove(0);
                    running.splice(0..0, bench.run_out(batch));
                }
                Op::Gone(_) if bench.jobs.is_empty() => {}
                Op::Gone(job) => bench.jobs[job % bench.jobs.len()].reply.gone.set(true),
                Op::Pass(millis) => bench.pass(millis),
            }
            // Those who have gone are found when a batch is cut, the others are counted at once.
            prop_assert!(bench.batcher.waiting() >= bench.waiting());
        }
        while let Some(batch) = bench.cut() {
            bench.pass(1);
            running.push(batch);
        }
        prop_assert_eq!(bench.batcher.waiting(), 0);
        prop_assert_eq!(bench.batcher.next(bench.now), Next::Empty);
        running.into_iter().for_each(|batch| bench.complete(batch, |_| false));
        for job in &bench.jobs {
            prop_assert!(job.over || job.reply.gone.get(), "a job was left over");
        }
        // Nobody is left but those who went away while all their items ran, and they were completed as well.
        prop_assert_eq!(bench.batcher.fail_all().len(), 0);
    }

    /// I5: among at most `most` jobs of one class, a job of `m` items is done within `m * most / items` batches and a
    /// few; new jobs come for ever.
    #[test]
    fn no_job_waits_longer_than_its_share(items in 1..9_usize, most in 1..12_usize, sizes in vec(1..60_usize, 12..60)) {
        let mut bench = Bench::new(Batching::items(items));
        let mut sizes = sizes.into_iter();
        let mut began: Vec<usize> = Vec::new();
        loop {
            let open = bench.jobs.iter().filter(|job| !job.over).count();
            for size in sizes.by_ref().take(most - open) {
                began.push(bench.cuts);
                bench.push(&vec![(1, 0); size], Priority::Normal);
            }
            let Some(batch) = bench.cut() else { break };
            bench.complete(batch, |_| false);
            bench.pass(7);
            for (job, began) in bench.jobs.iter().zip(&began).filter(|(job, _)| !job.over) {
                let bound = (job.left.len() * most).div_ceil(items) + most + 1;
                prop_assert!(bench.cuts - began < bound, "{} items among {most}: {} cuts", job.left.len(), bench.cuts - began);
            }
        }
    }

    /// I3: while a batch is full the device does not wait, whatever the linger.
    #[test]
    fn a_full_batch_never_waits(batching in batching(), linger in proptest::option::of(0..10_000_u64), ops in vec(op(), 1..60)) {
        let batching = linger.map(Duration::from_millis).into_iter().fold(batching, Batching::linger);
        let mut bench = Bench::new(batching.clone());
        for op in ops {
            match op {
                Op::Push(items, priority) => drop(bench.push(&items, priority)),
                Op::Cut | Op::Complete(_) => {
                    if let Some(batch) = bench.cut() {
                        bench.batcher.started(bench.now, batch.inputs.len());
                        bench.pass(5);
                        bench.batcher.ended(bench.now);
                        bench.complete(batch, |_| false);
                    }
                }
                Op::RunOut | Op::Gone(_) => {}
                Op::Pass(millis) => bench.pass(millis),
            }
            let left: Vec<Item> = bench.jobs.iter().flat_map(|job| job.left.iter().flatten().copied()).collect();
            let weight: usize = left.iter().map(|item| item.weight).sum();
            let full = left.len() >= batching.items || batching.weight.is_some_and(|limit| weight >= limit);
            prop_assert_eq!(bench.batcher.is_full(), full);
            let next = bench.batcher.next(bench.now);
            match next {
                Next::Ask(_) => unreachable!("only an engine answers so"),
                Next::Empty => prop_assert!(left.is_empty()),
                Next::Run => prop_assert!(!left.is_empty()),
                Next::Wait(until) => prop_assert!(!full && !left.is_empty() && until > bench.now, "waits while full"),
            }
        }
    }

    /// A linger set by hand is kept to the nanosecond, from when the device could first have run.
    #[test]
    fn a_fixed_linger_is_exact(linger in 1..1_000_000_u64, steps in vec(0..400_000_u64, 1..20)) {
        let linger = Duration::from_nanos(linger);
        let mut bench = Bench::new(Batching::items(1_000).linger(linger));
        bench.push(&[(1, 0)], Priority::Normal);
        for _ in 0..2 {
            let since = bench.now;
            prop_assert_eq!(bench.batcher.next(since), Next::Wait(since + linger));
            for &step in &steps {
                // More items do not make it longer, and asking again neither.
                bench.now += Duration::from_nanos(step);
                bench.push(&[(1, 0)], Priority::Normal);
                let expected = if bench.now < since + linger { Next::Wait(since + linger) } else { Next::Run };
                prop_assert_eq!(bench.batcher.next(bench.now), expected);
            }
            prop_assert_eq!(bench.batcher.next(since + linger), Next::Run);
            // The batch takes all; the next linger begins with what comes after it.
            let batch = bench.cut();
            prop_assert!(batch.is_some());
            prop_assert_eq!(bench.batcher.next(bench.now), Next::Empty);
            bench.pass(3);
            bench.push(&[(1, 0)], Priority::Normal);
        }
    }
}

#[test]
fn low_work_is_not_starved_by_high() {
    let mut bench = Bench::new(Batching::items(2));
    let low = bench.push(&[(1, 0)], Priority::Low);
    // Two high jobs come for each batch of two, for ever.
    for cut in 0.. {
        bench.push(&[(1, 0)], Priority::High);
        bench.push(&[(1, 0)], Priority::High);
        let batch = bench.cut().unwrap();
        bench.complete(batch, |_| false);
        if bench.jobs[low].over {
            // Its budget is 5 s, and a batch comes every 10 ms.
            assert!((499..=502).contains(&cut), "after {cut} batches");
            return;
        }
        assert!(cut < 1_000, "starved");
        bench.pass(10);
    }
}

#[test]
fn a_deadline_comes_before_a_class() {
    let mut bench = Bench::new(Batching::items(1));
    bench.push(&[(1, 0)], Priority::Normal);
    bench.batcher.push(Request {
        items: [Some(Item { job: 1, index: 0, weight: 1, key: 0 })].into(),
        arrived: bench.now,
        priority: Priority::Low,
        deadline: Some(bench.now + Duration::from_millis(50)),
        reply: Reply { job: 1, gone: Rc::default() },
    });
    let batch = bench.batcher.cut(bench.now, |_| false).unwrap();
    assert_eq!(batch.inputs[0].job, 1);
}

#[test]
fn a_linger_begins_when_the_device_is_free() {
    let linger = Duration::from_millis(10);
    let mut bench = Bench::new(Batching::items(4).linger(linger));
    bench.push(&[(1, 0)], Priority::Normal);
    assert_eq!(bench.batcher.next(bench.now), Next::Wait(bench.now + linger));
    let running = bench.cut().unwrap();
    bench.batcher.started(bench.now, 1);
    // One comes while the batch runs; nobody asks until it has ended.
    bench.pass(2);
    bench.push(&[(1, 0)], Priority::Normal);
    bench.pass(50);
    bench.batcher.ended(bench.now);
    bench.complete(running, |_| false);
    assert_eq!(bench.batcher.next(bench.now), Next::Wait(bench.now + linger));
    bench.pass(10);
    assert_eq!(bench.batcher.next(bench.now), Next::Run);
}

#[test]
fn many_that_have_gone_are_dropped_at_once() {
    let mut bench = Bench::new(Batching::items(1));
    let gone = Rc::new(Cell::new(true));
    for job in 0..100_000 {
        bench.batcher.push(Request {
            items: [Some(Item { job, index: 0, weight: 1, key: 0 })].into(),
            arrived: bench.now,
            priority: Priority::Normal,
            deadline: None,
            reply: Reply { job, gone: gone.clone() },
        });
    }
    assert!(bench.batcher.cut(bench.now, |reply| reply.gone.get()).is_none());
    assert_eq!(bench.batcher.waiting(), 0);
}

#[test]
fn weights_may_be_as_large_as_numbers_go() {
    for batching in [Batching::items(4).weight(usize::MAX), Batching::items(4).weight(usize::MAX).padded()] {
        let mut bench = Bench::new(batching);
        bench.push(&[(usize::MAX, 0), (usize::MAX, 0), (1, 0)], Priority::Normal);
        assert_ne!(bench.batcher.next(bench.now), Next::Empty);
        let mut ran = 0;
        while let Some(batch) = bench.batcher.cut(bench.now, |_| false) {
            ran += batch.inputs.len();
        }
        assert_eq!(ran, 3);
    }
}

#[test]
fn padding_is_spared_by_putting_like_weights_together() {
    let mut bench = Bench::new(Batching::items(4).padded());
    // Light and heavy by turns: sixteen items, from which each batch is chosen.
    for n in 0..16 {
        bench.push(&[(if n % 2 == 0 { 10 } else { 500 }, 0)], Priority::Normal);
    }
    for _ in 0..4 {
        let batch = bench.cut().unwrap();
        assert_eq!(batch.inputs.len(), 4);
        assert!(batch.inputs.iter().all(|item| item.weight == batch.inputs[0].weight), "{:?}", batch.inputs);
        bench.pass(1);
    }
}
