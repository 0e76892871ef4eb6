//! Telling a URL of a job's end: one attempt at a time, with what [`Told`] says between them.
//!
//! A worker may be lost between an attempt and its note; then the message is sent again, under the same id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::told::{DELIVERED, Told};
use crate::error::Error;
use crate::webhook::{ATTEMPTS, Sent, Webhook, pause};

impl Told {
    /// When the next attempt is due, in seconds since 1970; after the last one, never.
    pub(crate) fn due(&self) -> Option<u64> {
        match self.attempts {
            0 => Some(0),
            _ => self.next,
        }
    }

    /// Makes the next attempt to tell `url` the end of the job `id`, in 20 s or `within`: how far it is then.
    pub(crate) async fn attempt(
        &self,
        webhook: &Webhook,
        url: &str,
        id: &str,
        document: Bytes,
        now: u64,
        within: Duration,
    ) -> Told {
        let attempts = self.attempts + 1;
        let late = |_| {
            let why = Error::transient(format_args!("no answer within {within:?}, as long as the lease allowed"));
            Ok(Sent::Again { after: None, why })
        };
        let sent = timeout(within, webhook.send(url, &message_id(id), now, document)).await.unwrap_or_else(late);
        let (outcome, next) = match sent {
            Ok(Sent::Delivered) => (DELIVERED.to_owned(), None),
            Ok(Sent::Gone) => ("refused for ever by the receiver".to_owned(), None),
            Ok(Sent::Again { after, why }) if attempts < ATTEMPTS => {
                let wait = after.unwrap_or_default().max(pause(attempts));
                debug!(job = id, attempts, error = %why, ?wait, "a webhook did not arrive");
                (why.to_string(), Some(now.saturating_add(wait.as_secs())))
            }
            Ok(Sent::Again { why, .. }) | Err(why) => {
                warn!(job = id, attempts, error = %why, "a webhook is given up");
                (format!("given up: {why}"), None)
            }
        };
        Told { attempts, next, outcome }
    }
}

/// What the message about a job is called, the same at each attempt: ids hold only visible ASCII without a full stop.
fn message_id(id: &str) -> String {
    let mut name = "msg_".to_owned();
    for byte in id.bytes() {
        match byte.is_ascii_graphic() && !matches!(byte, b'.' | b'%') {
            true => name.push(byte.into()),
            false => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// The time now, in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_a_message_of_its_own_that_can_be_signed() {
        assert_eq!(message_id("0a-1_b"), "msg_0a-1_b");
        assert_eq!(message_id("a.b%2E é"), "msg_a%2Eb%252E%20%C3%A9");
    }
}
