//! Leases are kept whatever the machine is busy with: all cores pinned by CPU stages, both threads of the runtime
//! blocked, and one device call that lasts twice as long as a lease.
//!
//! The times of a worker at SQS, in proportion: a lease of 300 s and a call of 10 minutes, twenty times as fast.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use forebay::source::sqs::Sqs;
use forebay::source::{Delivery, Extended, Receipt, Source};
use forebay::testing::fake_sqs::FakeSqs;
use forebay::{Batching, BoxFuture, Pipeline, Result, Verdict, Worker};
use forebay_tests::{eventually, model, serve_beside, sqs_client, within};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(15);
const CALL: Duration = Duration::from_secs(30);
/// Jobs whose leases are kept meanwhile.
const JOBS: usize = 300;
const SPINNING: usize = 8;

/// When each job's lease was begun or renewed, in order.
type Renewals = Arc<Mutex<Vec<Vec<Instant>>>>;

/// A source that notes when its leases are renewed.
struct Noted {
    inner: Sqs,
    renewals: Renewals,
}

struct NotedReceipt {
    inner: Arc<dyn Receipt>,
    number: usize,
    renewals: Renewals,
}

impl Source for Noted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn start(&mut self, worker: &forebay::source::Vitals) -> Result<()> {
        self.inner.start(worker)
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        if self.renewals.lock().unwrap().len() == JOBS {
            return Ok(Vec::new());
        }
        let mut received = self.inner.receive(max).await?;
        let mut renewals = self.renewals.lock().unwrap();
        for delivery in &mut received {
            let number = renewals.len();
            renewals.push(vec![Instant::now()]);
            let (inner, renewals) = (delivery.receipt.clone(), self.renewals.clone());
            delivery.receipt = Arc::new(NotedReceipt { inner, number, renewals });
        }
        Ok(received)
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}

impl Receipt for NotedReceipt {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        self.renewals.lock().unwrap()[self.number].push(Instant::now());
        self.inner.extend(by)
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        self.inner.settle(verdict)
    }
}

fn spin(until: &AtomicBool) {
    while !until.load(SeqCst) {
        std::hint::spin_loop();
    }
}

#[test]
fn no_lease_is_lost_while_cores_runtime_and_device_are_busy() {
    let over = Arc::new(AtomicBool::new(false));
    let (spinning, on_device) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let fake = FakeSqs::new();
    let endpoint = serve_beside(fake.clone());
    fill(&fake);
    let renewals = Renewals::default();
    let sqs = Sqs::from_client(sqs_client(&endpoint), format!("{endpoint}/000000000000/jobs"));
    let sqs = sqs.lease(LEASE).wait(Duration::from_secs(1)).drop_rejected();
    let source = Noted { inner: sqs, renewals: renewals.clone() };

    let (started, end) = (on_device.clone(), over.clone());
    let device = Pipeline::new().gpu("device", Batching::items(4), move || {
        let (started, end) = (started.clone(), end.clone());
        Ok(model(move |items: &[u32]| {
            started.store(true, SeqCst);
            spin(&end);
            Ok(items.to_vec())
        }))
    });
    let (count, end) = (spinning.clone(), over.clone());
    let cores = Pipeline::new().cpu("cores", SPINNING, move |_, item: u32| {
        count.fetch_add(1, SeqCst);
        spin(&end);
        Ok(item)
    });
    let worker = Worker::new(device).route("cores", cores).source(source).in_flight(JOBS);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = runtime.spawn(worker.run_once());
    eventually("all leases are held", || renewals.lock().unwrap().len() == JOBS);
    eventually("all threads spin", || spinning.load(SeqCst) == SPINNING && on_device.load(SeqCst));
    let blocked = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let (blocked, end) = (blocked.clone(), over.clone());
        runtime.spawn(async move {
            blocked.fetch_add(1, SeqCst);
            spin(&end);
        });
    }
    eventually("the runtime is blocked", || blocked.load(SeqCst) == 2);
    // The call itself, whose length is what is tested.
    thread::sleep(CALL);
    let kept = renewals.lock().unwrap().clone();
    over.store(true, SeqCst);
    let report = runtime.block_on(within("all is done", running)).unwrap().unwrap();
    assert_eq!((report.done, report.lost), (JOBS as u64, 0), "{report}");
    assert_eq!(fake.messages("jobs").len(), 0, "each was deleted");

    let third = LEASE / 3;
    let apart = |times: &Vec<Instant>| times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    let mut jitter: Vec<Duration> = kept.iter().flat_map(apart).map(|time| time.abs_diff(third)).collect();
    jitter.sort();
    let least = JOBS * (CALL.as_secs() / third.as_secs() - 1) as usize;
    assert!(jitter.len() >= least, "{} renewals", jitter.len());
    let (median, high) = (jitter[jitter.len() / 2], jitter[jitter.len() * 999 / 1000]);
    let count = jitter.len();
    println!(
        "{JOBS} leases of {LEASE:?}, a device call of {CALL:?}: 0 lost; {count} renewals, off by {median:?}, p99.9 {high:?}"
    );
    assert!(high < Duration::from_secs(1), "p99.9 of the jitter is {high:?}");
}

fn fill(fake: &FakeSqs) {
    let url = fake.create_queue("jobs", &[]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = fake.client();
        for number in 0..JOBS {
            let route = if number < SPINNING { r#""route": "cores", "# } else { "" };
            let body = format!(r#"{{"forebay": 1, {route}"input": {number}}}"#);
            client.send_message().queue_url(&url).message_body(body).send().await.unwrap();
        }
    });
}
