//! What a store can do, found out by doing it: nothing that work depends on is believed because somebody said so.
//!
//! It owns the questions. Each is a write of a few bytes below `.forebay-probe/`, which is deleted again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::bucket::{Bucket, CALL_WITHIN, CHECK, Label, Vouch};
use super::fault::{self, Means};
use super::part::{self, PartBody, Pulse, Source};
use super::provider::{Integrity, Provider};
use super::random_id;
use crate::error::{Context, Error, Fault, Result};
use crate::store::transfer::{Budget, Lanes};
use crate::store::{Conditional, Crc, Progress, Put, Version};

/// Writers that race to create one object, and how often.
const RACERS: usize = 12;
const RACES: usize = 2;
/// Cloudflare R2 takes one write a second to a key.
const BETWEEN_WRITES: Duration = Duration::from_millis(1100);
/// Tries of what a store is too busy for.
const PATIENCE: usize = 5;
/// What a probe began longer ago than this is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(600);
/// So many of them are ended at once, so that opening takes no longer for it.
const ENDED: usize = 4;

/// How a race ended.
enum Raced {
    /// With one winner, who wrote this version.
    Won(Version),
    /// With several, or with none although nothing was refused: conditions are not looked at.
    Shared,
    /// The store was too busy for all of them.
    Refused,
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Can {
    pub(super) integrity: Integrity,
    pub(super) conditional: Conditional,
    /// Nothing could be found out, since nothing may be written.
    pub(super) denied: bool,
}

/// Asks the store at `bucket`, below `prefix`; about conditional writes only with `conditions`.
pub(super) async fn ask(bucket: &Bucket, prefix: &str, provider: Provider, conditions: bool) -> Result<Can> {
    let conditions = conditions && provider.may_condition();
    if let (Some(integrity), false) = (provider.integrity(), conditions) {
        return Ok(Can { integrity, conditional: Conditional::None, denied: false });
    }
    let mut budget = Budget::default();
    loop {
        let key = format!("{prefix}.forebay-probe/{}", random_id());
        let probe = Probe { bucket, key };
        let asked = probe.ask(provider, conditions).await;
        probe.clean().await;
        match asked {
            Err(why) if why.fault() == Fault::Invalid && denied(&why) => {
                let name = &bucket.name;
                warn!(bucket = name, %why, "nothing may be written here: the bucket is only read");
                return Ok(Can { integrity: Integrity::Md5, conditional: Conditional::None, denied: true });
            }
            Err(why) => sleep(budget.spend(why, 0)?).await,
            can => return can,
        }
    }
}

struct Probe<'a> {
    bucket: &'a Bucket,
    key: String,
}

impl Probe<'_> {
    async fn ask(&self, provider: Provider, conditions: bool) -> Result<Can> {
        let integrity = match provider.integrity() {
            Some(integrity) => integrity,
            None => self.integrity().await?,
        };
        let conditional = if conditions { self.conditional(integrity).await? } else { Conditional::None };
        info!(bucket = self.bucket.name, ?provider, ?integrity, ?conditional, "bucket opened");
        Ok(Can { integrity, conditional, denied: false })
    }

    /// A checksum that is wrong has to be refused.
    async fn integrity(&self) -> Result<Integrity> {
        for (integrity, vouch) in [
            (Integrity::Trailer, Vouch::Trailer { payload: 5 }),
            (Integrity::Header, Vouch::Crc(Crc { algorithm: CHECK, value: 1, len: 5 })),
        ] {
            let key = format!("{}-wrong", self.key);
            let pulse = pulse();
            let body =
                PartBody::new(Source::Bytes("probe".into()), 0..5, CHECK, integrity == Integrity::Trailer, pulse);
            let body = if integrity == Integrity::Trailer { body.forged() } else { body };
            let label = label(integrity);
            let taken = within(self.bucket.put(&key, body, &label, vouch, &Put::Overwrite)).await.map(drop);
            if refuses(taken)? && self.refuses_part(integrity).await? {
                return Ok(integrity);
            }
            debug!(bucket = self.bucket.name, ?integrity, "a wrong checksum is not looked at");
        }
        Ok(Integrity::Md5)
    }

    /// Some look at the checksum of an object and not at that of a part.
    async fn refuses_part(&self, integrity: Integrity) -> Result<bool> {
        let key = format!("{}-wrong", self.key);
        let id = match self.bucket.begin(&key, &label(integrity)).await {
            Err(why) if matches!(fault::means(&why), Some(Means::Unknown)) => return Ok(false),
            id => id?,
        };
        self.end_abandoned(&id).await;
        let trailer = integrity == Integrity::Trailer;
        let body = PartBody::new(Source::Bytes("probe".into()), 0..5, CHECK, trailer, pulse());
        let (body, vouch) = match trailer {
            true => (body.forged(), Vouch::Trailer { payload: 5 }),
            false => (body, Vouch::Crc(Crc { algorithm: CHECK, value: 1, len: 5 })),
        };
        let taken = within(self.bucket.part(&key, &id, 1, body, vouch)).await.map(drop);
        self.bucket.abort(&key, &id).await?;
        refuses(taken)
    }

    /// Ends what earlier probes that were killed have left open, given the one that was begun now.
    async fn end_abandoned(&self, begun: &str) {
        let below = self.key.rfind('/').map_or("", |slash| &self.key[..=slash]);
        let open = self.bucket.uploads(below).await.unwrap_or_default();
        let Some(now) = open.iter().find(|upload| upload.id == begun).map(|upload| upload.begun) else { return };
        for upload in open.iter().filter(|upload| upload.begun + ABANDONED < now).take(ENDED) {
            if let Err(why) = self.bucket.abort(&upload.key, &upload.id).await {
                debug!(key = upload.key, %why, "what an earlier probe has begun is still open");
            }
        }
    }

    async fn conditional(&self, integrity: Integrity) -> Result<Conditional> {
        let mut version = None;
        // In the second race all have their connections, and are closer to one another.
        for race in 0..RACES {
            if race > 0 {
                self.bucket.delete(&self.key).await?;
            }
            match self.race_until_won(integrity).await? {
                Some(winner) => version = Some(winner),
                None => return Ok(Conditional::None),
            }
        }
        let Some(version) = version else { return Ok(Conditional::None) };
        let again = self.put_patiently(RACERS, integrity, Put::Create).await;
        let other = Put::Match(Version::new("0123456789abcdef0123456789abcdef"));
        let stale = self.put_patiently(RACERS + 1, integrity, other).await;
        for refused in [again, stale] {
            match refused.map_err(|why| (fault::means(&why), why)) {
                Ok(_) => return Ok(Conditional::None),
                Err((Some(Means::Condition | Means::Race), _)) => {}
                Err((_, why)) if why.fault() == Fault::Transient => return Err(why),
                Err(_) => return Ok(Conditional::None),
            }
        }
        self.may_match(integrity, version).await
    }

    /// Whether what is there can be replaced if it is this version, which it is.
    async fn may_match(&self, integrity: Integrity, version: Version) -> Result<Conditional> {
        let mut unsure = false;
        for _ in 0..PATIENCE {
            match self.put(RACERS + 2, integrity, Put::Match(version.clone())).await {
                Ok(_) => return Ok(Conditional::ByContent),
                Err(why) if is_busy(&why) => {
                    unsure = true;
                    sleep(BETWEEN_WRITES).await;
                }
                // The one before may have taken effect: all is asked again, of another key.
                Err(why) if unsure => return Err(why.with_fault(Fault::Transient)),
                Err(why) if why.fault() == Fault::Transient && fault::means(&why) != Some(Means::Condition) => {
                    return Err(why);
                }
                Err(why) => {
                    debug!(bucket = self.bucket.name, %why, "a match that holds is refused");
                    return Ok(Conditional::None);
                }
            }
        }
        Err(Error::transient("the store is too busy to be asked about conditional writes"))
    }

    /// What the one winner wrote; `None` where there is not one winner. A store that lets a key be written once a second
    /// may refuse all of them, and is asked again.
    async fn race_until_won(&self, integrity: Integrity) -> Result<Option<Version>> {
        for _ in 0..PATIENCE {
            match self.race(integrity).await? {
                Raced::Won(version) => return Ok(Some(version)),
                Raced::Shared => return Ok(None),
                Raced::Refused => sleep(BETWEEN_WRITES).await,
            }
            // One that was refused may have taken effect.
            self.bucket.delete(&self.key).await?;
        }
        Err(Error::transient("the store is too busy to be asked about conditional writes"))
    }

    async fn race(&self, integrity: Integrity) -> Result<Raced> {
        let (mut winners, mut refused) = (Vec::new(), 0);
        for raced in join_all((0..RACERS).map(|number| self.put(number, integrity, Put::Create))).await {
            match raced {
                Ok(version) => winners.push(version),
                Err(why) => match fault::means(&why) {
                    Some(Means::Condition | Means::Race) => {}
                    Some(_) if is_busy(&why) => refused += 1,
                    _ if why.fault() == Fault::Transient || denied(&why) => return Err(why),
                    _ => return Ok(Raced::Shared),
                },
            }
        }
        match (winners.len(), winners.pop()) {
            (1, Some(winner)) => return Ok(Raced::Won(winner)),
            (0, _) if refused > 0 => return Ok(Raced::Refused),
            (winners, _) => {
                debug!(bucket = self.bucket.name, winners, "a race to create has not one winner");
            }
        }
        Ok(Raced::Shared)
    }

    /// Again where the store wants fewer writes to one key: for writes that should not take effect.
    async fn put_patiently(&self, number: usize, integrity: Integrity, mode: Put) -> Result<Version> {
        for _ in 1..PATIENCE {
            match self.put(number, integrity, mode.clone()).await {
                Err(why) if is_busy(&why) => sleep(BETWEEN_WRITES).await,
                put => return put,
            }
        }
        self.put(number, integrity, mode).await
    }

    async fn put(&self, number: usize, integrity: Integrity, mode: Put) -> Result<Version> {
        let text = Bytes::from(format!("probe {number}"));
        let len = text.len() as u64;
        let source = Source::Bytes(text);
        let (trailer, vouch) = match integrity {
            Integrity::Trailer => (true, Vouch::Trailer { payload: len }),
            Integrity::Header => (false, Vouch::Crc(part::count(source.clone(), 0..len, CHECK).await?)),
            Integrity::Md5 => (false, Vouch::Md5(part::md5(source.clone(), 0..len).await?)),
        };
        let body = PartBody::new(source, 0..len, CHECK, trailer, pulse());
        let label = label(integrity);
        let put = within(self.bucket.put(&self.key, body, &label, vouch, &mode)).await;
        put.context("asking what the store can do")
    }

    async fn clean(&self) {
        for key in [self.key.clone(), format!("{}-wrong", self.key)] {
            if let Err(why) = self.bucket.delete(&key).await {
                debug!(key, %why, "what was written to ask is left behind");
            }
        }
    }
}

/// Whether the store saw that what it was sent is wrong.
fn refuses(taken: Result<()>) -> Result<bool> {
    let Err(why) = taken else { return Ok(false) };
    match fault::said(&why).map(|said| (said.status, said.means())) {
        Some((_, Means::Damaged)) => Ok(true),
        // In other words.
        Some((400, Means::Other)) if why.fault() == Fault::Invalid => Ok(true),
        Some((_, Means::Unknown)) => Ok(false),
        _ => Err(why),
    }
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::transient("no answer to a probe");
    timeout(CALL_WITHIN, call).await.map_err(late)?
}

fn is_busy(why: &Error) -> bool {
    fault::said(why).is_some_and(|said| matches!(said.status, 429 | 503))
}

fn denied(why: &Error) -> bool {
    fault::said(why).is_some_and(|said| matches!(said.code.as_str(), "AccessDenied" | "Forbidden"))
}

fn label(integrity: Integrity) -> Label {
    Label { write_id: random_id(), own_check: None, integrity }
}

fn pulse() -> Arc<Pulse> {
    Pulse::new(Arc::new(Progress::new().share()), Lanes::new())
}
