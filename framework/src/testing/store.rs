//! What every [`Store`] has to do, as tests that anyone's implementation can run.
//!
//! One function per property; [`all`] runs them in order. Each works below a prefix of its own under `conformance/`,
//! which it empties first, and panics with the property that broke. They deliberately do not test durability, which
//! no code inside the process can see, nor speed.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use forebay::{store::Memory, testing};
//! # async fn test() {
//! testing::store::all(Arc::new(Memory::new())).await;
//! # }
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinSet;

use crate::error::{Error, Fault, Result};
use crate::store::{Conditional, Content, Key, Meta, Object, Opened, Page, Progress, Put, Reading, Store, Version};

/// What a store's medium cannot do. Nothing is left out for it: the properties are shown within these limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest key, in bytes.
    pub longest_key: usize,
    /// Whether `a` and `a/b` may both be there, which they cannot where keys are paths of files.
    pub nested: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { longest_key: Key::MAX_LEN, nested: true }
    }
}

impl Limits {
    /// The names that can be there together.
    fn allowed<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let within = |name: &str, other: &str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let alone = |name: &&str| self.nested || !names.iter().any(|other| within(name, other));
        names.iter().copied().filter(alone).collect()
    }
}

/// Every property. Run it on a runtime with several threads: on one, most races never happen.
pub async fn all(store: Arc<dyn Store>) {
    all_within(store, Limits::default()).await;
}

/// The same of a store whose medium has limits.
pub async fn all_within(store: Arc<dyn Store>, limits: Limits) {
    let one = &*store;
    bad_keys();
    round_trip(one).await;
    sizes(one).await;
    ranges(one).await;
    streams(one).await;
    overwrite(one).await;
    delete(one, limits).await;
    odd_keys(one, limits).await;
    list_pages(one, limits).await;
    list_prefixes(one, limits).await;
    match one.conditional() {
        Conditional::None => unconditional(one).await,
        _ => conditions(one).await,
    }
    if one.conditional() == Conditional::ByWrite {
        equal_bytes(one).await;
    }
    races(&[store]).await;
}

/// The properties of concurrent use. The tasks are dealt over `handles`, which all have to lead to the same objects,
/// for instance as two clients would.
pub async fn races(handles: &[Arc<dyn Store>]) {
    if handles.iter().all(|store| store.conditional() != Conditional::None) {
        create_race(handles).await;
        counter_race(handles).await;
        match_race(handles).await;
    }
    whole_reads(handles).await;
    delete_race(handles).await;
}

/// Bad keys are `Invalid`, and those just within the limits are good.
pub fn bad_keys() {
    let full = "s".repeat(Key::MAX_SEGMENT);
    let four = [&*full; 4].join("/");
    let longest = format!("s/{}", &four[1..]);
    assert_eq!(longest.len(), Key::MAX_LEN, "the limits are what this test thinks");
    let long = [format!("{full}s"), format!("a/{full}s/b"), format!("s/{four}"), "é".repeat(128)];
    let bad = [
        "", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/./b", "a/../b", "a/..", "a\\b", "..\\a", "a\0b",
        "\0", "a\nb", "\u{7f}", "\u{85}", &long[0], &long[1], &long[2], &long[3],
    ];
    for bad in bad {
        refused(Key::new(bad), &format!("key {bad:?}"));
    }
    for good in ["a", "...", ".a", "a.", "..a/b..", "a b", "é", &full, &longest] {
        assert!(Key::new(good).is_ok(), "key {good:?} is good");
    }
    refused(key("a").join("../b"), "joining a bad key");
}

/// What was put is got, headed and listed, with one meta; what was not put is not there.
pub async fn round_trip(store: &dyn Store) {
    let place = Place::emptied(store, "round-trip").await;
    let version = place.put("here", "value", Put::Overwrite).await;
    let Object { meta, bytes } = place.get("here").await.expect("a put object is got");
    assert_eq!(bytes, "value", "get gives the bytes that were put");
    assert_eq!(meta.len, 5, "get gives the length that was put");
    assert_eq!(meta.version, version, "get gives the version that put gave");
    assert_eq!(meta.key, place.key("here"), "get gives the key");
    let head = place.head("here").await.expect("a put object is headed");
    same(&head, &meta, "head and get");
    let range = place.range("here", 1..3).await.expect("a put object has ranges");
    same(&range.meta, &meta, "get_range and get");
    let page = place.list(None, 10).await;
    assert_eq!(page.objects.len(), 1, "a put object is listed once");
    same(&page.objects[0], &meta, "list and get");

    assert_eq!(place.get("missing").await, None, "get of a missing object");
    assert_eq!(place.range("missing", 0..1).await, None, "get_range of a missing object");
    assert_eq!(place.head("missing").await, None, "head of a missing object");
}

/// Nothing, one byte, and 8 MiB come back as they were.
pub async fn sizes(store: &dyn Store) {
    let place = Place::emptied(store, "sizes").await;
    for len in [0, 1, 8 << 20] {
        let bytes = pattern(len);
        place.put("key", bytes.clone(), Put::Overwrite).await;
        let object = place.get("key").await.expect("an object of any size is kept");
        assert_eq!(object.meta.len, len as u64, "the length of {len} bytes");
        // Not assert_eq, here and below: nobody wants to read the difference.
        assert!(object.bytes == bytes, "{len} bytes come back as they were");
    }
}

/// Ranges give exactly their bytes, end with the object, and may not begin beyond its end.
pub async fn ranges(store: &dyn Store) {
    const END: u64 = 100_000;
    const MAX: u64 = u64::MAX;
    let place = Place::emptied(store, "ranges").await;
    let bytes = pattern(END as usize);
    place.put("full", bytes.clone(), Put::Overwrite).await;
    place.put("empty", Bytes::new(), Put::Overwrite).await;
    let inner = [(0, 1), (0, END), (1, 2), (4095, 4097), (END - 1, END), (0, 0), (7, 7), (END, END)];
    let clamped = [(0, END + 1), (END - 1, MAX), (END, END + 1), (0, MAX)];
    for (start, end) in inner.into_iter().chain(clamped) {
        let object = place.range("full", start..end).await.expect("the object is there");
        let part = start as usize..end.min(END) as usize;
        assert!(object.bytes == bytes[part], "{start}..{end} of {END} bytes are exactly those");
        assert_eq!(object.meta.len, END, "the meta of a range is of the whole object");
    }
    for end in [0, 1, MAX] {
        let object = place.range("empty", 0..end).await.expect("the object is there");
        assert!(object.bytes.is_empty(), "0..{end} of an empty object is empty");
    }
    for (name, start, end) in [("full", END + 1, END + 2), ("full", 2, 1), ("full", MAX, MAX), ("empty", 1, 2)] {
        let answer = store.get_range(&place.key(name), start..end).await;
        refused(answer, &format!("{start}..{end} of the {name} object"));
    }
}

/// What is written from a buffer, a file or a stream is read as it was, whole and in ranges, and only of the version that
/// is asked for.
pub async fn streams(store: &dyn Store) {
    let place = Place::emptied(store, "streams").await;
    for len in [0, 1, 3 << 20] {
        let bytes = pattern(len);
        let file = std::env::temp_dir().join(format!("forebay-conformance-{:016x}", fastrand::u64(..)));
        std::fs::write(&file, &bytes).expect("a file can be written");
        let pieces: Vec<Result<Bytes>> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let contents = [
            ("buffer", Content::bytes(bytes.clone())),
            ("file", Content::file(&file)),
            ("stream", Content::stream(stream::iter(pieces))),
        ];
        for (name, content) in contents {
            let progress = Progress::new();
            let key = place.key(name);
            let written = store.write(&key, content.counted_in(&progress), Put::Overwrite).await;
            let version = ok(written, "write").stored().expect("an overwrite is stored");
            assert_eq!(progress.done(), len as u64, "a write from a {name} counts its bytes");
            let reading = place.read(name, 0..u64::MAX, Some(&version)).await;
            assert_eq!((reading.len, &reading.version), (len as u64, &version), "read tells length and version");
            assert!(ok(reading.collect(len).await, "collect") == bytes, "{len} bytes from a {name} are read");
            let (start, end) = (len as u64 / 3, len as u64 * 2 / 3);
            let reading = place.read(name, start..end, Some(&version)).await;
            let Range { start: from, end: to } = reading.range;
            assert!(from <= start && to >= end, "read gives what was asked for or more");
            let part = ok(reading.collect(len).await, "collect");
            assert!(part == bytes.slice(from as usize..to as usize), "read gives the bytes of its range");
        }
        std::fs::remove_file(file).expect("the file is there");
    }
    let failing = [Ok(Bytes::from("half")), Err(Error::failed("torn"))];
    let torn = store.write(&place.key("torn"), Content::stream(stream::iter(failing)), Put::Overwrite).await;
    assert!(torn.is_err_and(|why| why.to_string().contains("torn")), "a stream's error is the write's");
    assert_eq!(place.head("torn").await, None, "of a stream that fails nothing is written");
    let gone = store.write(&place.key("gone"), Content::file("/nonexistent/file"), Put::Overwrite).await;
    assert!(gone.is_err_and(|why| why.to_string().contains("/nonexistent/file")), "a file's error names it");
    let missing = ok(store.read(&place.key("missing"), 0..1, None).await, "read");
    assert!(matches!(missing, Opened::Missing), "read of a missing object");
    let old = place.put("changes", "old", Put::Overwrite).await;
    place.put("changes", "new!", Put::Overwrite).await;
    let changed = ok(store.read(&place.key("changes"), 0..1, Some(&old)).await, "read");
    assert!(matches!(changed, Opened::Changed), "read of a version that is no more");
}

/// An overwrite replaces the bytes and changes the version.
pub async fn overwrite(store: &dyn Store) {
    let place = Place::emptied(store, "overwrite").await;
    let mut seen = Vec::new();
    for value in ["a longer first value", "second", ""] {
        let version = place.put("key", value, Put::Overwrite).await;
        let object = place.get("key").await.expect("an overwritten object is there");
        assert_eq!(object.bytes, value, "an overwrite replaces all bytes");
        assert_eq!(object.meta.version, version, "get gives the version that put gave");
        assert!(!seen.contains(&version), "an overwrite changes the version");
        seen.push(version);
    }
}

/// For [`Conditional::ByWrite`]: versions differ between writes of the same bytes, also over a deletion.
pub async fn equal_bytes(store: &dyn Store) {
    let place = Place::emptied(store, "equal-bytes").await;
    let first = place.put("key", "same", Put::Overwrite).await;
    let second = place.put("key", "same", Put::Overwrite).await;
    assert_ne!(first, second, "writing the same bytes changes the version");
    place.delete("key").await;
    let third = place.put("key", "same", Put::Create).await;
    assert!(third != first && third != second, "no version comes back after a deletion");
    place.conflict("key", Put::Match(second), "a match of a deleted object, created again,").await;
}

/// A deleted object is gone from everywhere, its neighbours are not, and to delete it again is no error.
pub async fn delete(store: &dyn Store, limits: Limits) {
    let place = Place::emptied(store, "delete").await;
    let beside = if limits.nested { "a/c" } else { "a-c" };
    for name in ["a", "b", beside] {
        place.put(name, "value", Put::Overwrite).await;
    }
    for times in 1..=2 {
        place.delete("a").await;
        assert_eq!(place.get("a").await, None, "get of an object deleted {times} times");
        assert_eq!(place.head("a").await, None, "head of an object deleted {times} times");
        assert_eq!(place.names().await, [beside, "b"], "only the deleted object left the list");
    }
    place.put("a", "again", Put::Overwrite).await;
    assert_eq!(place.bytes("a").await, "again", "a deleted key can be used again");
    place.delete("never/was").await;
}

/// All good keys work and are kept apart: the longest, keys below keys, signs that file systems or URLs care about.
pub async fn odd_keys(store: &dyn Store, limits: Limits) {
    let place = Place::emptied(store, "odd").await;
    let room = limits.longest_key - place.prefix.len();
    let full = "x".repeat(Key::MAX_SEGMENT);
    let mut longest = [&*full; 5].join("/").split_off(5 * full.len() + 4 - room);
    if longest.starts_with('/') {
        longest.replace_range(..1, "x");
    }
    let deepest = "z/".repeat(room / 2 - 1) + "z";
    let mut odd = vec!["a b", " a ", &longest, &deepest];
    odd.extend("a a/b a/b/c A a+b a%2Fb a%b a?b=c&d a#b a:b a* \"a\" <a> 'a' a|b ~ .a a. ...".split(' '));
    odd.extend("lock tmp/lock a.tmp é e\u{301} \u{1f980} a/..b".split(' '));
    let mut odd = limits.allowed(&odd);
    for odd in &odd {
        place.put(odd, odd.to_string(), Put::Overwrite).await;
    }
    for odd in &odd {
        assert_eq!(place.bytes(odd).await, odd.as_bytes(), "the object {odd:?} is that one");
    }
    odd.sort_unstable();
    assert_eq!(place.names().await, odd, "all good keys are listed as they are");
    let gone = ok(store.delete_all(&place.prefix).await, "delete_all");
    assert_eq!(gone, odd.len(), "all good keys can be deleted");
    assert_eq!(place.names().await, [""; 0], "delete_all leaves nothing");
}

/// Pages of any size, put together, are the sorted list; `after` need not exist.
pub async fn list_pages(store: &dyn Store, limits: Limits) {
    let place = Place::emptied(store, "pages").await;
    // In byte order, which a walk through directories does not give: '!' < '-' < '.' < '/' < '0'.
    let sorted =
        ["a", "a!", "a!/x", "a-b", "a-b/x", "a.b", "a/b", "a/b!", "a/b/c", "a/c", "a0", "aa", "b/a/a", "b/b", "c"];
    let sorted = limits.allowed(&sorted);
    let count = sorted.len();
    for name in sorted.iter().skip(7).chain(&sorted[..7]) {
        place.put(name, name.to_string(), Put::Overwrite).await;
    }
    for limit in [1, 2, 3, count - 1, count, count + 1, usize::MAX] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = place.list(after.as_ref(), limit).await;
            assert!(page.objects.len() <= limit, "a page has at most {limit} objects");
            all.extend(page.objects.iter().map(|meta| place.name(meta)));
            let advances = page.next.is_none() || page.next > after;
            assert!(advances, "a list with pages of {limit} advances");
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all, sorted, "pages of {limit} give every object once, in byte order");
    }
    // Most of these do not exist.
    for after in ["!", "a", "a/a", "a/b/c/d", "b", "c", "d"] {
        let page = place.list(Some(&place.key(after)), 100).await;
        let found: Vec<_> = page.objects.iter().map(|meta| place.name(meta)).collect();
        let expected: Vec<_> = sorted.iter().filter(|name| **name > after).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "what comes after {after:?}");
    }
    let before = place.list(Some(&key("a")), 100).await.objects.len();
    let behind = place.list(Some(&key("z")), 100).await.objects.len();
    assert_eq!((before, behind), (count, 0), "`after` may be outside the prefix");
    refused(store.list(&place.prefix, None, 0).await, "a list with the limit 0");
}

/// A prefix is a string, not a directory, and matches from the beginning of the whole key.
pub async fn list_prefixes(store: &dyn Store, limits: Limits) {
    let place = Place::emptied(store, "prefix").await;
    let names = limits.allowed(&["a", "a/b", "ab", "b/a", "é/a"]);
    for name in &names {
        place.put(name, name.to_string(), Put::Overwrite).await;
    }
    for prefix in ["a", "a/", "a/b", "a/b/", "ab", "b", "é", "c", "../prefix/a", "/a", ""] {
        let found = ok(store.list_all(&format!("{}{prefix}", place.prefix)).await, "list");
        let found: Vec<_> = found.iter().map(|meta| place.name(meta)).collect();
        let expected: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "the objects with the prefix {prefix:?}");
    }
    let whole = "conformance/prefix";
    let all = names.len();
    for (prefix, count) in [(whole, all), (&whole[..15], all), (&whole[1..], 0), ("/conformance", 0)] {
        let page = ok(store.list(prefix, None, 100).await, "list");
        assert_eq!(page.objects.len(), count, "the number of objects with the prefix {prefix:?}");
    }
}

/// Create writes only where nothing is, Match only over the very version; else the object stays as it was.
pub async fn conditions(store: &dyn Store) {
    let place = Place::emptied(store, "conditions").await;
    let first = place.put("key", "first", Put::Create).await;
    place.conflict("key", Put::Create, "create of an existing object").await;
    let second = place.put("key", "second", Put::Match(first.clone())).await;
    assert_ne!(first, second, "a matching put changes the version");
    place.conflict("key", Put::Match(first), "a stale match").await;
    let object = place.get("key").await.expect("the object is there");
    assert_eq!(object.bytes, "second", "a conflict changes no bytes");
    assert_eq!(object.meta.version, second, "a conflict changes no version");
    place.delete("key").await;
    place.conflict("key", Put::Match(second.clone()), "a match of a deleted object").await;
    place.conflict("never/was", Put::Match(second), "a match of a missing object").await;
    assert_eq!(place.names().await, [""; 0], "a conflict creates nothing");
    place.put("key", "again", Put::Create).await;
}

/// For [`Conditional::None`]: a condition that cannot be kept is refused, not ignored.
pub async fn unconditional(store: &dyn Store) {
    let place = Place::emptied(store, "unconditional").await;
    let key = place.key("key");
    refused(store.put(&key, "x".into(), Put::Create).await, "create");
    let version = place.put("key", "value", Put::Overwrite).await;
    refused(store.put(&key, "x".into(), Put::Match(version)).await, "match");
    assert_eq!(place.bytes("key").await, "value", "a refused put changes nothing");
}

/// Of 16 tasks that create one object, exactly one does, and its bytes are there; 20 rounds.
pub async fn create_race(handles: &[Arc<dyn Store>]) {
    let place = Place::emptied(&*handles[0], "create-race").await;
    for round in 0..20 {
        let name = format!("{round}/key");
        let outcomes = tasks(handles, 16, |task, store| {
            let name = name.clone();
            async move {
                let place = Place::at(&*store, "create-race");
                place.try_put(&name, format!("task {task}"), Put::Create).await
            }
        });
        let outcomes = outcomes.await;
        let winners: Vec<_> = (0..16).filter(|&task| outcomes[task].is_some()).collect();
        assert_eq!(winners.len(), 1, "exactly one of 16 creates wins, not {winners:?}");
        let object = place.get(&name).await.expect("a won create left an object");
        assert_eq!(object.bytes, format!("task {}", winners[0]), "the winner's bytes are there");
        assert_eq!(Some(object.meta.version), outcomes[winners[0]], "the winner's version is there");
    }
}

/// 8 tasks each count to 10 by reading and matching, and no count is lost.
pub async fn counter_race(handles: &[Arc<dyn Store>]) {
    let place = Place::emptied(&*handles[0], "counter-race").await;
    place.put("counter", "0", Put::Create).await;
    tasks(handles, 8, |_, store| async move {
        let place = Place::at(&*store, "counter-race");
        for _ in 0..10 {
            loop {
                let Object { meta, bytes } = place.get("counter").await.expect("the counter is there");
                let text = std::str::from_utf8(&bytes).expect("the counter is whole");
                let count: u32 = text.parse().expect("the counter is a number");
                let next = (count + 1).to_string();
                if place.try_put("counter", next, Put::Match(meta.version)).await.is_some() {
                    break;
                }
            }
        }
    })
    .await;
    assert_eq!(place.bytes("counter").await, "80", "80 increments by matching puts count to 80");
}

/// Puts that match never bring back an object that is deleted meanwhile; 60 deletions under 3 tasks that overwrite.
pub async fn match_race(handles: &[Arc<dyn Store>]) {
    let place = Place::emptied(&*handles[0], "match-race").await;
    place.put("key", "0", Put::Create).await;
    let done = Arc::new(AtomicBool::new(false));
    tasks(handles, 4, |task, store| {
        let done = Arc::clone(&done);
        async move {
            let place = Place::at(&*store, "match-race");
            if task == 0 {
                for round in 1..=60 {
                    place.delete("key").await;
                    assert_eq!(place.get("key").await, None, "matching puts do not undo a deletion");
                    place.put("key", round.to_string(), Put::Create).await;
                }
                done.store(true, Ordering::Release);
            }
            for i in 0.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                if let Some(object) = place.get("key").await {
                    place.try_put("key", format!("{task} {i}"), Put::Match(object.meta.version)).await;
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// Readers of an object that is overwritten all the time see one write's bytes, of the length in its meta, and never
/// nothing; and so do lists.
pub async fn whole_reads(handles: &[Arc<dyn Store>]) {
    // Write i is (i + 1) * 5000 bytes, each of them i.
    let write = |i: u8| Bytes::from(vec![i; (usize::from(i) + 1) * 5000]);
    let place = Place::emptied(&*handles[0], "whole-reads").await;
    place.put("key", write(0), Put::Overwrite).await;
    let done = Arc::new(AtomicBool::new(false));
    tasks(handles, 6, |task, store| {
        let done = Arc::clone(&done);
        async move {
            let place = Place::at(&*store, "whole-reads");
            if task == 0 {
                for i in 1..40 {
                    place.put("key", write(i), Put::Overwrite).await;
                }
                done.store(true, Ordering::Release);
            }
            while !done.load(Ordering::Acquire) {
                // A store that is never pending must not keep the writer from running.
                tokio::task::yield_now().await;
                if task == 1 {
                    assert_eq!(place.names().await, ["key"], "an object being overwritten is listed once");
                    continue;
                }
                let object = match task {
                    2 => place.range("key", 0..u64::MAX).await,
                    _ => place.get("key").await,
                };
                let Object { meta, bytes } = object.expect("an object being overwritten is there");
                assert!(bytes == write(bytes[0]), "a read has all bytes of one write and no others");
                assert_eq!(meta.len, bytes.len() as u64, "a read's meta is of the same write");
            }
        }
    })
    .await;
}

/// Puts and deletes of neighbours at the same time never fail and never disturb each other.
pub async fn delete_race(handles: &[Arc<dyn Store>]) {
    let place = Place::emptied(&*handles[0], "delete-race").await;
    tasks(handles, 8, |task, store| async move {
        let place = Place::at(&*store, "delete-race");
        // Two to a directory, so that it is empty at many moments.
        let name = format!("deep/{}/{task}", task / 2);
        for round in 0..20 {
            let value = round.to_string();
            place.put(&name, value.clone(), Put::Overwrite).await;
            assert_eq!(place.bytes(&name).await, value, "others' deletes do not touch an object");
            place.delete(&name).await;
            assert_eq!(place.get(&name).await, None, "others' puts do not bring an object back");
        }
    })
    .await;
    assert_eq!(place.names().await, [""; 0], "everything put was deleted");
}

/// Runs `count` tasks at once, dealt over the handles, and gives what they gave, in order. The first panic goes on
/// as it was, since it names the property, and ends the other tasks.
async fn tasks<F>(handles: &[Arc<dyn Store>], count: usize, task: impl Fn(usize, Arc<dyn Store>) -> F) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut running = JoinSet::new();
    for i in 0..count {
        let one = task(i, Arc::clone(&handles[i % handles.len()]));
        running.spawn(async move { (i, one.await) });
    }
    let mut outputs = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        let (i, output) = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        outputs.insert(i, output);
    }
    outputs.into_values().collect()
}

/// One property's part of the store: short words for what the properties do most, none of which may fail.
struct Place<'a> {
    store: &'a dyn Store,
    prefix: String,
}

impl<'a> Place<'a> {
    fn at(store: &'a dyn Store, name: &str) -> Self {
        Self { store, prefix: format!("conformance/{name}/") }
    }

    async fn emptied(store: &'a dyn Store, name: &str) -> Self {
        let place = Self::at(store, name);
        ok(store.delete_all(&place.prefix).await, "emptying a prefix");
        place
    }

    fn key(&self, name: &str) -> Key {
        key(&format!("{}{name}", self.prefix))
    }

    /// The other way round.
    fn name(&self, meta: &Meta) -> String {
        let name = meta.key.as_str().strip_prefix(&self.prefix);
        name.unwrap_or_else(|| panic!("{} has the prefix it was listed by", meta.key)).to_owned()
    }

    async fn get(&self, name: &str) -> Option<Object> {
        ok(self.store.get(&self.key(name)).await, "get")
    }

    async fn bytes(&self, name: &str) -> Bytes {
        let object = self.get(name).await;
        object.unwrap_or_else(|| panic!("an object that was put is there: {name}")).bytes
    }

    async fn range(&self, name: &str, range: Range<u64>) -> Option<Object> {
        ok(self.store.get_range(&self.key(name), range).await, "get_range")
    }

    async fn read(&self, name: &str, range: Range<u64>, of: Option<&Version>) -> Reading {
        let opened = ok(self.store.read(&self.key(name), range, of).await, "read").found();
        opened.unwrap_or_else(|| panic!("an object that was written is read: {name}"))
    }

    async fn head(&self, name: &str) -> Option<Meta> {
        ok(self.store.head(&self.key(name)).await, "head")
    }

    async fn try_put(&self, name: &str, bytes: impl Into<Bytes>, mode: Put) -> Option<Version> {
        ok(self.store.put(&self.key(name), bytes.into(), mode).await, "put").stored()
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>, mode: Put) -> Version {
        let version = self.try_put(name, bytes, mode.clone()).await;
        version.unwrap_or_else(|| panic!("a put whose condition holds is stored: {name}, {mode:?}"))
    }

    async fn conflict(&self, name: &str, mode: Put, what: &str) {
        assert_eq!(self.try_put(name, "x", mode).await, None, "{what} is a conflict");
    }

    async fn delete(&self, name: &str) {
        ok(self.store.delete(&self.key(name)).await, "delete");
    }

    async fn list(&self, after: Option<&Key>, limit: usize) -> Page {
        ok(self.store.list(&self.prefix, after, limit).await, "list")
    }

    async fn names(&self) -> Vec<String> {
        let list = ok(self.store.list_all(&self.prefix).await, "list");
        list.iter().map(|meta| self.name(meta)).collect()
    }
}

fn key(key: &str) -> Key {
    ok(Key::new(key), "a good key")
}

/// Bytes that no shift by a power of two leaves as they are.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// All that two metas of one write have in common; times come with different precision from different requests.
fn same(left: &Meta, right: &Meta, who: &str) {
    let facts = |meta: &Meta| (meta.key.clone(), meta.len, meta.version.clone());
    assert_eq!(facts(left), facts(right), "{who} agree on an object");
}

fn refused<T>(result: Result<T>, what: &str) {
    let fault = result.map(drop).map_err(|error: Error| error.fault());
    assert_eq!(fault, Err(Fault::Invalid), "{what} is refused as invalid");
}

#[track_caller]
fn ok<T>(result: Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what} succeeds: {error}"))
}
