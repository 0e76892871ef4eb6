//! Moves whole files and buffers between this node and a store: in parts, several at a time, verified, resumed.
//!
//! [`Transfers`] is the front. A download is cut into ranges of one version of the object, which are written where they
//! belong as they come, each with its own deadline and its own tries; what a store says of the bytes is compared with
//! what came, and nothing takes its name before that. An upload is the store's own matter ([`Store::write`]), since only
//! it knows what parts it takes. How many ranges or parts are under way is learned from what the link gives.

mod download;
mod lanes;
mod origin;
mod partial;
mod retry;
mod sink;
mod spool;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Content, Key, Outcome, Progress, Put, Store, Version};
use crate::error::Result;
use download::{Download, Target};
pub(crate) use lanes::Lanes;
#[cfg(feature = "s3")]
pub(crate) use lanes::{Lane, Mark};
pub use origin::Origin;
use origin::Stored;
#[cfg(any(feature = "https", feature = "s3"))]
pub(crate) use retry::{Budget, MOVES_WITHIN};
pub use spool::{Backlog, Spool};

/// Bytes of a part or range, unless there is a reason for another size: the published benchmarks' 10 MB.
pub(crate) const PART: u64 = 10_000_000;

/// What was downloaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fetched {
    /// Length, in bytes.
    pub len: u64,
    /// The write that all of it is from.
    pub version: Version,
    /// Whether the store said what the bytes should be, and they are. Without it, only their number was compared.
    pub verified: bool,
}

/// Moves files and buffers between this node and a store. A clone shares what was learned of the link.
///
/// ```
/// use forebay::store::{Content, Key, Memory, Put, Transfers};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// let transfers = Transfers::new(Memory::new());
/// let key = Key::new("models/weights.bin")?;
/// transfers.send(&key, Content::bytes("all of it"), Put::Overwrite).await?;
/// let fetched = transfers.fetch(&key, &path).await?;
/// assert_eq!((fetched.len, fetched.verified), (9, true));
/// # forebay::Result::<()>::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Transfers {
    store: Arc<dyn Store>,
    lanes: Lanes,
    progress: Progress,
    most: u64,
}

impl Transfers {
    /// Transfers to and from `store`.
    pub fn new(store: impl Store) -> Self {
        Transfers { store: Arc::new(store), lanes: Lanes::new(), progress: Progress::new(), most: u64::MAX }
    }

    /// Counts in `progress` what is downloaded from here on.
    pub fn counted_in(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// Refuses to download what is longer than `bytes`. Default: no limit but the disk's.
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.most = bytes;
        self
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Downloads an object into the file `to`, replacing what is there when all of it has come and is as it should be.
    ///
    /// Interrupted, even by a kill, it goes on where it was when it is called again: what has come is in a hidden file
    /// beside `to`. Two processes cannot download to one file at once.
    ///
    /// # Errors
    /// `Invalid` where there is no such object, or it is too long. `Transient` where the disk has no room for it, where the
    /// store or the link failed as often as the budget of tries allows, or the bytes that came were wrong each time.
    pub async fn fetch(&self, key: &Key, to: impl AsRef<Path>) -> Result<Fetched> {
        let origin = Stored::new(Arc::clone(&self.store), key.clone());
        let (fetched, _) = self.download(Arc::new(origin), Target::File(to.as_ref().to_owned())).await?;
        Ok(fetched)
    }

    /// Downloads an object into memory, `most` bytes at the most. Errors as for [`fetch`](Self::fetch).
    pub async fn get(&self, key: &Key, most: u64) -> Result<Bytes> {
        let origin = Stored::new(Arc::clone(&self.store), key.clone());
        let narrow = Transfers { most: self.most.min(most), ..self.clone() };
        let (_, bytes) = narrow.download(Arc::new(origin), Target::Memory).await?;
        Ok(bytes)
    }

    /// Uploads `content`; see [`Store::write`].
    pub async fn send(&self, key: &Key, content: Content, mode: Put) -> Result<Outcome> {
        self.store.write(key, content, mode).await
    }

    async fn download(&self, origin: Arc<dyn Origin>, target: Target) -> Result<(Fetched, Bytes)> {
        let Transfers { lanes, progress, most, .. } = self.clone();
        Download { origin, lanes, progress, most, target }.run().await
    }
}

/// Downloads what `origin` has into the file `to`; else as [`Transfers::fetch`].
pub async fn fetch_from(
    origin: impl Origin,
    to: impl Into<PathBuf>,
    most: u64,
    progress: &Progress,
) -> Result<Fetched> {
    let target = Target::File(to.into());
    let download = Download { origin: Arc::new(origin), lanes: Lanes::new(), progress: progress.clone(), most, target };
    Ok(download.run().await?.0)
}

/// Downloads what `origin` has into memory, `most` bytes at the most; else as [`Transfers::get`].
pub async fn get_from(origin: impl Origin, most: u64) -> Result<Bytes> {
    let (lanes, progress) = (Lanes::new(), Progress::new());
    let download = Download { origin: Arc::new(origin), lanes, progress, most, target: Target::Memory };
    Ok(download.run().await?.1)
}
