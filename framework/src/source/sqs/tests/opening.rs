//! What is looked into before the first poll: whether the queue is there, may be used, and has one for dead letters.

use super::*;
use crate::testing::fake_sqs::{Action, Fault as Wrong, Refuse};

#[tokio::test(start_paused = true)]
async fn what_keeps_a_queue_from_being_opened_is_said() {
    let no_permission = Wrong::Refuse(Refuse::AccessDenied);
    let skewed = Wrong::Refuse(Refuse::ClockBehind(Duration::from_secs(2 * 3600)));
    let cases = [
        (Action::GetQueueAttributes, Wrong::Refuse(Refuse::NoQueue), Fault::Invalid, "there is no such queue"),
        (Action::GetQueueAttributes, no_permission.clone(), Fault::Invalid, "sqs:GetQueueAttributes"),
        (Action::GetQueueAttributes, Wrong::Refuse(Refuse::ExpiredToken), Fault::Invalid, "have expired"),
        (Action::GetQueueAttributes, Wrong::Refuse(Refuse::UnknownKey), Fault::Invalid, "access key"),
        (Action::GetQueueAttributes, skewed, Fault::Invalid, "clock is 2 h 0 min behind"),
        (Action::GetQueueAttributes, Wrong::Refuse(Refuse::Unavailable), Fault::Transient, "503"),
        (Action::GetQueueAttributes, Wrong::Hang, Fault::Transient, "no answer within"),
        (Action::GetQueueAttributes, Wrong::Break, Fault::Transient, "cannot be reached"),
        (Action::DeleteMessageBatch, no_permission.clone(), Fault::Invalid, "sqs:DeleteMessage"),
        (Action::ChangeMessageVisibilityBatch, no_permission, Fault::Invalid, "sqs:ChangeMessageVisibility"),
    ];
    for (action, wrong, fault, says) in cases {
        let queues = Queues::new(false);
        queues.send("a").await;
        queues.fake.fault(action, 1..=1, wrong.clone());
        let mut source = queues.sqs();
        let why = source.receive(1).await.err().unwrap();
        assert!(why.to_string().contains(says), "{wrong:?}: {why}");
        assert_eq!(why.fault(), fault, "{wrong:?}: {why}");
        // Once it is set right, it goes on, and nothing was taken meanwhile.
        assert_eq!(one(&mut source).await.attempt, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_dead_letter_queue_it_does_not_start_unless_told_to() {
    let queues = Queues::new(false);
    let url = queues.fake.create_queue("alone", &[]).unwrap();
    let alone = || Sqs::from_client(queues.client.clone(), &url);
    let why = alone().receive(1).await.err().unwrap();
    assert_eq!(why.fault(), Fault::Invalid);
    assert!(why.to_string().contains("FOREBAY_SQS_DEAD_LETTERS"), "{why}");
    let why = alone().dead_letters(format!("{url}-missing")).receive(1).await.err().unwrap();
    assert!(why.to_string().starts_with("the dead-letter queue"), "{why}");
    alone().queue().push("a", "1".into()).await.unwrap();
    let held = one(&mut alone().drop_rejected()).await;
    held.receipt.settle(&rejected()).await.unwrap();
    assert_eq!(queues.count(&url).await, 0);
}
