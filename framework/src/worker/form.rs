//! Forms with files: what `multipart/form-data` (RFC 7578) holds, as a pipeline's input.
//!
//! A form is read whole, under the limit that its source sets for a payload; parts share that memory. How many parts
//! there are, and how long their names, is bounded here.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use futures_util::stream::once;
use multer::Multipart;

use crate::error::{Classify, Context, Error, Result};
use crate::job::Job;

/// The most parts of a form.
const MOST_PARTS: usize = 128;
/// The longest name of a part or of its file, in bytes.
const LONGEST_NAME: usize = 256;

/// A form as it was posted: at most 128 parts, in their order.
#[derive(Clone, Default)]
pub struct Form(Vec<Part>);

/// One field of a form, or one file.
#[derive(Clone)]
pub struct Part {
    /// Its field's name, at most 256 bytes. Several parts may have one name.
    pub name: String,
    /// What the caller's file is called, at most 256 bytes, where it is one. Never a path to write to.
    pub file_name: Option<String>,
    /// Its media type, where the caller says it.
    pub content_type: Option<String>,
    /// What is in it; all parts of a form share one piece of memory.
    pub bytes: Bytes,
}

impl Form {
    /// The first part of that name.
    pub fn get(&self, name: &str) -> Option<&Part> {
        self.0.iter().find(|part| part.name == name)
    }

    /// The first part of that name, which must be there.
    ///
    /// # Errors
    /// [`Invalid`](crate::Fault::Invalid), naming it, if it is not.
    pub fn need(&self, name: &str) -> Result<&Part> {
        self.get(name).ok_or_else(|| Error::invalid(format_args!("the form has no part `{name}`")))
    }

    /// All parts, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl IntoIterator for Form {
    type Item = Part;
    type IntoIter = std::vec::IntoIter<Part>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Part {
    /// What is in it, as text.
    ///
    /// # Errors
    /// [`Invalid`](crate::Fault::Invalid), naming the part, if it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes).or_invalid().with_context(|| format!("the part `{}`", self.name))
    }
}

/// Reads a form; the job's content type holds the boundary.
pub(super) fn decode(job: &Job, payload: Bytes) -> Result<Form> {
    let content_type = job.meta().content_type.as_deref().unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).or_invalid().context("the form")?;
    let form = Multipart::new(once(ready(Ok::<_, Infallible>(payload))), boundary);
    // All of it is there, so that nothing has to be waited for.
    read(form).now_or_never().unwrap_or_else(|| Err(Error::failed("a form that is there was waited for")))
}

async fn read(mut form: Multipart<'_>) -> Result<Form> {
    let mut parts = Vec::new();
    loop {
        let number = parts.len() + 1;
        let field = form.next_field().await.or_invalid();
        let Some(mut field) = field.with_context(|| format!("part {number} of the form"))? else {
            return Ok(Form(parts));
        };
        if number > MOST_PARTS {
            return Err(Error::invalid(format_args!("the form has more than {MOST_PARTS} parts")));
        }
        let name = field.name().ok_or_else(|| Error::invalid(format_args!("part {number} of the form has no name")))?;
        let name = bounded(name, number)?;
        let file_name = field.file_name().map(|name| bounded(name, number)).transpose()?;
        let content_type = field.content_type().map(|its| its.to_string());
        let bytes = contents(&mut field).await.or_invalid().with_context(|| format!("the part `{name}`"))?;
        parts.push(Part { name, file_name, content_type, bytes });
    }
}

/// What is in a part; usually one piece, which is not copied.
async fn contents(field: &mut multer::Field<'_>) -> multer::Result<Bytes> {
    let mut all = field.chunk().await?.unwrap_or_default();
    while let Some(more) = field.chunk().await? {
        all = [all, more].concat().into();
    }
    Ok(all)
}

fn bounded(name: &str, number: usize) -> Result<String> {
    match name.len() {
        0..=LONGEST_NAME => Ok(name.to_owned()),
        length => {
            let why =
                format_args!("part {number} of the form has a name of {length} bytes; {LONGEST_NAME} are allowed");
            Err(Error::invalid(why))
        }
    }
}
