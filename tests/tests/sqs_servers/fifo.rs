//! FIFO queues: groups, order, and what is sent twice.

use aws_sdk_sqs::Client;

use super::quirks::Quirks;
use super::support::{Queue, bodies, handle, outcome, timeout_over};

pub async fn a_group_is_locked_while_one_of_it_is_held(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::fifo(&sqs, "groups").await;
    for body in ["a1", "b1", "a2"] {
        queue.send_to(if body.starts_with('a') { "a" } else { "b" }, body).await;
    }
    let receive = || sqs.receive_message().queue_url(&queue.url).visibility_timeout(60);
    let first = receive().send().await.unwrap().messages.unwrap();
    assert_eq!(bodies(&first), ["a1"]);
    let second = receive().max_number_of_messages(10).send().await.unwrap().messages.unwrap();
    assert_eq!(bodies(&second), ["b1"], "group a is locked");
    assert_eq!(queue.delete(handle(&first[0])).await, "ok");
    let third = receive().max_number_of_messages(10).send().await.unwrap().messages.unwrap();
    assert_eq!(bodies(&third), ["a2"], "group a is free again");
    for body in ["c1", "c2"] {
        queue.send_to("c", body).await;
    }
    let count = receive().max_number_of_messages(10).send().await.unwrap().messages.unwrap().len();
    assert_eq!(count, if quirks.group_in_one_receive { 2 } else { 1 });
}

pub async fn order_holds_after_a_timeout(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::fifo(&sqs, "order").await;
    for body in ["1", "2", "3", "4"] {
        queue.send_to("a", body).await;
    }
    let receive = sqs.receive_message().queue_url(&queue.url).max_number_of_messages(2);
    let first = receive.send().await.unwrap().messages.unwrap();
    assert_eq!(bodies(&first)[0], "1");
    timeout_over().await;
    let mut order = Vec::new();
    while order.len() < 4 {
        let messages = queue.poll(5).await;
        assert!(!messages.is_empty(), "nothing more after {order:?}");
        order.extend(bodies(&messages));
        for message in &messages {
            queue.delete(handle(message)).await;
        }
    }
    assert_eq!(order == ["1", "2", "3", "4"], quirks.order_after_timeout, "{order:?}");
}

pub async fn the_same_is_sent_once(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::fifo(&sqs, "once").await;
    let ids = (queue.send_to("a", "x").await, queue.send_to("a", "x").await);
    assert_eq!(ids.0 == ids.1, quirks.same_id_again);
    let message = queue.one().await;
    assert_eq!(queue.delete(handle(&message)).await, "ok");
    // Not even after the first one is gone.
    queue.send_to("a", "x").await;
    assert_eq!(queue.poll(1).await.is_empty(), quirks.known_after_delete);
    let without_group = sqs.send_message().queue_url(&queue.url).message_body("y").message_deduplication_id("y");
    assert_eq!(outcome(without_group.send().await), "MissingParameter");
    let without_id = sqs.send_message().queue_url(&queue.url).message_body("y").message_group_id("a");
    assert_eq!(outcome(without_id.send().await), "InvalidParameterValue");
}

pub async fn nothing_is_deleted_after_the_timeout(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::fifo(&sqs, "late-deletes").await;
    queue.send_to("a", "x").await;
    let message = queue.one().await;
    timeout_over().await;
    assert_eq!(queue.delete(handle(&message)).await, quirks.fifo_delete_after_timeout);
    assert_eq!(queue.poll(0).await.is_empty(), quirks.fifo_delete_after_timeout == "ok");
}
