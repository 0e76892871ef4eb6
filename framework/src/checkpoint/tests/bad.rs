//! What cannot be gone on from is said, with the job and the object, and nothing is changed; only "not there" begins anew.

use std::sync::Mutex;

use super::*;
use crate::error::Fault;

/// A store with one state, and the state's bytes.
async fn with_a_state() -> (Arc<dyn Store>, Vec<u8>) {
    let store = memory();
    let state = noise(5, 500);
    let mut checkpoints = opened(&store).await.unwrap();
    checkpoints.save(Snapshot::new().bytes("x", state.clone())).await.unwrap();
    (store, state)
}

async fn fails(store: &Arc<dyn Store>) -> Error {
    match opened(store).await {
        Err(why) => why,
        Ok(mut checkpoints) => checkpoints.restore().await.unwrap_err(),
    }
}

/// The one data object with that many bytes.
async fn object(store: &Arc<dyn Store>, below: &str) -> Key {
    let all = store.list_all(&format!("{}/{below}/", state_key())).await.unwrap();
    all.into_iter().next().unwrap().key
}

#[tokio::test(start_paused = true)]
async fn a_state_of_another_program_is_refused() {
    let (store, state) = with_a_state().await;
    let place = Workplace::new(&Job::new("7"), None);
    let Err(why) = Checkpoints::open(store.clone(), &state_key(), &place, "test 2").await else {
        panic!("it was taken");
    };
    assert_eq!(why.fault(), Fault::Failed);
    let why = why.to_string();
    assert!(why.contains("the states of job 7") && why.contains("`test 1`") && why.contains("`test 2`"), "{why}");
    let saved = opened(&store).await.unwrap().restore().await.unwrap().unwrap();
    assert_eq!(saved.bytes("x").unwrap(), state, "the state is as it was");
}

#[tokio::test(start_paused = true)]
async fn another_jobs_states_are_refused() {
    let (store, _) = with_a_state().await;
    let place = Workplace::new(&Job::new("8"), None);
    let Err(why) = Checkpoints::open(store, &state_key(), &place, "test 1").await else {
        panic!("it was taken");
    };
    assert!(why.to_string().contains("of job 7, not of job 8"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_missing_or_wrong_is_named() {
    for below in ["data", "states"] {
        let (store, _) = with_a_state().await;
        let key = object(&store, below).await;
        let bytes = store.get(&key).await.unwrap().unwrap().bytes;
        let mut wrong = bytes.to_vec();
        wrong[10] ^= 1;
        let short = bytes.slice(..bytes.len() - 1);
        let cases = [
            (None, format!("{key} is needed, and is not there")),
            (Some(Bytes::from(wrong)), format!("{key} is corrupt: its bytes are not those that were saved")),
            (Some(short), format!("{key} is corrupt: it has")),
        ];
        for (bytes, said) in cases {
            match bytes {
                None => store.delete(&key).await.unwrap(),
                Some(bytes) => drop(store.put(&key, bytes, Put::Overwrite).await.unwrap()),
            }
            let why = fails(&store).await;
            assert_eq!(why.fault(), Fault::Failed, "{why}");
            assert!(why.to_string().contains(&said), "{why}");
            assert!(why.to_string().contains("job 7"), "{why}");
        }
        let _ = store.put(&key, bytes, Put::Overwrite).await.unwrap();
        assert!(opened(&store).await.unwrap().restore().await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_or_manifest_that_lies_is_refused() {
    let (store, _) = with_a_state().await;
    let head = state_key().join("head").unwrap();
    for text in ["", "{}", "{\"version\": 2}", "nonsense"] {
        let _ = store.put(&head, text.into(), Put::Overwrite).await.unwrap();
        let why = fails(&store).await;
        assert!(why.to_string().contains("the head jobs/7/state/head"), "{why}");
    }
    let manifest = |chunks: &str, len: u64| {
        format!(
            r#"{{"version":1,"job":"7","format":"f","generation":1,"sequence":1,"taken":0,"packs":{{}},
            "parts":[{{"name":"x","kind":"memory","len":{len},"chunks":[{chunks}]}}]}}"#
        )
    };
    let chunk = |object: &str, len: u64| format!(r#"{{"hash":"","len":{len},"object":"{object}","stored":5}}"#);
    assert!(Manifest::parse(manifest(&chunk("data/1", 5), 5).as_bytes()).is_ok());
    for (text, said) in [
        (manifest(&chunk("data/1", 5), 6), "not as long as it is"),
        (manifest(&chunk("data/../../head", 5), 5), "an object that cannot be"),
        (manifest(&chunk("head", 5), 5), "an object that cannot be"),
        (manifest(&chunk("data/1", u64::MAX), u64::MAX), "too long"),
        (r#"{"version":9}"#.to_owned(), "form 9"),
    ] {
        let why = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    }
}

#[tokio::test]
async fn snapshots_that_cannot_be_are_refused_and_the_state_stands() {
    let (store, state) = with_a_state().await;
    let mut checkpoints = opened(&store).await.unwrap();
    let bad = [
        (Snapshot::new().bytes("../x", "1"), "has a segment `.` or `..`"),
        (Snapshot::new().bytes("x", "1").bytes("x", "2"), "two parts `x`"),
        (Snapshot::new().grows("nowhere"), "the growing file"),
        (Snapshot::new().file("nowhere"), "part `nowhere` of a snapshot"),
        (Snapshot::new().later("x", || Err(Error::failed("no room"))), "no room"),
    ];
    for (snapshot, said) in bad {
        let why = checkpoints.save(snapshot).await.unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    }
    let saved = opened(&store).await.unwrap().restore().await.unwrap().unwrap();
    assert_eq!(saved.bytes("x").unwrap(), state);
}

/// Refuses what it is told to, from some request on.
struct Refuses {
    rule: Mutex<Option<(What, &'static str, Error)>>,
}

impl Around for Refuses {
    fn before<'a>(&'a self, what: What, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let rule = self.rule.lock().unwrap();
            let kind = |rule: What| matches!((rule, what), (What::Put { .. }, What::Put { .. })) || rule == what;
            match &*rule {
                Some((refused, below, why)) if kind(*refused) && key.contains(below) => Err(why.clone()),
                _ => Ok(()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_or_written_gives_the_job_back_and_never_begins_anew() {
    let (inner, state) = with_a_state().await;
    let refuses = Refuses { rule: Mutex::new(None) };
    let store = Arc::new(Wrapped { inner: inner.clone(), around: refuses });
    let seen: Arc<dyn Store> = store.clone();
    for below in ["head", "states", "data"] {
        for why in [Error::transient("503 Slow Down"), Error::invalid("403 Forbidden"), Error::failed("reset")] {
            *store.around.rule.lock().unwrap() = Some((What::Read, below, why));
            assert_eq!(fails(&seen).await.fault(), Fault::Transient);
        }
    }
    *store.around.rule.lock().unwrap() = None;
    let mut checkpoints = opened(&seen).await.unwrap();
    assert_eq!(checkpoints.restore().await.unwrap().unwrap().bytes("x").unwrap(), state);
    for below in ["data", "states", "head"] {
        let rule = (What::Put { conditional: false }, below, Error::invalid("403 Forbidden"));
        *store.around.rule.lock().unwrap() = Some(rule);
        let why = checkpoints.save(Snapshot::new().bytes("x", noise(6, 500))).await.unwrap_err();
        assert_eq!(why.fault(), Fault::Transient);
        assert!(why.to_string().contains("of job 7") && why.to_string().contains("403 Forbidden"), "{why}");
        assert!(why.to_string().contains(&format!("jobs/7/state/{below}")), "{why}");
        // Not even garbage is touched before it is known what stands.
        checkpoints.collect_garbage().await;
        let state = whole(&inner).await.unwrap();
        assert_eq!(state.sequence, 1);
    }
    *store.around.rule.lock().unwrap() = None;
    checkpoints.save(Snapshot::new().bytes("x", noise(7, 500))).await.unwrap();
    let saved = opened(&inner).await.unwrap().restore().await.unwrap().unwrap();
    assert_eq!(saved.bytes("x").unwrap(), noise(7, 500));
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_lease_is_gone_changes_nothing() {
    let (store, _) = with_a_state().await;
    let mut checkpoints = opened(&store).await.unwrap();
    let before = keys(&store).await;
    checkpoints.place.job().may_write_until(Instant::now());
    let why = checkpoints.save(Snapshot::new().bytes("x", noise(9, 500))).await.unwrap_err();
    assert!(why.to_string().contains("the lease of job 7 is lost"), "{why}");
    checkpoints.collect_garbage().await;
    assert_eq!(keys(&store).await, before);
    let job = Job::new("7");
    job.may_write_until(Instant::now());
    assert!(Checkpoints::open(store.clone(), &state_key(), &Workplace::new(&job, None), "test 1").await.is_err());
}
