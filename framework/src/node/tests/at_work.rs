//! While jobs are at work: what is looked at, and what it takes to act.

use super::*;
use crate::flow::Direction::{Download, Upload};

const LOOK: Duration = Duration::from_secs(20);

/// Whether a node is left within this time, and why.
async fn left(fitness: &Fitness, within: Duration) -> Option<String> {
    tokio::time::timeout(within, fitness.watched()).await.ok().map(|why| {
        assert_eq!(why.fault(), Fault::Fatal);
        why.to_string()
    })
}

/// Transfers of 10 MB, one after the other, each of which takes so long.
async fn moves(fitness: &Fitness, each: Duration) {
    loop {
        sleep(each).await;
        fitness.flow.moved(Upload, 10_000_000, each);
    }
}

/// What is asked for: 10 Mbit/s, and an answer within half a second.
fn watching(link: &Link) -> Fitness {
    fitness(link).upload(10).latency(Duration::from_millis(500)).watch(Unfit::Reallocate)
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_is_left_after_minutes() {
    let link = Link::new();
    let fitness = watching(&link);
    // 80 Mbit in 16 s.
    let why = tokio::select! {
        why = left(&fitness, 60 * MINUTE) => why.unwrap(),
        () = moves(&fitness, Duration::from_secs(16)) => unreachable!(),
    };
    // What began before the window is counted as a whole.
    assert!(why.starts_with("upload to the bucket: 5."), "{why}");
    assert!(why.ends_with(" Mbit/s, wanted at least 10 (FOREBAY_NODE_UPLOAD)"), "{why}");
    assert_eq!(link.keys().await.len(), 1, "it is written down who left");
}

#[tokio::test(start_paused = true)]
async fn it_takes_five_minutes_and_not_fewer() {
    let fitness = watching(&Link::new());
    let slow = moves(&fitness, Duration::from_secs(16));
    // Known after a minute; then 15 looks.
    let why = tokio::select! {
        why = left(&fitness, 5 * MINUTE) => why,
        () = slow => unreachable!(),
    };
    assert_eq!(why, None);
}

#[tokio::test(start_paused = true)]
async fn a_dip_is_no_reason() {
    let fitness = watching(&Link::new());
    // For an hour: three minutes slow, five minutes fast.
    let dips = async {
        loop {
            let _ = tokio::time::timeout(3 * MINUTE, moves(&fitness, Duration::from_secs(16))).await;
            let _ = tokio::time::timeout(5 * MINUTE, moves(&fitness, Duration::from_secs(2))).await;
        }
    };
    let why = tokio::select! {
        why = left(&fitness, 60 * MINUTE) => why,
        () = dips => unreachable!(),
    };
    assert_eq!(why, None);
}

#[tokio::test(start_paused = true)]
async fn to_be_just_above_now_and_then_does_not_help() {
    let fitness = watching(&Link::new());
    // 8 Mbit/s and 11 Mbit/s in turns of four minutes.
    let turns = async {
        loop {
            let _ = tokio::time::timeout(4 * MINUTE, moves(&fitness, Duration::from_secs(10))).await;
            let _ = tokio::time::timeout(4 * MINUTE, moves(&fitness, Duration::from_millis(7300))).await;
        }
    };
    let why = tokio::select! {
        why = left(&fitness, 30 * MINUTE) => why,
        () = turns => unreachable!(),
    };
    assert!(why.unwrap().contains("upload to the bucket: "));
}

#[tokio::test(start_paused = true)]
async fn few_transfers_say_nothing() {
    let fitness = watching(&Link::new());
    // One of a second every two minutes, at 0.1 Mbit/s of what is counted: too few to judge by.
    let few = async {
        loop {
            sleep(2 * MINUTE).await;
            fitness.flow.moved(Upload, 1 << 20, Duration::from_secs(20));
        }
    };
    let why = tokio::select! {
        why = left(&fitness, 120 * MINUTE) => why,
        () = few => unreachable!(),
    };
    assert_eq!(why, None);
}

#[tokio::test(start_paused = true)]
async fn the_bucket_is_asked_for_its_latency_and_acts_only_when_set_to() {
    let link = Link::new().latency(Duration::from_millis(800));
    assert_eq!(left(&watching(&link).watch(Unfit::Warn), 120 * MINUTE).await, None);
    let why = left(&watching(&link), 30 * MINUTE).await.unwrap();
    assert_eq!(why, "latency of the bucket: 800 ms, wanted at most 500 (FOREBAY_NODE_LATENCY)");
}

#[tokio::test(start_paused = true)]
async fn transfers_that_fail_are_a_reason_though_the_bucket_answers() {
    let fitness = watching(&Link::new());
    let fails = async {
        loop {
            sleep(LOOK).await;
            fitness.flow.failed(Download);
            fitness.flow.failed(Download);
            fitness.flow.moved(Download, 1000, Duration::ZERO);
        }
    };
    let why = tokio::select! {
        why = left(&fitness, 30 * MINUTE) => why.unwrap(),
        () = fails => unreachable!(),
    };
    assert!(why.starts_with("downloads from the bucket: "), "{why}");
    assert!(why.ends_with(" failed in the last 120 s, wanted at most half"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_away_gets_patience_and_keys_are_no_reason() {
    let link = Link::new();
    let fitness = watching(&link);
    let comes_back = async {
        sleep(5 * MINUTE).await;
        link.clone().fails(Error::transient("connection reset"));
        sleep(29 * MINUTE).await;
        link.clone().mended();
        sleep(5 * MINUTE).await;
        link.clone().fails(Error::invalid("AccessDenied"));
        sleep(120 * MINUTE).await;
        link.clone().fails(Error::transient("connection reset"));
        Instant::now()
    };
    let all = async { tokio::join!(fitness.watched(), comes_back) };
    let (why, gone) = tokio::time::timeout(300 * MINUTE, all).await.unwrap();
    assert_eq!(why.to_string(), "the bucket cannot be reached: connection reset");
    let after = gone.elapsed();
    assert!((30 * MINUTE..32 * MINUTE).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_leave_stays_and_works() {
    let link = Link::new().latency(Duration::from_millis(800));
    assert_eq!(left(&watching(&link).leaves(0), 120 * MINUTE).await, None);
    // It asks again each ten minutes, and leaves nothing behind.
    let asked = link.put_keys().len();
    assert!((9..=12).contains(&asked), "{asked}");
    assert_eq!(link.keys().await.len(), 0);
}

#[cfg(feature = "telemetry")]
#[tokio::test(start_paused = true)]
async fn figures_are_shown_in_metrics() {
    use crate::telemetry::{NODE_CPUS, NODE_DISK, NODE_LATENCY, NODE_SHORT, NODE_THROUGHPUT, Telemetry};

    let telemetry = Telemetry::new();
    let _recorder = metrics::set_default_local_recorder(&telemetry);
    let link = Link::new().latency(Duration::from_millis(800));
    let fitness = watching(&link).watch(Unfit::Warn);
    tokio::select! {
        _ = left(&fitness, 5 * MINUTE) => {}
        () = moves(&fitness, Duration::from_secs(4)) => unreachable!(),
    }
    let shown = telemetry.snapshot();
    assert_eq!(shown.gauge(NODE_LATENCY, &[]), 0.8);
    let upload = shown.gauge(NODE_THROUGHPUT, &[("direction", "upload")]);
    assert!((20e6..21e6).contains(&upload), "{upload}");
    assert_eq!((shown.gauge(NODE_DISK, &[]), shown.gauge(NODE_CPUS, &[])), ((12 << 20) as f64, 8.0));
    assert_eq!(shown.gauge(NODE_SHORT, &[("figure", "latency")]), 1.0);
    assert_eq!(shown.gauge(NODE_SHORT, &[("figure", "upload")]), 0.0);
}
