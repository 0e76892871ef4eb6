//! Files that only grow: each byte is sent once.

use std::fs::OpenOptions;
use std::io::Write;

use super::*;

fn append(checkpoints: &Checkpoints, name: &str, bytes: &[u8]) {
    let path = checkpoints.place.folder().unwrap().join(name);
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test]
async fn each_byte_of_a_growing_file_is_sent_once() {
    let store = memory();
    let mut all = Vec::new();
    let mut data = 0;
    for worker in 0..5 {
        let mut checkpoints = opened(&store).await.unwrap();
        checkpoints.sizes = Sizes::default();
        checkpoints.restore().await.unwrap();
        for save in 0..20 {
            let more = noise(worker * 100 + save, 50_000);
            append(&checkpoints, "trajectory", &more);
            all.extend_from_slice(&more);
            let sent = checkpoints.save(Snapshot::new().grows("trajectory")).await.unwrap();
            checkpoints.collect_garbage().await;
            data += sent.bytes;
        }
        // What was appended after the last save is not part of the state.
        append(&checkpoints, "trajectory", b"never saved");
    }
    let mut last = opened(&store).await.unwrap();
    last.restore().await.unwrap();
    assert!(read(&last, "trajectory") == all);
    assert!(data < all.len() as u64 * 102 / 100 + 100 * 100 * 200, "{data} bytes for {}", all.len());
}

#[tokio::test]
async fn a_file_that_was_cut_or_changed_is_sent_again() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    for content in [noise(1, 1000), noise(1, 500), noise(2, 700), Vec::new(), noise(2, 100)] {
        write(&checkpoints, "log", &content);
        checkpoints.save(Snapshot::new().grows("log")).await.unwrap();
        let mut next = opened(&store).await.unwrap();
        next.restore().await.unwrap();
        assert!(read(&next, "log") == content);
        checkpoints = next;
    }
}

#[tokio::test]
async fn a_file_of_which_a_part_is_elsewhere_must_not_be_cut() {
    let store = memory();
    let mut first = opened(&store).await.unwrap();
    write(&first, "log", &noise(1, 100));
    first.save(Snapshot::new().grows("log")).await.unwrap();
    let mut next = opened(&store).await.unwrap();
    next.restore_parts(|_| false).await.unwrap();
    write(&next, "log", &noise(2, 100));
    next.save(Snapshot::new().grows("log")).await.unwrap();
    write(&next, "log", &noise(2, 10));
    let why = next.save(Snapshot::new().grows("log")).await.unwrap_err().to_string();
    assert!(why.contains("part `log`") && why.contains("was cut or changed"), "{why}");
    assert!(why.starts_with("saving state 3 of job 7"), "{why}");
    let mut last = opened(&store).await.unwrap();
    last.restore().await.unwrap();
    assert_eq!(read(&last, "log").len(), 200, "the last whole state stands");
}

#[tokio::test]
async fn a_log_that_grows_by_lines_does_not_become_a_long_list() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    checkpoints.sizes = Sizes::default();
    let mut all = Vec::new();
    // The second worker leaves on the store what the first has written.
    for worker in 0..2 {
        checkpoints.restore_parts(|_| false).await.unwrap();
        let (mut most, mut least) = (0, usize::MAX);
        for line in 0..2000 {
            // Short lines, and one in fifty that is long.
            let line = noise(line + 10_000 * worker, if line % 50 == 49 { 5_000 } else { 20 });
            append(&checkpoints, "log", &line);
            all.extend(line);
            checkpoints.save(Snapshot::new().grows("log")).await.unwrap();
            checkpoints.collect_garbage().await;
            let chunks = checkpoints.newest.as_ref().unwrap().parts[0].chunks.len();
            (most, least) = (most.max(chunks), least.min(chunks));
        }
        assert!(most <= least + 64 + 240_000 / (16 << 10), "from {least} to {most} chunks");
        checkpoints = opened(&store).await.unwrap();
        checkpoints.sizes = Sizes::default();
    }
    checkpoints.restore().await.unwrap();
    assert!(read(&checkpoints, "log") == all);
}

#[tokio::test]
async fn what_grows_keeps_nothing_that_changes() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    checkpoints.sizes = Sizes::default();
    for save in 0..50 {
        // What changes has the log's last line in it, too.
        let line = noise(save, 2_000);
        append(&checkpoints, "log", &line);
        let snapshot = Snapshot::new().bytes("line", line).bytes("x", noise(1000 + save, 100_000)).grows("log");
        checkpoints.save(snapshot).await.unwrap();
        checkpoints.collect_garbage().await;
    }
    let held: u64 = store.list_all("").await.unwrap().iter().map(|meta| meta.len).sum();
    // The log, the newest two states of the rest, their manifests.
    assert!(held < 50 * 2_000 + 2 * 100_000 + 40_000, "{held} bytes");
}

#[tokio::test]
async fn what_is_in_two_objects_is_counted_in_both() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    checkpoints.sizes = Sizes::default();
    // The log grows by the same few bytes each time, and a file of its own kind changes altogether.
    for save in 0..12 {
        append(&checkpoints, "log", b".\n");
        checkpoints.save(Snapshot::new().bytes("x", noise(save, 300)).grows("log")).await.unwrap();
        checkpoints.collect_garbage().await;
        whole(&store).await.unwrap();
    }
    let mut next = opened(&store).await.unwrap();
    next.restore().await.unwrap().unwrap();
    assert_eq!(read(&next, "log"), b".\n".repeat(12));
}

#[tokio::test]
async fn a_file_that_is_not_wanted_stays_whatever_later_snapshots_say() {
    let store = memory();
    let mut first = opened(&store).await.unwrap();
    write(&first, "log", &noise(1, 100));
    first.save(Snapshot::new().grows("log")).await.unwrap();
    let mut next = opened(&store).await.unwrap();
    next.restore_parts(|_| false).await.unwrap();
    // Nothing has come yet, so it is not mentioned; then something has.
    next.save(Snapshot::new().bytes("x", "1")).await.unwrap();
    write(&next, "log", &noise(2, 50));
    next.save(Snapshot::new().bytes("x", "2").grows("log")).await.unwrap();
    let mut last = opened(&store).await.unwrap();
    last.restore().await.unwrap();
    assert_eq!(read(&last, "log"), [noise(1, 100), noise(2, 50)].concat());
}
