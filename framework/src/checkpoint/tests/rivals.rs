//! Two workers that both believe to have a job, one of them asleep for any length of time at any request: the head never
//! goes back, and nothing that it needs disappears.
//!
//! Both hold on to the job as long as the states let them; nothing but the head keeps them apart. Which of them goes on
//! is drawn before and after each request. `FOREBAY_SEEDS` sets how many such lives are tried.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::time::sleep;

use super::*;

/// Whose turn it is: one worker goes on for some requests while the other sleeps.
struct Turns(Mutex<Drawn>);

struct Drawn {
    random: fastrand::Rng,
    who: usize,
    left: u32,
    over: [bool; 2],
}

impl Turns {
    fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Turns(Mutex::new(Drawn { random, who: 0, left: 0, over: [false; 2] }))
    }

    /// Waits until it is `me` who goes on.
    async fn mine(&self, me: usize) {
        while !self.take(me) {
            // The clock goes on only while nobody has anything to do, and the other may pause between two tries.
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn take(&self, me: usize) -> bool {
        let mut drawn = self.0.lock().unwrap();
        if drawn.left == 0 {
            drawn.who = drawn.random.usize(..2);
            // Most sleeps are short; some are longer than all that the other does.
            let longest = [2, 8, 100][drawn.random.usize(..3)];
            drawn.left = drawn.random.u32(1..=longest);
        }
        if drawn.over[drawn.who] {
            drawn.who = 1 - drawn.who;
        }
        if drawn.who != me {
            return false;
        }
        drawn.left -= 1;
        true
    }

    fn over(&self, me: usize) {
        self.0.lock().unwrap().over[me] = true;
    }
}

/// What all see: the store, and the newest head so far.
struct World {
    store: Arc<dyn Store>,
    turns: Turns,
    newest: Mutex<(u64, u64)>,
    refused: AtomicU64,
}

/// The store as one worker sees it.
struct Seen {
    world: Arc<World>,
    me: usize,
}

impl Around for Seen {
    fn before<'a>(&'a self, _: What, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.world.turns.mine(self.me).await;
            Ok(())
        })
    }

    fn after<'a>(&'a self, what: What, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match what {
                What::Put { .. } if key.ends_with("/head") => self.world.check_head().await,
                What::Delete => drop(whole(&self.world.store).await),
                _ => {}
            }
            self.world.turns.mine(self.me).await;
            Ok(())
        })
    }
}

impl World {
    async fn check_head(&self) {
        let head = self.store.get(&state_key().join("head").unwrap()).await.unwrap().unwrap();
        let head: claim::Head = serde_json::from_slice(&head.bytes).unwrap();
        let now = (head.generation, head.sequence);
        let mut newest = self.newest.lock().unwrap();
        assert!(now.0 >= newest.0 && now.1 >= newest.1, "the head went back from {newest:?} to {now:?}");
        *newest = now;
    }
}

/// A worker: takes over, goes on from what it finds, saves, and begins again as another when it was taken over.
async fn worker(world: Arc<World>, me: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let store: Arc<dyn Store> =
        Arc::new(Wrapped { inner: world.store.clone(), around: Seen { world: world.clone(), me } });
    for _ in 0..random.u8(1..4) {
        // Who was taken over already may find that what it wanted to read is not needed any more, and is told so.
        let mut checkpoints = match opened(&store).await {
            Ok(checkpoints) => checkpoints,
            Err(why) if why.find::<TakenOver>().is_some() => continue,
            Err(why) => panic!("{why}"),
        };
        let saved = match checkpoints.restore().await {
            Ok(saved) => saved,
            Err(why) if why.find::<TakenOver>().is_some() => continue,
            Err(why) => panic!("{why}"),
        };
        let mut n = saved.map_or(0, |saved| {
            let n = saved.bytes("n").unwrap()[0];
            assert_eq!(saved.bytes("x").unwrap(), noise(u64::from(n), 150));
            n
        });
        for _ in 0..random.u8(1..6) {
            n += 1;
            let snapshot = Snapshot::new()
                .bytes("n", vec![n])
                .bytes("x", noise(u64::from(n), 150))
                // Comes and goes, so that the same bytes are garbage and needed by turns.
                .bytes("y", noise(u64::from(n % 3), 100));
            match checkpoints.save(snapshot).await {
                Ok(_) => checkpoints.collect_garbage().await,
                Err(why) if why.find::<TakenOver>().is_some() => {
                    world.refused.fetch_add(1, SeqCst);
                    break;
                }
                Err(why) => panic!("{why}"),
            }
        }
    }
    world.turns.over(me);
}

#[test]
fn two_workers_never_undo_each_other() {
    let seeds = std::env::var("FOREBAY_SEEDS").map_or(1_000, |seeds| seeds.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let refused = &refused;
            scope.spawn(move || {
                // Paused, so that a pause between tries takes no time.
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
                for seed in (thread..seeds).step_by(threads as usize) {
                    let newest = Mutex::new((0, 0));
                    let world = World { store: memory(), turns: Turns::new(seed), newest, refused: AtomicU64::new(0) };
                    let world = Arc::new(world);
                    runtime.block_on(async {
                        let one = worker(world.clone(), 0, seed);
                        let two = worker(world.clone(), 1, seed.wrapping_mul(31).wrapping_add(7));
                        tokio::join!(one, two);
                        let mut last = opened(&world.store).await.unwrap();
                        whole(&world.store).await;
                        last.restore().await.unwrap();
                    });
                    refused.fetch_add(world.refused.load(SeqCst), SeqCst);
                }
            });
        }
    });
    let refused = refused.into_inner();
    println!("seeds {seeds}, saves refused {refused}");
    assert!(refused > seeds / 4, "the workers hardly met: {refused} saves refused in {seeds} lives");
}
