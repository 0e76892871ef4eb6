//! Batches: each entry has its own outcome, unless the batch as such is wrong.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry as Change, DeleteMessageBatchRequestEntry as Delete,
    SendMessageBatchRequestEntry as Send,
};

use super::quirks::Quirks;
use super::support::{Queue, handle, outcome, short};

fn send(id: &str, body: &str) -> Send {
    Send::builder().id(id).message_body(body).build().unwrap()
}

pub async fn tell_the_outcome_of_each_entry(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "batches").await;
    let entries = vec![send("one", "1"), send("two", "2"), send("three", "3")];
    let sent = sqs.send_message_batch().queue_url(&queue.url).set_entries(Some(entries)).send().await.unwrap();
    assert_eq!((sent.successful.len(), sent.failed.len()), (3, 0));
    let messages = queue.several(3).await;
    let change = |id: &str, handle: &str| {
        Change::builder().id(id).receipt_handle(handle).visibility_timeout(60).build().unwrap()
    };
    let entries = vec![change("good", handle(&messages[0])), change("bad", "bogus")];
    let changed = sqs.change_message_visibility_batch().queue_url(&queue.url).set_entries(Some(entries));
    let changed = changed.send().await.unwrap();
    assert_eq!(changed.successful[0].id, "good");
    assert_eq!(
        (changed.failed[0].id.as_str(), short(&changed.failed[0].code)),
        ("bad", "ReceiptHandleIsInvalid".into())
    );
    let delete = |id: &str, handle: &str| Delete::builder().id(id).receipt_handle(handle).build().unwrap();
    let entries = vec![delete("good", handle(&messages[0])), delete("bad", "bogus")];
    let deleted = sqs.delete_message_batch().queue_url(&queue.url).set_entries(Some(entries)).send().await.unwrap();
    assert!(deleted.successful.iter().any(|entry| entry.id == "good"));
    let failed: Vec<String> = deleted.failed.iter().map(|entry| short(&entry.code)).collect();
    match quirks.bogus_delete {
        "ok" => assert!(failed.is_empty(), "{failed:?}"),
        code => assert_eq!(failed, [code]),
    }
}

pub async fn are_refused_as_a_whole(sqs: Client, _: &'static Quirks) {
    let queue = Queue::new(&sqs, "bad-batches").await;
    let batch = async |entries: Vec<Send>| {
        outcome(sqs.send_message_batch().queue_url(&queue.url).set_entries(Some(entries)).send().await)
    };
    assert_eq!(batch(Vec::new()).await, "EmptyBatchRequest");
    let eleven = (0..11).map(|n| send(&n.to_string(), "x")).collect();
    assert_eq!(batch(eleven).await, "TooManyEntriesInBatchRequest");
    assert_eq!(batch(vec![send("same", "1"), send("same", "2")]).await, "BatchEntryIdsNotDistinct");
    let half = "x".repeat(600 * 1024);
    assert_eq!(batch(vec![send("a", &half), send("b", &half)]).await, "BatchRequestTooLong");
    assert!(queue.poll(0).await.is_empty(), "a refused batch sent something");
}
