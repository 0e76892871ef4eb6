//! The store in S3 against servers of others: the one conformance suite, and what each of them can do.

use std::sync::Arc;

use bytes::Bytes;
use forebay::store::{Conditional, Content, Key, Progress, Put, S3, Store, Transfers};
use forebay::testing::{self, store::Limits};
use forebay_tests::{S3_BUCKET, S3_KEYS, S3_REGION, Server};

/// What is left of a key below the prefix of these tests.
const LONGEST: usize = Key::MAX_LEN - "a/prefix/".len();

async fn open(server: &Server, prefix: &str, conditional: Conditional) -> S3 {
    let uploads = std::env::temp_dir().join(format!("forebay-tests-uploads-{}", std::process::id()));
    let settings = S3::at(format!("s3://{S3_BUCKET}/{prefix}")).endpoint(server.endpoint()).region(S3_REGION);
    let settings = settings.keys(S3_KEYS.0, S3_KEYS.1).uploads(uploads);
    let settings = if conditional == Conditional::None { settings.without_conditions() } else { settings };
    settings.open().await.expect("the bucket opens")
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

/// The suite, and objects in one and in several parts from each kind of content.
async fn conforms(server: &Server, conditional: Conditional, verified: bool, limits: Limits) {
    let store = open(server, "a/prefix", conditional).await;
    assert_eq!(store.conditional(), conditional);
    testing::store::all_within(Arc::new(store.clone()), limits).await;
    // A second client sees the same objects, and another prefix none of them.
    testing::store::races(&[Arc::new(store.clone()), Arc::new(open(server, "a/prefix", conditional).await)]).await;
    let elsewhere = open(server, "", conditional).await;
    let beside = (&elsewhere as &dyn Store).list_all("a/prefix/").await.expect("a list");
    let within = (&store as &dyn Store).list_all("").await.expect("a list");
    assert_eq!(beside.len(), within.len());

    let folder = tempfile::tempdir().expect("a folder");
    let transfers = Transfers::new(store.clone());
    for len in [0, 10_000_000, 10_000_001, 33_000_000] {
        let bytes = pattern(len);
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, &bytes).expect("a file");
        let pieces: Vec<_> = bytes.chunks(777_777).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let contents = [
            ("file", Content::file(&from)),
            ("buffer", Content::bytes(bytes.clone())),
            ("stream", Content::stream(futures_util::stream::iter(pieces))),
        ];
        for (name, content) in contents {
            let key = Key::new(format!("large/{name}-{len}")).expect("a key");
            let progress = Progress::new();
            let sent = transfers.send(&key, content.counted_in(&progress), Put::Overwrite).await;
            let version = sent.unwrap_or_else(|why| panic!("{name} {len}: {why}")).stored().expect("stored");
            assert_eq!(progress.done(), len as u64, "{name} {len}");
            let fetched = transfers.fetch(&key, &to).await.unwrap_or_else(|why| panic!("{name} {len}: {why}"));
            assert_eq!((fetched.len, &fetched.version), (len as u64, &version), "{name} {len}");
            assert!(std::fs::read(&to).expect("the file") == bytes, "{name} {len}");
            assert!(fetched.verified || !verified || name == "stream", "{name} {len}");
        }
    }
    if conditional != Conditional::None {
        let key = Key::new("large/file-33000000").expect("a key");
        let again = transfers.send(&key, Content::bytes(pattern(12_000_000)), Put::Create).await.expect("an answer");
        assert!(again.stored().is_none(), "an object in parts is created only once");
    }
    // fauxqs has no list of them.
    if let Ok(open) = store.open_uploads().await {
        assert_eq!(open, 0, "no upload is left open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3s_fs() {
    if let Some(server) = Server::start("s3s-fs") {
        // Keys are paths of files, and once more a name of one; a race to create has several winners.
        let limits = Limits { nested: false, longest_key: 100 };
        conforms(&server, Conditional::None, true, limits).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moto() {
    if let Some(server) = Server::start("moto") {
        // It looks at no checksum, but keeps our own in the metadata.
        conforms(&server, Conditional::ByContent, true, Limits { longest_key: LONGEST, nested: true }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garage() {
    if let Some(server) = Server::start_if_full("garage") {
        // LMDB's keys, which have the bucket's id and an end besides; conditions are not looked at.
        let limits = Limits { longest_key: 450, ..Limits::default() };
        conforms(&server, Conditional::None, true, limits).await;
    }
}
