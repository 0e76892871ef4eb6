//! One upload: small content in one request, other content in [parts](super::multipart).
//!
//! It owns which way content takes, and what vouches for its bytes. Whether a write whose answer was lost took place is
//! told by the name that each write carries.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep;
use tracing::debug;

use super::bucket::{CHECK, Label, Vouch};
use super::fault::{self, Means};
use super::feed::{Feed, Streamed, part_len};
use super::journal::FileId;
use super::part::{self, PartBody, Pulse, Source};
use super::provider::Integrity;
use super::watch::watched;
use super::{Inner, random_id};
use crate::error::{Context, Error, Result};
use crate::store::content::{self, Body};
use crate::store::transfer::{Budget, PART};
use crate::store::{Content, Crc, Outcome, Progress, Put, blocking};

impl Inner {
    /// Writes `content` to `key`, which has the prefix already.
    pub(super) async fn upload(self: &Arc<Self>, key: &str, content: Content, mode: &Put) -> Result<Outcome> {
        let Content { body, progress } = content;
        match body {
            Body::Bytes(bytes) => {
                let len = bytes.len() as u64;
                progress.expect(len);
                if len <= PART {
                    return self.single(key, Source::Bytes(bytes), len, mode, &progress).await;
                }
                let part = part_len(len, self.lanes.count());
                self.parts(key, None, || Feed::bytes(bytes.clone(), part), part, mode, &progress).await
            }
            Body::File(path) => {
                let (file, len) = content::open(&path).await?;
                progress.expect(len);
                let (opened, named) = (Arc::clone(&file), path.clone());
                let id = blocking(move || FileId::of_open(&opened, &named)).await?;
                if len <= PART {
                    let sent = self.single(key, Source::File(file), len, mode, &progress).await;
                    let sent = sent.with_context(|| path.display().to_string())?;
                    return unchanged(id, &path).await.map(|()| sent);
                }
                let part = part_len(len, self.lanes.count());
                let feed = || Feed::file(Arc::clone(&file), len, part);
                let sent = self.parts(key, Some(id), feed, part, mode, &progress).await;
                sent.with_context(|| path.display().to_string())
            }
            Body::Stream(stream) => {
                let mut streamed = Streamed::new(stream);
                let first = streamed.next().await?;
                if streamed.is_over().await? {
                    let bytes = match first.map(|first| first.source) {
                        Some(Source::Bytes(bytes)) => bytes,
                        _ => Bytes::new(),
                    };
                    let len = bytes.len() as u64;
                    progress.expect(len);
                    return self.single(key, Source::Bytes(bytes), len, mode, &progress).await;
                }
                self.streamed(key, Feed::Stream(streamed), first, mode, &progress).await
            }
        }
    }

    /// In one request, which is tried again.
    async fn single(&self, key: &str, source: Source, len: u64, mode: &Put, progress: &Progress) -> Result<Outcome> {
        let mut label = self.label(None);
        let (mut budget, mut unsure) = (Budget::default(), false);
        let mut failures = 0;
        loop {
            let vouch = self.vouch(&source, 0..len).await?;
            if label.integrity == Integrity::Md5 {
                label.own_check = Some(part::count(source.clone(), 0..len, CHECK).await?);
            }
            let lane = self.lanes.enter().await.carries(len);
            let pulse = Pulse::new(Arc::new(progress.share()), self.lanes.clone());
            let trailer = matches!(vouch, Vouch::Trailer { .. });
            let body = PartBody::new(source.clone(), 0..len, CHECK, trailer, Arc::clone(&pulse));
            let sent = watched(self.bucket.put(key, body, &label, vouch, mode), &pulse, lane, failures).await;
            let why = match sent {
                Ok(version) => return Ok(Outcome::Stored(version)),
                Err(why) => why,
            };
            match fault::means(&why) {
                Some(Means::Condition) => return self.lost_race(key, &label, unsure).await,
                // A match of an object that is gone.
                Some(Means::Missing) if matches!(mode, Put::Match(_)) => return Ok(Outcome::Conflict),
                _ => {}
            }
            unsure |= fault::said(&why).is_none_or(|said| !said.is_sure());
            pulse.undo();
            failures += 1;
            debug!(key, %why, "a put failed");
            // Each try sends all of it: what it moved counts for nothing.
            sleep(budget.spend(why, 0)?).await;
        }
    }

    pub(super) fn label(&self, own_check: Option<Crc>) -> Label {
        Label { write_id: random_id(), own_check, integrity: self.integrity }
    }

    /// What vouches for these bytes, found out as far as it must be before they are sent.
    pub(super) async fn vouch(&self, source: &Source, range: Range<u64>) -> Result<Vouch> {
        let payload = range.end - range.start;
        Ok(match self.integrity {
            Integrity::Trailer if payload > 0 => Vouch::Trailer { payload },
            Integrity::Trailer | Integrity::Header => Vouch::Crc(part::count(source.clone(), range, CHECK).await?),
            Integrity::Md5 => Vouch::Md5(part::md5(source.clone(), range).await?),
        })
    }

    /// A condition that did not hold: somebody else's write, or our own, if its answer was lost.
    pub(super) async fn lost_race(&self, key: &str, label: &Label, unsure: bool) -> Result<Outcome> {
        if !unsure {
            return Ok(Outcome::Conflict);
        }
        let found = self.asked(|| self.bucket.head(key, false)).await?;
        let ours = found.filter(|facts| facts.write_id.as_ref() == Some(&label.write_id));
        Ok(ours.map_or(Outcome::Conflict, |facts| Outcome::Stored(facts.version)))
    }
}

/// A file that was changed meanwhile may have been sent half old, half new.
async fn unchanged(id: FileId, path: &Path) -> Result<()> {
    if blocking(move || Ok(id.is_there())).await? {
        return Ok(());
    }
    Err(Error::failed(format_args!("{} was changed while it was uploaded: upload it again", path.display())))
}
