//! A worker dies before or after each single request of a save: the store holds a whole state at each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

use super::*;

/// Stands still for ever at one of its requests.
struct Dies {
    /// Requests until then.
    left: AtomicUsize,
    /// Whether that request is carried out.
    after: bool,
    dead: Arc<Notify>,
}

impl Dies {
    async fn at(&self, now: bool) -> Result<()> {
        if now && self.left.fetch_sub(1, SeqCst) == 0 {
            self.dead.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

impl Around for Dies {
    fn before<'a>(&'a self, _: What, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.at(!self.after))
    }
    fn after<'a>(&'a self, _: What, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.at(self.after))
    }
}

fn snapshot(n: u64) -> Snapshot {
    // Some chunks stay, some change; large, small and growing ones.
    Snapshot::new()
        .bytes("same", noise(0, 200))
        .bytes("new", noise(n, 200))
        .bytes("small", noise(n + 50, 20))
        .grows("log")
}

fn log(n: u64) -> Vec<u8> {
    (1..=n).flat_map(|n| noise(n + 100, 70)).collect()
}

/// A worker that takes over, goes on from the newest state, and saves three more, until it dies. How many requests it
/// made, if it lived to the end.
async fn live_until(store: &Arc<dyn Store>, left: usize, after: bool) -> Option<usize> {
    let dead = Arc::new(Notify::new());
    let around = Dies { left: AtomicUsize::new(left), after, dead: dead.clone() };
    let wrapped = Arc::new(Wrapped { inner: store.clone(), around });
    let dyn_store: Arc<dyn Store> = wrapped.clone();
    let work = async {
        let mut checkpoints = opened(&dyn_store).await.unwrap();
        let from = match checkpoints.restore().await.unwrap() {
            None => 0,
            Some(saved) => number(&saved),
        };
        for n in from + 1..=from + 3 {
            write(&checkpoints, "log", &log(n));
            checkpoints.save(snapshot(n).bytes("number", vec![n as u8])).await.unwrap();
            checkpoints.collect_garbage().await;
        }
    };
    tokio::select! {
        () = work => Some(left - wrapped.around.left.load(SeqCst)),
        () = dead.notified() => None,
    }
}

fn number(saved: &Saved) -> u64 {
    u64::from(saved.bytes("number").unwrap()[0])
}

#[tokio::test]
async fn a_worker_that_dies_at_any_request_leaves_a_whole_state() {
    let count = live_until(&memory(), usize::MAX / 2, false).await.unwrap();
    assert!(count > 30, "{count} requests");
    for after in [false, true] {
        // A first worker's life, and a second one's who takes over its states.
        for second in [false, true] {
            let mut died = 0;
            for left in 0..2 * count {
                let store = memory();
                if second {
                    live_until(&store, usize::MAX / 2, false).await.unwrap();
                }
                let base = if second { 3 } else { 0 };
                let lived = live_until(&store, left, after).await.is_some();
                died += usize::from(!lived);
                whole(&store).await;
                let mut next = opened(&store).await.unwrap();
                let reached = match next.restore().await.unwrap() {
                    None => 0,
                    Some(saved) => {
                        let n = number(&saved);
                        assert_eq!(saved.bytes("new").unwrap(), noise(n, 200));
                        assert_eq!(saved.bytes("small").unwrap(), noise(n + 50, 20));
                        assert!(read(&next, "log") == log(n));
                        n
                    }
                };
                assert!((base..=base + 3).contains(&reached), "{reached}");
                assert!(!lived || reached == base + 3);
                // Whatever was left half done is cleared away by the next.
                write(&next, "log", &log(reached));
                next.save(snapshot(reached)).await.unwrap();
                next.collect_garbage().await;
                next.save(snapshot(reached)).await.unwrap();
                next.collect_garbage().await;
                let needed = whole(&store).await.unwrap().objects().len();
                assert!(keys(&store).await.len() <= 1 + 2 + needed, "{left} {after}: {:?}", keys(&store).await);
            }
            assert!(died >= count, "{died}");
        }
    }
}
