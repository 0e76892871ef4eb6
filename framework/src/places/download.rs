//! The stage that brings what a job names onto this node.
//!
//! It owns nothing but where the bytes go: into memory, or into a file that is gone with its handle.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::scratch::{Scratch, TempFile};
use super::{Places, Reference};
use crate::error::Result;
use crate::job::Job;
use crate::store::blocking;

/// An io stage that downloads: `.io("download", 16, Download::from(places).to_memory(64 << 20))`.
///
/// A job whose input has more to it than a reference calls [`Places::get`] or [`Places::fetch`] in a stage of its own. A
/// job that is cancelled stops downloading.
#[derive(Clone, Debug)]
pub struct Download {
    places: Places,
}

impl Download {
    /// Downloads from these places.
    pub fn from(places: Places) -> Self {
        Download { places }
    }

    /// Into memory, `most` bytes at the most: so much times the stage's limit can be held at once.
    pub fn to_memory(
        self,
        most: u64,
    ) -> impl Fn(Job, Reference) -> BoxFuture<'static, Result<Bytes>> + Clone + Send + Sync + 'static {
        move |_, reference| {
            let places = self.places.clone();
            Box::pin(async move { places.get(&reference, most).await })
        }
    }

    /// Into a file of `most` bytes at the most below `folder`, which is made if missing. Files that a killed process left
    /// there are removed by and by.
    pub fn to_files(
        self,
        folder: impl Into<PathBuf>,
        most: u64,
    ) -> impl Fn(Job, Reference) -> BoxFuture<'static, Result<TempFile>> + Clone + Send + Sync + 'static {
        let folder = Arc::new(folder.into());
        move |_, reference| {
            let (places, folder) = (self.places.clone(), Arc::clone(&folder));
            Box::pin(async move {
                // Nothing is made for what leads nowhere.
                places.check(&reference)?;
                let scratch = blocking(move || Scratch::below(&folder)).await?;
                let mut file = TempFile { scratch: Arc::new(scratch), len: 0 };
                file.len = places.fetch(&reference, file.path(), most).await?.len;
                Ok(file)
            })
        }
    }
}
