//! What is known of each job, as objects in a store.
//!
//! | object | written |
//! |---|---|
//! | `jobs/ID/asked` | once, before the job is put on the queue |
//! | `jobs/ID/work` | by the worker that is at it: attempt and progress |
//! | `jobs/ID/result-NAME` | before the end, under a name of its own each time |
//! | `jobs/ID/end` | once, only if there is none: the first end stands |
//! | `jobs/ID/told` | after each attempt to send the webhook |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::{Context, Error, Result};
use crate::store::{Key, Outcome, Put, Store};

/// One request to the store.
const WITHIN: Duration = Duration::from_secs(30);

/// What a caller asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) created: String,
    /// Tells one payload from another, where the same job may be asked for twice.
    pub(crate) fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) webhook: Option<String>,
}

/// How far the worker is that has the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) attempt: u32,
    pub(crate) progress: f32,
}

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

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) state: State,
    pub(crate) ended: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Output>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure>,
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

/// How far the webhook is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub(crate) struct Told {
    pub(crate) attempts: u32,
    /// When the next attempt is due, in seconds since 1970; after the last one, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
    pub(crate) outcome: String,
}

/// All that is known of a job.
pub(crate) struct Status {
    pub(crate) asked: Asked,
    pub(crate) work: Option<Work>,
    pub(crate) end: Option<End>,
    pub(crate) told: Option<Told>,
}

impl Status {
    pub(crate) fn state(&self) -> State {
        match (&self.end, &self.work) {
            (Some(end), _) => end.state,
            (None, Some(_)) => State::Running,
            (None, None) => State::Queued,
        }
    }
}

pub(crate) struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Records { store }
    }

    /// Notes what was asked for; if that id is known already, what was asked for then.
    pub(super) async fn ask(&self, id: &str, asked: &Asked) -> Result<Option<Asked>> {
        match self.write(id, "asked", asked, Put::Create).await? {
            true => Ok(None),
            false => self.read(id, "asked").await,
        }
    }

    pub(super) async fn asked(&self, id: &str) -> Result<Option<Asked>> {
        self.read(id, "asked").await
    }

    pub(super) async fn working(&self, id: &str, work: Work) -> Result<()> {
        self.write(id, "work", &work, Put::Overwrite).await.map(drop)
    }

    /// Keeps a result, to be named by an [`End`].
    pub(super) async fn keep(&self, id: &str, name: String, content_type: &str, result: Bytes) -> Result<Output> {
        let output = Output { name, content_type: content_type.to_owned(), bytes: result.len() };
        let stored = within(self.store.put(&key(id, &output.name)?, result, Put::Overwrite)).await?;
        stored.stored().map(|_| output).ok_or_else(|| Error::transient("the store refused a result"))
    }

    /// The result that an end names.
    pub(crate) async fn result(&self, id: &str, output: &Output) -> Result<Option<Bytes>> {
        let object = within(self.store.get(&key(id, &output.name)?)).await?;
        Ok(object.map(|object| object.bytes))
    }

    /// Ends the job, unless it has ended; whether this is how.
    pub(super) async fn end(&self, id: &str, end: &End) -> Result<bool> {
        let first = self.write(id, "end", end, Put::Create).await?;
        if let (false, Some(output)) = (first, &end.result) {
            // It lost the race, or this is the second try of an attempt whose first was written.
            let standing = self.ended(id).await?;
            if standing.and_then(|end| end.result).is_none_or(|its| its.name != output.name) {
                within(self.store.delete(&key(id, &output.name)?)).await?;
            }
        }
        Ok(first)
    }

    pub(super) async fn ended(&self, id: &str) -> Result<Option<End>> {
        self.read(id, "end").await
    }

    pub(super) async fn told(&self, id: &str) -> Result<Option<Told>> {
        self.read(id, "told").await
    }

    pub(super) async fn tell(&self, id: &str, told: &Told) -> Result<()> {
        self.write(id, "told", told, Put::Overwrite).await.map(drop)
    }

    /// All that is known of a job; nothing of one that was never asked for, or is long over.
    pub(super) async fn status(&self, id: &str) -> Result<Option<Status>> {
        let Some(asked) = self.asked(id).await? else {
            return Ok(None);
        };
        // The end last, so that nothing older is told beside it.
        let (work, told) = (self.read(id, "work").await?, self.told(id).await?);
        Ok(Some(Status { asked, work, told, end: self.ended(id).await? }))
    }

    /// Removes all of the jobs that ended longer ago than `keep`.
    pub(super) async fn sweep(&self, keep: Duration) -> Result<()> {
        let mut after: Option<Key> = None;
        loop {
            let page = within(self.store.list("jobs/", after.as_ref(), PAGE)).await?;
            for meta in &page.objects {
                let old = meta.modified.elapsed().is_ok_and(|age| age > keep);
                let id = meta.key.as_str().strip_suffix("/end").and_then(|rest| rest.strip_prefix("jobs/"));
                if let (true, Some(id)) = (old, id) {
                    self.remove(id).await?;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What says that the job has ended goes last, so that a worker that has it still does not run it again.
    async fn remove(&self, id: &str) -> Result<()> {
        let all = within(self.store.list(&format!("jobs/{id}/"), None, PAGE)).await?;
        let end = key(id, "end")?;
        for meta in all.objects.iter().filter(|meta| meta.key != end) {
            within(self.store.delete(&meta.key)).await?;
        }
        within(self.store.delete(&end)).await
    }

    async fn read<T: DeserializeOwned>(&self, id: &str, name: &str) -> Result<Option<T>> {
        let key = key(id, name)?;
        let Some(object) = within(self.store.get(&key)).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&object.bytes).map(Some).with_context(|| format!("reading `{key}`"))
    }

    /// Whether it was written.
    async fn write(&self, id: &str, name: &str, what: &impl Serialize, mode: Put) -> Result<bool> {
        let bytes = serde_json::to_vec(what).context("writing a record")?;
        let outcome = within(self.store.put(&key(id, name)?, bytes.into(), mode)).await?;
        Ok(matches!(outcome, Outcome::Stored(_)))
    }
}

/// Objects in one request.
const PAGE: usize = 1000;

fn key(id: &str, name: &str) -> Result<Key> {
    Key::new(format!("jobs/{id}/{name}"))
}

/// The time now, as people read it (RFC 3339).
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

async fn within<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::transient(format_args!("the store did not answer within {WITHIN:?}")));
    timeout(WITHIN, request).await.unwrap_or_else(late)
}
