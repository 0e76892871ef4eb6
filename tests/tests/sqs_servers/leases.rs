//! Polls, visibility timeouts, and what a receipt handle allows.

use std::time::Duration;

use aws_sdk_sqs::Client;
use tokio::time::{Instant, sleep};

use super::quirks::Quirks;
use super::support::{Queue, count, handle, timeout_over};

pub async fn a_poll_waits_and_wakes(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "polls").await;
    let start = Instant::now();
    assert!(queue.poll(1).await.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let start = Instant::now();
    let late = async {
        sleep(Duration::from_millis(300)).await;
        queue.send("late").await;
    };
    let (messages, ()) = tokio::join!(queue.poll(15), late);
    assert_eq!(messages.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

pub async fn a_timeout_brings_a_message_back_with_a_new_handle(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "timeouts").await;
    let id = queue.send("again").await;
    let start = Instant::now();
    let (first, second) = (queue.one().await, queue.one().await);
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_eq!((first.message_id(), second.message_id()), (Some(&*id), Some(&*id)));
    assert_eq!((count(&first), count(&second)), ("1".to_owned(), "2".to_owned()));
    assert_ne!(handle(&first), handle(&second));
}

pub async fn a_change_counts_from_the_call(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "changes").await;
    queue.send("kept").await;
    let message = queue.one().await;
    assert_eq!(queue.change(handle(&message), 60).await, "ok");
    timeout_over().await;
    assert!(queue.poll(0).await.is_empty(), "it was to be hidden for longer");
    assert_eq!(queue.change(handle(&message), 0).await, "ok");
    assert_eq!(count(&queue.one().await), "2", "what is given back comes at once");
}

pub async fn no_more_than_twelve_hours(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "hours").await;
    queue.send("long").await;
    let message = queue.one().await;
    assert_eq!(queue.change(handle(&message), 100).await, "ok");
    timeout_over().await;
    assert_eq!(queue.change(handle(&message), 43_201).await, "InvalidParameterValue");
    assert_eq!(queue.change(handle(&message), 43_200).await, quirks.twelve_hours_once_more);
    assert_eq!(queue.change(handle(&message), 43_190).await, "ok");
    assert_eq!(queue.change(handle(&message), -1).await, quirks.negative_timeout);
}

pub async fn no_change_after_the_timeout(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "too-late").await;
    queue.send("late").await;
    let message = queue.one().await;
    timeout_over().await;
    assert_eq!(queue.change(handle(&message), 60).await, quirks.change_after_timeout);
    if quirks.change_after_timeout != "ok" {
        // It was refused and not hidden; and its handle still deletes, as nobody else has received it.
        assert_eq!(count(&queue.one().await), "2");
    }
}

pub async fn an_older_handle_changes_nothing(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "older-changes").await;
    queue.send("twice").await;
    let first = queue.one().await;
    let second = queue.one().await;
    assert_eq!(queue.change(handle(&second), 60).await, "ok");
    assert_eq!(queue.change(handle(&first), 0).await, quirks.stale_change);
    assert_eq!(queue.poll(0).await.is_empty(), quirks.stale_change != "ok", "the older handle gave the message back");
}

pub async fn an_older_handle_deletes_nothing(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "older-deletes").await;
    queue.send("twice").await;
    let first = queue.one().await;
    queue.one().await;
    assert_eq!(queue.delete(handle(&first)).await, "ok");
    timeout_over().await;
    assert_eq!(queue.poll(0).await.is_empty(), quirks.stale_delete_deletes);
}

pub async fn what_is_deleted_does_not_come_back(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "deletes").await;
    queue.send("before the timeout").await;
    let message = queue.one().await;
    assert_eq!(queue.delete(handle(&message)).await, "ok");
    assert_eq!(queue.delete(handle(&message)).await, "ok", "once more is no error");
    queue.send("after the timeout").await;
    let message = queue.one().await;
    timeout_over().await;
    assert_eq!(queue.delete(handle(&message)).await, "ok", "nobody else has received it");
    timeout_over().await;
    assert!(queue.poll(0).await.is_empty());
}

pub async fn a_handle_that_never_was(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "bogus").await;
    assert_eq!(queue.delete("bogus").await, quirks.bogus_delete);
    assert_eq!(queue.change("bogus", 10).await, quirks.bogus_change);
}
