//! Nodes in virtual time: a link with a latency and a throughput of its own in front of a store in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod at_work;
mod gpu;
mod link;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::figures::Finding;
use super::{Fitness, Unfit, bucket, ledger};
use crate::config::NodeConfig;
use crate::error::{Error, Fault};
use crate::flow::Flow;
use crate::node::machine::Machine;
use crate::store::{Key, Put, Store};
pub(super) use link::Link;

const MINUTE: Duration = Duration::from_secs(60);

/// What is wanted of a node with this link, if nothing else is set.
fn fitness(link: &Link) -> Fitness {
    let mut fitness = Fitness::configured(NodeConfig::from(|_| None).unwrap()).unwrap().bucket(link.clone());
    fitness.flow = Arc::new(Flow::default());
    fitness.machine = Machine::made_up(Path::new("/no/such/folder"), 8, |_| Ok(12 << 20));
    fitness.cards = None;
    fitness
}

fn texts(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.text.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_throttled_link_is_measured_and_named() {
    let link = Link::new().up(3.2).down(4.0).latency(Duration::from_millis(30));
    let fitness = fitness(&link).upload(10).download(50).latency(Duration::from_millis(500));
    let found = fitness.examine().await;
    assert_eq!(
        texts(&found.findings),
        [
            "upload to the bucket: 3.2 Mbit/s, wanted at least 10 (FOREBAY_NODE_UPLOAD)",
            "download from the bucket: 4.0 Mbit/s, wanted at least 50 (FOREBAY_NODE_DOWNLOAD)",
        ]
    );
    assert_eq!(found.figures.latency, Some(Duration::from_millis(30)));
    let why = fitness.check().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert!(why.to_string().contains("3.2 Mbit/s") && why.to_string().contains("; download"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_latency_of_two_seconds_is_named_and_is_no_want_of_throughput() {
    let link = Link::new().up(100.0).down(100.0).latency(Duration::from_secs(2));
    let fitness = fitness(&link).latency(Duration::from_millis(500));
    let began = Instant::now();
    let found = fitness.examine().await;
    assert_eq!(texts(&found.findings), ["latency of the bucket: 2000 ms, wanted at most 500 (FOREBAY_NODE_LATENCY)"]);
    assert!(began.elapsed() <= bucket::WITHIN);
    // Each round is most of the time an answer that is waited for; half of that is taken off.
    assert!(found.figures.upload.unwrap() > 7.0, "{}", found.figures);
}

#[tokio::test(start_paused = true)]
async fn figures_are_those_of_the_link() {
    for latency in [5, 40, 230] {
        for mbit in [0.5, 2.0, 10.0, 40.0, 100.0] {
            let link = Link::new().up(mbit).down(mbit).latency(Duration::from_millis(latency));
            let began = Instant::now();
            let figures = fitness(&link).check().await.unwrap();
            let (upload, download) = (figures.upload.unwrap(), figures.download.unwrap());
            let at = format!("{latency} ms, {mbit} Mbit/s: {figures}");
            assert!((0.95..1.05).contains(&(upload / mbit)), "{at}");
            assert!((0.95..1.05).contains(&(download / mbit)), "{at}");
            assert_eq!(figures.latency, Some(Duration::from_millis(latency)), "{at}");
            assert!(began.elapsed() <= bucket::WITHIN, "{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_bounded_and_removed() {
    for mbit in [0.01, 1.0, 30.0, 1e6] {
        let link = Link::new().up(mbit).down(mbit);
        let (began, fitness) = (Instant::now(), fitness(&link));
        let _ = fitness.check().await;
        assert!(began.elapsed() <= bucket::WITHIN, "{:?} at {mbit} Mbit/s", began.elapsed());
        assert_eq!(link.keys().await, [""; 0], "at {mbit} Mbit/s");
        let (up, down) = link.moved();
        assert!(up <= bucket::MOST && down <= bucket::MOST, "{up} up, {down} down");
        if mbit == 1e6 {
            assert_eq!((up, down), (bucket::MOST, bucket::MOST - b"forebay".len()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_bucket_and_wrong_keys_are_told_apart() {
    for fault in [Fault::Transient, Fault::Failed] {
        let link = Link::new().fails(Error::failed("connection refused").with_fault(fault));
        let why = fitness(&link).check().await.unwrap_err();
        assert_eq!(why.fault(), Fault::Transient);
        assert_eq!(why.to_string(), "the bucket cannot be reached: connection refused");
    }
    let silent = fitness(&Link::new().latency(Duration::from_secs(3600))).check().await.unwrap_err();
    assert_eq!(silent.fault(), Fault::Transient);
    assert_eq!(silent.to_string(), "the bucket cannot be reached: no answer within 15 s");
    let keys = fitness(&Link::new().fails(Error::invalid("InvalidAccessKeyId"))).check().await.unwrap_err();
    assert_eq!(keys.fault(), Fault::Invalid);
    assert_eq!(keys.to_string(), "the bucket refuses this worker's keys or settings: InvalidAccessKeyId");
    // Whoever may not list cannot see who has left.
    let lists = fitness(&Link::new().fails_to_list(Error::invalid("AccessDenied"))).check().await.unwrap_err();
    assert_eq!(lists.fault(), Fault::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_gives_other_bytes_is_no_bucket() {
    let why = fitness(&Link::new().corrupt()).check().await.unwrap_err();
    assert!(why.to_string().contains("holds other bytes than were written"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_and_all_else_that_is_wrong_at_once() {
    let link = Link::new().up(3.2).down(100.0).latency(Duration::from_secs(2));
    let wanted = fitness(&link).upload(10).latency(Duration::from_millis(500)).folder("/data").disk(1 << 30).cpus(16);
    let why = wanted.check().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    let said = why.to_string();
    for part in [
        "latency of the bucket: 2000 ms, wanted at most 500 (FOREBAY_NODE_LATENCY)",
        "upload to the bucket: ",
        "free disk at /data: 12582912 bytes, wanted at least 1073741824 (FOREBAY_NODE_DISK)",
        "CPUs of this node: 8, wanted at least 16 (FOREBAY_NODE_CPUS)",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(said.matches("; ").count(), 3);
}

/// How often the node was measured: each time begins with one small object.
fn measured(link: &Link) -> usize {
    link.put_keys().iter().filter(|key| key.ends_with("/small")).count()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_left_after_three_measurements_and_the_bucket_knows_why() {
    let link = Link::new().up(3.2);
    let began = Instant::now();
    let why = fitness(&link).upload(10).admit().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    let said = "upload to the bucket: 3.2 Mbit/s, wanted at least 10 (FOREBAY_NODE_UPLOAD)";
    assert_eq!(why.to_string(), said);
    assert_eq!(measured(&link), 3);
    assert!(began.elapsed() >= Duration::from_secs(40));
    let left = link.keys().await;
    assert!(left.len() == 1 && left[0].starts_with(ledger::BELOW), "{left:?}");
    let note = link.get(&Key::new(left[0].as_str()).unwrap()).await.unwrap().unwrap();
    assert_eq!(note.bytes, said.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_becomes_fit_meanwhile_is_not_left() {
    let link = Link::new().up(3.2);
    let fitness = fitness(&link).upload(10);
    let mends = async {
        sleep(Duration::from_secs(30)).await;
        link.clone().up(100.0);
    };
    let (admitted, ()) = tokio::join!(fitness.admit(), mends);
    admitted.unwrap();
    assert_eq!((measured(&link), link.keys().await.len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_warning_lets_it_work() {
    let link = Link::new().up(3.2);
    fitness(&link).upload(10).unfit(Unfit::Warn).admit().await.unwrap();
    assert_eq!(measured(&link), 1);
    fitness(&Link::new().fails(Error::invalid("no"))).unfit(Unfit::Warn).admit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wrong_keys_cost_no_node_and_are_asked_for_ever() {
    let link = Link::new().fails(Error::invalid("InvalidAccessKeyId"));
    let fitness = fitness(&link).upload(1000);
    let mends = async {
        sleep(24 * 60 * MINUTE).await;
        let asked = link.calls();
        // A small put each time and its removal, after pauses that grow to ten minutes.
        assert!((280..320).contains(&asked), "{asked}");
        link.clone().mended();
    };
    let began = Instant::now();
    let (admitted, ()) = tokio::join!(fitness.admit(), mends);
    admitted.unwrap();
    assert!(began.elapsed() < 24 * 60 * MINUTE + 12 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_too_small_costs_no_node() {
    let (link, root) = (Link::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
    std::fs::write(root.path().join("sys/fs/cgroup/cgroup.controllers"), "cpu").unwrap();
    std::fs::write(root.path().join("sys/fs/cgroup/cpu.max"), "150000 100000\n").unwrap();
    let mut fitness = fitness(&link).cpus(4);
    fitness.machine = Machine::made_up(root.path(), 8, |_| Ok(1 << 40));
    let never = tokio::time::timeout(24 * 60 * MINUTE, fitness.admit()).await;
    assert!(never.is_err());
    let why = fitness.check().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
    assert_eq!(why.to_string(), "CPUs by the container's quota: 1.5, wanted at least 4 (FOREBAY_NODE_CPUS)");
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_ends_within_patience_costs_no_node() {
    let link = Link::new().fails(Error::transient("connection refused"));
    let fitness = fitness(&link);
    let mends = async {
        sleep(29 * MINUTE).await;
        link.clone().mended();
    };
    let (admitted, ()) = tokio::join!(fitness.admit(), mends);
    admitted.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_reach_its_bucket_is_left_after_patience() {
    let link = Link::new().fails(Error::transient("connection refused"));
    let began = Instant::now();
    let why = fitness(&link).admit().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert_eq!(why.to_string(), "the bucket cannot be reached: connection refused");
    let after = began.elapsed();
    assert!((30 * MINUTE..=41 * MINUTE).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn of_a_fleet_only_so_many_leave() {
    let link = Link::new().up(3.2);
    // A threshold that no node meets.
    let one = || fitness(&link).upload(1000).leaves(3).tries(1);
    let mut left = 0;
    for _ in 0..10 {
        left += u32::from(tokio::time::timeout(5 * MINUTE, one().admit()).await.is_ok());
    }
    assert_eq!((left, link.keys().await.len()), (3, 3));
    // All at once, the bound holds as well.
    let link = Link::new().up(1000.0).latency(Duration::from_millis(50));
    let fleet = (0..20).map(|_| {
        let one = fitness(&link).upload(100_000).leaves(3).tries(1);
        async move { tokio::time::timeout(60 * MINUTE, one.admit()).await.is_ok() }
    });
    let left = futures_util::future::join_all(fleet).await.into_iter().filter(|left| *left).count();
    assert!(left <= 3, "{left} left");
}

#[tokio::test(start_paused = true)]
async fn the_ledger_forgets_after_an_hour_by_the_buckets_clock() {
    let link = Link::new();
    let may = async || ledger::may_leave(&link, 2, "slow").await.unwrap();
    assert_eq!((may().await, may().await, may().await), (true, true, false));
    assert_eq!(link.keys().await.len(), 2, "who stays is not counted");
    link.age(59 * MINUTE);
    assert!(!may().await);
    link.age(2 * MINUTE);
    assert_eq!((may().await, may().await, may().await), (true, true, false));
    assert_eq!(link.keys().await.len(), 4, "reasons can be read for a day");
    link.age(24 * 60 * MINUTE);
    assert!(may().await);
    assert_eq!(link.keys().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_bucket_patience_is_the_bound() {
    let mut fitness = fitness(&Link::new()).disk(1 << 30).patience(10 * MINUTE);
    fitness.store = None;
    let began = Instant::now();
    let why = fitness.admit().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert!((10 * MINUTE..=20 * MINUTE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_link_is_a_store() {
    let link = Link::new();
    let key = Key::new("a").unwrap();
    let _ = link.put(&key, "x".into(), Put::Overwrite).await.unwrap();
    assert_eq!(link.get(&key).await.unwrap().unwrap().bytes, "x");
}
