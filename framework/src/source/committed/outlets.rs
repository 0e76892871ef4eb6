//! Where jobs' ends are told beside the store: a queue for all, queues by name, URLs.
//!
//! A job can choose among names that the worker knows, and never where a queue is: whoever can send a message must not
//! choose where a worker sends to. A URL it may name, and there the guard of [`webhook`](crate::webhook) judges.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::Meta;
use crate::source::Queue;
#[cfg(feature = "webhook")]
use crate::webhook::Webhook;

#[derive(Default)]
pub(super) struct Outlets {
    pub(super) queue: Option<Arc<dyn Queue>>,
    pub(super) named: BTreeMap<String, Arc<dyn Queue>>,
    #[cfg(feature = "webhook")]
    pub(super) sender: Option<Sender>,
}

/// Who sends webhooks, and knows what time it is.
#[cfg(feature = "webhook")]
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) webhook: Webhook,
    /// In seconds since 1970.
    pub(super) clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Where one job's end is to be told.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) queue: Option<Arc<dyn Queue>>,
    #[cfg(feature = "webhook")]
    pub(super) url: Option<(Sender, String)>,
}

impl Outlets {
    /// Where the end of a job goes with which this came. One that names an unknown output is told on the queue for all.
    pub(super) fn of(&self, meta: &Meta) -> Outlet {
        let named = meta.labels.get(Meta::OUTPUT).and_then(|name| self.named.get(name));
        Outlet {
            queue: named.or(self.queue.as_ref()).cloned(),
            #[cfg(feature = "webhook")]
            url: self.sender.clone().zip(meta.labels.get(Meta::WEBHOOK).cloned()),
        }
    }

    /// Invalid if the job wants its end on a queue that this worker does not know. A worker without queues leaves the
    /// name to the pipeline.
    pub(super) fn check(&self, meta: &Meta) -> Result<()> {
        let has_queues = self.queue.is_some() || !self.named.is_empty();
        match meta.labels.get(Meta::OUTPUT) {
            Some(name) if has_queues && !self.named.contains_key(name) => Err(self.unknown(name)),
            _ => Ok(()),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.named.keys().map(|name| format!("`{name}`")).collect();
        let known = if known.is_empty() { "none by name".to_owned() } else { known.join(", ") };
        Error::invalid(format_args!("the job wants its output to go to `{name}`, and this worker knows {known}"))
    }
}

impl Outlet {
    /// Whether nobody is to be told.
    pub(super) fn is_nobody(&self) -> bool {
        #[cfg(feature = "webhook")]
        if self.url.is_some() {
            return false;
        }
        self.queue.is_none()
    }
}
