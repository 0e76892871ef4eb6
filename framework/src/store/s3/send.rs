//! One part of an upload, sent until it is there or its budget is spent.
//!
//! It owns the tries of a part. It does not know what the other parts do.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::debug;

use super::Inner;
use super::bucket::{CHECK, Part, Vouch};
use super::fault::{self, Means};
use super::feed::Next;
use super::part::{PartBody, Pulse};
use super::watch::watched;
use crate::error::{Error, Result};
use crate::store::progress::Share;
use crate::store::transfer::Budget;

impl Inner {
    pub(super) async fn send_part(self: Arc<Self>, to: Arc<To>, part: Arc<Next>, share: Arc<Share>) -> Result<Part> {
        let (number, range) = (part.number, part.range.clone());
        let mut budget = Budget::default();
        let mut failures = 0;
        loop {
            let vouch = self.vouch(&part.source, range.clone()).await?;
            let lane = self.lanes.enter().await.carries(range.end - range.start);
            let pulse = Pulse::new(Arc::clone(&share), self.lanes.clone());
            let sending = Sending(&pulse, false);
            let trailer = matches!(vouch, Vouch::Trailer { .. });
            let body = PartBody::new(part.source.clone(), range.clone(), CHECK, trailer, Arc::clone(&pulse));
            let sent = self.bucket.part(&to.key, &to.id, number, body, vouch);
            match (watched(sent, &pulse, lane, failures).await, pulse.crc()) {
                (Ok(tag), Some(crc)) => {
                    sending.keep();
                    return Ok(Part { number, tag, crc });
                }
                (Ok(_), None) => {
                    return Err(Error::transient(format_args!("part {number} was answered before it was sent")));
                }
                (Err(why), _) if fault::means(&why) == Some(Means::NoUpload) => return Err(why),
                (Err(why), _) => {
                    failures += 1;
                    debug!(key = to.key, number, %why, "a part failed");
                    drop(sending);
                    sleep(budget.spend(why, 0)?).await;
                }
            }
        }
    }
}

/// Takes back what a part has counted, unless it is kept.
struct Sending<'a>(&'a Pulse, bool);

impl Sending<'_> {
    fn keep(mut self) {
        self.1 = true;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.undo();
        }
    }
}

/// Where parts go.
pub(super) struct To {
    pub(super) key: String,
    pub(super) id: String,
}
