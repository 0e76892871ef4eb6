//! What the suite in `tests/tests/sqs_servers` cannot see from outside: limits that take hours or many messages, the
//! script of faults, and the record of calls.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry as Change, Message, MessageSystemAttributeName};
use tokio::time::{Instant, advance, sleep, timeout};

use super::message::Message as Kept;
use super::queue::{Queue, Take};
use super::settings::Settings;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn queue(attributes: &[(&str, &str)]) -> (FakeSqs, Client, String) {
    let fake = FakeSqs::new();
    let fifo = attributes.iter().any(|(name, _)| *name == "FifoQueue");
    let url = fake.create_queue(if fifo { "q.fifo" } else { "q" }, attributes).unwrap();
    let client = fake.client_without_retries();
    (fake, client, url)
}

async fn send(sqs: &Client, url: &str, body: &str) {
    sqs.send_message().queue_url(url).message_body(body).send().await.unwrap();
}

async fn receive(sqs: &Client, url: &str) -> Vec<Message> {
    sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await.unwrap().messages.unwrap_or_default()
}

async fn change(sqs: &Client, url: &str, message: &Message, seconds: i32) -> String {
    let change = sqs.change_message_visibility().queue_url(url).receipt_handle(message.receipt_handle().unwrap());
    code(change.visibility_timeout(seconds).send().await)
}

fn code<T, E: ProvideErrorMetadata, R>(result: std::result::Result<T, SdkError<E, R>>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(SdkError::TimeoutError(_)) => "timeout".to_owned(),
        Err(SdkError::DispatchFailure(_)) => "broken".to_owned(),
        Err(why) => why.code().unwrap_or("no code").to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn twelve_hours_are_refused_and_not_clamped() {
    let (fake, sqs, url) = queue(&[("VisibilityTimeout", "3600")]);
    send(&sqs, &url, "long").await;
    let message = receive(&sqs, &url).await.remove(0);
    let received = Instant::now();
    for hour in 1..=11 {
        sleep(HOUR - Duration::from_secs(60)).await;
        let left = 43_200 - received.elapsed().as_secs() as i32;
        assert_eq!(change(&sqs, &url, &message, 3600.min(left)).await, "ok", "hour {hour}");
    }
    let until = fake.messages("q")[0].hidden_until;
    assert_eq!(change(&sqs, &url, &message, 43_200).await, "InvalidParameterValue");
    assert_eq!(fake.messages("q")[0].hidden_until, until, "a refused change changes nothing");
    let left = 43_200 - received.elapsed().as_secs() as i32;
    assert_eq!(change(&sqs, &url, &message, left).await, "ok");
    sleep(Duration::from_secs(left as u64)).await;
    assert_eq!(change(&sqs, &url, &message, 1).await, "AWS.SimpleQueueService.MessageNotInflight");
    // The next receive begins anew.
    let again = receive(&sqs, &url).await.remove(0);
    assert_eq!(change(&sqs, &url, &again, 43_200).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_fetched_is_forgotten_after_the_retention() {
    let (fake, sqs, url) = queue(&[("MessageRetentionPeriod", "3600")]);
    send(&sqs, &url, "old").await;
    sleep(HOUR / 2).await;
    send(&sqs, &url, "young").await;
    advance(HOUR / 2).await;
    let left: Vec<String> = fake.messages("q").into_iter().map(|message| message.body).collect();
    assert_eq!(left, ["young"]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_sees_what_becomes_visible_while_it_waits() {
    let (_fake, sqs, url) = queue(&[("VisibilityTimeout", "5")]);
    send(&sqs, &url, "again").await;
    let first = receive(&sqs, &url).await.remove(0);
    let start = Instant::now();
    let poll = sqs.receive_message().queue_url(&url).wait_time_seconds(20).send();
    let second = poll.await.unwrap().messages.unwrap().remove(0);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_ne!(first.receipt_handle(), second.receipt_handle());
}

#[test]
fn in_flight_is_bounded() {
    for (fifo, limit) in [(false, 120_000), (true, 20_000)] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let now = runtime.block_on(async { Instant::now() });
        let mut settings = Settings::default();
        settings.set("FifoQueue", &fifo.to_string()).unwrap();
        let mut queue = Queue::new(settings, 0);
        for number in 0..=limit {
            let send = serde_json::from_value(json!({ "MessageBody": "x", "MessageGroupId": number.to_string() }));
            let message = Kept::of(&send.unwrap(), number.to_string(), now, 0).unwrap();
            queue.add(now, number, message, Duration::ZERO);
        }
        let take = Take { now, now_ms: 0, max: limit as usize, hide: HOUR, receives: u32::MAX };
        assert_eq!(queue.receive(&take, &mut 0).unwrap().messages.len(), limit as usize);
        let one_more = queue.receive(&take, &mut 0);
        match fifo {
            true => assert!(one_more.unwrap().messages.is_empty()),
            false => assert_eq!(one_more.err().unwrap().code, "OverLimit"),
        }
        assert_eq!(queue.depth(), Depth { visible: 1, in_flight: limit as usize, delayed: 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_fifo_receive_can_be_attempted_again() {
    let (_fake, sqs, url) = queue(&[("FifoQueue", "true"), ("ContentBasedDeduplication", "true")]);
    let send = sqs.send_message().queue_url(&url).message_body("x").message_group_id("a");
    send.send().await.unwrap();
    let attempt = || sqs.receive_message().queue_url(&url).receive_request_attempt_id("attempt").send();
    let first = attempt().await.unwrap().messages.unwrap().remove(0);
    sleep(Duration::from_secs(20)).await;
    let again = attempt().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(first.receipt_handle(), again.receipt_handle());
    sleep(Duration::from_secs(20)).await;
    assert_eq!(change(&sqs, &url, &again, 1).await, "ok", "its time began anew");
    sleep(Duration::from_secs(2)).await;
    let later = attempt().await.unwrap().messages.unwrap().remove(0);
    assert_ne!(later.receipt_handle(), again.receipt_handle(), "after its time it is another receive");
}

#[tokio::test(start_paused = true)]
async fn the_same_is_known_for_five_minutes() {
    let (fake, sqs, url) = queue(&[("FifoQueue", "true"), ("ContentBasedDeduplication", "true")]);
    let send = async || {
        let send = sqs.send_message().queue_url(&url).message_body("x").message_group_id("a");
        send.send().await.unwrap().sequence_number.unwrap()
    };
    let first = send().await;
    sleep(Duration::from_secs(299)).await;
    assert_eq!(send().await, first);
    sleep(Duration::from_secs(1)).await;
    assert_ne!(send().await, first);
    assert_eq!(fake.messages("q.fifo").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn faults_mean_the_calls_that_the_script_says() {
    let (fake, sqs, url) = queue(&[]);
    let send = async || code(sqs.send_message().queue_url(&url).message_body("x").send().await);
    let waiting = || fake.depth("q").unwrap().visible;
    fake.fault(Action::SendMessage, 2..=3, Fault::Refuse(Refuse::Throttled));
    fake.fault(Action::SendMessage, 4..=4, Fault::Break);
    fake.fault(Action::SendMessage, 5..=5, Fault::BreakAfter);
    assert_eq!([send().await, send().await, send().await], ["ok", "RequestThrottled", "RequestThrottled"]);
    assert_eq!((send().await, waiting()), ("broken".to_owned(), 1), "nothing was done");
    assert_eq!((send().await, waiting()), ("broken".to_owned(), 2), "it was done all the same");
    assert_eq!(send().await, "ok");
    for (refuse, code) in [
        (Refuse::AccessDenied, "AccessDenied"),
        (Refuse::ExpiredToken, "ExpiredToken"),
        (Refuse::UnknownKey, "InvalidClientTokenId"),
        (Refuse::ClockBehind(HOUR), "SignatureDoesNotMatch"),
        (Refuse::Expired(HOUR), "RequestExpired"),
        (Refuse::Internal, "InternalError"),
        (Refuse::Unavailable, "ServiceUnavailable"),
        (Refuse::NoQueue, "AWS.SimpleQueueService.NonExistentQueue"),
        (Refuse::OverLimit, "OverLimit"),
    ] {
        fake.outage(Fault::Refuse(refuse));
        assert_eq!(send().await, code);
    }
    fake.heal();
    assert_eq!((send().await, waiting()), ("ok".to_owned(), 4));
}

#[tokio::test(start_paused = true)]
async fn the_sdk_tries_again_as_it_does_elsewhere() {
    let (fake, _, url) = queue(&[]);
    for fault in [Fault::Refuse(Refuse::Throttled), Fault::Refuse(Refuse::Unavailable), Fault::Break] {
        fake.fault(Action::SendMessage, 1..=1, fault);
        send(&fake.client(), &url, "x").await;
    }
    assert_eq!((fake.calls().len(), fake.depth("q").unwrap().visible), (6, 3));
}

#[tokio::test(start_paused = true)]
async fn faults_take_the_time_that_the_script_says() {
    let (fake, sqs, url) = queue(&[]);
    let send = || sqs.send_message().queue_url(&url).message_body("x").send();
    let waiting = || fake.depth("q").unwrap().visible;
    let minute = Duration::from_secs(60);
    fake.fault(Action::SendMessage, 1..=1, Fault::Delay(minute));
    let start = Instant::now();
    let early = async {
        sleep(minute / 2).await;
        waiting()
    };
    let (sent, early) = tokio::join!(send(), early);
    assert!(sent.is_ok());
    assert_eq!((early, start.elapsed()), (0, minute));
    fake.fault(Action::SendMessage, 1..=1, Fault::Late(minute));
    let early = async {
        sleep(minute / 2).await;
        waiting()
    };
    let (sent, early) = tokio::join!(send(), early);
    assert!(sent.is_ok());
    assert_eq!((early, start.elapsed()), (2, 2 * minute));
    for (fault, after) in [(Fault::Hang, 2), (Fault::HangAfter, 3)] {
        fake.fault(Action::SendMessage, 1..=1, fault);
        assert!(timeout(HOUR, send()).await.is_err());
        assert_eq!(waiting(), after);
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_batch_fail_alone() {
    let (fake, sqs, url) = queue(&[("VisibilityTimeout", "30")]);
    for body in ["a", "b", "c"] {
        send(&sqs, &url, body).await;
    }
    let messages = receive(&sqs, &url).await;
    fake.fault(Action::ChangeMessageVisibilityBatch, 1..=1, Fault::Entries(vec![1]));
    let entry = |(n, message): (usize, &Message)| {
        let handle = message.receipt_handle().unwrap();
        Change::builder().id(n.to_string()).receipt_handle(handle).visibility_timeout(600).build().unwrap()
    };
    let entries = messages.iter().enumerate().map(entry).collect();
    let changed =
        sqs.change_message_visibility_batch().queue_url(&url).set_entries(Some(entries)).send().await.unwrap();
    let ids: Vec<&str> = changed.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["0", "2"]);
    assert_eq!((changed.failed()[0].id(), changed.failed()[0].sender_fault()), ("1", false));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(fake.depth("q").unwrap(), Depth { visible: 1, in_flight: 2, delayed: 0 });
}

#[tokio::test(start_paused = true)]
async fn calls_are_on_record() {
    let (fake, sqs, url) = queue(&[]);
    send(&sqs, &url, "x").await;
    sleep(HOUR).await;
    let message = receive(&sqs, &url).await.remove(0);
    change(&sqs, &url, &message, 90).await;
    let delete = sqs.delete_message().queue_url(&url).receipt_handle(message.receipt_handle().unwrap());
    delete.send().await.unwrap();
    assert_eq!(change(&sqs, &url, &message, 90).await, "InvalidParameterValue");
    fake.fault(Action::ReceiveMessage, 1..=1, Fault::Hang);
    assert!(timeout(HOUR, receive(&sqs, &url)).await.is_err());
    let calls = fake.calls();
    let actions: Vec<Action> = calls.iter().map(|call| call.action).collect();
    let changes = Action::ChangeMessageVisibility;
    let expected =
        [Action::SendMessage, Action::ReceiveMessage, changes, Action::DeleteMessage, changes, Action::ReceiveMessage];
    assert_eq!(actions, expected);
    assert_eq!(calls[1].at - calls[0].at, HOUR);
    assert!(calls.iter().all(|call| call.queue == "q"));
    let id = message.message_id().unwrap().to_owned();
    assert_eq!(calls[2].touched, [Touched { message: id, seconds: Some(90), refused: None }]);
    assert_eq!(calls[2].outcome, Outcome::Answered);
    assert_eq!(calls[4].touched[0].refused.as_deref(), Some("InvalidParameterValue"));
    assert_eq!(calls[4].outcome, Outcome::Refused(400, "InvalidParameterValue".to_owned()));
    assert_eq!((calls[5].applied, &calls[5].outcome), (None, &Outcome::Pending));
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_given_up_takes_nothing() {
    let (fake, sqs, url) = queue(&[]);
    let poll = sqs.receive_message().queue_url(&url).wait_time_seconds(20).send();
    assert!(timeout(Duration::from_secs(5), poll).await.is_err());
    send(&sqs, &url, "x").await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(fake.depth("q").unwrap().visible, 1);
    assert_eq!(fake.messages("q")[0].receives, 0);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_keep_their_id_and_count() {
    let fake = FakeSqs::new();
    fake.create_queue("dead", &[]).unwrap();
    let policy = json!({ "deadLetterTargetArn": settings::arn("dead"), "maxReceiveCount": 1 }).to_string();
    let url = fake.create_queue("q", &[("RedrivePolicy", &policy)]).unwrap();
    let sqs = fake.client_without_retries();
    send(&sqs, &url, "poison").await;
    let message = receive(&sqs, &url).await.remove(0);
    sleep(Duration::from_secs(31)).await;
    let dead = sqs.receive_message().queue_url(state::url(FakeSqs::ENDPOINT, "dead")).wait_time_seconds(20);
    let dead = dead.message_system_attribute_names(MessageSystemAttributeName::All).send();
    // Whoever waits at the dead-letter queue hears of it.
    let (dead, none) = tokio::join!(dead, receive(&sqs, &url));
    let dead = dead.unwrap().messages.unwrap().remove(0);
    assert!(none.is_empty());
    assert_eq!(dead.message_id(), message.message_id());
    let attributes = dead.attributes().unwrap();
    assert_eq!(attributes[&MessageSystemAttributeName::DeadLetterQueueSourceArn], settings::arn("q"));
    assert_eq!(attributes[&MessageSystemAttributeName::ApproximateReceiveCount], "2");
}

#[tokio::test]
async fn what_is_not_signed_or_not_known_is_refused() {
    let fake = FakeSqs::new();
    let ask = async |target: &'static str, signed: bool| {
        let mut request = Request::post("/").header("x-amz-target", target);
        if signed {
            request = request.header("authorization", "AWS4-HMAC-SHA256 x").header("x-amz-date", "x");
        }
        let response = fake.handle(request.body(Bytes::from_static(b"{}")).unwrap()).await.unwrap();
        let error = response.headers()["x-amzn-query-error"].to_str().unwrap().to_owned();
        (response.status().as_u16(), error)
    };
    assert_eq!(ask("AmazonSQS.ListQueues", false).await, (403, "MissingAuthenticationToken;Sender".to_owned()));
    assert_eq!(ask("AmazonSQS.AddPermission", true).await, (404, "InvalidAction;Sender".to_owned()));
    assert_eq!(ask("AmazonSQS.SendMessage", true).await, (400, "MissingParameter;Sender".to_owned()));
}
