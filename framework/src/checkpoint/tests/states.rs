//! What is saved comes back, and what has not changed is not sent again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;

#[tokio::test]
async fn a_job_that_saved_nothing_begins_anew() {
    let store = memory();
    let mut first = opened(&store).await.unwrap();
    assert!(!first.has_state());
    assert!(first.restore().await.unwrap().is_none());
    // The head stands, without a state: that is still none.
    assert!(opened(&store).await.unwrap().restore().await.unwrap().is_none());
}

#[tokio::test]
async fn all_kinds_of_parts_come_back() {
    let store = memory();
    let mut first = opened(&store).await.unwrap();
    write(&first, "restart", &noise(1, 300));
    write(&first, "log", b"line 1\n");
    let snapshot = Snapshot::new()
        .bytes("a/positions", noise(2, 1000))
        .bytes("empty", Bytes::new())
        .later("late", || Ok(vec![7; 500]))
        .file("restart")
        .grows("log");
    first.save(snapshot).await.unwrap();
    let mut next = opened(&store).await.unwrap();
    let saved = next.restore().await.unwrap().unwrap();
    assert_eq!(saved.names().collect::<Vec<_>>(), ["a/positions", "empty", "late"]);
    assert_eq!(saved.bytes("a/positions").unwrap(), noise(2, 1000));
    assert_eq!(saved.bytes("empty").unwrap(), "");
    assert_eq!(saved.bytes("late").unwrap(), vec![7; 500]);
    assert_eq!(read(&next, "restart"), noise(1, 300));
    assert_eq!(read(&next, "log"), b"line 1\n");
    let missing = saved.bytes("velocities").unwrap_err().to_string();
    assert_eq!(missing, "state 1 of job 7 has no part `velocities`");
}

#[tokio::test]
async fn only_chunks_that_changed_are_sent() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    let mut state = noise(3, 64 * 100);
    let all = checkpoints.save(Snapshot::new().bytes("x", state.clone())).await.unwrap();
    assert_eq!((all.objects, all.state), (101, 6400));
    let same = checkpoints.save(Snapshot::new().bytes("x", state.clone())).await.unwrap();
    assert_eq!(same.objects, 1, "only a manifest");
    state[64 * 50] ^= 1;
    let one = checkpoints.save(Snapshot::new().bytes("x", state.clone())).await.unwrap();
    assert_eq!(one.objects, 2, "one chunk and a manifest");
    // The next worker goes on from there, and knows what is in the store.
    let mut next = opened(&store).await.unwrap();
    assert_eq!(next.restore().await.unwrap().unwrap().bytes("x").unwrap(), state);
    assert_eq!(next.save(Snapshot::new().bytes("x", state.clone())).await.unwrap().objects, 1);
}

#[tokio::test]
async fn what_compresses_is_sent_compressed() {
    let mut checkpoints = opened(&memory()).await.unwrap();
    checkpoints.sizes = Sizes::default();
    let text = "step 1000 energy -5.67 temperature 0.85\n".repeat(100_000);
    let sent = checkpoints.save(Snapshot::new().bytes("log", text.clone())).await.unwrap();
    assert!(sent.bytes < text.len() as u64 / 20, "{sent:?} of {}", text.len());
    assert_eq!(checkpoints.restore().await.unwrap().unwrap().bytes("log").unwrap(), text);
}

#[tokio::test]
async fn small_files_share_objects_and_are_sent_again_once_most_of_those_is_useless() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    checkpoints.sizes = Sizes::default();
    let small = |seed: u64| Snapshot { parts: (0..1000).map(|n| (format!("f/{n}"), part(seed, n))).collect() };
    fn part(seed: u64, n: u64) -> snapshot::Part {
        // Nine of ten change from save to save.
        let seed = if n.is_multiple_of(10) { 0 } else { seed };
        snapshot::Part::Bytes(noise(seed * 10_000 + n, 1000).into())
    }
    assert_eq!(checkpoints.save(small(1)).await.unwrap().objects, 2, "a pack and a manifest");
    let second = checkpoints.save(small(2)).await.unwrap();
    assert!(second.bytes > 900_000 && second.bytes < 1_200_000, "{second:?}");
    let third = checkpoints.save(small(3)).await.unwrap();
    assert!(third.bytes > 1_000_000, "what was left of the first pack came along: {third:?}");
    checkpoints.collect_garbage().await;
    let state = whole(&store).await.unwrap();
    assert_eq!(state.objects().len(), 1);
    assert_eq!(keys(&store).await.len(), 1 + 2 * 2 + 1, "the head, two states, and what these need");
}

#[tokio::test]
async fn what_no_state_needs_is_removed() {
    let store = memory();
    let mut checkpoints = opened(&store).await.unwrap();
    for seed in 0..20 {
        checkpoints.save(Snapshot::new().bytes("x", noise(seed, 640))).await.unwrap();
        checkpoints.collect_garbage().await;
        whole(&store).await.unwrap();
    }
    assert_eq!(keys(&store).await.len(), 1 + 2 * 11, "the head, and the newest two states");
    // A worker that finds things nobody needs removes them too, once it has saved something.
    for left in ["data/1-99-abc", "states/1-98-abc", "data/unrelated"] {
        let _ = store.put(&state_key().join(left).unwrap(), "left".into(), Put::Overwrite).await.unwrap();
    }
    let mut next = opened(&store).await.unwrap();
    next.save(Snapshot::new().bytes("x", noise(21, 640))).await.unwrap();
    next.collect_garbage().await;
    let left = keys(&store).await;
    assert_eq!(left.len(), 1 + 2 * 11 + 1, "{left:?}");
    assert!(left.iter().any(|key| key.ends_with("unrelated")), "only what is known to be ours is removed");
}

#[tokio::test]
async fn parts_that_are_not_wanted_stay_where_they_are() {
    let store = memory();
    let mut first = opened(&store).await.unwrap();
    write(&first, "log", b"one ");
    first.save(Snapshot::new().bytes("x", noise(1, 100)).bytes("y", noise(2, 6400)).grows("log")).await.unwrap();
    let mut next = opened(&store).await.unwrap();
    let saved = next.restore_parts(|name| name == "x").await.unwrap().unwrap();
    assert_eq!(saved.names().collect::<Vec<_>>(), ["x"]);
    // What the file has here is put behind what was saved.
    write(&next, "log", b"two ");
    next.save(Snapshot::new().bytes("x", noise(1, 100)).grows("log")).await.unwrap();
    write(&next, "log", b"two three");
    next.save(Snapshot::new().bytes("x", noise(1, 100)).grows("log")).await.unwrap();
    let mut last = opened(&store).await.unwrap();
    last.restore().await.unwrap().unwrap();
    assert_eq!(read(&last, "log"), b"one two three");
}

#[tokio::test]
async fn a_store_without_conditions_keeps_states_too() {
    struct Weak(Arc<Memory>);
    impl Store for Weak {
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
            self.0.get(key)
        }
        fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
            self.0.get_range(key, range)
        }
        fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
            self.0.head(key)
        }
        fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
            assert_eq!(mode, Put::Overwrite);
            self.0.put(key, bytes, mode)
        }
        fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
            self.0.delete(key)
        }
        fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
            self.0.list(prefix, after, limit)
        }
        fn conditional(&self) -> Conditional {
            Conditional::None
        }
    }
    let inner = Arc::new(Memory::new());
    let store: Arc<dyn Store> = Arc::new(Weak(inner.clone()));
    let mut first = opened(&store).await.unwrap();
    first.save(Snapshot::new().bytes("x", "1")).await.unwrap();
    let mut second = opened(&store).await.unwrap();
    assert_eq!(second.restore().await.unwrap().unwrap().bytes("x").unwrap(), "1");
    let refused = first.save(Snapshot::new().bytes("x", "zombie")).await.unwrap_err();
    assert!(refused.find::<TakenOver>().is_some(), "{refused}");
    second.save(Snapshot::new().bytes("x", "2")).await.unwrap();
    second.collect_garbage().await;
    let mut third = opened(&store).await.unwrap();
    assert_eq!(third.restore().await.unwrap().unwrap().bytes("x").unwrap(), "2");
    // The same store, as a worker sees it that finds conditional writes there; and back again.
    let strong: Arc<dyn Store> = inner;
    let mut fourth = opened(&strong).await.unwrap();
    assert_eq!(fourth.restore().await.unwrap().unwrap().bytes("x").unwrap(), "2");
    fourth.save(Snapshot::new().bytes("x", "4")).await.unwrap();
    let refused = third.save(Snapshot::new().bytes("x", "zombie")).await.unwrap_err();
    assert!(refused.find::<TakenOver>().is_some(), "{refused}");
    let mut fifth = opened(&store).await.unwrap();
    assert_eq!(fifth.restore().await.unwrap().unwrap().bytes("x").unwrap(), "4");
}

/// One save of a job: what its parts hold, and whether another worker does it.
type Save = (BTreeMap<u8, (u8, u16)>, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_saved_comes_back(saves in prop::collection::vec(
        (prop::collection::btree_map(0u8..6, (0u8..4, 0u16..700), 0..6), any::<bool>()), 1..12
    )) {
        let saves: Vec<Save> = saves;
        Runtime::new().unwrap().block_on(async {
            let store = memory();
            let mut checkpoints = opened(&store).await.unwrap();
            for (parts, by_another) in saves {
                if by_another {
                    checkpoints = opened(&store).await.unwrap();
                    checkpoints.restore().await.unwrap();
                }
                let bytes = |(seed, len): (u8, u16)| noise(u64::from(seed), usize::from(len));
                let snapshot = parts.iter().fold(Snapshot::new(), |all, (name, part)| {
                    all.bytes(name.to_string(), bytes(*part))
                });
                checkpoints.save(snapshot).await.unwrap();
                checkpoints.collect_garbage().await;
                whole(&store).await.unwrap();
                let saved = checkpoints.restore().await.unwrap().unwrap();
                assert_eq!(saved.names().count(), parts.len());
                for (name, part) in parts {
                    assert_eq!(saved.bytes(&name.to_string()).unwrap(), bytes(part));
                }
            }
        });
    }
}
