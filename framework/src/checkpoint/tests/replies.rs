//! Answers that are lost: a commit that was applied is no conflict, and none is lost.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

/// Carries a conditional put out, and drops its answer one time in twenty.
struct LosesReplies {
    random: Mutex<fastrand::Rng>,
    lost: AtomicUsize,
}

impl Around for LosesReplies {
    fn after<'a>(&'a self, what: What, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if what == (What::Put { conditional: true }) && self.random.lock().unwrap().u8(..20) == 0 {
                self.lost.fetch_add(1, SeqCst);
                return Err(Error::transient("the connection was reset"));
            }
            Ok(())
        })
    }
}

/// The same, but the store's own second try then tells of a conflict, as S3 clients have seen it.
struct ConflictsWithItself {
    inner: Memory,
    random: Mutex<fastrand::Rng>,
    lost: AtomicUsize,
}

impl Store for ConflictsWithItself {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.inner.get(key)
    }
    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        self.inner.get_range(key, range)
    }
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        self.inner.head(key)
    }
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let conditional = mode != Put::Overwrite;
            let outcome = self.inner.put(key, bytes, mode).await?;
            if conditional && self.random.lock().unwrap().u8(..20) == 0 {
                self.lost.fetch_add(1, SeqCst);
                return Ok(Outcome::Conflict);
            }
            Ok(outcome)
        })
    }
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        self.inner.delete(key)
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        self.inner.list(prefix, after, limit)
    }
    fn conditional(&self) -> Conditional {
        self.inner.conditional()
    }
}

/// So many saves, each of which must succeed and be the newest state.
async fn saves(store: Arc<dyn Store>, count: u32) {
    let mut checkpoints = opened(&store).await.unwrap();
    for n in 0..count {
        checkpoints.save(Snapshot::new().bytes("n", n.to_le_bytes().to_vec())).await.unwrap();
        checkpoints.collect_garbage().await;
        if n % 1000 == 0 {
            checkpoints = opened(&store).await.unwrap();
            let saved = checkpoints.restore().await.unwrap().unwrap();
            assert_eq!(saved.bytes("n").unwrap(), n.to_le_bytes().to_vec());
        }
    }
    assert_eq!(checkpoints.claim.head.sequence, u64::from(count), "none was lost");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_commits_survive_lost_replies() {
    let around = LosesReplies { random: Mutex::new(fastrand::Rng::with_seed(1)), lost: AtomicUsize::new(0) };
    let store = Arc::new(Wrapped { inner: memory(), around });
    saves(store.clone(), 10_000).await;
    let lost = store.around.lost.load(SeqCst);
    assert!((400..600).contains(&lost), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_oneself_is_none() {
    let random = Mutex::new(fastrand::Rng::with_seed(2));
    let store = Arc::new(ConflictsWithItself { inner: Memory::new(), random, lost: AtomicUsize::new(0) });
    saves(store.clone(), 2_000).await;
    assert!(store.lost.load(SeqCst) > 50);
}
