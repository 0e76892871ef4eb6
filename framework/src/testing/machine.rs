//! What every queue promises, as a state machine: random steps against a source, and a model that knows which job may
//! be delivered and which verdict must be taken.
//!
//! A step pushes a job, receives or drops a receive, renews or settles a delivery (one whose lease was lost, too), lets
//! a lease end, or puts another worker's source in place of the first. In the end every job has to end.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

use super::source::Bench;
use crate::error::Error;
use crate::source::{Delivery, Extended, Source};
use crate::verdict::Verdict;

const STEPS: usize = 80;
const JOBS: usize = 12;
/// How long a receive may take that need not bring anything.
const QUIET: Duration = Duration::from_millis(150);
/// How long all jobs may take to end, after the last step.
const PATIENCE: Duration = Duration::from_secs(60);
/// So shortly before a lease's end nothing is asked, since either answer would be right.
const CLOSE: Duration = Duration::from_millis(100);

/// A job as the model knows it.
struct Known {
    deliveries: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nobody holds it, and it is not delivered before then.
    Waiting(Instant),
    /// The last delivery holds it until then.
    Held(Instant),
    Ended,
}

/// Random steps that `seed` determines, but for the time that they take.
pub async fn random(bench: &mut impl Bench, seed: u64) {
    bench.reset().await;
    let source = bench.source();
    let (jobs, held) = (BTreeMap::new(), Vec::new());
    let mut machine = Machine { bench, source, replaced: false, chance: Chance(seed), jobs, held };
    for _ in 0..STEPS {
        machine.step().await;
    }
    machine.finish().await;
}

struct Machine<'a, B: Bench> {
    bench: &'a mut B,
    source: B::Source,
    /// A source that goes away may give back what it had taken, and that counts as a delivery.
    replaced: bool,
    chance: Chance,
    jobs: BTreeMap<String, Known>,
    /// Deliveries that were not settled, those whose leases were lost too.
    held: Vec<Delivery>,
}

impl<B: Bench> Machine<'_, B> {
    async fn step(&mut self) {
        match self.chance.below(12) {
            0..3 if self.jobs.len() < JOBS => self.push().await,
            0..5 => self.receive(QUIET).await,
            5 => self.receive(Duration::from_micros(200)).await,
            6 | 7 => self.renew().await,
            8 | 9 => self.settle().await,
            10 => self.outlast().await,
            _ => {
                self.source = self.bench.source();
                self.replaced = true;
            }
        }
    }

    async fn push(&mut self) {
        let name = format!("job{}", self.jobs.len());
        self.bench.push(&name, b"x").await;
        self.jobs.insert(name, Known { deliveries: 0, state: State::Waiting(Instant::now()) });
    }

    async fn receive(&mut self, within: Duration) {
        let max = 1 + self.chance.below(3);
        let Ok(received) = timeout(within, self.source.receive(max)).await else {
            return;
        };
        let received = received.expect("receiving should succeed");
        assert!((1..=max).contains(&received.len()), "asked for {max}, got {}", received.len());
        received.into_iter().for_each(|delivery| self.delivered(delivery));
    }

    fn delivered(&mut self, delivery: Delivery) {
        // A source may round its times to the millisecond.
        let now = Instant::now() + Duration::from_millis(1);
        let job = self.jobs.iter_mut().find(|(name, _)| delivery.id.ends_with(name.as_str()));
        let (name, job) = job.unwrap_or_else(|| panic!("{} was never pushed", delivery.id));
        match job.state {
            State::Waiting(from) => assert!(now >= from, "{name} came too early"),
            State::Held(until) => assert!(now >= until, "{name} came while it was held"),
            State::Ended => panic!("{name} came after its end"),
        }
        let counted = delivery.attempt.checked_sub(job.deliveries + 1);
        let right = if self.replaced { counted.is_some() } else { counted == Some(0) };
        assert!(right, "{name} was delivered {} times, and says {}", job.deliveries + 1, delivery.attempt);
        job.deliveries = delivery.attempt;
        job.state = State::Held(delivery.until);
        self.held.push(delivery);
    }

    /// A delivery at random, unless its lease is about to end.
    fn any(&mut self) -> Option<usize> {
        let index = self.chance.below(self.held.len().max(1));
        let left = self.held.get(index)?.until.saturating_duration_since(Instant::now());
        (left.is_zero() || left > CLOSE).then_some(index)
    }

    /// Whether a delivery holds its job: `None` if its lease has ended and nobody else has the job yet.
    fn holds(&mut self, index: usize) -> (&mut Known, Option<bool>) {
        let (attempt, id) = (self.held[index].attempt, &self.held[index].id);
        let job = self.jobs.iter_mut().find(|(name, _)| id.ends_with(name.as_str()));
        let (_, job) = job.expect("what is held was pushed");
        let holds = match job.state {
            State::Held(until) if job.deliveries == attempt => (until > Instant::now()).then_some(true),
            _ => Some(false),
        };
        (job, holds)
    }

    async fn renew(&mut self) {
        let Some(index) = self.any() else {
            return;
        };
        let length = Duration::from_millis(400 * (1 + self.chance.below(3)) as u64);
        let before = Instant::now();
        let extended = self.held[index].receipt.extend(length).await.expect("extending should succeed");
        let (job, holds) = self.holds(index);
        match (holds, extended) {
            (Some(true) | None, Extended::Until(until)) => {
                assert!(until > before, "it should end in the future");
                job.state = State::Held(until);
                self.held[index].until = until;
            }
            (Some(false) | None, Extended::Lost) => {}
            (holds, extended) => panic!("a lease that holds ({holds:?}) was {extended:?}"),
        }
    }

    async fn settle(&mut self) {
        let Some(index) = self.any() else {
            return;
        };
        let after = Duration::from_secs(1);
        let (verdict, next) = match self.chance.below(4) {
            0 => (Verdict::give_back(), State::Waiting(Instant::now())),
            1 => {
                let why = Some(Error::transient("busy"));
                (Verdict::Retry { after, why }, State::Waiting(Instant::now() + after))
            }
            2 => (Verdict::Reject { why: Error::invalid("no good") }, State::Ended),
            _ => (Verdict::Done(Bytes::from_static(b"result")), State::Ended),
        };
        let settled = self.held[index].receipt.settle(&verdict).await;
        let (job, holds) = self.holds(index);
        match (holds, &settled) {
            (Some(true) | None, Ok(())) => job.state = next,
            (Some(false) | None, Err(_)) => {}
            (holds, _) => panic!("settling under a lease that holds ({holds:?}) gave {settled:?}"),
        }
        self.held.swap_remove(index);
    }

    /// Waits until some lease has ended.
    async fn outlast(&mut self) {
        if let Some(index) = self.any() {
            sleep_until(self.held[index].until + CLOSE).await;
        }
    }

    async fn finish(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.jobs.values().any(|job| job.state != State::Ended) {
            let left: Vec<_> = self.jobs.iter().filter(|(_, job)| job.state != State::Ended).collect();
            let names: Vec<_> = left.iter().map(|(name, job)| (name, job.state)).collect();
            assert!(Instant::now() < end, "these never came again: {names:?}");
            self.held.clear();
            self.receive(QUIET).await;
            for index in (0..self.held.len()).rev() {
                let settled = self.held[index].receipt.settle(&Verdict::Done(Bytes::from_static(b"result"))).await;
                settled.expect("settling should succeed");
                self.holds(index).0.state = State::Ended;
            }
        }
        self.receive(QUIET).await;
    }
}

/// Numbers at random (splitmix64, Steele et al. 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % end as u64) as usize
    }
}
