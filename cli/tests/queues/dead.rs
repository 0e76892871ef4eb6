//! `forebay dlq ls` and `forebay dlq redrive`, beside a worker that commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use forebay::source::committed::Committed;
use forebay::source::sqs::Sqs;
use forebay::testing::fake_sqs::{Action, Fault};
use forebay::{Bytes, Error, Pipeline, Worker, store};
use forebay_tests::{eventually, sqs_client, start};
use serde_json::Value;

use crate::World;

/// A worker on the queue that rejects jobs until it is told that they are good.
#[derive(Clone, Default)]
pub struct Judge {
    pub good: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
}

impl Judge {
    pub fn start(world: &World) -> Judge {
        let judge = Judge::default();
        let (good, runs) = (judge.good.clone(), judge.runs.clone());
        let pipeline = Pipeline::new().io("judge", 8, move |_, payload: Bytes| {
            runs.fetch_add(1, Ordering::SeqCst);
            let outcome = match good.load(Ordering::SeqCst) {
                true => Ok(payload),
                false => Err(Error::invalid("no good")),
            };
            async { outcome }
        });
        let sqs = Sqs::from_client(sqs_client(&world.served.endpoint()), world.url(&world.jobs));
        let sqs = sqs.lease(Duration::from_secs(20)).wait(Duration::from_secs(1));
        let results = store::Folder::open(world.path("results")).unwrap();
        drop(start(Worker::bytes(pipeline).source(Committed::new(sqs, results))));
        judge
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

fn dead(world: &World) -> usize {
    let depth = world.fake.depth(&world.dead).unwrap();
    depth.visible + depth.in_flight
}

pub fn submit(world: &World, lines: usize) {
    world.write_lines("jobs.jsonl", lines);
    assert_eq!(world.run(&["submit", "--lines", "jobs.jsonl"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ls_shows_each_once_and_takes_none() {
    for fifo in [false, true] {
        let world = World::new(fifo).await;
        submit(&world, 25);
        Judge::start(&world);
        eventually("all are rejected", || dead(&world) == 25 && world.count() == 0);
        for _ in 0..2 {
            let said = world.run(&["dlq", "ls", "--json"]);
            assert_eq!(said.code, Some(0), "{said:?}");
            let mut ids: Vec<String> = Vec::new();
            for line in said.out.lines() {
                let letter: Value = serde_json::from_str(line).unwrap();
                assert_eq!(
                    (letter["reason"].as_str(), letter["attempts"].as_u64()),
                    (Some("invalid"), Some(1)),
                    "{letter}"
                );
                assert!(letter["error"].as_str().unwrap().ends_with("no good"), "{letter}");
                assert!(letter["sent"].as_str().unwrap().starts_with("20"), "{letter}");
                ids.push(letter["id"].as_str().unwrap().to_owned());
            }
            ids.sort();
            ids.dedup();
            assert_eq!((ids.len(), said.out.lines().count()), (25, 25));
            assert_eq!(world.fake.depth(&world.dead).unwrap().visible, 25, "they were given back");
        }
        let said = world.run(&["dlq", "ls", "--max", "12"]);
        assert_eq!(said.out.lines().count(), 12, "{said:?}");
        assert!(said.err.contains("12 dead letters") && said.err.contains("there are more"), "{said:?}");
        assert!(said.out.lines().all(|line| line.starts_with("jobs.jsonl:") && line.contains("\t1\t20")), "{said:?}");
        assert_eq!(world.fake.depth(&world.dead).unwrap().visible, 25);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sqs_moved_by_itself_is_shown_too() {
    let world = World::new(false).await;
    let client = sqs_client(&world.served.endpoint());
    let send = |body: &str| client.send_message().queue_url(world.url(&world.dead)).message_body(body).send();
    let message = send("payload\twith a tab").await.unwrap().message_id.unwrap();
    send(r#"{"forebay": 1, "id": "named\nso", "input": 1}"#).await.unwrap();
    let said = world.run(&["dlq", "ls"]);
    let mut lines: Vec<&str> = said.out.lines().collect();
    lines.sort();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert!(lines[0].starts_with(&format!("{message}\t-\t20")), "{said:?}");
    assert!(
        lines[1].starts_with("named so\t-\t20") && lines[1].ends_with("moved by SQS: received too often"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redrive_makes_committed_jobs_run_again_once_they_are_forgotten() {
    for fifo in [false, true] {
        let world = World::new(fifo).await;
        submit(&world, 25);
        let judge = Judge::start(&world);
        eventually("all are rejected", || dead(&world) == 25 && world.count() == 0);
        assert_eq!(judge.runs(), 25);
        judge.good.store(true, Ordering::SeqCst);

        let said = world.run(&["dlq", "redrive"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains("without --results") && said.out.starts_with("moved 25 jobs back to "), "{said:?}");
        eventually("all are rejected again", || dead(&world) == 25 && world.count() == 0);
        assert_eq!(judge.runs(), 25, "and none was run");

        let said = world.run(&["dlq", "redrive", "--results", "results", "--id", "jobs.jsonl:7", "--id", "other"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.out.starts_with("moved 1 job ") && said.err.contains("no dead letter of job `other`"), "{said:?}");
        eventually("it has run", || judge.runs() == 26 && world.count() == 0);
        assert_eq!(world.fake.depth(&world.dead).unwrap().visible, 24, "the others were given back");

        let said = world.run(&["dlq", "redrive", "--results", "results"]);
        assert!(said.code == Some(0) && said.out.starts_with("moved 24 jobs ") && said.err.is_empty(), "{said:?}");
        eventually("all have run", || judge.runs() == 50 && world.count() == 0);
        assert_eq!(dead(&world), 0);
        let said = world.run(&["results", "--results", "results", "--journal", "jobs.jsonl.forebay-journal"]);
        assert!(said.code == Some(0) && said.err == "25 done, 0 failed, 0 not yet\n", "{said:?}");
        // The reasons of the rejection have gone with it.
        assert!(
            world.fake.calls().iter().any(|call| call.action == Action::SendMessageBatch && call.queue == world.jobs)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_deleted_is_tried_again_and_what_could_not_be_sent_stays() {
    let world = World::new(false).await;
    let client = sqs_client(&world.served.endpoint());
    for n in 0..10 {
        let body = format!(r#"{{"forebay": 1, "id": "{n}", "input": 1}}"#);
        client.send_message().queue_url(world.url(&world.dead)).message_body(body).send().await.unwrap();
    }
    world.fake.fault(Action::SendMessageBatch, 1..=1, Fault::Entries(vec![0]));
    world.fake.fault(Action::DeleteMessageBatch, 1..=1, Fault::Entries(vec![2, 3]));
    let said = world.run(&["dlq", "redrive"]);
    assert!(said.code == Some(0) && said.out.starts_with("moved 10 jobs "), "{said:?}");
    assert_eq!((world.ids().len(), world.count(), dead(&world)), (10, 10, 0));

    client.send_message().queue_url(world.url(&world.dead)).message_body("more").send().await.unwrap();
    let denied = Fault::Refuse(forebay::testing::fake_sqs::Refuse::AccessDenied);
    world.fake.fault(Action::SendMessageBatch, 1..=1, denied);
    let said = world.run(&["dlq", "redrive"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("it is still in the dead-letter queue") && said.err.contains("sqs:SendMessage"),
        "{said:?}"
    );
    assert_eq!((world.count(), world.fake.depth(&world.dead).unwrap().visible), (10, 1));
    let said = world.run(&["dlq", "redrive", "--results", "nowhere"]);
    assert!(said.code == Some(2) && said.err.contains("there is no folder `nowhere`"), "{said:?}");
}
