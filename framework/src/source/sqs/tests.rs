//! The source against a queue that keeps every rule of SQS, in virtual time: its contract, and what it makes of faults.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::FutureExt;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::error::Fault;
use crate::source::{Extended, Queue};
use crate::testing::fake_sqs::{Action, FakeSqs, Fault as Wrong, Refuse};
use crate::testing::machine;
use crate::testing::source::{self, Bench, Ended};
use crate::verdict::Verdict;

/// A queue with its dead-letter queue, of one server.
struct Queues {
    fake: FakeSqs,
    client: aws_sdk_sqs::Client,
    fifo: bool,
    number: usize,
    url: String,
    dead: String,
}

impl Queues {
    fn new(fifo: bool) -> Self {
        let fake = FakeSqs::new();
        let client = fake.client_without_retries();
        let mut queues = Queues { fake, client, fifo, number: 0, url: String::new(), dead: String::new() };
        queues.begin_anew();
        queues
    }

    fn begin_anew(&mut self) {
        self.number += 1;
        let (jobs, dead) = (self.name("jobs"), self.name("dead"));
        let kind: &[(&str, &str)] = if self.fifo { &[("FifoQueue", "true")] } else { &[] };
        self.dead = self.fake.create_queue(&dead, kind).unwrap();
        let policy = format!(
            r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{dead}","maxReceiveCount":"1000"}}"#
        );
        let attributes: Vec<_> = kind.iter().copied().chain([("RedrivePolicy", policy.as_str())]).collect();
        self.url = self.fake.create_queue(&jobs, &attributes).unwrap();
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}{}", self.number, if self.fifo { ".fifo" } else { "" })
    }

    fn sqs(&self) -> Sqs {
        Sqs::from_client(self.client.clone(), &self.url)
    }

    /// With leases as short as they can be.
    fn short(&self) -> Sqs {
        self.sqs().lease(Duration::from_secs(1)).wait(Duration::ZERO)
    }

    async fn send(&self, body: &str) {
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.unwrap();
    }

    async fn count(&self, url: &str) -> usize {
        let asked = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let attributes = asked.send().await.unwrap().attributes.unwrap_or_default();
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        names.iter().filter_map(|name| attributes.get(name)?.parse::<usize>().ok()).sum()
    }

    /// How many messages can be received now.
    fn visible(&self) -> usize {
        let messages = self.fake.messages(&self.name("jobs"));
        messages.iter().filter(|message| message.hidden_until.is_none_or(|until| until <= Instant::now())).count()
    }

    /// The calls of an action so far.
    fn calls(&self, action: Action) -> usize {
        self.fake.calls().iter().filter(|call| call.action == action).count()
    }
}

impl Bench for Queues {
    type Source = Sqs;

    async fn reset(&mut self) {
        self.begin_anew();
    }

    fn source(&mut self) -> Sqs {
        self.short()
    }

    async fn push(&mut self, name: &str, payload: &[u8]) {
        self.sqs().queue().push(name, payload.to_vec().into()).await.unwrap();
    }

    async fn ended(&mut self, _: &str) -> Option<Ended> {
        match (self.count(&self.url).await, self.count(&self.dead).await) {
            (0, 0) => Some(Ended::Done),
            (0, _) => Some(Ended::Rejected),
            _ => None,
        }
    }
}

async fn one(source: &mut Sqs) -> Delivery {
    let received = timeout(Duration::from_secs(3600), source.receive(1)).await.expect("something comes");
    received.expect("receiving works").remove(0)
}

fn done() -> Verdict {
    Verdict::Done(bytes::Bytes::new())
}

fn rejected() -> Verdict {
    Verdict::Reject { why: Error::invalid("no good") }
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    source::all(&mut Queues::new(false)).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_with_a_fifo_queue() {
    source::all(&mut Queues::new(true)).await;
}

#[tokio::test(start_paused = true)]
async fn random_steps_agree_with_the_model() {
    for seed in 2..22 {
        machine::random(&mut Queues::new(seed % 2 == 0), seed).await;
    }
}

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

const LEASE: Duration = settings::LEASE;
const WAIT: Duration = settings::WAIT;

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

#[tokio::test(start_paused = true)]
async fn one_group_of_a_fifo_queue_is_worked_on_in_order() {
    let queues = Queues::new(true);
    for (group, body) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")] {
        let sent = queues.client.send_message().queue_url(&queues.url).message_body(body);
        sent.message_group_id(group).message_deduplication_id(body).send().await.unwrap();
    }
    let mut source = queues.sqs();
    let mut held = Vec::new();
    while let Ok(received) = timeout(Duration::from_secs(60), source.receive(10)).await {
        held.extend(received.unwrap());
    }
    let bodies = |held: &[Delivery]| held.iter().map(|job| job.payload.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&held), ["a1", "b1"], "a group has one job at work");
    assert_eq!(held[0].meta.labels[Sqs::GROUP], "a");
    // Failed for now, it keeps its group waiting.
    held[0].receipt.settle(&Verdict::Retry { after: Duration::from_secs(100), why: None }).await.unwrap();
    let begun = Instant::now();
    let again = one(&mut source).await;
    assert_eq!((&again.payload[..], again.attempt), (&b"a1"[..], 2));
    assert!(begun.elapsed() >= Duration::from_secs(100));
    again.receipt.settle(&done()).await.unwrap();
    for body in ["a2", "a3"] {
        let next = one(&mut source).await;
        assert_eq!(next.payload, body);
        next.receipt.settle(&done()).await.unwrap();
    }
}

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
async fn a_failing_poll_is_told_once_and_then_tried_again() {
    let queues = Queues::new(false);
    let mut source = queues.sqs();
    queues.send("a").await;
    queues.fake.fault(Action::ReceiveMessage, 1..=1, Wrong::Refuse(Refuse::Throttled));
    assert_eq!(source.receive(1).await.err().unwrap().fault(), Fault::Transient);
    assert_eq!(one(&mut source).await.payload, "a");
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
