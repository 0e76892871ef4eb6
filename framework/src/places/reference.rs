//! A reference: where bytes are, as a job's payload names it.
//!
//! It owns how references are written and what of them may be shown. It promises that a reference is well formed and that
//! nothing secret of it, a user name or a query, is in its text for people. What it may lead to is for [`Places`] to say.
//!
//! [`Places`]: super::Places

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::local;
use crate::error::{Error, Result};
use crate::store::Key;

/// Longest reference, in bytes: presigned URLs have one or two thousand.
const MAX_LEN: usize = 8192;
/// What is shown of one, in characters.
const SHOWN: usize = 200;

/// Where bytes are: `s3://bucket/key`, `https://host/path?query` or `file:///path`.
///
/// A reference to a bucket that ends with a slash names all objects below it, as [`JobFolder`](super::JobFolder) wants
/// it. Keys stand as they are; paths are percent-encoded, as in any `file` URL. `http://` can be written, and is refused
/// where it leads unless a guard lets it through.
///
/// `Display` and `Debug` leave out the query of a URL, since a presigned URL is a secret; [`expose`](Self::expose) and
/// serde give all of it.
///
/// ```
/// use forebay::places::Reference;
///
/// let signed: Reference = "https://bucket.example/in/a.wav?X-Amz-Signature=5f4dcc3b".parse()?;
/// assert_eq!(signed.to_string(), "https://bucket.example/in/a.wav");
/// assert!("s3://bucket/../etc/passwd".parse::<Reference>().is_err());
/// # Ok::<(), forebay::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    text: Arc<str>,
    pub(super) to: To,
}

/// What a reference leads to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum To {
    Object {
        bucket: Arc<str>,
        key: Key,
    },
    /// All keys that begin with the prefix, which ends with a slash, or with anything where it is empty.
    Prefix {
        bucket: Arc<str>,
        prefix: Arc<str>,
    },
    Url,
    File(PathBuf),
}

impl Reference {
    /// Reads a reference. `Invalid`, without the text of a URL, if it has another scheme than those three, is longer than
    /// 8192 bytes, or holds what its scheme does not allow: see [`Reference`]. A URL holds no user name and no fragment,
    /// and is in ASCII; a path or key has no segment that is empty, `.` or `..`, and no control character or backslash.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self> {
        let text = text.into();
        let to = To::read(&text).map_err(|why| Error::invalid(format_args!("reference {}: {why}", shown(&text))))?;
        Ok(Reference { text, to })
    }

    /// The object `key` of a bucket. `Invalid` where a bucket cannot have that name.
    pub fn object(bucket: &str, key: &Key) -> Result<Self> {
        Self::new(format!("s3://{bucket}/{key}"))
    }

    /// All of it, with what may be secret: for programs, and not for logs.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The last segment of its path, as it is written, where there is one.
    pub fn name(&self) -> Option<&str> {
        let path = self.text.split_once("://")?.1.split(['?']).next()?;
        path.split_once('/')?.1.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

impl To {
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("longer than {MAX_LEN} bytes"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("begins with none of s3://, https:// and file://".to_owned());
        };
        match scheme {
            "s3" => read_object(rest),
            "https" | "http" => read_url(rest).map(|()| To::Url),
            "file" => read_path(rest).map(To::File),
            _ => Err("begins with none of s3://, https:// and file://".to_owned()),
        }
    }
}

fn read_object(rest: &str) -> Result<To, String> {
    let Some((bucket, key)) = rest.split_once('/') else {
        return Err("has no slash behind its bucket".to_owned());
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let named = (1..=255).contains(&bucket.len()) && bucket.bytes().all(plain);
    if !named || !bucket.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err("its bucket is not letters, digits, `-`, `.` and `_`".to_owned());
    }
    let bucket: Arc<str> = bucket.into();
    if key.is_empty() {
        return Ok(To::Prefix { bucket, prefix: key.into() });
    }
    match key.strip_suffix('/') {
        Some(folder) => Key::new(folder).map(|_| To::Prefix { bucket, prefix: key.into() }),
        None => Key::new(key).map(|key| To::Object { bucket, key }),
    }
    .map_err(|why| why.to_string())
}

fn read_url(rest: &str) -> Result<(), String> {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let why = match () {
        () if !rest.bytes().all(|byte| byte.is_ascii_graphic()) => "holds a space or a character outside of ASCII",
        () if rest.contains('#') => "holds a fragment",
        () if rest.contains('\\') => "holds a backslash",
        () if authority.is_empty() => "has no host",
        () if authority.contains('@') => "must not hold a user name or password",
        () => return Ok(()),
    };
    Err(why.to_owned())
}

fn read_path(rest: &str) -> Result<PathBuf, String> {
    let Some(path) = rest.strip_prefix('/') else {
        return Err("names a host; write file:///path".to_owned());
    };
    if path.contains(['?', '#']) {
        return Err("holds a query or fragment".to_owned());
    }
    let path = decode(path).ok_or("is not percent-encoded UTF-8")?;
    let path = Key::new(path).map_err(|why| why.to_string())?;
    local::check(&path).map_err(|why| why.to_string())?;
    Ok(Path::new("/").join(path.as_str()))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// What may be shown of a text that should be a reference: of a URL neither user nor query, and nothing of what cannot
/// even be taken apart.
fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| scheme.len() < 16) else {
        return "without a scheme".to_owned();
    };
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    // A user name ends at the last `@` of the authority; where the authority ends is a matter of opinion.
    let plain = plain.rsplit('@').next().unwrap_or_default();
    let short: String = plain.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let more = if plain.chars().nth(SHOWN).is_some() { "..." } else { "" };
    format!("{}://{short}{more}", scheme.escape_debug())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            // An `@` in a key or path hides nothing.
            To::Object { .. } | To::Prefix { .. } | To::File(_) => f.write_str(&self.text),
            To::Url => f.write_str(&shown(&self.text)),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// For serde, which wants errors with a `Display`.
impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.text.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn what_is_well_formed_is_read_and_written_again() {
        let references = [
            ("s3://inputs/a/b c.wav", Some("b c.wav")),
            ("s3://in.puts/jobs/123/", None),
            ("s3://inputs/", None),
            ("s3://inputs/who@where?what#why", Some("who@where")),
            ("https://example.com", None),
            ("https://example.com/a/b.wav?x=/y", Some("b.wav")),
            ("http://[2606:4700::1111]:8080/?x=y", None),
            ("file:///data/a%20b.wav", Some("a%20b.wav")),
        ];
        for (text, name) in references {
            let reference: Reference = serde_json::from_value(text.into()).unwrap();
            assert_eq!(reference.name(), name, "{text}");
            assert_eq!(serde_json::to_value(&reference).unwrap(), text);
        }
        let file = Reference::new("file:///data/a%20%C3%BC.wav").unwrap();
        assert!(matches!(file.to, To::File(path) if path == Path::new("/data/a ü.wav")));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let long = format!("https://example.com/{}", "x".repeat(MAX_LEN));
        let long_key = format!("s3://b/{}", "x".repeat(1025));
        let texts = [
            "",
            "/",
            "a",
            "s3:/b/k",
            "s3:b/k",
            "S3://b/k",
            "s3://",
            "s3://b",
            "s3:///k",
            "s3://b//k",
            "s3://b/a//k",
            "s3://b//",
            "s3://b/..",
            "s3://b/../k",
            "s3://b/a/../k",
            "s3://b/./k",
            "s3://b/a/.",
            "s3://b/a\\k",
            "s3://b/a\0",
            "s3://b/a\nk",
            "s3://../k",
            "s3://.b/k",
            "s3://-b/k",
            "s3://b@c/k",
            "s3://b:1/k",
            "s3://b b/k",
            "s3://b%2f/k",
            "s3://ü/k",
            "https://",
            "https:///a",
            "https://?a",
            "https://u@h/",
            "https://u:p@h/",
            "https://@h/",
            "https://h/#f",
            "https://h/ ",
            "https://h/\n",
            "https://h\\@g/",
            "https://ü/",
            "ftp://h/",
            "gopher://h/",
            "data:text/plain,x",
            "javascript://h/",
            "file://",
            "file:///",
            "file://host/a",
            "file://localhost/a",
            "file:/a",
            "file:///a/",
            "file:///a//b",
            "file:////a",
            "file:///..",
            "file:///a/../b",
            "file:///%2e%2e/b",
            "file:///a%2f..%2fb",
            "file:///a%00",
            "file:///a%",
            "file:///a%2",
            "file:///a%zz",
            "file:///a%ff",
            "file:///a?b",
            "file:///a#b",
            "file:///C:/a",
            "file:///a%5cb",
            "file:///%+1",
            &long,
            &long_key,
        ];
        for text in texts {
            let refused = Reference::new(text).unwrap_err();
            assert_eq!(refused.fault(), Fault::Invalid, "{text}");
            assert!(refused.to_string().starts_with("reference "), "{refused}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let texts = [
            "https://user:hunter2@example.com/a",
            "https://hunter2@example.com/a?b",
            "https://example.com/a?token=hunter2",
            "https://example.com?hunter2",
            "https://example.com/a?token=hunter2#hunter2",
            "https://example.com/ü?hunter2",
            "HTTPS://example.com/a?hunter2",
            "https:/example.com/?hunter2",
            "https:/\\user:hunter2@example.com/a",
            "hunter2",
        ];
        for text in texts {
            let said = match Reference::new(text) {
                Ok(reference) => format!("{reference} {reference:?}"),
                Err(why) => format!("{why} {why:?}"),
            };
            assert!(!said.contains("hunter2"), "{said}");
            let parsed: std::result::Result<Reference, _> = serde_json::from_value(text.into());
            assert!(parsed.err().is_none_or(|why| !why.to_string().contains("hunter2")));
        }
    }
}
