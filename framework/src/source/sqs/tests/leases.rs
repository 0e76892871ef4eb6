//! Jobs that are held: their leases to the last of the twelve hours, and how each of them is settled once.

use tokio::time::{advance, sleep};

use super::*;
use crate::source::Extended;
use crate::testing::fake_sqs::{Action, Fault as Wrong};

#[tokio::test(start_paused = true)]
async fn a_job_is_kept_until_the_twelve_hours_are_nearly_over_and_then_told_so() {
    let queues = Queues::new(false);
    queues.send("long").await;
    let mut source = queues.sqs();
    let begun = Instant::now();
    let held = one(&mut source).await;
    let (stop, last) = loop {
        sleep(Duration::from_secs(100)).await;
        let before = Instant::now();
        match held.receipt.extend(LEASE).await.unwrap() {
            Extended::Until(until) => assert_eq!(until, before + LEASE),
            Extended::Last { until, stop } => break (stop, until),
            other => panic!("{other:?} after {:?}", begun.elapsed()),
        }
    };
    let hours = |hours: u64, minutes: u64| Duration::from_secs(hours * 3600 + minutes * 60);
    assert_eq!(stop - begun, hours(11, 45));
    assert!(last - begun > hours(11, 59) && last - begun < hours(12, 0), "{:?}", last - begun);
    assert!(begun.elapsed() > hours(11, 35), "no sooner than it must");
    let calls = queues.fake.calls();
    let refused = calls.iter().flat_map(|call| &call.touched).filter(|touched| touched.refused.is_some());
    assert!(refused.into_iter().all(|touched| touched.message == desk::NOBODYS), "more was asked for than is granted");
    sleep(stop - Instant::now()).await;
    held.receipt.settle(&rejected()).await.unwrap();
    assert_eq!((queues.count(&queues.url).await, queues.count(&queues.dead).await), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_long_back_off_ends_with_the_twelve_hours() {
    let queues = Queues::new(false);
    queues.send("later").await;
    let held = one(&mut queues.sqs()).await;
    let after = Duration::from_secs(20 * 3600);
    held.receipt.settle(&Verdict::Retry { after, why: None }).await.unwrap();
    let hidden = queues.fake.messages("jobs-1")[0].hidden_until.unwrap() - Instant::now();
    assert!(hidden > Duration::from_secs(11 * 3600) && hidden <= Duration::from_secs(12 * 3600), "{hidden:?}");
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_hangs_ends_in_time_for_another() {
    let queues = Queues::new(false);
    queues.send("a").await;
    let held = one(&mut queues.sqs()).await;
    queues.fake.fault(Action::ChangeMessageVisibilityBatch, 1..=1, Wrong::Hang);
    let begun = Instant::now();
    assert!(held.receipt.extend(LEASE).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(held.receipt.extend(LEASE).await.unwrap(), Extended::Until(_)));
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_each_job_hears_its_own_outcome() {
    let queues = Queues::new(false);
    for n in 0..4 {
        queues.send(&n.to_string()).await;
    }
    let held = queues.sqs().receive(4).await.unwrap();
    queues.fake.fault(Action::DeleteMessageBatch, 1..=1, Wrong::Entries(vec![1, 3]));
    let done = done();
    let settle = || futures_util::future::join_all(held.iter().map(|job| job.receipt.settle(&done)));
    let failed: Vec<bool> = settle().await.iter().map(|settled| settled.is_err()).collect();
    assert_eq!(failed, [false, true, false, true]);
    assert_eq!(queues.calls(Action::DeleteMessageBatch), 2, "one to see that it may, one for all four");
    for job in [&held[1], &held[3]] {
        job.receipt.settle(&done).await.unwrap();
    }
    assert_eq!(queues.count(&queues.url).await, 0);
}

#[tokio::test(start_paused = true)]
async fn once_settled_nothing_is_asked_for_any_more() {
    let queues = Queues::new(false);
    queues.send("a").await;
    let held = one(&mut queues.sqs()).await;
    held.receipt.settle(&Verdict::Retry { after: Duration::from_secs(60), why: None }).await.unwrap();
    let calls = queues.fake.calls().len();
    assert_eq!(held.receipt.extend(LEASE).await.unwrap(), Extended::Lost, "a back-off is not overwritten");
    assert_eq!(queues.fake.calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn after_its_lease_nothing_is_told() {
    let queues = Queues::new(false);
    queues.send("a").await;
    let held = one(&mut queues.sqs()).await;
    advance(LEASE).await;
    let calls = queues.fake.calls().len();
    for verdict in [done(), rejected(), Verdict::give_back()] {
        let why = held.receipt.settle(&verdict).await.unwrap_err();
        assert_eq!(why.fault(), Fault::Invalid, "it is not tried again");
    }
    assert_eq!(held.receipt.extend(LEASE).await.unwrap(), Extended::Lost);
    assert_eq!(queues.fake.calls().len(), calls);
}
