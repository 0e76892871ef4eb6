//! Dead letters: what is rejected, and what was no job to begin with.

use super::*;
use crate::testing::fake_sqs::{Action, Fault as Wrong, Refuse};

#[tokio::test(start_paused = true)]
async fn a_rejected_job_is_a_dead_letter_once_with_its_reasons() {
    let queues = Queues::new(false);
    queues.send("the body").await;
    let held = one(&mut queues.sqs()).await;
    // The letter is sent; what it replaces cannot be deleted at first.
    queues.fake.fault(Action::DeleteMessageBatch, 1..=1, Wrong::Refuse(Refuse::Internal));
    let why = held.receipt.settle(&rejected()).await.unwrap_err();
    assert_eq!(why.fault(), Fault::Transient);
    held.receipt.settle(&rejected()).await.unwrap();
    assert_eq!((queues.count(&queues.url).await, queues.count(&queues.dead).await), (0, 1));
    let asked = queues.client.receive_message().queue_url(&queues.dead).message_attribute_names("All");
    let letter = asked.send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(letter.body.as_deref(), Some("the body"));
    let attributes = letter.message_attributes.unwrap();
    let text = |name: &str| attributes[name].string_value.as_deref().unwrap();
    assert_eq!((text("forebay.reason"), text("forebay.error")), ("invalid", "no good"));
    assert_eq!((text("forebay.attempts"), text("forebay.job")), ("1", letter_id(&held)));
}

fn letter_id(delivery: &Delivery) -> &str {
    &delivery.meta.labels[Sqs::MESSAGE_ID]
}

#[tokio::test(start_paused = true)]
async fn what_is_no_job_is_rejected_and_the_others_go_on() {
    let queues = Queues::new(false);
    queues.send(r#"{"forebay": 1, "inptu": 1}"#).await;
    queues.send(r#"{"forebay": 1, "object": {"bucket": "elsewhere", "key": "k"}}"#).await;
    queues.send(r#"{"forebay": 1, "id": "good", "input": [1], "labels": {"a": "b"}, "route": "r"}"#).await;
    let mut source = queues.sqs();
    let good = one(&mut source).await;
    assert_eq!((good.id.as_str(), &good.payload[..]), ("good", &b"[1]"[..]));
    assert_eq!((good.meta.labels["a"].as_str(), good.meta.route.as_deref()), ("b", Some("r")));
    good.receipt.settle(&done()).await.unwrap();
    assert_eq!((queues.count(&queues.url).await, queues.count(&queues.dead).await), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn many_messages_that_are_no_jobs_do_not_slow_it_down() {
    let queues = Queues::new(false);
    for _ in 0..100 {
        queues.send(r#"{"forebay": 2}"#).await;
    }
    queues.send("good").await;
    let mut source = queues.sqs();
    let begun = Instant::now();
    assert_eq!(one(&mut source).await.payload, "good");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(queues.count(&queues.dead).await, 100);
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_is_told_as_what_it_is() {
    let queues = Queues::new(false);
    queues.send(r#"{"forebay": 1, "object": {"bucket": "b", "key": "gone"}}"#).await;
    let mut source = queues.sqs().objects("b", crate::store::Memory::new());
    assert!(timeout(Duration::from_secs(30), source.receive(1)).await.is_err());
    let asked = queues.client.receive_message().queue_url(&queues.dead).message_attribute_names("All");
    let letter = asked.send().await.unwrap().messages.unwrap().remove(0);
    let attributes = letter.message_attributes.unwrap();
    let error = attributes["forebay.error"].string_value.as_deref().unwrap();
    assert_eq!(error, "reading the object `gone` of the bucket `b`: there is none");
}
