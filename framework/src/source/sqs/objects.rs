//! What is too large for a message: bodies and inputs as objects in stores that the source was given.
//!
//! A body that is elsewhere is written as Amazon's extended client libraries write and read it. A message can name only
//! buckets that the source knows, so that whoever can send one cannot have other objects read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::envelope::Place;
use crate::error::{Context, Error, Result};
use crate::store::{Key, Put, Store};

/// What a pointer's first element is.
const CLASS: &str = "software.amazon.payloadoffloading.PayloadS3Pointer";
/// What older libraries write there.
const OLD_CLASS: &str = "com.amazon.sqs.javamessaging.MessageS3Pointer";
/// One request to a store.
const WITHIN: Duration = Duration::from_secs(60);

/// The attribute by which the extended clients know a pointer; it holds the length of the whole body.
pub(super) const SIZE_ATTRIBUTE: &str = "ExtendedPayloadSize";

/// The buckets that a source knows.
#[derive(Clone, Default)]
pub(super) struct Objects {
    stores: BTreeMap<String, Arc<dyn Store>>,
    /// Where bodies are put: the first one named.
    first: Option<String>,
    /// Where transfers run: not on the thread that keeps the leases.
    pub(super) runtime: Option<Handle>,
}

#[derive(Serialize, Deserialize)]
struct Pointer(String, Target);

#[derive(Serialize, Deserialize)]
struct Target {
    #[serde(rename = "s3BucketName")]
    bucket: String,
    #[serde(rename = "s3Key")]
    key: String,
}

impl Objects {
    pub(super) fn add(&mut self, bucket: String, store: Arc<dyn Store>) {
        self.first.get_or_insert_with(|| bucket.clone());
        self.stores.insert(bucket, store);
    }

    /// Whether bodies can be put somewhere.
    pub(super) fn take_bodies(&self) -> bool {
        self.first.is_some()
    }

    /// The object's bytes. Invalid if there are none or the bucket is not known.
    pub(super) async fn get(&self, place: &Place) -> Result<Bytes> {
        let (store, key) = self.find(place)?;
        let doing = format!("reading the object `{}` of the bucket `{}`", place.key, place.bucket);
        let wanted = doing.clone();
        let found = self.transfer(doing, async move { store.get(&key).await }).await?;
        let missing = || Error::invalid(format_args!("{wanted}: there is none"));
        found.map(|object| object.bytes).ok_or_else(missing)
    }

    async fn put(&self, place: &Place, bytes: Bytes) -> Result<()> {
        let (store, key) = self.find(place)?;
        let doing = format!("writing the object `{}` of the bucket `{}`", place.key, place.bucket);
        let put = async move { store.put(&key, bytes, Put::Overwrite).await };
        self.transfer(doing, put).await.map(drop)
    }

    /// Puts a body into the first bucket under `key`; what to send instead of it.
    pub(super) async fn put_body(&self, key: String, body: Bytes) -> Result<String> {
        let Some(bucket) = self.first.clone() else {
            return Err(Error::invalid("there is no bucket for bodies; give the source one with Sqs::objects"));
        };
        let place = Place { bucket, key };
        self.put(&place, body).await?;
        write_pointer(place)
    }

    fn find(&self, place: &Place) -> Result<(Arc<dyn Store>, Key)> {
        let Place { bucket, key } = place;
        let unknown = || {
            Error::invalid(format_args!(
                "the message names the bucket `{bucket}`, which this worker does not know; name it with Sqs::objects"
            ))
        };
        let store = self.stores.get(bucket).ok_or_else(unknown)?;
        Ok((store.clone(), Key::new(key.as_str())?))
    }

    async fn transfer<T: Send + 'static>(
        &self,
        doing: String,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let request = timeout(WITHIN, request);
        let done = match &self.runtime {
            Some(runtime) => runtime.spawn(request).await.map_err(|_| Error::transient("it was cut off"))?,
            None => request.await,
        };
        let late = |_| Err(Error::transient(format_args!("no answer within {WITHIN:?}")));
        done.unwrap_or_else(late).context(doing)
    }
}

/// Where the body is, if it is a pointer.
pub(super) fn read_pointer(body: &[u8]) -> Option<Place> {
    let Pointer(class, Target { bucket, key }) = serde_json::from_slice(body).ok()?;
    (class == CLASS || class == OLD_CLASS).then_some(Place { bucket, key })
}

fn write_pointer(place: Place) -> Result<String> {
    let Place { bucket, key } = place;
    serde_json::to_string(&Pointer(CLASS.to_owned(), Target { bucket, key })).context("writing a pointer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::store::Memory;

    const POINTER: &str =
        r#"["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"folder/k"}]"#;

    #[test]
    fn a_pointer_is_read_and_written_as_the_extended_clients_do() {
        let place = Place { bucket: "b".to_owned(), key: "folder/k".to_owned() };
        assert_eq!(read_pointer(POINTER.as_bytes()), Some(place.clone()));
        assert_eq!(write_pointer(place.clone()).unwrap(), POINTER);
        assert_eq!(read_pointer(POINTER.replace(CLASS, OLD_CLASS).as_bytes()), Some(place));
        for other in ["[1, 2]", "{}", "", r#"["other.Class",{"s3BucketName":"b","s3Key":"k"}]"#] {
            assert_eq!(read_pointer(other.as_bytes()), None, "{other}");
        }
    }

    #[tokio::test]
    async fn only_known_buckets_and_what_is_there_can_be_read() {
        let store = Arc::new(Memory::new());
        let mut objects = Objects::default();
        assert!(!objects.take_bodies());
        objects.add("b".to_owned(), store);
        let pointer = objects.put_body("k".to_owned(), Bytes::from_static(b"body")).await.unwrap();
        let place = read_pointer(pointer.as_bytes()).unwrap();
        assert_eq!(objects.get(&place).await.unwrap(), "body");
        let missing = Place { key: "other".to_owned(), ..place.clone() };
        let foreign = Place { bucket: "other".to_owned(), ..place };
        for (place, says) in [(missing, "there is none"), (foreign, "does not know")] {
            let why = objects.get(&place).await.unwrap_err();
            assert_eq!(why.fault(), Fault::Invalid);
            assert!(why.to_string().contains(says), "{why}");
        }
    }
}
