//! What went wrong with a call to SQS, whose fault it is, and what to do about it: the one place that knows its codes.
//!
//! What an operator has to set right is invalid, all else passes. The service's own words are left out where it could
//! quote what was signed, since that holds a token.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::primitives::{DateTime, DateTimeFormat};

use crate::error::{Error, Fault};

/// In place of a code, of an entry that the answer says nothing of.
pub(super) const NO_ANSWER: &str = "NoAnswer";
/// A clock that is wrong by more makes signatures invalid.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// An entry of a batch that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    code: String,
    text: String,
    senders: bool,
}

/// A call of which nobody knows whether it took effect. Found with [`Error::find`] by whoever must not repeat it.
#[derive(Debug)]
pub(super) struct Unanswered(String);

impl Unanswered {
    pub(super) fn error(what: impl fmt::Display) -> Error {
        Error::new(Fault::Transient, Unanswered(what.to_string()))
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Unanswered {}

impl Refused {
    pub(super) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Refused { code: code.into(), text: text.into(), senders: false }
    }

    /// The queue says whether it is the sender's fault, so that the same entry will never be taken.
    pub(super) fn by_sender(self, senders: bool) -> Self {
        Refused { senders, ..self }
    }

    pub(super) fn is_senders(&self) -> bool {
        self.senders
    }

    /// Whether the queue did not say what became of the entry.
    pub(super) fn is_unclear(&self) -> bool {
        self.code == NO_ANSWER
    }

    /// Whether the message is not ours any more: expired, given to somebody else, or gone.
    pub(super) fn is_lost(&self) -> bool {
        match plain(&self.code) {
            "MessageNotInflight" | "ReceiptHandleIsInvalid" => true,
            // Also said of a time that is too long; that is no loss, and a mistake of this source.
            "InvalidParameterValue" => !self.text.contains("VisibilityTimeout"),
            _ => false,
        }
    }

    /// Whether this worker may not do it at all.
    pub(super) fn is_denied(&self) -> bool {
        plain(&self.code).starts_with("AccessDenied")
    }

    /// For the job, to be tried again.
    pub(super) fn error(&self, doing: &str) -> Error {
        let (code, text) = (plain(&self.code), &self.text);
        Error::transient(format_args!("{doing}: the queue refused it ({code}): {text}"))
    }
}

/// The error of a whole call, `doing` something for which the permission `action` is needed, with the queue at `url`.
pub(super) fn of<E>(why: SdkError<E, HttpResponse>, doing: &str, action: &str, url: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let error = match &why {
        SdkError::ServiceError(service) => {
            let (code, text) = (service.err().code().unwrap_or("no code"), service.err().message().unwrap_or_default());
            let status = service.raw().status().as_u16();
            said(plain(code), text, status, skew(service.raw()), action, url)
        }
        SdkError::TimeoutError(_) => Unanswered::error("no answer in time"),
        SdkError::ResponseError(_) => Unanswered::error(format_args!("a broken answer: {}", chain(&why))),
        _ if chain(&why).contains("credentials") => Error::invalid(format_args!(
            "no AWS credentials: give the worker a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({})",
            chain(&why)
        )),
        _ if never_left(&why) => Error::transient(format_args!("the endpoint cannot be reached: {}", chain(&why))),
        // Nobody knows whether the connection broke before the call was heard or after.
        _ => Unanswered::error(format_args!("the endpoint cannot be reached: {}", chain(&why))),
    };
    error.context(format_args!("{doing} `{url}`"))
}

/// Whether there was no connection that could have carried the call.
fn never_left(why: &(dyn StdError + 'static)) -> bool {
    let refused = |why: &io::Error| {
        matches!(why.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
    };
    let mut all = std::iter::successors(Some(why), |why| (*why).source());
    all.any(|why| why.downcast_ref().is_some_and(refused) || why.to_string().contains("dns error"))
}

fn said(code: &str, text: &str, status: u16, skew: Option<Skew>, action: &str, url: &str) -> Error {
    match code {
        "QueueDoesNotExist" | "NonExistentQueue" | "InvalidAddress" => {
            Error::invalid("there is no such queue: check the URL in FOREBAY_SQS_QUEUE, its region and its account")
        }
        "AccessDenied" | "AccessDeniedException" | "AuthorizationError" => {
            Error::invalid(format_args!("no permission: let this worker's role do sqs:{action} on `{url}`"))
        }
        _ if code.starts_with("Kms") => Error::invalid(format_args!(
            "the queue is encrypted with a key that this worker may not use ({code}): let its role do kms:Decrypt and \
             kms:GenerateDataKey"
        )),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            Error::invalid("the AWS credentials have expired: renew them")
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "InvalidSecurity" => Error::invalid("AWS does not know these credentials: check the access key"),
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "RequestExpired" | "RequestTimeTooSkewed" => match skew
        {
            Some(skew) => Error::invalid(format_args!("{skew}: set it, or let it be set from the network (NTP)")),
            None => Error::invalid(format_args!("the signature is wrong ({code}): check the secret access key")),
        },
        "OverLimit" => Error::transient("too many messages of this queue are held at once (OverLimit)"),
        _ if status < 500 && !is_throttle(code) && status != 408 && status != 429 => {
            Error::invalid(format_args!("the queue refused it ({code}): {}", first_line(text)))
        }
        _ if status < 500 => Error::transient(format_args!("{code} ({status}): {}", first_line(text))),
        _ => Unanswered::error(format_args!("{code} ({status}): {}", first_line(text))),
    }
}

fn is_throttle(code: &str) -> bool {
    code.contains("Throttl") || code == "TooManyRequestsException" || code == "QueueDeletedRecently"
}

/// A code without what it may stand behind, such as `AWS.SimpleQueueService.`.
fn plain(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn chain<E: StdError>(why: E) -> String {
    let text = DisplayErrorContext(why).to_string();
    // What follows is the same again, as the debugger would see it.
    text.split(" (").next().unwrap_or_default().to_owned()
}

/// How wrong this machine's clock is.
#[derive(Debug)]
struct Skew {
    by: Duration,
    ahead: bool,
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = (self.by.as_secs() + 30) / 60;
        let direction = if self.ahead { "ahead of" } else { "behind" };
        write!(f, "this machine's clock is {} h {} min {direction} that of AWS", minutes / 60, minutes % 60)
    }
}

/// Told by when the service says that it answered. `None` for a clock that is right.
fn skew(response: &HttpResponse) -> Option<Skew> {
    let date = DateTime::from_str(response.headers().get("date")?, DateTimeFormat::HttpDate).ok()?;
    let theirs = SystemTime::try_from(date).ok()?;
    let ours = SystemTime::now();
    let skew = match ours.duration_since(theirs) {
        Ok(by) => Skew { by, ahead: true },
        Err(behind) => Skew { by: behind.duration(), ahead: false },
    };
    (skew.by > SKEW).then_some(skew)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str, status: u16) -> (Fault, String) {
        let error = said(plain(code), "the text\nCanonical: token", status, None, "ReceiveMessage", "http://q");
        (error.fault(), error.to_string())
    }

    #[test]
    fn what_an_operator_has_to_set_right_is_invalid_and_says_how() {
        let cases = [
            ("AWS.SimpleQueueService.NonExistentQueue", "FOREBAY_SQS_QUEUE"),
            ("com.amazonaws.sqs#QueueDoesNotExist", "FOREBAY_SQS_QUEUE"),
            ("AccessDenied", "sqs:ReceiveMessage"),
            ("KmsAccessDenied", "kms:Decrypt"),
            ("ExpiredToken", "renew"),
            ("InvalidClientTokenId", "access key"),
            ("SignatureDoesNotMatch", "secret access key"),
            ("SomethingNew", "the text"),
        ];
        for (code, says) in cases {
            let (fault, text) = fault(code, 400);
            assert_eq!(fault, Fault::Invalid, "{code}");
            assert!(text.contains(says), "{code}: {text}");
            assert!(!text.contains("token"), "{code}: {text}");
        }
    }

    #[test]
    fn what_passes_is_transient() {
        let cases = [("InternalError", 500), ("ServiceUnavailable", 503), ("ThrottlingException", 400)];
        for (code, status) in cases.into_iter().chain([("RequestThrottled", 403), ("OverLimit", 403), ("Odd", 429)]) {
            assert_eq!(fault(code, status).0, Fault::Transient, "{code}");
        }
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_key() {
        let skew = Skew { by: Duration::from_secs(2 * 3600 + 61), ahead: true };
        let error = said("SignatureDoesNotMatch", "", 403, Some(skew), "ReceiveMessage", "http://q");
        assert!(error.to_string().starts_with("this machine's clock is 2 h 1 min ahead"), "{error}");
    }

    #[test]
    fn lost_is_what_somebody_else_may_have() {
        let lost = |code: &str, text: &str| Refused::new(code, text).is_lost();
        assert!(lost("AWS.SimpleQueueService.MessageNotInflight", ""));
        assert!(lost("ReceiptHandleIsInvalid", ""));
        assert!(lost("InvalidParameterValue", "Value x for parameter ReceiptHandle is invalid."));
        assert!(!lost("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit"));
        assert!(!lost("InternalError", ""));
    }
}
