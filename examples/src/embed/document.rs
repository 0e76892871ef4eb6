//! A document on its way through the pipeline: path, text, passages, lines of JSON.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use forebay::{Classify, Context, Error, Fault, Job, Result};
use forebay_models::{TokenIds, Tokens};
use serde::{Deserialize, Serialize};

/// A document that was read.
pub struct Document {
    pub id: String,
    pub text: String,
}

/// A passage that waits for its vector.
pub struct Cut {
    pub id: String,
    pub range: Range<usize>,
    pub text: String,
}

/// A passage as it is written down: one line of JSON.
#[derive(Serialize, Deserialize)]
pub struct Line {
    /// The document.
    pub id: String,
    /// Which bytes of it.
    pub range: Range<usize>,
    /// What stands there.
    pub text: String,
    /// Its embedding, of length 1.
    pub vector: Vec<f32>,
}

/// The payload of the folder source is a path.
pub fn path(_: &Job, payload: Bytes) -> Result<PathBuf> {
    let path = String::from_utf8(payload.into()).or_invalid().context("the path")?;
    Ok(PathBuf::from(path))
}

#[derive(Clone, Copy)]
pub struct Reader {
    pub max_bytes: u64,
}

impl Reader {
    /// Reads a document. What is wrong with it is said with its path, and with what to do.
    pub async fn read(self, job: Job, path: PathBuf) -> Result<Document> {
        let read = tokio::task::spawn_blocking(move || self.text(&path));
        let text = read.await.context("reading")??;
        Ok(Document { id: job.id().to_owned(), text })
    }

    fn text(self, path: &Path) -> Result<String> {
        let name = path.display();
        let cannot = || format!("cannot read `{name}`; check that it exists and may be read");
        let bytes = std::fs::metadata(path).map_err(blame).with_context(cannot)?.len();
        if bytes > self.max_bytes {
            let (mib, limit) = (bytes as f64 / (1 << 20) as f64, self.max_bytes as f64 / (1 << 20) as f64);
            return Err(Error::invalid(format_args!(
                "`{name}` has {mib:.1} MiB, more than the limit of {limit:.1} MiB; split it, or raise --max-bytes"
            )));
        }
        let content = std::fs::read(path).map_err(blame).with_context(cannot)?;
        let text = String::from_utf8(content).or_invalid().with_context(|| {
            format!("`{name}` is not UTF-8 text; convert it (iconv -t UTF-8) or take it out of the folder")
        })?;
        if text.trim().is_empty() {
            return Err(Error::invalid(format_args!(
                "`{name}` is empty; there is nothing to embed: fill it or take it out of the folder"
            )));
        }
        Ok(text)
    }
}

/// Whose fault a failed read is: what will not pass is the document's, anything else may pass.
fn blame(why: std::io::Error) -> Error {
    use std::io::ErrorKind::{IsADirectory, NotFound, PermissionDenied};
    match why.kind() {
        NotFound | PermissionDenied | IsADirectory => Error::new(Fault::Invalid, why),
        _ => why.into(),
    }
}

/// Cuts a document into passages of at most 256 tokens that overlap.
pub fn cut(tokens: &Tokens, document: Document) -> Result<(Vec<Cut>, Vec<TokenIds>)> {
    let mut cuts = Vec::new();
    let mut ids = Vec::new();
    for passage in tokens.passages(&document.text) {
        let passage = passage?;
        cuts.push(Cut { id: document.id.clone(), range: passage.range, text: passage.text.to_owned() });
        ids.push(passage.ids);
    }
    Ok((cuts, ids))
}

/// Writes the passages with their vectors down.
pub fn write(cuts: Vec<Cut>, vectors: Vec<Vec<f32>>) -> Result<Bytes> {
    let mut lines = Vec::new();
    for (cut, vector) in cuts.into_iter().zip(vectors) {
        let Cut { id, range, text } = cut;
        serde_json::to_writer(&mut lines, &Line { id, range, text, vector })?;
        lines.push(b'\n');
    }
    Ok(lines.into())
}
