//! Polls: how many there are and when, and what becomes of messages that they bring to nobody.

use futures_util::FutureExt;
use tokio::time::sleep;

use super::*;
use crate::testing::fake_sqs::{Action, Fault as Wrong, Refuse};

const WAIT: Duration = settings::WAIT;

#[tokio::test(start_paused = true)]
async fn long_polls_wait_and_one_is_enough_for_an_idle_queue() {
    let queues = Queues::new(false);
    let mut source = queues.sqs();
    let waits = timeout(Duration::from_secs(200), source.receive(1000));
    assert!(waits.await.is_err());
    let polls = queues.calls(Action::ReceiveMessage);
    assert!((10..=12).contains(&polls), "{polls} polls in 200 s");
    queues.send("late").await;
    let begun = Instant::now();
    assert_eq!(one(&mut source).await.payload, "late");
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn many_messages_are_polled_for_side_by_side_and_never_more_than_there_are_places() {
    let queues = Queues::new(false);
    for n in 0..200 {
        queues.send(&n.to_string()).await;
    }
    let mut source = queues.sqs();
    // Answers take a while, as they do over a network.
    queues.fake.fault(Action::ReceiveMessage, 1..=1000, Wrong::Late(Duration::from_millis(50)));
    let (mut held, begun) = (Vec::new(), Instant::now());
    while held.len() < 95 {
        held.extend(source.receive(95 - held.len()).await.unwrap());
        assert!(held.len() <= 95);
    }
    assert!(begun.elapsed() < Duration::from_millis(400), "one after the other: {:?}", begun.elapsed());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(queues.visible(), 105, "what has no place is left to others");
    let most = queues.fake.calls().iter().map(|call| call.touched.len()).max();
    assert_eq!(most, Some(10));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_answers_at_once_with_nothing_is_not_asked_all_the_time() {
    let queues = Queues::new(false);
    let mut source = queues.short();
    assert!(timeout(Duration::from_secs(60), source.receive(10)).await.is_err());
    let polls = queues.calls(Action::ReceiveMessage);
    assert!((50..=80).contains(&polls), "{polls} polls in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_worker_has_gone_is_visible_again_at_once() {
    let queues = Queues::new(false);
    let mut source = queues.sqs();
    assert!(timeout(Duration::from_secs(1), source.receive(10)).await.is_err());
    drop(source);
    queues.send("unwanted").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(queues.fake.messages("jobs-1")[0].receives, 1, "the poll took it");
    assert_eq!(queues.visible(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_closed_gives_back_what_it_has() {
    let queues = Queues::new(false);
    for n in 0..10 {
        queues.send(&n.to_string()).await;
    }
    let mut source = queues.sqs();
    let first = one(&mut source).await;
    // A poll for more is under way when the worker turns away.
    queues.fake.fault(Action::ReceiveMessage, 1..=1, Wrong::Late(Duration::from_millis(500)));
    assert!(source.receive(5).now_or_never().is_none());
    sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    source.close().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(queues.visible(), 9);
    first.receipt.settle(&done()).await.unwrap();
    // On an idle queue it does not wait for its poll to end.
    let mut idle = Queues::new(false);
    let mut source = idle.source().lease(LEASE).wait(WAIT);
    assert!(timeout(Duration::from_secs(1), source.receive(5)).await.is_err());
    let begun = Instant::now();
    source.close().await;
    assert!(begun.elapsed() <= CLOSE_WITHIN + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_goes_back_before_its_lease_ends() {
    let queues = Queues::new(false);
    queues.send("first").await;
    let mut source = queues.sqs();
    one(&mut source).await.receipt.settle(&done()).await.unwrap();
    queues.send("a").await;
    queues.send("b").await;
    // Two are asked for, and then the worker has a place for none.
    assert!(source.receive(2).now_or_never().is_none());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(queues.visible(), 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(queues.visible(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failing_poll_is_told_once_and_then_tried_again() {
    let queues = Queues::new(false);
    let mut source = queues.sqs();
    queues.send("a").await;
    queues.fake.fault(Action::ReceiveMessage, 1..=1, Wrong::Refuse(Refuse::Throttled));
    assert_eq!(source.receive(1).await.err().unwrap().fault(), Fault::Transient);
    assert_eq!(one(&mut source).await.payload, "a");
}
