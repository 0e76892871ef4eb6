//! Transfers to servers of others through a proxy where one thing goes wrong at a time: each ends with the right bytes, one
//! outcome, and nothing left open.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::store::{Content, Key, Outcome, Put, S3, S3Settings, Store, Transfers};
use forebay_tests::{Fault, OpenS3Faults, S3_BUCKET, S3_KEYS, S3_REGION, S3Faults, Server};

/// Three parts.
const LARGE: usize = 12_000_000;

fn settings(proxy: &OpenS3Faults, uploads: &tempfile::TempDir) -> S3Settings {
    let settings = S3::at(format!("s3://{S3_BUCKET}/transfers")).endpoint(proxy.endpoint()).region(S3_REGION);
    settings.keys(S3_KEYS.0, S3_KEYS.1).uploads(uploads.path())
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// Which requests are meant.
type Which = fn(&http::Method, &str) -> bool;

/// The query of a request to begin, to send a part of, and to complete an upload in parts.
const BEGINS: Which = |method, target| *method == http::Method::POST && target.contains("uploads");
const PART: Which = |_, target| target.contains("partNumber");
const COMPLETES: Which = |method, target| *method == http::Method::POST && target.contains("uploadId");
const GETS: Which = |method, _| *method == http::Method::GET;
const PUTS: Which = |method, _| *method == http::Method::PUT;

/// Uploads and downloads with what was ordered going wrong; the object has to be right, and nothing may stay open.
async fn survives(proxy: &OpenS3Faults, transfers: &Transfers, name: &str, len: usize, mode: Put) {
    let (bytes, folder) = (pattern(len), tempfile::tempdir().expect("a folder"));
    let sent = transfers.send(&key(name), Content::bytes(bytes.clone()), mode).await;
    let outcome = sent.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert!(matches!(outcome, Outcome::Stored(_)), "{name}: what was written is not taken for a rival's");
    let to = folder.path().join("to");
    transfers.fetch(&key(name), &to).await.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert!(std::fs::read(&to).expect("the file") == bytes, "{name}");
    assert_eq!(proxy.left(), 0, "{name}: all that was ordered went wrong");
}

/// A store whose conditional writes are atomic, but that looks at no checksum.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lost_answers_are_no_lost_races_and_leave_nothing_open() {
    let Some(server) = Server::start("moto") else { return };
    let (proxy, uploads) = (S3Faults::to(server.address()).open(), tempfile::tempdir().expect("a folder"));
    let store = settings(&proxy, &uploads).open().await.expect("the bucket opens");
    let transfers = Transfers::new(store.clone());
    let orders: [(&str, Fault, Which, usize); 7] = [
        ("put", Fault::LostReply, PUTS, 1000),
        ("put-reset", Fault::ResetWithin, PUTS, 1000),
        ("put-busy", Fault::SlowDown, PUTS, 1000),
        ("part", Fault::LostReply, PART, LARGE),
        ("part-reset", Fault::ResetWithin, PART, LARGE),
        ("complete", Fault::LostReply, COMPLETES, LARGE),
        ("complete-200", Fault::ErrorIn200, COMPLETES, LARGE),
    ];
    for (name, fault, of, len) in orders {
        proxy.next(fault, of);
        survives(&proxy, &transfers, name, len, Put::Create).await;
        assert_eq!(store.open_uploads().await.expect("a list"), 0, "{name}");
        assert_eq!(std::fs::read_dir(uploads.path()).map_or(0, Iterator::count), 0, "{name}: no journal is left");
        let again = transfers.send(&key(name), Content::bytes("other"), Put::Create).await.expect("an answer");
        assert_eq!(again, Outcome::Conflict, "{name}: it is there");
    }
}

/// A store that looks at checksums.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_cut_off_or_changed_on_their_way_are_sent_again() {
    let Some(server) = Server::start("s3s-fs") else { return };
    let (proxy, uploads) = (S3Faults::to(server.address()).open(), tempfile::tempdir().expect("a folder"));
    let store = settings(&proxy, &uploads).without_conditions().open().await.expect("the bucket opens");
    let transfers = Transfers::new(store);
    // Of parts it looks at none: Garage does, below.
    let orders: [(&str, Fault, Which, usize); 6] = [
        ("put-flipped", Fault::FlippedRequest, PUTS, 1000),
        ("get-flipped", Fault::FlippedAnswer, GETS, LARGE),
        ("get-small-flipped", Fault::FlippedAnswer, GETS, 1000),
        ("get-truncated", Fault::Truncated, GETS, LARGE),
        ("get-reset", Fault::ResetWithin, GETS, LARGE),
        ("get-busy", Fault::SlowDown, GETS, LARGE),
    ];
    for (name, fault, of, len) in orders {
        proxy.next(fault, of);
        survives(&proxy, &transfers, name, len, Put::Overwrite).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_part_that_is_changed_is_sent_again_and_a_beginning_without_an_answer_is_ended() {
    let Some(server) = Server::start_if_full("garage") else { return };
    let (proxy, uploads) = (S3Faults::to(server.address()).open(), tempfile::tempdir().expect("a folder"));
    let store = settings(&proxy, &uploads).open().await.expect("the bucket opens");
    let transfers = Transfers::new(store.clone());
    proxy.next(Fault::FlippedRequest, PART);
    survives(&proxy, &transfers, "part-flipped", LARGE, Put::Overwrite).await;
    proxy.next(Fault::LostReply, BEGINS);
    survives(&proxy, &transfers, "begin", LARGE, Put::Overwrite).await;
    assert_eq!(store.open_uploads().await.expect("a list"), 0);
}

/// In real time, since servers are: what stalls is broken off after 8 s, far before the minute that it would last.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_stalls_is_tried_again_within_ten_seconds() {
    let Some(server) = Server::start("s3s-fs") else { return };
    let uploads = tempfile::tempdir().expect("a folder");
    let proxy = S3Faults::to(server.address()).stall(Duration::from_secs(120)).open();
    let store = settings(&proxy, &uploads).without_conditions().open().await.expect("the bucket opens");
    let transfers = Transfers::new(store);
    proxy.next(Fault::Stalled, GETS);
    let began = Instant::now();
    survives(&proxy, &transfers, "stalls", LARGE, Put::Overwrite).await;
    assert!(began.elapsed() < Duration::from_secs(60), "it was not waited for: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrong_keys_and_buckets_are_told_apart_and_no_secret_is_shown() {
    let secret = "canary-of-a-secret-key";
    for (server, bucket, id, secret, says) in [
        ("s3s-fs", S3_BUCKET, S3_KEYS.0, secret, "check the secret access key"),
        ("s3s-fs", S3_BUCKET, "canary-id", secret, "check the access key id"),
        ("moto", "no-such-bucket", S3_KEYS.0, S3_KEYS.1, "there is no bucket `no-such-bucket`"),
    ] {
        let Some(server) = Server::start(server) else { return };
        let uploads = tempfile::tempdir().expect("a folder");
        let settings = S3::at(format!("s3://{bucket}")).endpoint(server.endpoint()).region(S3_REGION);
        let why = settings.keys(id, secret).uploads(uploads.path()).open().await.expect_err(says);
        assert_eq!(why.fault(), forebay::Fault::Invalid, "{why}");
        assert!(why.to_string().contains(says), "{why}");
        assert!(!format!("{why:?}").contains("canary-of") && !format!("{why:?}").contains(S3_KEYS.1), "{why:?}");
    }
}

/// The store's clock is right, and this machine's is an hour slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_is_wrong_is_corrected_by_the_stores() {
    let Some(server) = Server::start("moto") else { return };
    let uploads = tempfile::tempdir().expect("a folder");
    let proxy = S3Faults::to(server.address()).clock_ahead(Duration::from_secs(3600)).open();
    let store = settings(&proxy, &uploads).open().await.expect("the bucket opens");
    let before = proxy.requests();
    survives(&proxy, &Transfers::new(store), "skewed", LARGE, Put::Create).await;
    // A beginning, three parts, an end; a look at what there is, and two ranges or three.
    let asked = proxy.requests() - before;
    assert!(asked < 12, "each request is signed for the right time: {asked} were made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_opened_to_be_read_is_not_written() {
    let Some(server) = Server::start("s3s-fs") else { return };
    let (proxy, uploads) = (S3Faults::to(server.address()).open(), tempfile::tempdir().expect("a folder"));
    let read_only = settings(&proxy, &uploads).read_only().open().await.expect("the bucket opens");
    assert_eq!(proxy.requests(), 0, "opening asks nothing");
    let why = read_only.put(&key("x"), Bytes::new(), Put::Overwrite).await.expect_err("it is read only");
    assert!(why.to_string().contains("to be read only"), "{why}");
    assert_eq!(proxy.requests(), 0, "a refused write asks nothing");
}
