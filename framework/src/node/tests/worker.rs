//! A worker on a node, in real time: what it takes, how it ends, and what the platform hears.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::flow::Direction::Upload;
use crate::node::metadata::Metadata;
use crate::node::metadata::tests::Fake;
use crate::source::memory::Memory;
use crate::source::{Delivery, Source};
use crate::{Bytes, EXIT_NODE_FAULT, Pipeline, Result, Worker};

/// A source that counts how often it is asked.
struct Counted {
    inner: Memory,
    received: Arc<AtomicUsize>,
}

impl Source for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        self.received.fetch_add(1, Ordering::SeqCst);
        Source::receive(&mut self.inner, max).await
    }
}

fn queue() -> (Memory, Counted, Arc<AtomicUsize>) {
    let inner = Memory::new();
    inner.push("job", "x");
    let received = Arc::new(AtomicUsize::new(0));
    let source = Counted { inner: inner.clone(), received: received.clone() };
    (inner, source, received)
}

/// On a platform with this service, which ends a try at once.
fn on(fake: &Fake, link: &Link) -> Fitness {
    let mut fitness = fitness(link).tries(1);
    fitness.metadata = Some(Metadata::new(&fake.url()).unwrap());
    fitness.taken_within = Duration::from_millis(50);
    fitness
}

fn echo() -> Pipeline<Bytes, Bytes> {
    Pipeline::new().io("echo", 1, async |_, x: Bytes| Ok(x))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfit_node_takes_no_job_and_the_platform_hears_why() {
    let (fake, link, (queue, source, received)) = (Fake::new([500]).await, Link::new(), queue());
    let fitness = on(&fake, &link).disk(1 << 30).folder("/data");
    let code = Worker::bytes(echo()).source(source).fit(fitness).run().await;
    assert_eq!(code, ExitCode::from(EXIT_NODE_FAULT));
    assert_eq!((received.load(Ordering::SeqCst), queue.waiting(), queue.done()), (0, 1, 0));
    // The first try was answered with 500.
    let reason = "forebay: free disk at /data: 12582912 bytes, wanted at least 1073741824 \
                  (FOREBAY_NODE_DISK)";
    assert_eq!(fake.reasons(), [reason, reason]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_the_exit_code_is_wanted_nobody_is_asked() {
    let (fake, link, (_queue, source, received)) = (Fake::new([]).await, Link::new(), queue());
    let fitness = on(&fake, &link).disk(1 << 30).unfit(Unfit::Exit);
    let code = Worker::bytes(echo()).source(source).fit(fitness).run().await;
    assert_eq!((code, received.load(Ordering::SeqCst)), (ExitCode::from(EXIT_NODE_FAULT), 0));
    assert_eq!(fake.reasons(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_round_of_work_gets_the_error_and_leaves_no_node() {
    let (fake, link, (_queue, source, received)) = (Fake::new([]).await, Link::new(), queue());
    let fitness = on(&fake, &link).disk(1 << 30);
    let why = Worker::bytes(echo()).source(source).fit(fitness).run_once().await.unwrap_err();
    assert_eq!((why.fault(), received.load(Ordering::SeqCst)), (Fault::Fatal, 0));
    assert!(why.to_string().starts_with("this node is unfit: free disk at "), "{why}");
    assert_eq!(fake.reasons(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fit_node_works() {
    let (fake, link, (queue, source, _)) = (Fake::new([]).await, Link::new(), queue());
    queue.close();
    let report = Worker::bytes(echo()).source(source).fit(on(&fake, &link)).run_once().await.unwrap();
    assert_eq!((report.done, fake.calls().len()), (1, 0));
}

/// The node becomes unfit while a job is at work, which ends during the drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_becomes_unfit_is_drained_before_it_is_left() {
    let (fake, link, (queue, source, _)) = (Fake::new([]).await, Link::new(), queue());
    let mut fitness = on(&fake, &link).watch(Unfit::Reallocate);
    fitness.tick = Duration::from_millis(2);
    let (flow, ended) = (fitness.flow.clone(), Arc::new(AtomicBool::new(false)));
    let (heard, ends) = (fake.clone(), ended.clone());
    let bucket = link.clone();
    let pipeline = Pipeline::new().io("slow", 1, move |_, x: Bytes| {
        let (flow, heard, ends, bucket) = (flow.clone(), heard.clone(), ends.clone(), bucket.clone());
        async move {
            (0..5).for_each(|_| flow.failed(Upload));
            // Until it is written down that the worker leaves, and a little longer: the drain waits for the job.
            while bucket.keys().await.is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(50)).await;
            ends.store(heard.calls().is_empty(), Ordering::SeqCst);
            Ok(x)
        }
    });
    let code = Worker::bytes(pipeline).source(source).fit(fitness).run().await;
    assert_eq!(code, ExitCode::from(EXIT_NODE_FAULT));
    assert_eq!((queue.done(), queue.leased()), (1, 0));
    assert!(ended.load(Ordering::SeqCst), "the platform was asked while a job was at work");
    let reason = "forebay: uploads to the bucket: 5 of 5 failed in the last 120 s, wanted at most half";
    assert_eq!(fake.reasons(), [reason]);
}
