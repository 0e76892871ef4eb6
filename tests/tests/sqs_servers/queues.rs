//! Queues as such: found by name, counted, purged, and joined to dead-letter queues.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use tokio::time::sleep;

use super::quirks::Quirks;
use super::support::{Queue, handle, outcome, system, timeout_over};

pub async fn are_found_by_name(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "found").await;
    let found = sqs.get_queue_url().queue_name("found").send().await.unwrap();
    assert_eq!(found.queue_url(), Some(&*queue.url));
    assert_eq!(Queue::new(&sqs, "found").await.url, queue.url, "the same queue once more");
    let other = sqs.create_queue().queue_name("found").attributes(QueueAttributeName::VisibilityTimeout, "7");
    assert_eq!(outcome(other.send().await), quirks.other_queue);
    let listed = sqs.list_queues().queue_name_prefix("foun").send().await.unwrap();
    assert_eq!(listed.queue_urls(), [&*queue.url]);
    assert_eq!(outcome(sqs.get_queue_url().queue_name("nowhere").send().await), "NonExistentQueue");
    let nowhere = queue.url.replace("found", "nowhere");
    assert_eq!(outcome(sqs.receive_message().queue_url(&nowhere).send().await), "NonExistentQueue");
    let set = sqs.set_queue_attributes().queue_url(&queue.url);
    set.attributes(QueueAttributeName::VisibilityTimeout, "9").send().await.unwrap();
    let all = sqs.get_queue_attributes().queue_url(&queue.url).attribute_names(QueueAttributeName::All);
    let all = all.send().await.unwrap().attributes.unwrap();
    assert_eq!(all[&QueueAttributeName::VisibilityTimeout], "9");
}

pub async fn count_their_messages(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "counts").await;
    for body in ["1", "2", "3"] {
        queue.send(body).await;
    }
    let one = sqs.receive_message().queue_url(&queue.url).visibility_timeout(60).send().await.unwrap();
    assert_eq!(one.messages().len(), 1);
    let delayed = sqs.send_message().queue_url(&queue.url).message_body("later").delay_seconds(60);
    delayed.send().await.unwrap();
    let all = sqs.get_queue_attributes().queue_url(&queue.url).attribute_names(QueueAttributeName::All);
    let all = all.send().await.unwrap().attributes.unwrap();
    let of = |name: QueueAttributeName| all[&name].as_str();
    assert_eq!(of(QueueAttributeName::ApproximateNumberOfMessages), "2");
    assert_eq!(of(QueueAttributeName::ApproximateNumberOfMessagesNotVisible), "1");
    assert_eq!(of(QueueAttributeName::ApproximateNumberOfMessagesDelayed), "1");
}

pub async fn are_purged(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "purged").await;
    queue.send("waits").await;
    queue.one().await;
    queue.send("waits too").await;
    sqs.purge_queue().queue_url(&queue.url).send().await.unwrap();
    timeout_over().await;
    assert!(queue.poll(0).await.is_empty());
}

pub async fn send_on_what_was_received_too_often(sqs: Client, quirks: &'static Quirks) {
    let dead = Queue::new(&sqs, "dead").await;
    let arn = dead.arn().await;
    let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"2"}}"#);
    let queue = Queue::with(&sqs, "alive", &[(QueueAttributeName::RedrivePolicy, &policy)]).await;
    let id = queue.send("poison").await;
    for _ in 0..2 {
        let message = queue.one().await;
        assert_eq!(queue.change(handle(&message), 0).await, "ok");
    }
    // It goes when somebody asks for it once more.
    while dead.poll(0).await.is_empty() {
        assert!(queue.poll(0).await.is_empty(), "received a third time");
        sleep(Duration::from_millis(50)).await;
    }
    timeout_over().await;
    let message = dead.one().await;
    assert_eq!((message.message_id(), message.body()), (Some(&*id), Some("poison")));
    let source = system(&message, MessageSystemAttributeName::DeadLetterQueueSourceArn);
    assert_eq!(source.is_some(), quirks.dead_letter_source);
    let sources = sqs.list_dead_letter_source_queues().queue_url(&dead.url).send().await;
    match quirks.dead_letter_queues {
        true => assert_eq!(sources.unwrap().queue_urls(), [&*queue.url]),
        false => assert_eq!(outcome(sources), "InvalidAction"),
    }
}
