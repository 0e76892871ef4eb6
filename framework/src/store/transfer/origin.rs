//! What a download reads from: an object of a store, or anything else that has a length, a version and ranges.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::Result;
use crate::store::{Checksum, Key, Opened, Store, Version};

/// What a download reads from.
///
/// Its answers may be slow, wrong or cut off: whoever downloads has deadlines, tries again, and compares. So an
/// implementation tries nothing again by itself, and its futures and streams may be dropped at any time.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that can be downloaded from",
    note = "to download from a store, use `Transfers::fetch`"
)]
pub trait Origin: Send + Sync + 'static {
    /// What it is, for errors: a key, or a URL without what is secret in it.
    fn name(&self) -> String;

    /// Opens the bytes of `range`, as [`Store::read`] does; of the version that is asked for or none. An origin that
    /// cannot give ranges gives all, and [`Reading::range`](crate::store::Reading::range) tells. An origin of unknown
    /// length is none: it is collected in another way.
    fn read<'a>(&'a self, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>>;

    /// What is said of all bytes of that version, asked for where [`read`](Self::read) has not told. `None` where nothing
    /// is said, or where the version is not that any more.
    fn checksum<'a>(&'a self, of: &'a Version) -> BoxFuture<'a, Result<Option<Checksum>>>;
}

/// An object of a store.
pub(super) struct Stored {
    store: Arc<dyn Store>,
    key: Key,
}

impl Stored {
    pub(super) fn new(store: Arc<dyn Store>, key: Key) -> Self {
        Stored { store, key }
    }
}

impl Origin for Stored {
    fn name(&self) -> String {
        self.key.to_string()
    }

    fn read<'a>(&'a self, range: Range<u64>, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened>> {
        self.store.read(&self.key, range, of)
    }

    fn checksum<'a>(&'a self, of: &'a Version) -> BoxFuture<'a, Result<Option<Checksum>>> {
        Box::pin(async move {
            let meta = self.store.head(&self.key).await?;
            Ok(meta.filter(|meta| meta.version == *of).and_then(|meta| meta.checksum))
        })
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)
    }
}
