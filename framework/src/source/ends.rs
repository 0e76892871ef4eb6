//! How jobs ended, as objects in a store: of each job one end, and the result that it names.
//!
//! | object | written |
//! |---|---|
//! | `jobs/ID/result-NAME` | before the end, under a name of its own each time |
//! | `jobs/ID/end` | once, only if there is none: the first end stands |
//! | `jobs/ID/end-ATTEMPT-NAME` | instead, in a store without conditional puts: the one of the latest attempt stands |
//!
//! The second way is weaker: two workers that end a job at one moment may each take its own end for the one that
//! stands, until they look again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::{Context, Error, Fault, Result};
use crate::store::{Conditional, Key, Meta, Outcome, Put, Store};
use crate::verdict::Verdict;

/// One request to the store.
const WITHIN: Duration = Duration::from_secs(30);

/// Where a job is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) state: State,
    pub(crate) ended: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Output>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure>,
    /// Tells this end from all others.
    #[serde(default)]
    pub(crate) name: String,
}

/// Where the result is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    name: String,
    pub(crate) content_type: String,
    pub(crate) bytes: usize,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub(crate) struct Failure {
    pub(crate) fault: String,
    pub(crate) detail: String,
}

impl Output {
    /// What its object is called, among those of its job.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl End {
    /// Of a job that is done, with a result that has a name of its own.
    pub(crate) fn done(attempt: u32, content_type: &str, bytes: usize) -> Self {
        let name = nonce();
        let output = Output { name: format!("result-{attempt}-{name}"), content_type: content_type.to_owned(), bytes };
        End { state: State::Done, ended: now(), result: Some(output), error: None, name }
    }

    /// Of a job that was rejected.
    pub(crate) fn failed(why: &Error) -> Self {
        let error = Failure { fault: why.fault().as_str().to_owned(), detail: why.to_string() };
        End { state: State::Failed, ended: now(), result: None, error: Some(error), name: nonce() }
    }

    /// Of a job that its caller called off.
    #[cfg(feature = "http")]
    pub(crate) fn cancelled() -> Self {
        End { state: State::Cancelled, ended: now(), result: None, error: None, name: nonce() }
    }
}

/// The ends of a store's jobs.
pub(crate) struct Ends {
    store: Arc<dyn Store>,
    atomic: bool,
}

impl Ends {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let atomic = store.conditional() != Conditional::None;
        Ends { store, atomic }
    }

    /// Whether the first end stands for certain.
    pub(crate) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Keeps the result that an end names, before the end is written. It may be repeated.
    pub(crate) async fn keep(&self, id: &str, output: &Output, result: Bytes) -> Result<()> {
        let stored = within(self.store.put(&key(id, &output.name)?, result, Put::Overwrite)).await?;
        stored.stored().map(drop).ok_or_else(|| Error::transient("the store refused a result"))
    }

    /// The result that an end names.
    pub(crate) async fn result(&self, id: &str, output: &Output) -> Result<Option<Bytes>> {
        let object = within(self.store.get(&key(id, &output.name)?)).await?;
        Ok(object.map(|object| object.bytes))
    }

    /// Ends the job, unless it has ended: the end that stands instead of this one, if one does, and then the result
    /// that this one names is removed. After an error it may be repeated with the same end.
    pub(crate) async fn end(&self, id: &str, attempt: u32, end: &End) -> Result<Option<End>> {
        let standing = match self.atomic {
            true => self.end_first(id, end).await?,
            false => self.end_by_name(id, attempt, end).await?,
        };
        if standing == *end {
            return Ok(None);
        }
        if let Some(output) = &end.result {
            within(self.store.delete(&key(id, &output.name)?)).await?;
        }
        Ok(Some(standing))
    }

    async fn end_first(&self, id: &str, end: &End) -> Result<End> {
        if self.write(&key(id, "end")?, end, Put::Create).await? {
            return Ok(end.clone());
        }
        // It lost the race, or this is the second try of an attempt whose first was written.
        self.standing(id).await
    }

    async fn end_by_name(&self, id: &str, attempt: u32, end: &End) -> Result<End> {
        if let Some(standing) = self.ended(id).await? {
            return Ok(standing);
        }
        let key = key(id, &format!("end-{attempt:010}-{}", end.name))?;
        self.write(&key, end, Put::Overwrite).await?;
        self.standing(id).await
    }

    async fn standing(&self, id: &str) -> Result<End> {
        let gone = || Error::transient(format_args!("the end of job `{id}` was removed while it was written"));
        self.ended(id).await?.ok_or_else(gone)
    }

    /// How the job ended, if it has.
    pub(crate) async fn ended(&self, id: &str) -> Result<Option<End>> {
        if self.atomic {
            return self.read(&key(id, "end")?).await;
        }
        let all = self.list_all(&format!("jobs/{}/end-", path(id))).await?;
        match all.last() {
            Some(last) => self.read(&last.key).await,
            None => Ok(None),
        }
    }

    /// What a source is told of a job that ended so.
    pub(crate) async fn verdict(&self, id: &str, end: &End) -> Result<Verdict> {
        if let Some(output) = &end.result {
            let result = self.result(id, output).await?;
            // Whoever removed it has no more use for it.
            return Ok(Verdict::Done(result.unwrap_or_default()));
        }
        let why = match &end.error {
            Some(Failure { fault, detail }) if fault == Fault::Invalid.as_str() => Error::invalid(detail),
            Some(Failure { detail, .. }) => Error::failed(detail),
            None => Error::invalid("the job was cancelled"),
        };
        Ok(Verdict::Reject { why })
    }

    /// Removes all that is under `jobs/PATH/`, its end last: a worker that has the job still does not run it again.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        let ends = format!("jobs/{path}/end");
        let all = self.list_all(&format!("jobs/{path}/")).await?;
        let (last, first): (Vec<_>, Vec<_>) = all.iter().partition(|meta| meta.key.as_str().starts_with(&ends));
        for meta in first.into_iter().chain(last) {
            self.delete(&meta.key).await?;
        }
        Ok(())
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let Some(object) = within(self.store.get(key)).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&object.bytes).map(Some).with_context(|| format!("reading `{key}`"))
    }

    /// Whether it was written.
    pub(crate) async fn write(&self, key: &Key, what: &impl Serialize, mode: Put) -> Result<bool> {
        let bytes = serde_json::to_vec(what).context("writing a record")?;
        let outcome = within(self.store.put(key, bytes.into(), mode)).await?;
        Ok(matches!(outcome, Outcome::Stored(_)))
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<()> {
        within(self.store.delete(key)).await
    }

    #[cfg(feature = "http")]
    pub(crate) async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<crate::store::Page> {
        within(self.store.list(prefix, after, PAGE)).await
    }

    /// For prefixes of one job.
    pub(crate) async fn list_all(&self, prefix: &str) -> Result<Vec<Meta>> {
        within(self.store.list_all(prefix)).await
    }
}

/// Objects in one request.
#[cfg(feature = "http")]
const PAGE: usize = 1000;

/// The key of one of a job's objects.
pub(crate) fn key(id: &str, name: &str) -> Result<Key> {
    Key::new(format!("jobs/{}/{name}", path(id)))
}

/// How much of an id is in one segment of a key, in bytes.
const SEGMENT: usize = 200;

/// A job's id as part of a key, so that no id is part of another's: one segment, and for a long id several, of which
/// all but the last end with `~`.
pub(crate) fn path(id: &str) -> String {
    let mut path = String::with_capacity(id.len());
    let mut start = 0;
    for c in id.chars() {
        if path.len() - start >= SEGMENT {
            path.push_str("~/");
            start = path.len();
        }
        let leads = c == '.' && path.len() == start;
        if !leads && !c.is_control() && !matches!(c, '/' | '\\' | '%' | '~') {
            path.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// The time now, as people read it (RFC 3339).
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Text that nobody else has, and nobody can guess: 128 bits of a keyed hash, whose key is this process's own and
/// comes from the operating system.
pub(crate) fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(|| (RandomState::new(), RandomState::new()));
    // An atomic, since any task may ask.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = (COUNT.fetch_add(1, Ordering::Relaxed), std::process::id(), SystemTime::now());
    format!("{:016x}{:016x}", KEYS.0.hash_one(count), KEYS.1.hash_one(count))
}

/// Gives up on the store's answer after a while.
pub(crate) async fn within<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("the store did not answer within {WITHIN:?}")));
    timeout(WITHIN, request).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[test]
    fn every_id_has_a_path_of_its_own() {
        assert_eq!(path("plain-id_1.x"), "plain-id_1.x");
        assert_eq!(path("a/b"), "a%2Fb");
        assert_eq!(path(".."), "%2E.");
        assert_eq!(path("50%"), "50%25");
        let long = "x".repeat(300);
        assert_eq!(path(&long), format!("{}~/{}", "x".repeat(200), "x".repeat(100)));
        for id in ["a", "a/b", "..", "a\nb", "\u{85}", "%", "~", "é", &long, &"/".repeat(300), &"x".repeat(200)] {
            let key = key(id, "end").unwrap_or_else(|why| panic!("{id:?}: {why}"));
            assert!(key.as_str().ends_with("/end"));
            // Removing one job leaves the others alone.
            assert!(!key.as_str().starts_with("jobs/a/") || id == "a", "{key}");
        }
        assert!(!path(&"x".repeat(201)).starts_with(&format!("{}/", path(&"x".repeat(200)))));
        assert!(key("", "end").is_err());
        assert!(key(&"x".repeat(2000), "end").is_err());
    }

    async fn kept(ends: &Ends, attempt: u32, result: &'static [u8]) -> End {
        let end = End::done(attempt, "text/plain", result.len());
        ends.keep("job", end.result.as_ref().unwrap(), Bytes::from_static(result)).await.unwrap();
        end
    }

    #[tokio::test]
    async fn the_first_end_stands_and_the_other_leaves_nothing() {
        let store = Memory::new();
        let ends = Ends::new(Arc::new(store.clone()));
        let (first, second) = (kept(&ends, 1, b"first").await, kept(&ends, 2, b"second").await);
        assert_eq!(ends.end("job", 1, &first).await.unwrap(), None);
        assert_eq!(ends.end("job", 1, &first).await.unwrap(), None, "its answer was lost, and it is repeated");
        assert_eq!(ends.end("job", 2, &second).await.unwrap(), Some(first.clone()));
        let left = ends.list_all("jobs/").await.unwrap();
        assert_eq!(left.len(), 2, "one result and one end: {left:?}");
        match ends.verdict("job", &first).await.unwrap() {
            Verdict::Done(result) => assert_eq!(result, "first"),
            other => panic!("{other:?}"),
        }
        ends.remove(&path("job")).await.unwrap();
        assert!(ends.list_all("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn two_failures_are_told_apart() {
        let ends = Ends::new(Arc::new(Memory::new()));
        let why = Error::invalid("bad");
        let (first, second) = (End::failed(&why), End::failed(&why));
        assert_eq!(ends.end("job", 1, &first).await.unwrap(), None);
        assert_eq!(ends.end("job", 1, &second).await.unwrap(), Some(first.clone()));
        let verdict = ends.verdict("job", &first).await.unwrap();
        assert!(matches!(&verdict, Verdict::Reject { why } if why.to_string() == "bad"), "{verdict:?}");
    }
}
