//! `forebay queue status` and `forebay purge`.

use forebay::testing::fake_sqs::{Action, Fault};
use forebay_tests::sqs_client;
use serde_json::json;

use crate::{Said, World, forebay};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_how_full_the_queue_is_and_where_its_dead_letters_are() {
    for fifo in [false, true] {
        let world = World::new(fifo).await;
        world.write_lines("jobs.jsonl", 12);
        assert_eq!(world.run(&["submit", "--lines", "jobs.jsonl"]).code, Some(0));
        let client = sqs_client(&world.served.endpoint());
        client.receive_message().queue_url(world.url(&world.jobs)).max_number_of_messages(3).send().await.unwrap();
        let mut dead = client.send_message().queue_url(world.url(&world.dead)).message_body("dead");
        if fifo {
            dead = dead.message_group_id("g").message_deduplication_id("d");
        }
        dead.send().await.unwrap();
        // It does not give up at once.
        world.fake.fault(Action::GetQueueAttributes, 1..=1, Fault::Break);
        let said = world.run(&["queue", "status", "--json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let status: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let expected = json!({
            "queue": world.url(&world.jobs), "fifo": fifo, "visible": 9, "in_flight": 3, "delayed": 0,
            "visibility_s": 30, "retention_s": 345_600,
            "dead_letters": { "queue": world.url(&world.dead), "visible": 1, "in_flight": 0, "delayed": 0 },
        });
        assert_eq!(status, expected);
        let said = world.run(&["queue", "status"]);
        let kind = if fifo { "FIFO" } else { "standard" };
        let dead = format!("1 in {}", world.url(&world.dead));
        for (name, value) in [("kind", kind), ("visible", "9"), ("in flight", "3"), ("dead letters", &dead)] {
            assert!(said.out.contains(&format!("{name:<19} {value}\n")), "{name}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_of_a_queue_without_dead_letters_says_so() {
    let world = World::new(false).await;
    let said = world.run(&["queue", "status", "--queue", &world.url(&world.dead)]);
    assert!(said.code == Some(0) && said.out.contains("no dead-letter queue"), "{said:?}");
    let said = world.run(&["dlq", "ls", "--queue", &world.url(&world.dead)]);
    assert!(said.code == Some(2) && said.err.contains("has no dead-letter queue"), "{said:?}");
    let said = world.run(&["queue", "status", "--queue", &world.url("missing")]);
    assert!(said.code == Some(2) && said.err.contains("there is no such queue"), "{said:?}");
    let said = Said::from(forebay(world.at.path(), &["queue", "status"]).output().unwrap());
    assert!(said.code == Some(2) && said.err.contains("--queue <URL>"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_says_how_many_and_wants_to_be_sure() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 12);
    assert_eq!(world.run(&["submit", "--lines", "jobs.jsonl"]).code, Some(0));
    let said = world.run(&["purge"]);
    assert!(said.code == Some(2) && said.err.contains("12 messages (0 in flight)"), "{said:?}");
    assert!(said.err.contains("--yes"), "{said:?}");
    assert_eq!(world.count(), 12);
    let said = world.run(&["purge", "--yes"]);
    assert!(said.code == Some(0) && said.out.starts_with("removed 12 messages (0 in flight) of http"), "{said:?}");
    assert_eq!(world.count(), 0);
    let said = world.run(&["purge", "--yes"]);
    assert!(said.code == Some(2) && said.err.contains("every 60 seconds"), "{said:?}");
}
