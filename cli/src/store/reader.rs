//! An object's bytes in order, for what cannot take them in any other: a pipe, or another bucket.
//!
//! It promises that all are of one version, that no more than a few ranges are in memory, and that the last thing the
//! stream says is an error where the bytes were not what the store says they should be.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use forebay::store::{Comparison, Key, Meta, Store};
use forebay::{Context, Error, Fault, Result};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};

/// Bytes of a range.
const RANGE: u64 = 8 << 20;
/// Ranges that are fetched at once; as many are in memory, and one more.
const AHEAD: usize = 4;

/// What came is not what the store says.
#[derive(Debug)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not those of the checksum that the store keeps: do not use them, and try again")
    }
}

impl std::error::Error for Damaged {}

/// What the object is, and its bytes.
pub async fn open(store: impl Store, key: Key) -> Result<(Meta, BoxStream<'static, Result<Bytes>>)> {
    let store: Arc<dyn Store> = Arc::new(store);
    let found = store.head(&key).await?;
    let meta = found.ok_or_else(|| Error::invalid(format_args!("there is no object `{key}`")))?;
    let all = meta.clone();
    let starts = stream::iter((0..meta.len.div_ceil(RANGE)).map(|number| number * RANGE));
    let ranges = starts.map(move |start| range(Arc::clone(&store), all.clone(), start)).buffered(AHEAD).boxed();
    let comparison = meta.checksum.map(Comparison::with);
    let compared = stream::try_unfold((ranges, comparison), |(mut ranges, mut comparison)| async move {
        match ranges.try_next().await? {
            Some(bytes) => {
                if let Some(comparison) = &mut comparison {
                    comparison.add(&bytes);
                }
                Ok(Some((bytes, (ranges, comparison))))
            }
            None if comparison.is_none_or(Comparison::holds) => Ok(None),
            None => Err(Error::new(Fault::Failed, Damaged)),
        }
    });
    let name = key.to_string();
    let named = compared.map(move |some| some.with_context(|| format!("reading `{name}`"))).boxed();
    Ok((meta, named))
}

/// Fetched with the store's own tries and deadlines.
async fn range(store: Arc<dyn Store>, of: Meta, start: u64) -> Result<Bytes> {
    let end = of.len.min(start + RANGE);
    let found = store.get_range(&of.key, start..end).await?.filter(|found| found.meta.version == of.version);
    let changed = || Error::failed("it was changed or removed while it was read: try again");
    let bytes = found.ok_or_else(changed)?.bytes;
    if bytes.len() as u64 != end - start {
        return Err(Error::transient(format_args!("{} bytes came of {}", bytes.len(), end - start)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use forebay::store::{Memory, Put};

    use super::*;

    fn object(len: usize) -> Bytes {
        (0..len).map(|at| (at / 7 + at / 4099) as u8).collect::<Vec<_>>().into()
    }

    #[tokio::test]
    async fn all_bytes_come_in_order() {
        let (store, key) = (Memory::new(), Key::new("a").unwrap());
        for len in [0, 1, RANGE as usize, 3 * RANGE as usize + 5] {
            let bytes = object(len);
            let _ = store.put(&key, bytes.clone(), Put::Overwrite).await.unwrap();
            let (meta, pieces) = open(store.clone(), key.clone()).await.unwrap();
            assert!(meta.checksum.is_some(), "else nothing is compared");
            let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
            assert!(pieces.concat() == bytes, "{len}");
        }
    }

    #[tokio::test]
    async fn bytes_of_two_versions_are_never_mixed() {
        let (store, key) = (Memory::new(), Key::new("a").unwrap());
        let _ = store.put(&key, object(12 * RANGE as usize), Put::Overwrite).await.unwrap();
        let (_, mut pieces) = open(store.clone(), key.clone()).await.unwrap();
        pieces.next().await.unwrap().unwrap();
        let _ = store.put(&key, object(12 * RANGE as usize), Put::Overwrite).await.unwrap();
        let why = pieces.try_for_each(|_| async { Ok(()) }).await.unwrap_err();
        assert!(why.to_string().contains("changed"), "{why}");
    }
}
