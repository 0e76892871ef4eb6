//! What is to be written: a buffer, a file, or a stream of unknown end.
//!
//! It owns where bytes come from. It does not know where they go.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{StreamExt, TryStreamExt};

use super::{Progress, blocking};
use crate::error::{Context, Error, Result};

/// What is to be written, and who wants to know how far it is.
///
/// ```
/// use forebay::store::Content;
///
/// let report = Content::file("/data/report.pdf");
/// let note = Content::bytes("all of it");
/// ```
pub struct Content {
    pub(crate) body: Body,
    pub(crate) progress: Progress,
}

pub(crate) enum Body {
    Bytes(Bytes),
    /// Read as it is needed, and again where a part has to be sent again.
    File(PathBuf),
    Stream(BoxStream<'static, Result<Bytes>>),
}

impl Content {
    /// The bytes of a buffer.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::of(Body::Bytes(bytes.into()))
    }

    /// The file at `path`, which has to stay as it is until it is written: it is read piece by piece, perhaps twice.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::of(Body::File(path.into()))
    }

    /// What comes out of `stream`. Its first error ends the write, and nothing is written.
    pub fn stream(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self::of(Body::Stream(stream.boxed()))
    }

    fn of(body: Body) -> Self {
        Content { body, progress: Progress::default() }
    }

    /// Counts in `progress` what was moved.
    pub fn counted_in(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// The same once more, if its bytes are not gone once they are read.
    #[cfg_attr(not(feature = "https"), expect(dead_code, reason = "for places that are no store"))]
    pub(crate) fn again(&self) -> Option<Content> {
        let body = match &self.body {
            Body::Bytes(bytes) => Body::Bytes(bytes.clone()),
            Body::File(path) => Body::File(path.clone()),
            Body::Stream(_) => return None,
        };
        Some(Content { body, progress: self.progress.clone() })
    }

    /// How many bytes it has, where that is known, and these piece by piece, without counting them.
    #[cfg_attr(not(feature = "https"), expect(dead_code, reason = "for places that are no store"))]
    pub(crate) async fn measured(self) -> Result<(Option<u64>, BoxStream<'static, Result<Bytes>>)> {
        match self.body {
            Body::Bytes(bytes) => Ok((Some(bytes.len() as u64), stream::iter([Ok(bytes)]).boxed())),
            Body::File(path) => {
                let (file, len) = open(&path).await?;
                Ok((Some(len), pieces(file, 0, 0..len).boxed()))
            }
            Body::Stream(stream) => Ok((None, stream)),
        }
    }

    /// The bytes piece by piece, in order; what they are in all is expected in the progress, where it is known.
    pub(crate) async fn pieces(self) -> Result<(BoxStream<'static, Result<Bytes>>, Progress)> {
        let Content { body, progress } = self;
        let body = match body {
            Body::Bytes(bytes) => {
                progress.expect(bytes.len() as u64);
                stream::iter([Ok(bytes)]).boxed()
            }
            Body::File(path) => {
                let (file, len) = open(&path).await?;
                progress.expect(len);
                pieces(file, 0, 0..len).map(move |piece| piece.with_context(|| path.display().to_string())).boxed()
            }
            Body::Stream(stream) => stream,
        };
        Ok((body, progress))
    }

    /// All of it in memory: for stores that have no other way, and for tests.
    ///
    /// # Errors
    /// A file that cannot be read, the stream's own error.
    pub async fn collect(self) -> Result<Bytes> {
        match self.body {
            Body::Bytes(bytes) => Ok(bytes),
            Body::File(path) => {
                let read = move || std::fs::read(&path).with_context(|| format!("reading {}", path.display()));
                Ok(blocking(read).await?.into())
            }
            Body::Stream(stream) => {
                let all = stream.try_fold(BytesMut::new(), |mut all, some| async move {
                    all.extend_from_slice(&some);
                    Ok::<_, Error>(all)
                });
                Ok(all.await?.freeze())
            }
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Body::File(path) => write!(f, "{}", path.display()),
            Body::Stream(_) => write!(f, "a stream"),
        }
    }
}

/// A file and its length.
pub(crate) async fn open(path: &Path) -> Result<(Arc<File>, u64)> {
    let path = path.to_owned();
    let open = move || {
        let opened = File::open(&path).and_then(|file| {
            let found = file.metadata()?;
            Ok((file, found))
        });
        let (file, found) = opened.with_context(|| format!("opening {}", path.display()))?;
        if !found.is_file() {
            return Err(Error::invalid(format_args!("{} is not a file", path.display())));
        }
        Ok((Arc::new(file), found.len()))
    };
    blocking(open).await
}

/// Bytes of a file in one piece of those that follow.
const PIECE: u64 = 256 << 10;

/// The bytes of `range`, counted from `base`, of a file that has all of them.
pub(crate) fn pieces(
    file: impl Into<Arc<File>>,
    base: u64,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let file = file.into();
    stream::try_unfold(range.start, move |at| {
        let file = Arc::clone(&file);
        async move {
            let len = PIECE.min(range.end - at);
            if len == 0 {
                return Ok(None);
            }
            let piece = blocking(move || piece(&file, base + at, len as usize)).await?;
            Ok(Some((piece, at + len)))
        }
    })
}

/// `len` bytes of a file from `at` on. `Failed` where it has become shorter.
pub(crate) fn piece(file: &File, at: u64, len: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, at).context(format_args!("reading {len} bytes at {at}"))?;
    Ok(bytes.freeze())
}
