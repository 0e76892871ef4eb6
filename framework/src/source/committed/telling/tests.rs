//! Ends on their way to queues and URLs: told once and where they belong, again after faults, and never by a job that
//! is run again. Here queues fail, in virtual time.

mod over_sqs;
mod to_urls;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until, timeout};

use super::super::{Committed, Records};
use super::*;
use crate::job::Meta;
use crate::source::ends::Ends;
use crate::source::memory::Memory;
use crate::source::{Delivery, Queue, Source};
use crate::store::{self, Store};
use crate::testing::source::{self, Bench, Ended};
use crate::witness::crash::{self, Crash};

/// A queue for results that writes down all that is put on it, and fails or is slow at the first.
#[derive(Clone, Default)]
struct Results(Arc<Pushed>);

#[derive(Default)]
struct Pushed {
    tries: AtomicUsize,
    fails: usize,
    /// How long each push takes.
    takes: Duration,
    told: Mutex<Vec<(String, Value)>>,
}

impl Results {
    fn failing(fails: usize) -> Self {
        Results(Arc::new(Pushed { fails, ..Pushed::default() }))
    }

    fn slow(takes: Duration) -> Self {
        Results(Arc::new(Pushed { takes, ..Pushed::default() }))
    }

    fn tries(&self) -> usize {
        self.0.tries.load(Ordering::Relaxed)
    }

    fn told(&self) -> Vec<(String, Value)> {
        self.0.told.lock().unwrap().clone()
    }

    /// What was told of each job, in short.
    fn ends(&self) -> Vec<String> {
        let short = |(id, document): (String, Value)| {
            assert_eq!(document["data"]["id"], id);
            format!("{id} {}", document["type"].as_str().unwrap())
        };
        self.told().into_iter().map(short).collect()
    }
}

impl Queue for Results {
    fn push<'a>(&'a self, id: &'a str, payload: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let tried = self.0.tries.fetch_add(1, Ordering::Relaxed);
            sleep(self.0.takes).await;
            if tried < self.0.fails {
                return Err(Error::invalid("no such queue"));
            }
            self.0.told.lock().unwrap().push((id.to_owned(), serde_json::from_slice(&payload).unwrap()));
            Ok(())
        })
    }
}

fn meta(labels: &[(&str, &str)]) -> Meta {
    let labels = labels.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Meta { labels, ..Meta::default() }
}

/// Done with its payload, or rejected if that is "bad".
fn verdict(delivery: &Delivery) -> Verdict {
    match &*delivery.payload {
        b"bad" => Verdict::Reject { why: Error::invalid("no good") },
        _ => Verdict::Done(delivery.payload.clone()),
    }
}

/// Works until the source is at its end: how often each job was run.
async fn work(source: &mut impl Source) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    loop {
        let taken = timeout(Duration::from_secs(30 * 86_400), source.receive(10)).await.unwrap().unwrap();
        if taken.is_empty() {
            return runs;
        }
        for job in taken {
            *runs.entry(job.id.clone()).or_default() += 1;
            job.receipt.settle(&verdict(&job)).await.unwrap();
        }
    }
}

fn once(ids: &[&str]) -> BTreeMap<String, usize> {
    ids.iter().map(|id| ((*id).to_owned(), 1)).collect()
}

async fn kept(store: &store::Memory, id: &str) -> Option<Kept> {
    Ends::new(Arc::new(store.clone())).read(&key(id, "told").unwrap()).await.unwrap()
}

/// A queue, a store, and a queue for results.
struct TellingBench(Memory, store::Memory, Results);

impl TellingBench {
    fn new() -> Self {
        TellingBench(Memory::with_lease(Duration::from_millis(400)), store::Memory::new(), Results::default())
    }
}

impl Bench for TellingBench {
    type Source = Committed<Memory>;

    async fn reset(&mut self) {
        *self = TellingBench::new();
    }

    fn source(&mut self) -> Committed<Memory> {
        Committed::new(self.0.clone(), self.1.clone()).results_to(self.2.clone())
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        self.0.push(name, payload.to_vec());
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        let settled = self.0.settled().into_iter().rfind(|settled| settled.id == name)?;
        let told = self.2.told().into_iter().rfind(|(id, _)| id == name).expect("it was told first");
        let (end, kind) = match settled.verdict {
            Verdict::Done(_) => (Ended::Done, "job.done"),
            _ => (Ended::Rejected, "job.failed"),
        };
        assert_eq!(told.1["type"], kind, "queue and source hear the same of {name}");
        Some(end)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_a_queue_for_results() {
    source::all(&mut TellingBench::new()).await;
}

#[tokio::test(start_paused = true)]
async fn ends_of_all_kinds_are_told_where_they_belong() {
    let (queue, store) = (Memory::new(), store::Memory::new());
    let (all, special) = (Results::default(), Results::default());
    queue.push("good", "1");
    queue.push("rejected", "bad");
    queue.push_with("named", "2", meta(&[(Meta::OUTPUT, "special")]));
    queue.close();
    let source = Committed::new(queue.clone(), store.clone()).results_to(all.clone());
    work(&mut source.results_named("special", special.clone())).await;
    assert_eq!(all.ends(), ["good job.done", "rejected job.failed"]);
    assert_eq!(special.ends(), ["named job.done"]);
    let data = |number: usize| all.told()[number].1["data"].clone();
    assert_eq!((&data(0)["state"], &data(0)["bytes"], &data(0)["base64"]), (&json!("done"), &json!(1), &json!("MQ==")));
    let error = &data(1)["error"];
    assert_eq!((&error["fault"], &error["detail"]), (&json!("invalid"), &json!("no good")));
    assert_eq!((queue.done(), queue.rejected()), (2, 1));
    // What went well leaves nothing but the ends and results.
    let store: &dyn Store = &store;
    let left: Vec<_> = store.list_all("").await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect();
    assert!(left.len() == 5 && !left.iter().any(|key| key.ends_with("told")), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poison_job_is_told_as_rejected_and_not_run() {
    let (mut queue, store, all) = (Memory::new(), store::Memory::new(), Results::default());
    queue.push("poison", "1");
    queue.receive(1).await.unwrap().remove(0).receipt.settle(&Verdict::give_back()).await.unwrap();
    queue.close();
    let crash = |worker: usize| {
        let (worker, process) = (format!("worker-{worker}"), format!("process-{worker}"));
        let (told, cause) = ("2026-01-31".to_owned(), "died by signal 6 (SIGABRT)".to_owned());
        ("poison".to_owned(), Crash { worker, process, told, cause, at_work: true, others: 0 })
    };
    crash::tell(&Ends::new(Arc::new(store.clone())), (0..3).map(crash).collect()).await.unwrap();
    let mut source = Committed::new(queue.clone(), store).results_to(all.clone());
    assert_eq!((work(&mut source).await, queue.rejected()), (BTreeMap::new(), 1));
    assert_eq!(all.ends(), ["poison job.failed"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_for_all_others_only_named_ends_are_told() {
    let (queue, special) = (Memory::new(), Results::default());
    queue.push("plain", "1");
    queue.push_with("named", "2", meta(&[(Meta::OUTPUT, "special")]));
    queue.close();
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_named("special", special.clone());
    work(&mut source).await;
    assert_eq!((special.ends(), queue.done()), (vec!["named job.done".to_owned()], 2));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_names_an_unknown_output_is_rejected_unrun() {
    let named = |queue: &Memory| {
        queue.push_with("job", "1", meta(&[(Meta::OUTPUT, "https://example.com/elsewhere")]));
        queue.close();
    };
    let (queue, store, all) = (Memory::new(), store::Memory::new(), Results::default());
    named(&queue);
    let source = Committed::new(queue.clone(), store.clone()).results_to(all.clone());
    let mut source = source.results_named("b", Results::default()).results_named("a", Results::default());
    assert_eq!(work(&mut source).await, BTreeMap::new(), "it is not run");
    let Some(Verdict::Reject { why }) = Records::new(store).outcome("job").await.unwrap() else {
        panic!("it is rejected");
    };
    assert!(why.to_string().contains("`https://example.com/elsewhere`, and this worker knows `a`, `b`"), "{why}");
    assert_eq!((queue.rejected(), all.ends()), (1, vec!["job job.failed".to_owned()]));

    let queue = Memory::new();
    named(&queue);
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_to(Results::default());
    assert_eq!((work(&mut source).await, queue.rejected()), (BTreeMap::new(), 1), "there are no others");

    // Without any queues the name is the pipeline's own.
    let queue = Memory::new();
    named(&queue);
    let mut source = Committed::new(queue.clone(), store::Memory::new());
    assert_eq!((work(&mut source).await, queue.done()), (once(&["job"]), 1));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fails_is_told_on_redelivery_and_the_job_is_run_once() {
    let (queue, store, all) = (Memory::new(), store::Memory::new(), Results::failing(3));
    queue.push("job", "1");
    queue.close();
    let mut source = Committed::new(queue.clone(), store.clone()).results_to(all.clone());
    let begun = Instant::now();
    assert_eq!(work(&mut source).await, once(&["job"]));
    assert_eq!((all.tries(), all.ends()), (4, vec!["job job.done".to_owned()]));
    // Pauses that double from 1 s, each spread over its upper half.
    assert!((3..=8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let settled = queue.settled();
    assert_eq!((settled.len(), settled[0].attempt), (1, 4));
    assert_eq!(kept(&store, "job").await, Some(Kept { queued: true, webhook: None }));

    // Delivered once more, since its delete was lost: it is neither run nor told.
    let again = Memory::new();
    again.push("job", "1");
    again.close();
    assert_eq!(work(&mut Committed::new(again.clone(), store).results_to(all.clone())).await, BTreeMap::new());
    assert_eq!((all.tries(), again.done()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_before_it_has_told_leaves_that_to_the_next() {
    let (queue, store) = (Memory::new(), store::Memory::new());
    queue.push("job", "1");
    let stuck = Results::slow(Duration::from_secs(3600));
    let mut first = Committed::new(queue.clone(), store.clone()).results_to(stuck.clone());
    let job = first.receive(1).await.unwrap().remove(0);
    let settled = timeout(Duration::from_secs(5), job.receipt.settle(&verdict(&job))).await;
    assert!(settled.is_err() && stuck.tries() == 1, "it is telling");
    assert!(Records::new(store.clone()).outcome("job").await.unwrap().is_some(), "and has ended the job");
    drop((job, first));

    queue.close();
    let all = Results::default();
    let mut second = Committed::new(queue.clone(), store).results_to(all.clone());
    assert_eq!(work(&mut second).await, BTreeMap::new());
    assert_eq!((all.ends(), queue.done()), (vec!["job job.done".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_queue_is_not_told_anew_at_each_try_to_settle() {
    let (queue, all) = (Memory::with_lease(Duration::from_secs(60)), Results::slow(Duration::from_secs(15)));
    queue.push("job", "1");
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_to(all.clone());
    let job = source.receive(1).await.unwrap().remove(0);
    let result = verdict(&job);
    // As the worker does, which gives each try 10 s.
    assert!(timeout(Duration::from_secs(10), job.receipt.settle(&result)).await.is_err());
    job.receipt.settle(&result).await.unwrap();
    assert_eq!((all.tries(), all.told().len(), queue.done()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_once_the_lease_has_ended() {
    // Too little is left when the job ends: it is put back, and told with a lease of its own.
    let (queue, all) = (Memory::with_lease(Duration::from_secs(30)), Results::default());
    queue.push("job", "1");
    queue.close();
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_to(all.clone());
    let job = source.receive(1).await.unwrap().remove(0);
    sleep_until(job.until - Duration::from_secs(10)).await;
    job.receipt.settle(&verdict(&job)).await.unwrap();
    assert_eq!((all.tries(), queue.done()), (0, 0));
    assert_eq!(work(&mut source).await, BTreeMap::new());
    assert_eq!((all.ends(), queue.done()), (vec!["job job.done".to_owned()], 1));

    // A queue that takes too long is left before the lease ends, and its answer never comes.
    let (queue, all) = (Memory::with_lease(Duration::from_secs(30)), Results::slow(Duration::from_secs(29)));
    queue.push("job", "1");
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_to(all.clone());
    let job = source.receive(1).await.unwrap().remove(0);
    job.receipt.settle(&verdict(&job)).await.unwrap();
    assert!(Instant::now() < job.until - Duration::from_secs(2), "with time to put it back");
    assert_eq!((all.tries(), queue.done(), queue.waiting()), (1, 0, 1));
    sleep(Duration::from_secs(60)).await;
    assert!(all.told().is_empty());

    // After the end of the lease nothing is begun.
    let (queue, all) = (Memory::with_lease(Duration::from_secs(30)), Results::default());
    queue.push("job", "1");
    let mut source = Committed::new(queue.clone(), store::Memory::new()).results_to(all.clone());
    let job = source.receive(1).await.unwrap().remove(0);
    sleep_until(job.until - Duration::from_secs(1)).await;
    let why = job.receipt.settle(&verdict(&job)).await.unwrap_err();
    assert_eq!((why.fault(), all.tries()), (crate::Fault::Invalid, 0));
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_with_one_job_both_tell_the_end_that_stands() {
    let (queue, store) = (Memory::with_lease(Duration::from_secs(30)), store::Memory::new());
    let told = [Results::default(), Results::default()];
    let mut workers = [0, 1].map(|n| Committed::new(Hasty(queue.clone()), store.clone()).results_to(told[n].clone()));
    queue.push("job", "x");
    let first = workers[0].receive(1).await.unwrap().remove(0);
    let second = workers[1].receive(1).await.unwrap().remove(0);
    let mine = Verdict::Done(Bytes::from_static(b"second"));
    second.receipt.settle(&mine).await.unwrap();
    // Its lease has ended on the queue and not by its own clock.
    let lost = first.receipt.settle(&Verdict::Reject { why: Error::invalid("first") }).await;
    assert!(lost.is_err());
    for results in &told {
        let (_, document) = results.told().remove(0);
        assert_eq!((&document["type"], &document["data"]["base64"]), (&json!("job.done"), &json!("c2Vjb25k")));
    }
    assert_eq!(told[0].told(), told[1].told(), "byte by byte, but for the order of its fields");
}

/// A queue that has given its jobs to others already when it hands them over for the first time.
struct Hasty(Memory);

impl Source for Hasty {
    fn name(&self) -> &'static str {
        "hasty"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let taken = self.0.receive(max).await?;
        for job in taken.iter().filter(|job| job.attempt == 1) {
            job.receipt.settle(&Verdict::give_back()).await?;
        }
        Ok(taken)
    }
}
