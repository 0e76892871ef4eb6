//! What every source promises, as checks that any adapter can run: `source::all(&mut bench).await`.
//!
//! A [`Bench`] gives the suite an empty source and the means to put jobs in and to see how they ended. Leases should
//! be short (a second or less), since some checks wait for one to end.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::machine;
use crate::error::Error;
use crate::source::memory::Memory;
use crate::source::{Delivery, Extended, Source};
use crate::verdict::Verdict;

/// How long the suite waits for what should come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits to see that nothing comes.
const QUIET: Duration = Duration::from_millis(150);

/// How a job has ended, as the queue tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Done.
    Done,
    /// Rejected.
    Rejected,
}

/// A queue under test.
pub trait Bench {
    /// The source of one worker.
    type Source: Source;
    /// Begins anew with an empty queue.
    fn reset(&mut self) -> impl Future<Output = ()>;
    /// Another worker's source of the same queue.
    fn source(&mut self) -> Self::Source;
    /// Adds a job whose id ends with `name`.
    fn push(&mut self, name: &str, payload: &[u8]) -> impl Future<Output = ()>;
    /// How the job has ended, if it has.
    fn ended(&mut self, name: &str) -> impl Future<Output = Option<Ended>>;
}

/// The suite's own bench: the memory source.
pub fn memory() -> impl Bench<Source = Memory> {
    MemoryBench(Memory::new())
}

struct MemoryBench(Memory);

impl Bench for MemoryBench {
    type Source = Memory;

    async fn reset(&mut self) {
        self.0 = Memory::with_lease(Duration::from_millis(400));
    }

    fn source(&mut self) -> Memory {
        self.0.clone()
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        self.0.push(name, payload.to_vec());
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        let settled = self.0.settled();
        let ended = settled.iter().rfind(|settled| settled.id == name)?;
        Some(match ended.verdict {
            Verdict::Done(_) => Ended::Done,
            _ => Ended::Rejected,
        })
    }
}

/// Runs every check, and random steps beside them.
pub async fn all(bench: &mut impl Bench) {
    once(bench).await;
    given_back_comes_again(bench).await;
    given_back_with_a_pause_comes_later(bench).await;
    an_ended_lease_is_delivered_again(bench).await;
    an_extended_lease_goes_on(bench).await;
    a_lost_lease_cannot_settle(bench).await;
    machine::random(bench, 1).await;
}

/// Runs the checks for a source that never delivers a job again, such as one whose callers try again themselves.
pub async fn once(bench: &mut impl Bench) {
    delivers_what_was_pushed(bench).await;
    never_more_than_asked(bench).await;
    one_job_is_held_once(bench).await;
    done_is_the_end(bench).await;
    rejected_is_the_end(bench).await;
    a_dropped_receive_loses_nothing(bench).await;
}

async fn some(source: &mut impl Source, max: usize) -> Vec<Delivery> {
    let received = timeout(PATIENCE, source.receive(max)).await;
    let received = received.expect("a job should have been delivered in time");
    received.expect("receiving should succeed")
}

async fn one(source: &mut impl Source) -> Delivery {
    let mut received = some(source, 1).await;
    assert_eq!(received.len(), 1, "asked for one, and there was one");
    received.remove(0)
}

async fn nothing(source: &mut impl Source, why: &str) {
    if let Ok(Ok(received)) = timeout(QUIET, source.receive(10)).await {
        let ids: Vec<_> = received.iter().map(|delivery| &delivery.id).collect();
        assert!(ids.is_empty(), "{why}, but {ids:?} came");
    }
}

fn done() -> Verdict {
    Verdict::Done(Bytes::from_static(b"result"))
}

/// Payload and name come through, and the first delivery is attempt 1.
pub async fn delivers_what_was_pushed(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("one", b"\x00payload\xff").await;
    let delivery = one(&mut bench.source()).await;
    assert!(delivery.id.ends_with("one"), "the id is {}", delivery.id);
    assert_eq!(&delivery.payload[..], b"\x00payload\xff");
    assert_eq!(delivery.attempt, 1);
    assert!(delivery.until > Instant::now(), "its lease has not ended");
}

/// `receive(max)` gives at most `max`, and all jobs come in the end.
pub async fn never_more_than_asked(bench: &mut impl Bench) {
    bench.reset().await;
    for number in 0..7 {
        bench.push(&format!("job{number}"), b"x").await;
    }
    let mut source = bench.source();
    let mut seen = BTreeSet::new();
    while seen.len() < 7 {
        let received = some(&mut source, 3).await;
        assert!((1..=3).contains(&received.len()), "asked for 3, got {}", received.len());
        for delivery in received {
            assert!(seen.insert(delivery.id.clone()), "{} came twice", delivery.id);
            delivery.receipt.settle(&done()).await.expect("settling should succeed");
        }
    }
}

/// While one worker holds a job, no other gets it.
pub async fn one_job_is_held_once(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("held", b"x").await;
    let _held = one(&mut bench.source()).await;
    nothing(&mut bench.source(), "the job is held").await;
}

/// A job that is done is done, and does not come again.
pub async fn done_is_the_end(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("done", b"x").await;
    let mut source = bench.source();
    let delivery = one(&mut source).await;
    delivery.receipt.settle(&done()).await.expect("settling should succeed");
    assert_eq!(bench.ended("done").await, Some(Ended::Done));
    sleep_past(delivery.until).await;
    nothing(&mut source, "the job is done").await;
}

/// A rejected job does not come again.
pub async fn rejected_is_the_end(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("bad", b"x").await;
    let mut source = bench.source();
    let delivery = one(&mut source).await;
    let why = Error::invalid("no good");
    delivery.receipt.settle(&Verdict::Reject { why }).await.expect("settling should succeed");
    assert_eq!(bench.ended("bad").await, Some(Ended::Rejected));
    sleep_past(delivery.until).await;
    nothing(&mut source, "the job is rejected").await;
}

/// A job that is given back comes again at once, to whoever asks, and counts its attempts.
pub async fn given_back_comes_again(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("again", b"x").await;
    for attempt in 1..=3 {
        let asked = Instant::now();
        let delivery = one(&mut bench.source()).await;
        assert_eq!(delivery.attempt, attempt);
        assert!(asked.elapsed() < PATIENCE / 2, "it came back only after {:?}", asked.elapsed());
        delivery.receipt.settle(&Verdict::give_back()).await.expect("settling should succeed");
    }
    assert_eq!(bench.ended("again").await, None);
}

/// A job that is given back with a pause does not come before it is over.
pub async fn given_back_with_a_pause_comes_later(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("later", b"x").await;
    let mut source = bench.source();
    let delivery = one(&mut source).await;
    let given_back = Instant::now();
    let after = Duration::from_secs(1);
    let verdict = Verdict::Retry { after, why: Some(Error::transient("busy")) };
    delivery.receipt.settle(&verdict).await.expect("settling should succeed");
    let again = one(&mut source).await;
    // A source may round its times to the millisecond.
    let paused = given_back.elapsed() + Duration::from_millis(1);
    assert!(paused >= after, "it came back after {paused:?}");
    assert_eq!(again.attempt, 2);
}

/// A job whose worker does nothing more comes again when its lease ends, and not before.
pub async fn an_ended_lease_is_delivered_again(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("dead", b"x").await;
    let held = one(&mut bench.source()).await;
    let again = one(&mut bench.source()).await;
    assert!(Instant::now() >= held.until, "it was delivered again before its lease ended");
    assert_eq!((again.attempt, &again.id), (2, &held.id));
}

/// A lease that is extended does not end.
pub async fn an_extended_lease_goes_on(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("kept", b"x").await;
    let mut source = bench.source();
    let asked = Instant::now();
    let held = one(&mut source).await;
    let length = held.until - asked;
    for _ in 0..4 {
        nothing(&mut bench.source(), "the lease goes on").await;
        sleep(length / 4).await;
        let before = Instant::now();
        match held.receipt.extend(length).await.expect("extending should succeed") {
            Extended::Until(until) => assert!(until > before, "it ends in the future"),
            other => panic!("a held lease was {other:?}"),
        }
    }
    held.receipt.settle(&done()).await.expect("settling should succeed");
    assert_eq!(bench.ended("kept").await, Some(Ended::Done));
}

/// Whoever lost a lease can neither extend it nor settle, and does not harm its new holder.
pub async fn a_lost_lease_cannot_settle(bench: &mut impl Bench) {
    bench.reset().await;
    bench.push("lost", b"x").await;
    let lost = one(&mut bench.source()).await;
    let new = one(&mut bench.source()).await;
    let extended = lost.receipt.extend(Duration::from_secs(1)).await;
    assert_eq!(extended.expect("the answer should come"), Extended::Lost);
    let settled = lost.receipt.settle(&Verdict::Reject { why: Error::invalid("stale") }).await;
    assert!(settled.is_err(), "a stale settle should be refused");
    assert_eq!(bench.ended("lost").await, None, "a stale settle changed the job");
    new.receipt.settle(&done()).await.expect("the new holder settles");
    assert_eq!(bench.ended("lost").await, Some(Ended::Done));
}

/// Dropping `receive` at any moment loses no job and gives none twice.
pub async fn a_dropped_receive_loses_nothing(bench: &mut impl Bench) {
    const JOBS: usize = 40;
    bench.reset().await;
    for number in 0..JOBS {
        bench.push(&format!("drop{number}"), b"x").await;
    }
    let mut source = bench.source();
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    for round in 0u64.. {
        assert!(begun.elapsed() < 3 * PATIENCE, "only {} of {JOBS} jobs came", seen.len());
        // From dropping it after its first poll to waiting for what it takes.
        let patience = Duration::from_micros([0, 1, 20, 200, 2_000, 50_000][round as usize % 6]);
        let received = match timeout(patience, source.receive(2)).await {
            Ok(received) => received.expect("receiving should succeed"),
            Err(_) => continue,
        };
        for delivery in received {
            assert_eq!(delivery.attempt, 1, "{} was lost with a dropped receive", delivery.id);
            assert!(seen.insert(delivery.id.clone()), "{} came twice", delivery.id);
            delivery.receipt.settle(&done()).await.expect("settling should succeed");
        }
        if seen.len() == JOBS {
            return;
        }
    }
}

async fn sleep_past(moment: Instant) {
    tokio::time::sleep_until(moment + QUIET).await;
}
