//! What a job does whose states cannot be read: only "not there" begins anew. Everything else, in front of any of the
//! objects that are read, fails after some tries and gives the job back; and once it is over, the job goes on.
//!
//! Against moto, through a proxy that refuses, resets, cuts and changes. In front of the head that takes minutes, since the
//! store itself tries long; so it is done by `./test full` alone (`FOREBAY_ALL_SERVERS=1`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use forebay::checkpoint::{Checkpoints, Saved, Snapshot, Workplace};
use forebay::store::{Conditional, Key, S3, Store};
use forebay::{Job, Result};
use forebay_tests::{Fault, OpenS3Faults, S3_BUCKET, S3_KEYS, S3_REGION, S3Faults, Server};
use tokio::task::JoinSet;

const FAULTS: [Fault; 8] = [
    Fault::Forbidden,
    Fault::TimedOut,
    Fault::TooMany,
    Fault::Broken,
    Fault::SlowDown,
    Fault::ResetBefore,
    Fault::Truncated,
    Fault::FlippedAnswer,
];

async fn open(proxy: &OpenS3Faults, job: &str) -> Result<(Checkpoints, Option<Saved>)> {
    let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(proxy.endpoint()).region(S3_REGION);
    let store: Arc<dyn Store> = Arc::new(store.keys(S3_KEYS.0, S3_KEYS.1).open().await?);
    assert_ne!(store.conditional(), Conditional::None);
    let place = Workplace::new(&Job::new(job.to_owned()), None);
    let mut checkpoints = Checkpoints::open(store, &Key::new(format!("{job}/state"))?, &place, "test 1").await?;
    let saved = checkpoints.restore().await?;
    Ok((checkpoints, saved))
}

/// One fault, in front of one kind of object; how often it happened.
async fn trouble(server: std::net::SocketAddr, fault: Fault, object: &str) -> u64 {
    let proxy = S3Faults::to(server).open();
    let job = format!("{fault:?}-{}", object.replace('/', "-"));
    let (mut checkpoints, none) = open(&proxy, &job).await.unwrap();
    assert!(none.is_none(), "what is not there begins anew");
    checkpoints.save(Snapshot::new().bytes("x", vec![7u8; 5000])).await.unwrap();
    let path = format!("{job}/state/{object}");
    proxy.always(fault, move |method, asked| method == "GET" && asked.contains(&path));
    let why = open(&proxy, &job).await.map(|(_, saved)| saved.is_some()).expect_err("it cannot be read");
    let said = why.to_string();
    assert!(said.contains(&format!("{job}/state/{object}")), "{fault:?} of {object} is not named: {said}");
    proxy.relent();
    let (_, saved) = open(&proxy, &job).await.unwrap();
    assert_eq!(saved.unwrap().bytes("x").unwrap(), vec![7u8; 5000], "{fault:?} of {object}");
    proxy.count(fault)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_not_there_begins_anew() {
    let Some(server) = Server::start("moto") else { return };
    let mut troubles = JoinSet::new();
    for fault in FAULTS {
        let all = std::env::var_os("FOREBAY_ALL_SERVERS").is_some();
        let objects: &[&str] = if all { &["head", "states/", "data/"] } else { &["states/", "data/"] };
        for &object in objects {
            let address = server.address();
            troubles.spawn(async move { (fault, object, trouble(address, fault, object).await) });
        }
    }
    while let Some(done) = troubles.join_next().await {
        let (fault, object, count) = done.unwrap();
        println!("{fault:?} of {object}: {count} times, and then the job went on");
        assert!(count > 1, "it was tried again");
    }
}
