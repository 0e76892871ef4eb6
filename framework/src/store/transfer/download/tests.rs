use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::store::{Key, Memory, Put, Store};

/// Longer than a part, and no multiple of one.
const LEN: usize = 23_456_789;

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    Refused,
    Silent,
    /// Breaks off after so many bytes, or ends as if that were all.
    Breaks(usize),
    Ends(usize),
    Stalls(usize),
    Flips(usize),
    Whole,
}

/// An object in memory whose answers go wrong as a function of their number says.
struct Faulty {
    store: Memory,
    key: Key,
    trouble: Box<dyn Fn(u64) -> Trouble + Send + Sync>,
    asked: Arc<AtomicU64>,
    /// Bytes of all bodies.
    given: Arc<AtomicU64>,
    /// What it says of its bytes, given what is true.
    says: fn(Checksum) -> Option<Checksum>,
    /// And only after so many answers to other questions.
    says_after: u64,
}

impl Faulty {
    async fn new(bytes: Bytes, trouble: impl Fn(u64) -> Trouble + Send + Sync + 'static) -> Self {
        let (store, key) = (Memory::new(), Key::new("object").unwrap());
        let _ = store.put(&key, bytes, Put::Overwrite).await.unwrap();
        let (asked, given) = Default::default();
        Faulty { store, key, trouble: Box::new(trouble), asked, given, says: Some, says_after: 0 }
    }
}

impl Origin for Faulty {
    fn name(&self) -> String {
        "object".to_owned()
    }

    fn read<'a>(&'a self, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            let trouble = (self.trouble)(self.asked.fetch_add(1, Relaxed));
            match trouble {
                Trouble::Refused => return Err(Error::transient("503 SlowDown")),
                Trouble::Silent => std::future::pending().await,
                _ => {}
            }
            let range = if trouble == Trouble::Whole { 0..u64::MAX } else { range };
            let opened = self.store.read(&self.key, range, of).await?;
            let Opened::Found(mut reading) = opened else { return Ok(opened) };
            reading.checksum = None;
            let (start, end) = (reading.range.start as usize, reading.range.end as usize);
            let all = self.store.get(&self.key).await?.unwrap().bytes.slice(start..end);
            let broken = || stream::iter([Err(Error::transient("connection reset"))]).boxed();
            let (all, then) = match trouble {
                Trouble::Breaks(at) => (all.slice(..at.min(all.len())), broken()),
                Trouble::Ends(at) => (all.slice(..at.min(all.len())), stream::empty().boxed()),
                Trouble::Stalls(at) => (all.slice(..at.min(all.len())), stream::pending().boxed()),
                Trouble::Flips(at) => {
                    let mut flipped = all.to_vec();
                    flipped[at] ^= 1;
                    (flipped.into(), stream::empty().boxed())
                }
                _ => (all, stream::empty().boxed()),
            };
            let given = Arc::clone(&self.given);
            let pieces = (0..all.len()).step_by(65_536).map(move |at| {
                let piece = all.slice(at..all.len().min(at + 65_536));
                given.fetch_add(piece.len() as u64, Relaxed);
                Ok(piece)
            });
            reading.body = stream::iter(pieces.collect::<Vec<_>>()).chain(then).boxed();
            Ok(Opened::Found(reading))
        })
    }

    fn checksum<'a>(&'a self, of: &'a Version) -> BoxFuture<'a, Result<Option<Checksum>>> {
        Box::pin(async move {
            while self.asked.load(Relaxed) < self.says_after {
                // Lets virtual time go on, as a loop that yields would not.
                sleep(Duration::from_millis(10)).await;
            }
            let meta = self.store.head(&self.key).await?.filter(|meta| meta.version == *of);
            Ok(meta.and_then(|meta| meta.checksum).and_then(self.says))
        })
    }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

fn download(origin: impl Origin, target: Target) -> Download {
    let (lanes, progress) = (Lanes::new(), Progress::new());
    Download { origin: Arc::new(origin), lanes, progress, most: u64::MAX, target }
}

async fn fetch(origin: Faulty) -> Result<(Fetched, Bytes, Progress)> {
    let download = download(origin, Target::Memory);
    let progress = download.progress.clone();
    let (fetched, bytes) = download.run().await?;
    Ok((fetched, bytes, progress))
}

#[tokio::test(start_paused = true)]
async fn all_kinds_of_trouble_end_in_the_right_bytes() {
    use Trouble::*;
    let bytes = pattern(LEN);
    let troubles =
        [Refused, Silent, Breaks(0), Breaks(100_000), Ends(1), Ends(4_000_000), Stalls(0), Stalls(70_000), Whole];
    for trouble in troubles {
        // Every second answer.
        let origin = Faulty::new(bytes.clone(), move |number| if number % 2 == 0 { trouble } else { None }).await;
        let (fetched, came, progress) = fetch(origin).await.unwrap_or_else(|why| panic!("{trouble:?}: {why}"));
        assert!(came == bytes, "{trouble:?}");
        assert_eq!((fetched.len, fetched.verified), (LEN as u64, true), "{trouble:?}");
        assert_eq!((progress.done(), progress.total()), (LEN as u64, LEN as u64), "{trouble:?}");
    }
}

#[tokio::test]
async fn objects_of_every_size_come_with_few_requests() {
    for (len, requests) in [(0, 1), (1, 1), (10_000_000, 1), (10_000_001, 2), (LEN, 5)] {
        let bytes = pattern(len);
        let origin = Faulty::new(bytes.clone(), |_| Trouble::None).await;
        let (asked, given) = (origin.asked.clone(), origin.given.clone());
        let (_, came, _) = fetch(origin).await.unwrap();
        assert!(came == bytes, "{len}");
        assert_eq!((asked.load(Relaxed), given.load(Relaxed)), (requests, len as u64), "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_breaks_off_goes_on_where_it_was() {
    let bytes = pattern(LEN);
    let origin =
        Faulty::new(bytes.clone(), |number| if number < 40 { Trouble::Breaks(655_360) } else { Trouble::None });
    let origin = origin.await;
    let given = origin.given.clone();
    let (_, came, _) = fetch(origin).await.unwrap();
    assert!(came == bytes);
    assert_eq!(given.load(Relaxed), LEN as u64, "no byte was sent twice");
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_mended() {
    let bytes = pattern(LEN);
    let origin =
        Faulty::new(bytes.clone(), |number| if number == 2 { Trouble::Flips(77) } else { Trouble::None }).await;
    let (fetched, came, progress) = fetch(origin).await.unwrap();
    assert!(came == bytes && fetched.verified);
    assert_eq!((progress.done(), progress.total()), (LEN as u64, LEN as u64));
}

#[tokio::test]
async fn bits_that_flip_for_ever_are_an_error_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let origin = Faulty::new(pattern(1000), |_| Trouble::Flips(77)).await;
    let why = download(origin, Target::File(target.clone())).run().await.unwrap_err();
    assert!(why.to_string().contains("not what the store says"), "{why}");
    assert_eq!(why.fault(), Fault::Transient);
    assert!(!target.exists());
}

#[tokio::test]
async fn what_nobody_vouches_for_is_said_to_be_unverified() {
    let mut origin = Faulty::new(pattern(1000), |_| Trouble::None).await;
    origin.says = |_| None;
    let (fetched, ..) = fetch(origin).await.unwrap();
    assert!(!fetched.verified);
}

#[tokio::test(start_paused = true)]
async fn other_ranges_are_asked_for_while_it_is_asked_what_the_bytes_should_be() {
    let mut origin = Faulty::new(pattern(LEN), |_| Trouble::None).await;
    origin.says_after = 3;
    let (fetched, ..) = fetch(origin).await.unwrap();
    assert!(fetched.verified);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_says_what_the_bytes_should_be_no_lane_is_held() {
    let mut origin = Faulty::new(pattern(LEN), |_| Trouble::None).await;
    origin.says_after = 1000;
    let asked = Arc::clone(&origin.asked);
    let download = download(origin, Target::Memory);
    let lanes = download.lanes.clone();
    let running = tokio::spawn(download.run());
    // Virtual time, in which whoever holds a lane for longer would still hold it.
    sleep(3 * HELD).await;
    let all: Vec<_> = (0..lanes.count()).map(|_| lanes.enter().now_or_never()).collect();
    assert!(all.iter().all(Option::is_some), "another download would have all of them");
    assert!(!running.is_finished());
    asked.fetch_add(1000, Relaxed);
    drop(all);
    let (fetched, bytes) = running.await.unwrap().unwrap();
    assert!(fetched.verified && bytes == pattern(LEN));
}

/// As long as what is there is not asked for again, whatever an answer gives.
#[tokio::test]
async fn an_answer_that_gives_too_much_is_cut_where_a_download_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (target, bytes) = (folder.path().join("out"), pattern(LEN));
    let store = cut_off(bytes.clone(), &target).await.0;
    let mut origin = Faulty::new(Bytes::new(), |_| Trouble::Whole).await;
    origin.store = store;
    let download = download(origin, Target::File(target.clone()));
    let progress = download.progress.clone();
    let (fetched, _) = download.run().await.unwrap();
    assert!(progress.kept() > 0, "it did not begin anew");
    assert!(fetched.verified && std::fs::read(&target).unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_dead_link_comes_to_an_end() {
    let origin = Faulty::new(pattern(1000), |_| Trouble::Silent).await;
    let why = fetch(origin).await.unwrap_err().to_string();
    assert_eq!(why, "downloading object: given up after 12 tries: no answer within 8s");
}

#[tokio::test]
async fn too_long_and_missing_objects_are_refused() {
    let mut download = download(Faulty::new(pattern(1000), |_| Trouble::None).await, Target::Memory);
    download.most = 999;
    let why = download.run().await.unwrap_err();
    assert_eq!(why.to_string(), "downloading object: it has 1000 bytes, but at most 999 are taken");
    let origin = Faulty::new(pattern(1000), |_| Trouble::None).await;
    origin.store.delete(&origin.key).await.unwrap();
    let why = fetch(origin).await.unwrap_err();
    assert_eq!(
        (why.fault(), why.to_string().as_str()),
        (Fault::Invalid, "downloading object: there is no such object")
    );
}

#[tokio::test]
async fn an_object_that_changes_half_way_comes_whole_in_its_new_version() {
    let new = pattern(LEN - 1);
    let origin = Faulty::new(pattern(LEN), |_| Trouble::None).await;
    let (shared, key) = (origin.store.clone(), origin.key.clone());
    // Written over just before the second range is asked for.
    let once = Mutex::new(Some(new.clone()));
    let origin = Faulty {
        trouble: Box::new(move |number| {
            if number == 1
                && let Some(bytes) = once.lock().unwrap().take()
            {
                let put = shared.put(&key, bytes, Put::Overwrite);
                let _ = put.now_or_never().unwrap().unwrap();
            }
            Trouble::None
        }),
        ..origin
    };
    let (fetched, came, progress) = fetch(origin).await.unwrap();
    assert!(came == new);
    assert_eq!((fetched.len, progress.total()), (LEN as u64 - 1, LEN as u64 - 1));
}

/// A download to `target`, which is called `out`, that ends when two ranges have come; the store, and the bytes that it
/// gave.
async fn cut_off(bytes: Bytes, target: &Path) -> (Memory, u64) {
    // The first two answers come, then nothing any more.
    let origin = Faulty::new(bytes, |number| if number < 2 { Trouble::None } else { Trouble::Silent }).await;
    let (given, store) = (origin.given.clone(), origin.store.clone());
    let running = tokio::spawn(download(origin, Target::File(target.to_owned())).run());
    let log = target.with_file_name(".out.partial.log");
    // A head and two ranges.
    while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
        tokio::task::yield_now().await;
    }
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert!(!target.exists());
    (store, given.load(Relaxed))
}

#[tokio::test]
async fn an_interrupted_download_keeps_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let bytes = pattern(LEN);
    let (store, had) = cut_off(bytes.clone(), &target).await;

    let origin = Faulty::new(Bytes::new(), |_| Trouble::None).await;
    let again = Faulty { store, ..origin };
    let given = again.given.clone();
    let download = download(again, Target::File(target.clone()));
    let progress = download.progress.clone();
    let (fetched, _) = download.run().await.unwrap();
    assert!(fetched.verified && std::fs::read(&target).unwrap() == bytes);
    assert_eq!((given.load(Relaxed), progress.kept()), (LEN as u64 - had, had));
    assert_eq!(progress.done(), LEN as u64);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["out"], "nothing is left beside it");
}

#[tokio::test]
async fn a_damaged_partial_file_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let bytes = pattern(LEN);
    let origin = Faulty::new(bytes.clone(), |number| if number < 2 { Trouble::None } else { Trouble::Silent }).await;
    let store = origin.store.clone();
    let running = tokio::spawn(download(origin, Target::File(target.clone())).run());
    let log = folder.path().join(".out.partial.log");
    while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
        tokio::task::yield_now().await;
    }
    running.abort();
    let _ = running.await;
    let partial = folder.path().join(".out.partial");
    let mut damaged = std::fs::read(&partial).unwrap();
    damaged[5] ^= 1;
    std::fs::write(&partial, damaged).unwrap();
    let mut text = std::fs::read(&log).unwrap();
    text.extend(br#"{"start":20000000,"len":9999999999,"crc":7}"#);
    text.extend(b"\n{\"start\":1");
    std::fs::write(&log, text).unwrap();
    let again = Faulty { store, ..Faulty::new(Bytes::new(), |_| Trouble::None).await };
    let (fetched, _) = download(again, Target::File(target.clone())).run().await.unwrap();
    assert!(fetched.verified && std::fs::read(&target).unwrap() == bytes);
}

#[test]
fn ranges_fill_the_gaps_between_what_is_there() {
    let missing = |there: &[(u64, u64)], first: Range<u64>, len| {
        let left = Left { version: None, ranges: there.iter().map(|&(start, end)| start..end).collect() };
        cut(&left, first, len, 10).into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&[], 0..40, 40), []);
    assert_eq!(missing(&[], 0..10, 40), [(10, 40)]);
    assert_eq!(missing(&[(0, 10), (20, 30)], 10..20, 40), [(30, 40)]);
    assert_eq!(missing(&[(0, 10)], 20..30, 40), [(10, 20), (30, 40)]);
    let (twice, thrice) = (PART + LEAST, PART + 2 * LEAST);
    assert_eq!(missing(&[], 0..PART, thrice + 1), [(PART, twice), (twice, thrice), (thrice, thrice + 1)]);
    let large = missing(&[], 0..PART, 100 * PART);
    assert_eq!((large.len(), large[0], large[98]), (99, (PART, 2 * PART), (99 * PART, 100 * PART)));
}
