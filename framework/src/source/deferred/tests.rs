use bytes::Bytes;

use super::*;
use crate::source::ends::{State, now};
use crate::source::memory::Memory;
use crate::testing::source::{self, Bench, Ended};

struct DeferredBench {
    queue: Memory,
    store: Arc<store::Memory>,
}

impl DeferredBench {
    fn new() -> Self {
        DeferredBench { queue: Memory::with_lease(Duration::from_millis(400)), store: Arc::default() }
    }
}

impl Bench for DeferredBench {
    type Source = Deferred<Memory>;

    async fn reset(&mut self) {
        *self = DeferredBench::new();
    }

    fn source(&mut self) -> Deferred<Memory> {
        Deferred::new(self.queue.clone(), self.queue.clone(), self.store.clone())
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        let job = Header { id: name.to_owned(), ..Header::default() };
        let submitted = self.source().registry().submit(job, &asked("same"), payload).await.unwrap();
        assert_eq!(submitted, Submitted::New);
    }

    async fn ended(&mut self, name: &str) -> Option<Ended> {
        let status = self.source().registry().status(name).await.unwrap()?;
        match status.state() {
            State::Done => Some(Ended::Done),
            State::Failed => Some(Ended::Rejected),
            _ => None,
        }
    }
}

fn asked(fingerprint: &str) -> Asked {
    Asked { created: now(), fingerprint: fingerprint.to_owned(), webhook: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    source::all(&mut DeferredBench::new()).await;
}

#[tokio::test]
async fn who_has_lost_its_lease_cannot_end_the_job() {
    let mut bench = DeferredBench::new();
    bench.push("job", b"1").await;
    let mut source = bench.source();
    let late = source.receive(1).await.unwrap().remove(0);
    // The lease of 400 ms runs out, and another worker does the job.
    tokio::time::sleep(Duration::from_millis(450)).await;
    let mut other = bench.source();
    let again = other.receive(1).await.unwrap().remove(0);
    assert_eq!((late.attempt, again.attempt), (1, 2));
    again.receipt.settle(&Verdict::Done(Bytes::from_static(b"second"))).await.unwrap();
    // The first was only slow, and comes to its end all the same.
    let told = late.receipt.settle(&Verdict::Done(Bytes::from_static(b"first"))).await;
    assert!(told.is_err(), "the queue has given its job to another");
    let registry = source.registry();
    let output = registry.status("job").await.unwrap().unwrap().end.unwrap().result.unwrap();
    assert_eq!(registry.records.result("job", &output).await.unwrap().unwrap(), "second");
    let store: &dyn Store = &*bench.store;
    let results = store.list_all("jobs/job/result").await.unwrap();
    assert_eq!(results.len(), 1, "only the one that the end names: {results:?}");
}

#[tokio::test]
async fn a_job_that_ended_on_the_queue_is_taken_off_and_not_run() {
    let mut bench = DeferredBench::new();
    bench.push("cancelled", b"1").await;
    bench.push("wanted", b"2").await;
    let mut source = bench.source();
    source.registry().cancel("cancelled").await.unwrap();
    let taken = source.receive(10).await.unwrap();
    assert_eq!(taken.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["wanted"]);
    taken[0].receipt.settle(&Verdict::Done(Bytes::new())).await.unwrap();
    bench.queue.close();
    assert!(source.receive(10).await.unwrap().is_empty());
    assert_eq!((bench.queue.done(), bench.queue.waiting(), bench.queue.leased()), (2, 0, 0));
}

#[tokio::test]
async fn the_same_id_is_the_same_job_or_refused() {
    let bench = &mut DeferredBench::new();
    bench.push("job", b"1").await;
    let registry = bench.source().registry();
    let job = || Header { id: "job".to_owned(), ..Header::default() };
    assert_eq!(registry.submit(job(), &asked("same"), b"1").await.unwrap(), Submitted::Known);
    assert_eq!(registry.submit(job(), &asked("other"), b"2").await.unwrap(), Submitted::Differs);
    assert_eq!(bench.queue.waiting(), 1);
    // Once it is done, the same request finds it so.
    let taken = bench.source().receive(1).await.unwrap().remove(0);
    taken.receipt.settle(&Verdict::Done(Bytes::new())).await.unwrap();
    assert_eq!(registry.submit(job(), &asked("same"), b"1").await.unwrap(), Submitted::Known);
    assert_eq!(bench.queue.waiting(), 0, "what is done is not done again");
}

#[tokio::test]
async fn what_is_long_over_is_removed_and_nothing_else() {
    let mut bench = DeferredBench::new();
    for name in ["over", "open"] {
        bench.push(name, b"1").await;
    }
    let taken = bench.source().receive(2).await.unwrap();
    let over = taken.iter().find(|job| job.id == "over").unwrap();
    over.receipt.settle(&Verdict::Done(Bytes::from_static(b"r"))).await.unwrap();
    let registry = bench.source().registry();
    registry.records.sweep(Duration::from_secs(3600)).await.unwrap();
    assert!(registry.status("over").await.unwrap().is_some());
    registry.records.sweep(Duration::ZERO).await.unwrap();
    assert!(registry.status("over").await.unwrap().is_none());
    assert!(registry.status("open").await.unwrap().is_some());
    let store: &dyn Store = &*bench.store;
    assert!(store.list_all("jobs/over/").await.unwrap().is_empty());
}
