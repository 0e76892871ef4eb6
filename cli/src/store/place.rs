//! Where bytes come from and go to: a file or folder here, standard input and output, or a place in a bucket; and how
//! buckets are opened.
//!
//! It owns what the user types for these. Credentials are found by the framework and never typed here.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use forebay::store::{Key, Provider, S3, S3Settings};
use forebay::{Context, Error, Result};

/// Where buckets are, as a worker is told it too.
#[derive(Clone, Debug, clap::Args)]
pub struct Where {
    /// The store's endpoint, such as `https://0123.r2.cloudflarestorage.com`. By default as AWS's or Cloudflare's own
    /// settings say; so are the keys, in the environment or a profile.
    #[arg(long, value_name = "URL", env = "FOREBAY_S3_ENDPOINT")]
    endpoint: Option<String>,
    /// The bucket's region.
    #[arg(long, env = "FOREBAY_S3_REGION")]
    region: Option<String>,
    /// Who runs the store, if the endpoint does not tell: aws, r2, b2, gcs, minio, garage or other.
    #[arg(long, value_name = "NAME", env = "FOREBAY_S3_PROVIDER")]
    provider: Option<String>,
    /// Where uploads that are open are noted, so that they can be resumed.
    #[arg(long, value_name = "DIR", env = "FOREBAY_S3_UPLOADS", hide = true)]
    uploads_folder: Option<PathBuf>,
}

/// A place in a bucket: `s3://bucket`, `s3://bucket/some/path`.
#[derive(Clone, Debug, PartialEq)]
pub struct InBucket {
    pub bucket: String,
    /// As it was typed: a slash at its end says that it is a folder.
    pub path: String,
}

/// Any place.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Bucket(InBucket),
    Local(PathBuf),
    /// Standard input or output.
    Pipe,
}

impl FromStr for InBucket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "want s3://bucket or s3://bucket/some/path";
        let rest = text.strip_prefix("s3://").ok_or(wrong)?;
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        match bucket {
            "" => Err(wrong),
            bucket => Ok(InBucket { bucket: bucket.to_owned(), path: path.to_owned() }),
        }
    }
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.parse()) {
            ("-", _) => Place::Pipe,
            (_, Ok(place)) => Place::Bucket(place),
            _ => Place::Local(text.into()),
        })
    }
}

impl fmt::Display for InBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InBucket { bucket, path } = self;
        match path.as_str() {
            "" => write!(f, "s3://{bucket}"),
            path => write!(f, "s3://{bucket}/{path}"),
        }
    }
}

impl InBucket {
    /// The key that it names, which must be one.
    pub fn key(&self) -> Result<Key> {
        match self.path.as_str() {
            "" => Err(Error::invalid(format_args!("`{self}` names no object: want s3://bucket/some/key"))),
            path if path.ends_with('/') => {
                Err(Error::invalid(format_args!("`{self}` is a folder: name an object, or say -r")))
            }
            path => Key::new(path).with_context(|| format!("`{self}`")),
        }
    }

    /// What the keys of the folder that it names begin with: empty, or ending with a slash.
    pub fn folder(&self) -> Result<String> {
        match self.path.trim_end_matches('/') {
            "" => Ok(String::new()),
            path => Ok(format!("{}/", Key::new(path).with_context(|| format!("`{self}`"))?)),
        }
    }

    /// Whether it can only be a folder.
    pub fn is_folder(&self) -> bool {
        self.path.is_empty() || self.path.ends_with('/')
    }
}

impl Where {
    /// The whole bucket, in which nothing is written.
    pub async fn reading(&self, place: &InBucket) -> Result<S3> {
        Box::pin(self.settings(format!("s3://{}", place.bucket))?.read_only().open()).await
    }

    /// What is below `folder` in the bucket, to be written, but never on a condition: what opening it writes is there too,
    /// so that rights to that folder are enough.
    pub async fn writing(&self, place: &InBucket, folder: &str) -> Result<S3> {
        Box::pin(self.settings(format!("s3://{}/{folder}", place.bucket))?.without_conditions().open()).await
    }

    /// The same, elsewhere.
    pub fn at(&self, endpoint: &str) -> Self {
        Where { endpoint: Some(endpoint.to_owned()), region: None, provider: None, ..self.clone() }
    }

    fn settings(&self, url: String) -> Result<S3Settings> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut settings = S3::at(url);
        if let Some(endpoint) = set(&self.endpoint) {
            settings = settings.endpoint(endpoint);
        }
        if let Some(region) = set(&self.region) {
            settings = settings.region(region);
        }
        if let Some(provider) = set(&self.provider) {
            settings = settings.provider(provider.parse::<Provider>().context("--provider")?);
        }
        if let Some(folder) = self.uploads_folder.as_ref().filter(|folder| !folder.as_os_str().is_empty()) {
            settings = settings.uploads(folder);
        }
        Ok(settings)
    }
}

/// The folder that a key is in, as [`InBucket::folder`] has it, and its name there.
pub fn parted(key: &Key) -> (&str, &str) {
    let at = key.as_str().rfind('/').map_or(0, |slash| slash + 1);
    key.as_str().split_at(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_was_typed() {
        let place = |text: &str| -> Place { text.parse().unwrap() };
        let bucket = |path: &str| InBucket { bucket: "b".to_owned(), path: path.to_owned() };
        assert_eq!(place("-"), Place::Pipe);
        assert_eq!(place("a/b"), Place::Local("a/b".into()));
        assert_eq!(place("s3://b"), Place::Bucket(bucket("")));
        assert_eq!(place("s3://b/a/c/"), Place::Bucket(bucket("a/c/")));
        assert_eq!(bucket("a/c/").folder().unwrap(), "a/c/");
        assert_eq!(bucket("a/c").folder().unwrap(), "a/c/");
        assert_eq!(bucket("").folder().unwrap(), "");
        assert!(bucket("a//c").folder().is_err() && bucket("../c").key().is_err());
        assert!(bucket("a/").key().is_err() && bucket("").key().is_err());
        let key = bucket("a/b/c").key().unwrap();
        assert_eq!(parted(&key), ("a/b/", "c"));
    }
}
