//! What is known of the clouds that speak S3: where each differs from Amazon's own.
//!
//! It owns these differences, in one table. What is not known of a store is asked when it is opened ([`probe`](super::probe)).

use std::str::FromStr;

use crate::error::{Error, Result};

/// Who runs a store, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// Amazon S3.
    Aws,
    /// Cloudflare R2: region `auto`, the bucket in the path, parts of one size, one write a second to a key.
    R2,
    /// Backblaze B2: no conditional writes, no checksums but MD5.
    B2,
    /// Google Cloud Storage's S3 interface: no conditional writes by ETag, no checksums but MD5.
    Gcs,
    /// MinIO.
    Minio,
    /// Garage: no conditional writes; it does not look at the conditions.
    Garage,
    /// Any other: what it can do is asked.
    Other,
}

/// How the bytes of an upload are vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integrity {
    /// A checksum that follows the bytes: they are read once.
    Trailer,
    /// A checksum before the bytes, for stores that do not take trailers.
    Header,
    /// An MD5 before the bytes, for stores that know no other; the object's own checksum is kept in its metadata.
    Md5,
}

impl Provider {
    /// Whose store is at `endpoint`.
    pub fn of(endpoint: &str) -> Self {
        let host = endpoint.split("://").last().unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let ends = |suffix: &str| host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        match () {
            () if ends("amazonaws.com") || ends("amazonaws.com.cn") => Provider::Aws,
            () if ends("r2.cloudflarestorage.com") => Provider::R2,
            () if ends("backblazeb2.com") => Provider::B2,
            () if ends("storage.googleapis.com") => Provider::Gcs,
            () => Provider::Other,
        }
    }

    /// The region to sign for where none was said.
    pub(super) fn region(self) -> &'static str {
        match self {
            Provider::R2 | Provider::Gcs => "auto",
            _ => "us-east-1",
        }
    }

    /// Whether the bucket is in the path and not in the host's name.
    pub(super) fn bucket_in_path(self) -> bool {
        !matches!(self, Provider::Aws)
    }

    /// What is known; `None` where it has to be asked.
    pub(super) fn integrity(self) -> Option<Integrity> {
        match self {
            Provider::Aws | Provider::Minio => Some(Integrity::Trailer),
            // Garage takes trailers too, but takes the bodies that have them apart byte by byte.
            Provider::R2 | Provider::Garage => Some(Integrity::Header),
            Provider::B2 | Provider::Gcs => Some(Integrity::Md5),
            Provider::Other => None,
        }
    }

    /// Whether conditional writes are worth asking for. That they work is asked of every store.
    pub(super) fn may_condition(self) -> bool {
        !matches!(self, Provider::B2 | Provider::Gcs | Provider::Garage)
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "aws" => Provider::Aws,
            "r2" => Provider::R2,
            "b2" => Provider::B2,
            "gcs" => Provider::Gcs,
            "minio" => Provider::Minio,
            "garage" => Provider::Garage,
            "other" => Provider::Other,
            _ => {
                let all = "aws, r2, b2, gcs, minio, garage or other";
                return Err(Error::invalid(format_args!("`{text}` is no provider: want {all}")));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_tells_whose_it_is() {
        let cases = [
            ("https://s3.eu-central-1.amazonaws.com", Provider::Aws),
            ("https://0123456789abcdef.r2.cloudflarestorage.com", Provider::R2),
            ("https://0123.eu.r2.cloudflarestorage.com/", Provider::R2),
            ("https://s3.us-west-004.backblazeb2.com", Provider::B2),
            ("https://storage.googleapis.com", Provider::Gcs),
            ("http://127.0.0.1:3900", Provider::Other),
            ("https://notamazonaws.com", Provider::Other),
        ];
        for (endpoint, provider) in cases {
            assert_eq!(Provider::of(endpoint), provider, "{endpoint}");
        }
        assert!("azure".parse::<Provider>().is_err());
    }
}
