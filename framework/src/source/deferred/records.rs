//! What is known of each job, as objects in a store, beside its [end](crate::source::ends).
//!
//! | object | written |
//! |---|---|
//! | `jobs/ID/asked` | once, before the job is put on the queue |
//! | `jobs/ID/work` | by the worker that is at it: attempt and progress |
//! | `jobs/ID/told` | after each attempt to send the webhook |

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::source::ends::{End, Ends, Output, State, key};
use crate::source::told::Told;
use crate::store::{Key, Put, Store};

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
    pub(super) ends: Ends,
}

impl Records {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Records { ends: Ends::new(store) }
    }

    /// Notes what was asked for; if that id is known already, what was asked for then.
    pub(super) async fn ask(&self, id: &str, asked: &Asked) -> Result<Option<Asked>> {
        match self.ends.write(&key(id, "asked")?, asked, Put::Create).await? {
            true => Ok(None),
            false => self.asked(id).await,
        }
    }

    pub(super) async fn asked(&self, id: &str) -> Result<Option<Asked>> {
        self.ends.read(&key(id, "asked")?).await
    }

    pub(super) async fn working(&self, id: &str, work: Work) -> Result<()> {
        self.ends.write(&key(id, "work")?, &work, Put::Overwrite).await.map(drop)
    }

    pub(super) async fn ended(&self, id: &str) -> Result<Option<End>> {
        self.ends.ended(id).await
    }

    /// The result that an end names.
    pub(crate) async fn result(&self, id: &str, output: &Output) -> Result<Option<Bytes>> {
        self.ends.result(id, output).await
    }

    pub(super) async fn told(&self, id: &str) -> Result<Option<Told>> {
        self.ends.read(&key(id, "told")?).await
    }

    pub(super) async fn tell(&self, id: &str, told: &Told) -> Result<()> {
        self.ends.write(&key(id, "told")?, told, Put::Overwrite).await.map(drop)
    }

    /// All that is known of a job; nothing of one that was never asked for, or is long over.
    pub(super) async fn status(&self, id: &str) -> Result<Option<Status>> {
        let Some(asked) = self.asked(id).await? else {
            return Ok(None);
        };
        // The end last, so that nothing older is told beside it.
        let (work, told) = (self.ends.read(&key(id, "work")?).await?, self.told(id).await?);
        Ok(Some(Status { asked, work, told, end: self.ended(id).await? }))
    }

    /// Removes all of the jobs that ended longer ago than `keep`.
    pub(super) async fn sweep(&self, keep: Duration) -> Result<()> {
        let mut after: Option<Key> = None;
        loop {
            let page = self.ends.list("jobs/", after.as_ref()).await?;
            for meta in &page.objects {
                let old = meta.modified.elapsed().is_ok_and(|age| age > keep);
                let path = meta.key.as_str().strip_suffix("/end").and_then(|rest| rest.strip_prefix("jobs/"));
                if let (true, Some(path)) = (old, path) {
                    self.ends.remove(path).await?;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}
