//! The control loop over a queue that keeps the rules of SQS, while its calls hang, are lost or come late: in virtual
//! time, since neither loop nor queue runs on a thread of its own here.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::pipeline::outlook::Outlook;
use crate::source::sqs::Sqs;
use crate::testing::fake_sqs::{Action, Call, FakeSqs, Fault as Wrong, Refuse};
use crate::worker::job::Handle as Route;

const LEASE: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Jobs that work for as many seconds as their payload says, and note when they were last at work. Those that keep
/// their progress go on from there.
#[derive(Clone, Default)]
struct Works(Arc<Mutex<Vec<(String, Instant)>>>);

const KEEPS: &str = " and keeps its progress";
/// Ends late, if at all, when it is told to.
const DEAF: &str = " and is deaf";

impl Route for Works {
    fn outlook(&self) -> Outlook {
        unreachable!("nobody asks")
    }

    fn handle<'a>(&'a self, job: &'a Job, payload: Bytes) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let text = String::from_utf8_lossy(&payload);
            let listens = !text.contains(DEAF);
            let mut seconds: usize = text.replace(DEAF, "").trim_end_matches(KEEPS).parse()?;
            if text.ends_with(KEEPS) {
                job.keeps_progress();
                seconds -= self.0.lock().unwrap().iter().filter(|(id, _)| id == job.id()).count();
            }
            for _ in 0..seconds {
                if job.is_cancelled() && listens {
                    return Err(Error::failed("it was told to stop"));
                }
                sleep(Duration::from_secs(1)).await;
                self.0.lock().unwrap().push((job.id().to_owned(), Instant::now()));
            }
            Ok(payload)
        })
    }
}

/// A worker at a queue.
struct World {
    fake: FakeSqs,
    client: aws_sdk_sqs::Client,
    url: String,
    works: Works,
    stop: tokio::sync::watch::Sender<u32>,
    worker: JoinHandle<End>,
}

impl World {
    fn new(grace: Duration) -> Self {
        let fake = FakeSqs::new();
        let url = fake.create_queue("jobs", &[]).unwrap();
        fake.create_queue("dead", &[]).unwrap();
        let client = fake.client_without_retries();
        let works = Works::default();
        let (stop, worker) = work(&client, &url, &works, grace);
        World { fake, client, url, works, stop, worker }
    }

    async fn send(&self, seconds: u64) {
        self.send_body(seconds.to_string()).await;
    }

    async fn send_body(&self, body: String) {
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.unwrap();
    }

    /// The fake's messages that are neither done nor dead.
    fn left(&self) -> usize {
        self.fake.messages("jobs").len()
    }

    fn visible(&self) -> usize {
        let messages = self.fake.messages("jobs");
        messages.iter().filter(|message| message.hidden_until.is_none_or(|until| until <= Instant::now())).count()
    }

    async fn end(self) -> (Report, Vec<Call>) {
        self.stop.send_replace(1);
        let end = timeout(HOUR, self.worker).await.expect("it drains").unwrap();
        (end.report, self.fake.calls())
    }
}

fn work(
    client: &aws_sdk_sqs::Client,
    url: &str,
    works: &Works,
    grace: Duration,
) -> (tokio::sync::watch::Sender<u32>, JoinHandle<End>) {
    let dead = url.replace("jobs", "dead");
    let source: Box<dyn AnySource> = Box::new(Sqs::from_client(client.clone(), url).dead_letters(dead));
    let mut routes = Routes::new();
    routes.add(String::new(), Arc::new(works.clone())).unwrap();
    let config = Config { grace, ..Config::default() };
    let pulse = Arc::new(Pulse::new(Vec::new()));
    let control = Control::new(vec![(Priority::High, source)], routes, Handle::current(), 64, &config, false, pulse);
    let (told, stop) = Stop::by_hand();
    (told, tokio::spawn(control.run(stop, std::future::pending())))
}

/// Every extension of a message before it was settled: when it was asked for.
fn touched(calls: &[Call], action: Action) -> Vec<(Instant, String, Option<u64>)> {
    let of = |call: &Call| {
        let at = call.at;
        call.touched.iter().map(move |touched| (at, touched.message.clone(), touched.seconds)).collect::<Vec<_>>()
    };
    calls.iter().filter(|call| call.action == action).flat_map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_job_is_kept_by_one_extension_in_each_third_of_a_lease() {
    let world = World::new(MINUTE);
    for _ in 0..10 {
        world.send(3600).await;
    }
    sleep(HOUR + MINUTE).await;
    assert_eq!(world.left(), 0);
    let (report, calls) = world.end().await;
    assert_eq!((report.done, report.lost), (10, 0));
    let extensions = calls.iter().filter(|call| call.action == Action::ChangeMessageVisibilityBatch).count();
    // Ten jobs share each call, but for those that were received a moment apart.
    assert!((35..=80).contains(&extensions), "{extensions} calls");
    let settled = calls.iter().position(|call| call.action == Action::DeleteMessageBatch && call.touched.len() == 10);
    let after = &calls[settled.expect("they are deleted together")..];
    assert!(after.iter().all(|call| call.action != Action::ChangeMessageVisibilityBatch), "extended after its end");
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_140_seconds_costs_no_lease() {
    for fault in [Wrong::Hang, Wrong::HangAfter, Wrong::Break, Wrong::Refuse(Refuse::Unavailable)] {
        let world = World::new(MINUTE);
        world.send(1000).await;
        // It begins when the first extension is about to be asked for, the worst moment.
        sleep(Duration::from_secs(95)).await;
        world.fake.outage(fault.clone());
        sleep(Duration::from_secs(140)).await;
        world.fake.heal();
        sleep(1000 * Duration::from_secs(1)).await;
        assert_eq!(world.left(), 0, "{fault:?}");
        let (report, _) = world.end().await;
        assert_eq!((report.done, report.lost), (1, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_lease_cannot_be_kept_stops_two_seconds_before_it_ends() {
    for fault in [Wrong::Hang, Wrong::Break, Wrong::Delay(Duration::from_secs(15)), Wrong::Refuse(Refuse::AccessDenied)]
    {
        let world = World::new(MINUTE);
        world.send(3600).await;
        sleep(MINUTE).await;
        world.fake.fault(Action::ChangeMessageVisibilityBatch, 1..=10_000, fault.clone());
        world.fake.fault(Action::DeleteMessageBatch, 1..=10_000, fault.clone());
        let hidden = world.fake.messages("jobs")[0].hidden_until.expect("it is held");
        sleep(LEASE).await;
        let works = world.works.0.lock().unwrap().clone();
        let second = works.iter().position(|(_, at)| *at >= hidden).unwrap_or(works.len());
        let last = works[second - 1].1;
        assert!(last + Duration::from_secs(2) <= hidden, "{fault:?}: {:?} before the end", hidden - last);
        assert!(last + MINUTE > hidden, "{fault:?}: it gave up {:?} before the end", hidden - last);
        // Tried several times, and no storm.
        let calls = world.fake.calls();
        let count = calls.iter().filter(|call| call.action == Action::ChangeMessageVisibilityBatch).count();
        assert!((4..=30).contains(&count), "{fault:?}: {count} calls");
        world.worker.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_stopped_and_rejected_before_the_twelve_hours_are_over() {
    let world = World::new(MINUTE);
    world.send(20 * 3600).await;
    let begun = Instant::now();
    sleep(12 * HOUR).await;
    let stopped = world.works.0.lock().unwrap().last().expect("it was at work").1 - begun;
    let limit = 11 * HOUR + 45 * MINUTE;
    assert!(stopped <= limit && stopped + MINUTE > limit, "stopped after {stopped:?}");
    assert_eq!((world.left(), world.fake.messages("dead").len()), (0, 1));
    let asked = world.client.receive_message().queue_url(world.url.replace("jobs", "dead"));
    let letter = asked.message_attribute_names("All").send().await.unwrap().messages.unwrap().remove(0);
    let attributes = letter.message_attributes.unwrap();
    let error = attributes["forebay.error"].string_value.as_deref().unwrap();
    assert!(error.contains("after 11 h 45 min") || error.contains("after 11 h 44 min"), "{error}");
    let (report, calls) = world.end().await;
    assert_eq!((report.rejected, report.lost), (1, 0));
    let touched = calls.iter().flat_map(|call| &call.touched);
    let refused = touched.filter(|touched| touched.refused.is_some() && touched.seconds > Some(0));
    assert_eq!(refused.count(), 0, "more was asked for than SQS grants");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_keeps_its_progress_is_handed_over_before_the_twelve_hours_are_over() {
    for deaf in ["", DEAF] {
        let world = World::new(MINUTE);
        world.send_body(format!("{}{deaf}{KEEPS}", 30 * 3600)).await;
        sleep(31 * HOUR).await;
        let works = world.works.0.lock().unwrap().clone();
        assert_eq!(works.len(), 30 * 3600, "no second is worked twice, and none is left out");
        let gaps: Vec<Duration> = works.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
        assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(5)), "{:?}", gaps.iter().max());
        assert_eq!((world.left(), world.fake.messages("dead").len()), (0, 0));
        let (report, _) = world.end().await;
        assert_eq!((report.done, report.retried, report.rejected, report.lost), (1, 2, 0, 0), "{deaf}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_told_again_while_the_lease_lasts_and_a_lost_answer_does_no_harm() {
    for fault in [Wrong::Hang, Wrong::HangAfter, Wrong::BreakAfter, Wrong::Refuse(Refuse::Throttled)] {
        let world = World::new(MINUTE);
        world.fake.fault(Action::DeleteMessageBatch, 2..=3, fault.clone());
        world.send(10).await;
        sleep(MINUTE).await;
        assert_eq!(world.left(), 0, "{fault:?}");
        let (report, _) = world.end().await;
        assert_eq!((report.done, report.lost), (1, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_in_the_last_two_seconds_of_a_lease() {
    let world = World::new(MINUTE);
    // Received, and then the network is gone for good just before the job is done.
    world.send(90).await;
    sleep(Duration::from_secs(80)).await;
    let hidden = world.fake.messages("jobs")[0].hidden_until.expect("it is held");
    world.fake.outage(Wrong::Break);
    sleep(LEASE).await;
    let told = world.fake.calls().into_iter().filter(|call| call.action == Action::DeleteMessageBatch);
    let last = told.map(|call| call.at).max().expect("it was tried");
    assert!(last + Duration::from_secs(2) <= hidden, "{:?} before the end", hidden - last);
    world.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_what_has_not_begun_within_a_second() {
    let world = World::new(Duration::ZERO);
    for _ in 0..100 {
        world.send(3600).await;
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.visible(), 36, "64 are held");
    let begun = Instant::now();
    world.stop.send_replace(1);
    let visible = async {
        while world.visible() < 100 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(1), visible).await.expect("all are visible within a second");
    let report = timeout(Duration::from_secs(1), world.worker).await.expect("it ends").unwrap().report;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((report.retried, report.lost), (64, 0));
}

#[tokio::test(start_paused = true)]
async fn every_job_ends_once_while_calls_go_wrong_at_random() {
    let world = World::new(MINUTE);
    let mut random = 7_u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let actions = [Action::ReceiveMessage, Action::DeleteMessageBatch, Action::ChangeMessageVisibilityBatch];
    for n in 0..400_u64 {
        world.send(below(400)).await;
        let action = actions[below(3) as usize];
        let fault = match below(7) {
            0 => Wrong::Hang,
            1 => Wrong::HangAfter,
            2 => Wrong::Break,
            3 => Wrong::BreakAfter,
            4 => Wrong::Late(Duration::from_secs(below(20))),
            5 => Wrong::Entries(vec![below(10) as usize]),
            _ => Wrong::Refuse(Refuse::Internal),
        };
        world.fake.fault(action, 1 + n % 5..=1 + n % 5, fault);
        sleep(Duration::from_millis(below(5000))).await;
    }
    world.fake.heal();
    sleep(2 * HOUR).await;
    assert_eq!((world.left(), world.fake.messages("dead").len()), (0, 0));
    let (_, calls) = world.end().await;
    // After a message was deleted nothing is asked for it any more, and no extension is refused for its time.
    let mut deleted = BTreeMap::new();
    for (at, message, _) in touched(&calls, Action::DeleteMessageBatch) {
        deleted.entry(message).or_insert(at);
    }
    let late: Vec<_> = touched(&calls, Action::ChangeMessageVisibilityBatch)
        .into_iter()
        .filter(|(at, message, _)| deleted.get(message).is_some_and(|gone| at > gone))
        .collect();
    assert_eq!(late, []);
}
