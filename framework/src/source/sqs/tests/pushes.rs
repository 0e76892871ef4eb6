//! The way onto the queue: large bodies, text as it is, and pushes again after faults.

use super::*;
use crate::testing::fake_sqs::{Action, Fault as Wrong, Refuse};

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_a_message_comes_from_a_bucket() {
    let queues = Queues::new(false);
    let store = Arc::new(crate::store::Memory::new());
    let large = vec![0xff; 300 << 10];
    let mut source = queues.sqs().objects("b", store.clone());
    source.queue().push("large", large.clone().into()).await.unwrap();
    let stored = queues.fake.messages("jobs-1")[0].body.clone();
    assert!(stored.starts_with(r#"["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","#));
    let held = one(&mut source).await;
    assert_eq!((held.id.as_str(), &held.payload[..]), ("large", &large[..]));
    held.receipt.settle(&done()).await.unwrap();
    // A store that is away for now costs an attempt and no job.
    source.queue().push("again", large.into()).await.unwrap();
    let objects = (&*store as &dyn Store).list_all("").await.unwrap();
    assert_eq!(objects.len(), 2, "each body has an object of its own");
}

#[tokio::test(start_paused = true)]
async fn a_bare_queue_takes_text_as_it_is_and_says_what_it_cannot_take() {
    for fifo in [false, true] {
        let queues = Queues::new(fifo);
        let queue = queues.sqs().queue().bare();
        queue.push("the \u{1} id", "{\"forebay\": 1}".into()).await.unwrap();
        queue.push("the \u{1} id", "{\"forebay\": 1}".into()).await.unwrap();
        assert_eq!(queues.count(&queues.url).await, if fifo { 1 } else { 2 });
        let asked = queues.client.receive_message().queue_url(&queues.url).message_attribute_names("All");
        let message = asked.send().await.unwrap().messages.unwrap().remove(0);
        assert_eq!(message.body.unwrap(), "{\"forebay\": 1}");
        assert_eq!(message.message_attributes.unwrap()["forebay.job"].string_value.as_deref(), Some("the  id"));
        queue.push("the \u{1} id", "another end".into()).await.unwrap();
        assert_eq!(queues.count(&queues.url).await, if fifo { 2 } else { 3 }, "what is different is no repeat");
        for payload in [&b""[..], b"\xff", b"a\x00"] {
            let why = queue.push("a", payload.into()).await.unwrap_err();
            assert_eq!(why.fault(), Fault::Invalid);
            assert!(why.to_string().contains("job `a`") && why.to_string().contains("without an envelope"), "{why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_put_on_the_queue_through_passing_faults_and_once_in_a_fifo_queue() {
    let queues = Queues::new(true);
    let queue = queues.sqs().queue();
    // The answer to the first attempt is lost on its way.
    queues.fake.fault(Action::SendMessage, 1..=1, Wrong::BreakAfter);
    queue.push("a", "1".into()).await.unwrap();
    queue.push("a", "1".into()).await.unwrap();
    assert_eq!(queues.count(&queues.url).await, 1);
    queues.fake.fault(Action::SendMessage, 1..=10, Wrong::Refuse(Refuse::AccessDenied));
    let why = queue.push("b", "1".into()).await.unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
    assert!(why.to_string().contains("job `b`") && why.to_string().contains("sqs:SendMessage"), "{why}");
}
