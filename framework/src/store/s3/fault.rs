//! What went wrong with a call to a store, whose fault it is, and what to do about it: the one place that knows S3's codes.
//!
//! What an operator has to set right is invalid, all else passes. The store's own words are left out where they could
//! quote what was signed.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::error::{Error, Fault};
use crate::store::Misconfigured;

/// What the SDK says where nobody gave it credentials, or gave wrong ones.
const NO_KEYS: [&str; 3] = ["was not enabled", "not properly configured", "no providers in chain"];

/// What the store said. Found with [`Error::find`]; where it is not, nobody knows whether the call took effect.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) code: String,
    text: String,
}

/// What refusals mean to whoever calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// There is no such object.
    Missing,
    /// The condition did not hold.
    Condition,
    /// Another write was under way: the same again may work.
    Race,
    /// The upload has ended, one way or the other.
    NoUpload,
    /// A part is not what it was said to be.
    WrongPart,
    /// The range begins at the object's end or beyond.
    BeyondEnd,
    /// The bytes that came are not those that were sent.
    Damaged,
    /// This is not done here.
    Unknown,
    Other,
}

impl Refused {
    pub(super) fn means(&self) -> Means {
        match (self.status, self.code.as_str()) {
            (_, "NoSuchUpload") => Means::NoUpload,
            (_, "InvalidPart" | "InvalidPartOrder") => Means::WrongPart,
            (_, "PreconditionFailed") | (412 | 304, _) => Means::Condition,
            (_, "ConditionalRequestConflict" | "OperationAborted") => Means::Race,
            (_, "InvalidRange") | (416, _) => Means::BeyondEnd,
            (_, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "IncompleteBody") => Means::Damaged,
            (_, "NoSuchBucket") => Means::Other,
            (404, _) => Means::Missing,
            (_, "NotImplemented") | (405 | 501, _) => Means::Unknown,
            _ => Means::Other,
        }
    }

    /// Whether the store's own words say that it did nothing. Errors of the server may come after the deed.
    pub(super) fn is_sure(&self) -> bool {
        (400..500).contains(&self.status) && self.status != 408
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { status, code, text } = self;
        write!(f, "the store refused it ({status} {code})")?;
        if text.is_empty() { Ok(()) } else { write!(f, ": {text}") }
    }
}

impl StdError for Refused {}

/// What the store said, if it did.
pub(super) fn said(why: &Error) -> Option<&Refused> {
    why.find::<Refused>()
}

/// What the store meant, if it said anything.
pub(super) fn means(why: &Error) -> Option<Means> {
    said(why).map(Refused::means)
}

/// The error of a call in which something was done to `bucket`.
pub(super) fn of<E>(why: SdkError<E, HttpResponse>, bucket: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match &why {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            // A HEAD has no body, so no code either.
            let code = service.err().code().unwrap_or(match status {
                404 => "NotFound",
                403 => "Forbidden",
                412 => "PreconditionFailed",
                _ => "no code",
            });
            refused(status, code, service.err().message().unwrap_or_default(), bucket)
        }
        SdkError::ResponseError(_) => Error::transient(format_args!("a broken answer: {}", chain(&why))),
        SdkError::TimeoutError(_) => Error::transient("no answer in time"),
        // Others say that they were not found in time, or that whoever has them failed: that passes.
        _ if NO_KEYS.iter().any(|text| chain(&why).contains(text)) => {
            let advice = format!(
                "no credentials for `{bucket}`: give the worker a role or a profile, or set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY ({})",
                chain(&why)
            );
            Error::new(Fault::Invalid, Misconfigured { advice, said: None })
        }
        _ => Error::transient(format_args!("the store cannot be reached: {}", chain(&why))),
    }
}

fn refused(status: u16, code: &str, text: &str, bucket: &str) -> Error {
    let mut said = Refused { status, code: code.to_owned(), text: String::new() };
    if let Some(advice) = advice(code, bucket) {
        return Error::new(Fault::Invalid, Misconfigured { advice, said: Some(said.into()) });
    }
    match code {
        // Who gives out credentials that expire gives out new ones.
        "ExpiredToken" | "TokenRefreshRequired" => {
            Error::new(Fault::Transient, said).context("the credentials have expired: renew them")
        }
        // The SDK has learned the store's time from this answer and signs by it from now on.
        "RequestTimeTooSkewed" | "RequestExpired" => Error::new(Fault::Transient, said)
            .context("this machine's clock is wrong: set it, or let it be set from the network (NTP)"),
        _ => {
            said.text = text.lines().next().unwrap_or_default().chars().take(200).collect();
            Error::new(fault(&said), said)
        }
    }
}

/// What an operator has to set right for `bucket`, whatever the object.
fn advice(code: &str, bucket: &str) -> Option<String> {
    Some(match code {
        "NoSuchBucket" => format!("there is no bucket `{bucket}`: check its name, its region and the endpoint"),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => format!(
            "no permission: let this worker's keys do s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, \
             s3:AbortMultipartUpload, s3:ListMultipartUploadParts and s3:ListBucketMultipartUploads on `{bucket}`"
        ),
        "InvalidAccessKeyId" | "InvalidToken" | "InvalidSecurity" | "NotSignedUp" | "UnauthorizedAccess" => {
            "the store does not know these keys: check the access key id".to_owned()
        }
        "SignatureDoesNotMatch" => "the signature is wrong: check the secret access key, and the region".to_owned(),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            format!("`{bucket}` is in another region: set FOREBAY_S3_REGION")
        }
        _ => return None,
    })
}

fn fault(said: &Refused) -> Fault {
    let passing = ["SlowDown", "Throttl", "RequestTimeout", "TooManyRequests", "Busy", "InternalError", "Unavailable"];
    match said.status {
        408 | 429 => Fault::Transient,
        _ if passing.iter().any(|code| said.code.contains(code)) => Fault::Transient,
        400..500 => match said.means() {
            Means::Other | Means::Missing | Means::Unknown | Means::BeyondEnd => Fault::Invalid,
            _ => Fault::Transient,
        },
        _ => Fault::Transient,
    }
}

fn chain<E: StdError>(why: E) -> String {
    let text = DisplayErrorContext(why).to_string();
    // What follows is the same again, as the debugger would see it; a URL would show what is signed.
    let text = text.split(" (").next().unwrap_or_default();
    text.split('?').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(status: u16, code: &str) -> Error {
        refused(status, code, "first line\nStringToSign: secret", "bucket")
    }

    #[test]
    fn what_an_operator_has_to_set_right_is_invalid_and_says_how() {
        let cases = [
            (404, "NoSuchBucket", "check its name"),
            (403, "AccessDenied", "s3:PutObject"),
            (403, "InvalidAccessKeyId", "access key id"),
            (403, "SignatureDoesNotMatch", "secret access key"),
            (400, "AuthorizationHeaderMalformed", "FOREBAY_S3_REGION"),
            (400, "EntityTooLarge", "first line"),
        ];
        for (status, code, says) in cases {
            let why = one(status, code);
            assert_eq!(why.fault(), Fault::Invalid, "{code}");
            assert!(why.to_string().contains(says) && !why.to_string().contains("secret\n"), "{code}: {why}");
            assert!(!why.to_string().contains("StringToSign"), "{code}: {why}");
        }
    }

    #[test]
    fn what_concerns_every_object_is_told_from_what_concerns_one() {
        let of_all = |code| one(400, code).context("uploading").find::<Misconfigured>().is_some();
        for code in ["NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "AuthorizationHeaderMalformed"] {
            assert!(of_all(code), "{code}");
        }
        for code in ["EntityTooLarge", "KeyTooLongError", "InvalidArgument"] {
            assert!(!of_all(code), "{code}");
        }
    }

    #[test]
    fn what_passes_is_transient() {
        let cases = [
            (503, "SlowDown"),
            (500, "InternalError"),
            (200, "InternalError"),
            (429, "TooManyRequests"),
            (400, "RequestTimeout"),
            (409, "ConditionalRequestConflict"),
            (400, "BadDigest"),
            (403, "RequestTimeTooSkewed"),
            (400, "ExpiredToken"),
        ];
        for (status, code) in cases {
            assert_eq!(one(status, code).fault(), Fault::Transient, "{code}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let cases = [
            (404, "NoSuchKey", Means::Missing),
            (404, "NotFound", Means::Missing),
            (404, "NoSuchUpload", Means::NoUpload),
            (404, "NoSuchBucket", Means::Other),
            (412, "PreconditionFailed", Means::Condition),
            (416, "InvalidRange", Means::BeyondEnd),
            (501, "NotImplemented", Means::Unknown),
            (400, "InvalidPart", Means::WrongPart),
        ];
        for (status, code, meaning) in cases {
            assert_eq!(means(&one(status, code)), Some(meaning), "{code}");
        }
    }
}
