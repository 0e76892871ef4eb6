//! What a store can do, found out by doing it: nothing that work depends on is believed because somebody said so.
//!
//! It owns the questions. Each is a write of a few bytes below `.forebay-probe/`, which is deleted again.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::bucket::{Bucket, CHECK, Label, Vouch};
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

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Can {
    pub(super) integrity: Integrity,
    pub(super) conditional: Conditional,
}

/// Asks the store at `bucket`, below `prefix`; about conditional writes only with `conditions`.
pub(super) async fn ask(bucket: &Bucket, prefix: &str, provider: Provider, conditions: bool) -> Result<Can> {
    let conditions = conditions && provider.may_condition();
    if let (Some(integrity), false) = (provider.integrity(), conditions) {
        return Ok(Can { integrity, conditional: Conditional::None });
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
                return Ok(Can { integrity: Integrity::Md5, conditional: Conditional::None });
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
        Ok(Can { integrity, conditional })
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
            let taken = self.bucket.put(&key, body, &label(integrity), vouch, &Put::Overwrite).await.map(drop);
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
        let trailer = integrity == Integrity::Trailer;
        let body = PartBody::new(Source::Bytes("probe".into()), 0..5, CHECK, trailer, pulse());
        let (body, vouch) = match trailer {
            true => (body.forged(), Vouch::Trailer { payload: 5 }),
            false => (body, Vouch::Crc(Crc { algorithm: CHECK, value: 1, len: 5 })),
        };
        let taken = self.bucket.part(&key, &id, 1, body, vouch).await.map(drop);
        self.bucket.abort(&key, &id).await?;
        refuses(taken)
    }

    async fn conditional(&self, integrity: Integrity) -> Result<Conditional> {
        let mut version = None;
        // In the second race all have their connections, and are closer to one another.
        for race in 0..RACES {
            if race > 0 {
                self.bucket.delete(&self.key).await?;
            }
            match self.race(integrity).await? {
                Some(winner) => version = Some(winner),
                None => return Ok(Conditional::None),
            }
        }
        let Some(version) = version else { return Ok(Conditional::None) };
        let again = self.put(RACERS, integrity, Put::Create).await;
        let stale = self.put(RACERS + 1, integrity, Put::Match(Version::new("0123456789abcdef0123456789abcdef"))).await;
        for refused in [again, stale] {
            match refused.map_err(|why| (fault::means(&why), why)) {
                Ok(_) => return Ok(Conditional::None),
                Err((Some(Means::Condition | Means::Race), _)) => {}
                Err((_, why)) if why.fault() == Fault::Transient => return Err(why),
                Err(_) => return Ok(Conditional::None),
            }
        }
        match self.put(RACERS + 2, integrity, Put::Match(version)).await {
            Ok(_) => Ok(Conditional::ByContent),
            Err(why) if why.fault() == Fault::Transient && fault::means(&why) != Some(Means::Condition) => Err(why),
            Err(why) => {
                debug!(bucket = self.bucket.name, %why, "a match that holds is refused");
                Ok(Conditional::None)
            }
        }
    }

    /// What the one winner wrote; `None` where there is not one winner.
    async fn race(&self, integrity: Integrity) -> Result<Option<Version>> {
        let mut winners = Vec::new();
        for raced in join_all((0..RACERS).map(|number| self.put(number, integrity, Put::Create))).await {
            match raced {
                Ok(version) => winners.push(version),
                Err(why) => match fault::means(&why) {
                    Some(Means::Condition | Means::Race) => {}
                    // A store may refuse so many writes to one key at once.
                    Some(_) if fault::said(&why).is_some_and(|said| matches!(said.status, 429 | 503)) => {}
                    _ if why.fault() == Fault::Transient || denied(&why) => return Err(why),
                    _ => return Ok(None),
                },
            }
        }
        if winners.len() != 1 {
            debug!(bucket = self.bucket.name, winners = winners.len(), "a race to create has not one winner");
            return Ok(None);
        }
        Ok(winners.pop())
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
        let put = self.bucket.put(&self.key, body, &label, vouch, &mode);
        let late = |_| Error::transient("no answer to a probe");
        tokio::time::timeout(super::bucket::CALL_WITHIN, put)
            .await
            .map_err(late)?
            .context("asking what the store can do")
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

fn denied(why: &Error) -> bool {
    fault::said(why).is_some_and(|said| matches!(said.code.as_str(), "AccessDenied" | "Forbidden"))
}

fn label(integrity: Integrity) -> Label {
    Label { write_id: random_id(), own_check: None, integrity }
}

fn pulse() -> Arc<Pulse> {
    Pulse::new(Arc::new(Progress::new().share()), Lanes::new())
}
