//! Whether the device waits for the queue: messages of a queue that speaks the protocol of SQS, inputs behind 200 ms of
//! jittered latency, a fake device of 50 ms per batch of 8, and no tuning.
//!
//! The whole worker runs them at its default limits: polls, leases, deletions over a loopback port, with the fake SQS on
//! a runtime of its own in this process. Windows of 2 s are judged by their medians: how much of the time the device was
//! busy, and how full its batches were.

use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use forebay::source::sqs::Sqs;
use forebay::testing::fake_sqs::FakeSqs;
use forebay::{Batching, Job, Pipeline, Result, Worker};
use forebay_benches::{Random, Spread, Window, result};
use forebay_models::toy::FakeDevice;
use forebay_tests::{serve_beside, sqs_client};
use tokio::time::sleep;

const BATCH: usize = 8;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// Half of an input's latency is the same for all, and half is its own.
const LATENCY: Duration = Duration::from_millis(200);
const WINDOW: Duration = Duration::from_secs(2);
const WINDOWS: usize = 15;
/// Until the pipeline is full.
const WARM_UP: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    let telemetry = forebay::telemetry::init()?;
    let fake = FakeSqs::new();
    let url = fake.create_queue("jobs", &[])?;
    let time = WARM_UP + WINDOW * (WINDOWS as u32 + 2);
    let jobs = (time.as_secs_f64() / BATCH_TIME.as_secs_f64()) as u64 * BATCH as u64;
    fill(&fake.client(), &url, jobs).await;
    let endpoint = serve_beside(fake.clone());
    let sqs = sqs_client(&endpoint);
    let source = Sqs::from_client(sqs, format!("{endpoint}/000000000000/jobs")).drop_rejected();
    println!("{}; in flight: the stages' places", pipeline());
    let running = tokio::spawn(Worker::new(pipeline()).source(source).run_once());

    sleep(WARM_UP).await;
    let (mut busy, mut fill) = (Vec::new(), Vec::new());
    let mut before = (telemetry.snapshot(), Instant::now());
    for _ in 0..WINDOWS {
        sleep(WINDOW).await;
        let after = (telemetry.snapshot(), Instant::now());
        let window = Window::between(&before.0, &after.0);
        busy.push(window.busy);
        fill.push(window.items / window.batches / BATCH as f64);
        before = after;
    }
    // A queue has no end: the worker drains when it is dropped.
    running.abort();
    let left = fake.messages("jobs").len() as u64;
    assert!(left > 0 && left < jobs, "{left} of {jobs} are left: the device never ran out of work");
    let (busy, fill) = (Spread::of(&busy), Spread::of(&fill));
    println!("device busy {busy}, mean fill {fill}; {} of {jobs} jobs done", jobs - left);
    result(serde_json::json!({ "busy": busy.median, "fill": fill.median }));
    Ok(())
}

fn pipeline() -> Pipeline<u64, u64> {
    Pipeline::new()
        .io("fetch", 128, fetch)
        .gpu("device", Batching::items(BATCH), || Ok(FakeDevice::new(BATCH_TIME, Duration::ZERO)))
        .cpu("check", 1, |_, output| Ok(output))
}

/// A download: the same job takes the same time in each run.
async fn fetch(_job: Job, number: u64) -> Result<u64> {
    let mut random = Random::new(number + 1);
    // The first numbers of neighbouring seeds are alike.
    for _ in 0..4 {
        random.unit();
    }
    let jitter = random.exponential();
    sleep(LATENCY.mul_f64(0.5 + 0.5 * jitter)).await;
    Ok(number)
}

/// Puts the jobs on the queue, in batches.
async fn fill(client: &Client, url: &str, jobs: u64) {
    let numbers: Vec<u64> = (0..jobs).collect();
    for numbers in numbers.chunks(10) {
        let mut send = client.send_message_batch().queue_url(url);
        for number in numbers {
            let entry = SendMessageBatchRequestEntry::builder().id(number.to_string()).message_body(number.to_string());
            send = send.entries(entry.build().expect("it has all that it needs"));
        }
        send.send().await.expect("the fake takes it");
    }
}
