//! The way into the inbox: whole files or none, and never over one that is there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::Shared;
use super::ending::put;
use crate::error::{Context, Error, Result};
use crate::source::Queue;

/// Puts files into a folder's inbox. Cheap to clone.
#[derive(Clone)]
pub struct FolderQueue(Arc<Shared>);

impl FolderQueue {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        FolderQueue(shared)
    }
}

impl Queue for FolderQueue {
    /// `id` is the file's name: one segment, and not hidden.
    fn push<'a>(&'a self, id: &'a str, payload: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if id.is_empty() || id.starts_with('.') || id.contains(['/', '\\', '\0']) {
                return Err(Error::invalid(format_args!("`{id}` is no name for a file in an inbox")));
            }
            let (shared, path) = (self.0.clone(), self.0.inbox.join(id));
            spawn_blocking(move || put(&shared, &path, &payload)).await.context("putting a job into the inbox")?
        })
    }
}
