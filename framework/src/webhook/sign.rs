//! Signatures as [Standard Webhooks] 1.0 has them: HMAC-SHA256 over `{id}.{timestamp}.{payload}`.
//!
//! It owns [`Secret`] and both directions, [`sign`] and [`verify`]. It reads no clock: whoever calls says what time it
//! is. It does not remember ids, so a receiver that must not act twice keeps them for as long as its tolerance.
//! The asymmetric signatures of the specification (`v1a`) are neither made nor checked.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};

/// The header with the id: the same in every attempt to deliver one message.
pub const ID: &str = "webhook-id";
/// The header with the time of this attempt, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, with spaces between them.
pub const SIGNATURE: &str = "webhook-signature";

/// How far a timestamp may be off in [`verify`]: the five minutes that the libraries of Standard Webhooks take.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// A key that sender and receiver share. Its text is not kept, and its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl Secret {
    /// Reads `whsec_` and the key in base64, 24 to 64 bytes of it: `whsec_$(openssl rand -base64 32)`.
    ///
    /// `Invalid`, without the text, where it is anything else.
    pub fn new(text: &str) -> Result<Self> {
        let key = text.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok());
        match key {
            Some(key) if (24..=64).contains(&key.len()) => {
                Ok(Secret(Hmac::new_from_slice(&key).expect("an HMAC takes keys of any length")))
            }
            _ => Err(Error::invalid("webhook secret: want whsec_ and 24 to 64 bytes in base64")),
        }
    }

    fn mac(&self, id: &str, timestamp: &str, payload: &[u8]) -> Hmac<Sha256> {
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", payload];
        parts.into_iter().fold(self.0.clone(), |mac, part| mac.chain_update(part))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The value of the header [`SIGNATURE`]: one signature per secret, so that receivers can change secrets one by one.
///
/// `timestamp` is the time of the attempt in seconds since 1970. `Invalid` where there is no secret, or where `id` is
/// empty or holds a full stop, a space or anything but visible ASCII: a full stop could move the border between the
/// signed parts.
pub fn sign(secrets: &[Secret], id: &str, timestamp: u64, payload: &[u8]) -> Result<String> {
    check_id(id)?;
    if secrets.is_empty() {
        return Err(Error::invalid("webhook: no secret to sign with"));
    }
    let timestamp = timestamp.to_string();
    let signature = |secret: &Secret| {
        let code = secret.mac(id, &timestamp, payload).finalize().into_bytes();
        format!("v1,{}", STANDARD.encode(code))
    };
    Ok(secrets.iter().map(signature).collect::<Vec<_>>().join(" "))
}

/// The headers of a webhook, as they were received.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// The value of [`ID`].
    pub id: &'a str,
    /// The value of [`TIMESTAMP`].
    pub timestamp: &'a str,
    /// The value of [`SIGNATURE`].
    pub signature: &'a str,
}

/// For receivers: whether `payload`, byte by byte as it was received, comes from someone who has one of `secrets`.
///
/// `now` is the receiver's time in seconds since 1970; take [`TOLERANCE`] where there is no reason for another.
/// `Invalid` where the id is none, the timestamp is further from `now` than `tolerance`, or no `v1` signature fits.
/// Signatures are compared in constant time.
pub fn verify(secrets: &[Secret], headers: Headers<'_>, payload: &[u8], now: u64, tolerance: Duration) -> Result<()> {
    let Headers { id, timestamp, signature } = headers;
    check_id(id)?;
    match timestamp.parse::<u64>() {
        Ok(sent) if sent.abs_diff(now) <= tolerance.as_secs() => {}
        Ok(_) => return Err(Error::invalid(format_args!("webhook: sent more than {tolerance:?} before or after now"))),
        Err(_) => return Err(Error::invalid("webhook: its timestamp is not a number of seconds")),
    }
    let fits = |code: Vec<u8>| secrets.iter().any(|s| s.mac(id, timestamp, payload).verify_slice(&code).is_ok());
    let codes = signature.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    match codes.take(MOST).any(fits) {
        true => Ok(()),
        false => Err(Error::invalid("webhook: no signature fits the payload and a secret")),
    }
}

/// Signatures that are tried, lest one long header make a receiver hash its payload again and again.
const MOST: usize = 16;

fn check_id(id: &str) -> Result<()> {
    if id.is_empty() || id.contains('.') || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid("webhook: its id must be visible ASCII without a full stop"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    /// Secret, id, time, payload and signature of the test that the libraries of Standard Webhooks share.
    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SENT: u64 = 1614265330;
    const PAYLOAD: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Secret {
        Secret::new(TEXT).unwrap()
    }

    fn other() -> Secret {
        Secret::new("whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=").unwrap()
    }

    fn check(headers: Headers<'_>, payload: &[u8], now: u64) -> Result<()> {
        verify(&[other(), secret()], headers, payload, now, TOLERANCE)
    }

    const HEADERS: Headers<'_> = Headers { id: MESSAGE, timestamp: "1614265330", signature: SIGNED };

    #[test]
    fn signs_as_the_libraries_do() {
        assert_eq!(sign(&[secret()], MESSAGE, SENT, PAYLOAD).unwrap(), SIGNED);
    }

    #[test]
    fn one_of_several_secrets_is_enough_on_either_side() {
        let both = sign(&[other(), secret()], MESSAGE, SENT, PAYLOAD).unwrap();
        assert!(both.starts_with("v1,") && both.ends_with(&format!(" {SIGNED}")), "{both}");
        for secrets in [vec![secret()], vec![other()], vec![other(), secret()]] {
            verify(&secrets, Headers { signature: &both, ..HEADERS }, PAYLOAD, SENT, TOLERANCE).unwrap();
        }
        let mixed = format!("v1a,AAAA v2,{} v1,AAAA v1,?? {SIGNED}", &SIGNED[3..]);
        check(Headers { signature: &mixed, ..HEADERS }, PAYLOAD, SENT).unwrap();
    }

    #[test]
    fn what_was_changed_does_not_verify() {
        check(HEADERS, PAYLOAD, SENT).unwrap();
        let signatures = ["", "v1,", "v1", " ", &SIGNED[3..], &SIGNED[..20], &format!("v1a,{}", &SIGNED[3..])];
        for signature in signatures {
            assert!(check(Headers { signature, ..HEADERS }, PAYLOAD, SENT).is_err(), "{signature}");
        }
        assert!(check(HEADERS, br#"{"test":2432232314}"#, SENT).is_err());
        assert!(check(Headers { id: "msg_other", ..HEADERS }, PAYLOAD, SENT).is_err());
        assert!(check(Headers { timestamp: "1614265331", ..HEADERS }, PAYLOAD, SENT).is_err());
        assert!(verify(&[other()], HEADERS, PAYLOAD, SENT, TOLERANCE).is_err());
        assert!(verify(&[], HEADERS, PAYLOAD, SENT, TOLERANCE).is_err());
    }

    #[test]
    fn a_timestamp_is_good_within_its_tolerance() {
        for now in [SENT - 300, SENT + 300] {
            check(HEADERS, PAYLOAD, now).unwrap();
        }
        for now in [0, SENT - 301, SENT + 301, u64::MAX] {
            assert!(check(HEADERS, PAYLOAD, now).is_err(), "{now}");
        }
        for timestamp in ["", "-1", "1614265330.0", "soon", "99999999999999999999"] {
            assert!(check(Headers { timestamp, ..HEADERS }, PAYLOAD, SENT).is_err(), "{timestamp}");
        }
    }

    #[test]
    fn a_border_cannot_be_moved() {
        for id in ["", "a.1614265330", "a b", "a\r\nx: y", "ä"] {
            assert!(sign(&[secret()], id, SENT, PAYLOAD).is_err(), "{id:?}");
            assert!(check(Headers { id, ..HEADERS }, PAYLOAD, SENT).is_err(), "{id:?}");
        }
        assert!(sign(&[], MESSAGE, SENT, PAYLOAD).is_err());
    }

    #[test]
    fn a_secret_is_read_strictly_and_never_shown() {
        let key = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for text in [key(24), key(64)] {
            Secret::new(&text).unwrap();
        }
        let unmarked = TEXT.strip_prefix("whsec_").unwrap();
        for text in ["", "whsec_", unmarked, "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &key(23), &key(65)] {
            let refused = Secret::new(text).unwrap_err();
            assert!(!format!("{refused:?}").contains("MfKQ"), "{refused:?}");
        }
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    /// With the package `standardwebhooks` from PyPI: each side verifies what the other has signed.
    #[test]
    fn agrees_with_the_python_library() {
        let Ok(python) = std::env::var("FOREBAY_STANDARDWEBHOOKS_PYTHON") else {
            return eprintln!("skipped: FOREBAY_STANDARDWEBHOOKS_PYTHON names no Python with standardwebhooks");
        };
        let program = "
import sys
from datetime import datetime, timezone
from standardwebhooks import Webhook
secret, id, timestamp, signature, payload = sys.argv[1:]
hook = Webhook(secret)
hook.verify(payload, {'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature})
print(hook.sign(id, datetime.fromtimestamp(int(timestamp), timezone.utc), payload), end='')
";
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (timestamp, payload) = (now.to_string(), r#"{"type":"job.done","data":{"text":"Grüße"}}"#);
        let ours = sign(&[other(), secret()], MESSAGE, now, payload.as_bytes()).unwrap();
        let output =
            Command::new(python).args(["-c", program, TEXT, MESSAGE, &timestamp, &ours, payload]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs = String::from_utf8(output.stdout).unwrap();
        let headers = Headers { id: MESSAGE, timestamp: &timestamp, signature: &theirs };
        verify(&[secret()], headers, payload.as_bytes(), now, TOLERANCE).unwrap();
        assert!(ours.ends_with(&theirs), "{ours} {theirs}");
        eprintln!("verified by Python and back");
    }
}
