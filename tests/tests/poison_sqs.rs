//! A job that kills its workers, on a queue of SQS: after three crashes it is a dead letter with its reason, and all
//! others are done, once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use forebay::source::committed::Records;
use forebay::testing::fake_sqs::FakeSqs;
use forebay::{Verdict, store};
use forebay_tests::{serve_beside, sqs_client};

const JOBS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker as on a node of its own.
fn start(endpoint: &str, folder: &Path, node: usize) -> Child {
    Command::new(env!("CARGO_BIN_EXE_poison_worker"))
        .arg(folder.join("store"))
        .env("FOREBAY_SQS_QUEUE", format!("{endpoint}/000000000000/jobs"))
        .env("FOREBAY_SQS_DEAD_LETTERS", format!("{endpoint}/000000000000/dead"))
        .envs([("FOREBAY_SQS_LEASE", "2"), ("FOREBAY_SQS_WAIT", "1"), ("FOREBAY_SUPERVISE", "1")])
        .env("FOREBAY_WITNESS", folder.join(format!("node-{node}")))
        .envs([("AWS_REGION", "us-east-1"), ("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST")])
        .env("RUST_LOG", "error")
        .spawn()
        .unwrap()
}

fn terminate(mut worker: Child) {
    assert!(Command::new("sh").args(["-c", &format!("kill {}", worker.id())]).status().unwrap().success());
    assert!(worker.wait().unwrap().success(), "told to stop it ends with 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_aborts_its_process_is_a_dead_letter_after_three_crashes() {
    let fake = FakeSqs::new();
    ["jobs", "dead"].iter().for_each(|name| drop(fake.create_queue(name, &[]).unwrap()));
    let endpoint = serve_beside(fake.clone());
    let client = sqs_client(&endpoint);
    let url = |name: &str| format!("{endpoint}/000000000000/{name}");
    for n in 0..=JOBS {
        let text = if n == JOBS / 2 { "poison".to_owned() } else { format!("content {n}") };
        let body = format!(r#"{{"forebay": 1, "id": "job-{n}", "text": "{text}"}}"#);
        client.send_message().queue_url(url("jobs")).message_body(body).send().await.unwrap();
    }

    let folder = tempfile::tempdir().unwrap();
    let mut workers: Vec<Child> = (0..2).map(|node| start(&endpoint, folder.path(), node)).collect();
    let (mut crashes, begun) = (0, Instant::now());
    while !fake.messages("jobs").is_empty() {
        assert!(begun.elapsed() < PATIENCE, "after {crashes} crashes {} are left", fake.messages("jobs").len());
        for worker in &mut workers {
            if let Some(status) = worker.try_wait().unwrap() {
                assert_eq!(status.code(), Some(134), "it ends by its own abort only");
                crashes += 1;
                *worker = start(&endpoint, folder.path(), 1 + crashes);
            }
        }
        // Between two looks at the queue and the workers.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    workers.into_iter().for_each(terminate);

    assert_eq!(crashes, 3);
    let letters = client.receive_message().queue_url(url("dead")).max_number_of_messages(10);
    let letters = letters.message_attribute_names("All").send().await.unwrap().messages.unwrap_or_default();
    assert_eq!(letters.len(), 1, "and no other");
    let attributes = letters[0].message_attributes.clone().unwrap();
    let text = |name: &str| attributes[name].string_value.clone().unwrap();
    assert_eq!(text("forebay.job"), format!("job-{}", JOBS / 2));
    assert!(text("forebay.error").contains("crashed its worker 3 times, on 3 workers"), "{}", text("forebay.error"));
    let records = Records::new(store::Folder::open(folder.path().join("store")).unwrap());
    for n in (0..=JOBS).filter(|n| *n != JOBS / 2) {
        let end = records.outcome(&format!("job-{n}")).await.unwrap();
        let right = forebay_tests::worked(format!("content {n}").as_bytes());
        assert!(matches!(&end, Some(Verdict::Done(result)) if *result == right), "job-{n}: {end:?}");
    }
}
