use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::*;
use crate::store::{Conditional, Memory, Meta, Object, Page, Store};

/// A store in memory that takes a write when it is let to, and fails as often as it is told.
#[derive(Clone)]
struct Gated {
    store: Memory,
    gate: Arc<Semaphore>,
    failures: Arc<AtomicU32>,
    why: Error,
    /// Only writes to keys that begin so fail.
    only: Option<&'static str>,
}

impl Gated {
    fn new(open: usize, failures: u32, why: Error) -> Self {
        let (store, gate) = (Memory::new(), Arc::new(Semaphore::new(open)));
        Gated { store, gate, failures: Arc::new(AtomicU32::new(failures)), why, only: None }
    }
}

impl Store for Gated {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        self.store.get(key)
    }
    fn get_range<'a>(&'a self, key: &'a Key, range: std::ops::Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        self.store.get_range(key, range)
    }
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        self.store.head(key)
    }
    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.gate.acquire().await.expect("never closed").forget();
            let meant = self.only.is_none_or(|only| key.as_str().starts_with(only));
            let failing = meant && self.failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
            match failing {
                true => Err(self.why.clone()),
                false => self.store.put(key, bytes, mode).await,
            }
        })
    }
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        self.store.delete(key)
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        self.store.list(prefix, after, limit)
    }
    fn conditional(&self) -> Conditional {
        self.store.conditional()
    }
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn text(store: &Memory, name: &str) -> Option<String> {
    let found = store.get(&key(name)).await.unwrap();
    found.map(|object| String::from_utf8(object.bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_handed_over_arrives_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    fs::write(&path, "from a file").unwrap();
    let store = Gated::new(100, 3, Error::transient("503"));
    let spool = Spool::open(folder.path().join("spool"), Transfers::new(store.clone())).unwrap();
    spool.file(&key("report"), &path, Put::Overwrite).await.unwrap();
    assert!(!path.exists(), "the spool has it now");
    for number in 0..20 {
        spool.bytes(&key("counter"), format!("{number}"), Put::Overwrite).await.unwrap();
    }
    spool.flushed().await;
    assert_eq!(text(&store.store, "report").await.unwrap(), "from a file");
    assert_eq!(text(&store.store, "counter").await.unwrap(), "19", "uploads to one key keep their order");
    let backlog = spool.backlog();
    assert_eq!((backlog.uploads, backlog.bytes, backlog.done, backlog.failures), (0, 0, 21, 3));
    assert_eq!(fs::read_dir(folder.path().join("spool")).unwrap().count(), 2, "the lock and an empty folder");
}

#[tokio::test]
async fn whoever_hands_over_waits_for_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Gated::new(0, 0, Error::failed("never"));
    let spool = Spool::open_with(folder.path(), Transfers::new(store.clone()), 10).unwrap();
    let why = spool.bytes(&key("a"), vec![0; 11], Put::Overwrite).await.unwrap_err();
    assert!(why.to_string().contains("bound of 10"), "{why}");
    spool.bytes(&key("a"), vec![0; 6], Put::Overwrite).await.unwrap();
    let second = key("b");
    let mut waiting = std::pin::pin!(spool.bytes(&second, vec![0; 6], Put::Overwrite));
    assert!(waiting.as_mut().now_or_never().is_none());
    let backlog = spool.backlog();
    assert_eq!((backlog.uploads, backlog.bytes), (1, 6));
    store.gate.add_permits(2);
    waiting.await.unwrap();
    spool.flushed().await;
    assert_eq!(spool.backlog().done, 2);
}

#[tokio::test]
async fn what_is_left_goes_on_when_the_folder_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Gated::new(0, 0, Error::failed("never"));
    let spool = Spool::open(folder.path(), Transfers::new(store.clone())).unwrap();
    spool.bytes(&key("a"), "first", Put::Create).await.unwrap();
    spool.bytes(&key("b"), "second", Put::Overwrite).await.unwrap();
    assert!(Spool::open(folder.path(), Transfers::new(store.clone())).is_err(), "it is open");
    drop(spool);
    // Handed over half-way by a process that was killed.
    fs::write(folder.path().join(format!("{:020}.data", 99)), "half").unwrap();
    // The task that was uploading lets go of the folder when it is next scheduled.
    let again = loop {
        match Spool::open(folder.path(), Transfers::new(store.clone())) {
            Ok(spool) => break spool,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    store.gate.add_permits(10);
    again.flushed().await;
    assert_eq!(text(&store.store, "a").await.unwrap(), "first");
    assert_eq!(text(&store.store, "b").await.unwrap(), "second");
    assert_eq!(again.backlog().done, 2);
}

#[tokio::test]
async fn what_the_store_will_never_take_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = Gated::new(100, 1, Error::invalid("too large"));
    let spool = Spool::open(folder.path(), Transfers::new(store.clone())).unwrap();
    spool.bytes(&key("a"), "x", Put::Overwrite).await.unwrap();
    spool.flushed().await;
    let backlog = spool.backlog();
    assert_eq!((backlog.done, backlog.rejected, backlog.bytes), (0, 1, 0));
    assert_eq!(fs::read_dir(folder.path().join("rejected")).unwrap().count(), 2);
    let why = spool.bytes(&key("a"), "x", Put::Match(crate::store::Version::new("1"))).await.unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_an_operator_has_to_set_right_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let why = Misconfigured { advice: "no permission".to_owned(), said: None };
    let store = Gated::new(100, 3, Error::new(Fault::Invalid, why).context("writing"));
    let spool = Spool::open(folder.path(), Transfers::new(store.clone())).unwrap();
    spool.bytes(&key("a"), "x", Put::Overwrite).await.unwrap();
    spool.flushed().await;
    let backlog = spool.backlog();
    assert_eq!((backlog.done, backlog.rejected, backlog.failures), (1, 0, 3));
    assert_eq!(text(&store.store, "a").await.unwrap(), "x");
}

/// Refuses some keys for ever, as a policy for a prefix does.
#[tokio::test(start_paused = true)]
async fn what_fails_again_and_again_holds_up_only_its_own_key() {
    let folder = tempfile::tempdir().unwrap();
    let why = Misconfigured { advice: "no permission".to_owned(), said: None };
    let mut store = Gated::new(1000, u32::MAX, Error::new(Fault::Invalid, why));
    store.only = Some("denied");
    let spool = Spool::open(folder.path(), Transfers::new(store.clone())).unwrap();
    for number in 0..20 {
        spool.bytes(&key(&format!("denied/{number}")), "x", Put::Overwrite).await.unwrap();
    }
    spool.bytes(&key("a"), "first", Put::Overwrite).await.unwrap();
    spool.bytes(&key("a"), "second", Put::Overwrite).await.unwrap();
    let both = async {
        while spool.backlog().done < 2 {
            // Virtual time: looks again, and lets it go on.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), both).await.unwrap();
    assert_eq!(text(&store.store, "a").await.unwrap(), "second");
    let before = spool.backlog().failures;
    // Virtual time, in which failures are counted.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let backlog = spool.backlog();
    assert_eq!((backlog.uploads, backlog.rejected), (20, 0));
    assert!(backlog.failures - before <= 620, "a store in trouble is asked once a second");
}
