//! Why a call is refused, in the words, the codes and the statuses of SQS.
//!
//! An error has two names: its shape, which goes into `__type`, and the older code of the query protocol, which goes
//! into the header `x-amzn-query-error` and which SDKs give to their callers.

use std::fmt::Display;

use serde_json::{Value, json};

/// Errors of SQS itself.
const SQS: &str = "com.amazonaws.sqs#";
/// Errors that all services of AWS have.
const CORAL: &str = "com.amazon.coral.service#";

/// An error as it is answered.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    shape: String,
    pub(super) code: &'static str,
    sender: bool,
    message: String,
}

impl Refusal {
    fn sqs(status: u16, shape: &str, code: &'static str, message: impl Display) -> Self {
        Refusal { status, shape: format!("{SQS}{shape}"), code, sender: true, message: message.to_string() }
    }

    fn coral(status: u16, shape: &str, code: &'static str, message: impl Display) -> Self {
        Refusal { status, shape: format!("{CORAL}{shape}"), code, sender: status < 500, message: message.to_string() }
    }

    /// A parameter's value that cannot be, and why.
    pub(super) fn parameter(name: &str, value: impl Display, reason: impl Display) -> Self {
        Self::invalid(format_args!("Value {value} for parameter {name} is invalid. Reason: {reason}."))
    }

    pub(super) fn invalid(message: impl Display) -> Self {
        Self::coral(400, "InvalidParameterValueException", "InvalidParameterValue", message)
    }

    pub(super) fn missing(name: &str) -> Self {
        let message = format_args!("The request must contain the parameter {name}.");
        Self::coral(400, "MissingRequiredParameterException", "MissingParameter", message)
    }

    pub(super) fn malformed(why: impl Display) -> Self {
        Self::coral(400, "SerializationException", "MalformedInput", why)
    }

    pub(super) fn unknown_action(target: &str) -> Self {
        let message = format_args!("The action {target} is not valid for this endpoint.");
        Self::coral(404, "UnknownOperationException", "InvalidAction", message)
    }

    pub(super) fn unsigned() -> Self {
        let message = "Request is missing Authentication Token";
        Self::coral(403, "MissingAuthenticationTokenException", "MissingAuthenticationToken", message)
    }

    pub(super) fn no_queue() -> Self {
        let message = "The specified queue does not exist.";
        Self::sqs(400, "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", message)
    }

    pub(super) fn queue_exists(attribute: &str) -> Self {
        let message =
            format_args!("A queue already exists with the same name and a different value for attribute {attribute}");
        Self::sqs(400, "QueueNameExists", "QueueAlreadyExists", message)
    }

    pub(super) fn queue_deleted_recently() -> Self {
        let message =
            "You must wait 60 seconds after deleting a queue before you can create another with the same name.";
        Self::sqs(400, "QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently", message)
    }

    pub(super) fn purging(queue: &str) -> Self {
        let message = format_args!("Only one PurgeQueue operation on {queue} is allowed every 60 seconds.");
        Self::sqs(403, "PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress", message)
    }

    pub(super) fn unknown_attribute(name: &str) -> Self {
        let message = format_args!("Unknown Attribute {name}.");
        Self::sqs(400, "InvalidAttributeName", "InvalidAttributeName", message)
    }

    pub(super) fn attribute(name: &str) -> Self {
        let message = format_args!("Invalid value for the parameter {name}.");
        Self::sqs(400, "InvalidAttributeValue", "InvalidAttributeValue", message)
    }

    pub(super) fn contents() -> Self {
        let message = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | \
                       #xE000 to #xFFFD | #x10000 to #x10FFFF";
        Self::sqs(400, "InvalidMessageContents", "InvalidMessageContents", message)
    }

    pub(super) fn handle(handle: &str) -> Self {
        let message = format_args!("The input receipt handle \"{handle}\" is not a valid receipt handle.");
        Self::sqs(404, "ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", message)
    }

    /// A handle of a receive that is over, where another has the message, or nobody.
    pub(super) fn not_available(handle: &str) -> Self {
        let reason = "Message does not exist or is not available for visibility timeout change";
        Self::parameter("ReceiptHandle", handle, reason)
    }

    /// A handle whose time is up, on a FIFO queue.
    pub(super) fn expired(handle: &str) -> Self {
        Self::parameter("ReceiptHandle", handle, "The receipt handle has expired")
    }

    pub(super) fn not_in_flight() -> Self {
        let message = "The specified message isn't in flight.";
        Self::sqs(400, "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight", message)
    }

    pub(super) fn over_limit() -> Self {
        let message = "The maximum number of in flight messages is reached.";
        Self::sqs(403, "OverLimit", "OverLimit", message)
    }

    pub(super) fn empty_batch() -> Self {
        let message = "There should be at least one entry in the request.";
        Self::sqs(400, "EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", message)
    }

    pub(super) fn too_many_entries(count: usize) -> Self {
        let code = "AWS.SimpleQueueService.TooManyEntriesInBatchRequest";
        let message = format_args!("Maximum number of entries per request are 10. You have sent {count}.");
        Self::sqs(400, "TooManyEntriesInBatchRequest", code, message)
    }

    pub(super) fn ids_not_distinct(id: &str) -> Self {
        let code = "AWS.SimpleQueueService.BatchEntryIdsNotDistinct";
        Self::sqs(400, "BatchEntryIdsNotDistinct", code, format_args!("Id {id} repeated."))
    }

    pub(super) fn entry_id() -> Self {
        let code = "AWS.SimpleQueueService.InvalidBatchEntryId";
        let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. \
                       It can be at most 80 letters long.";
        Self::sqs(400, "InvalidBatchEntryId", code, message)
    }

    pub(super) fn batch_too_long(limit: usize, bytes: usize) -> Self {
        let code = "AWS.SimpleQueueService.BatchRequestTooLong";
        let message = format_args!("Batch requests cannot be longer than {limit} bytes. You have sent {bytes} bytes.");
        Self::sqs(400, "BatchRequestTooLong", code, message)
    }

    pub(super) fn too_long(limit: usize) -> Self {
        let message =
            format_args!("One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.");
        Self::invalid(message)
    }

    pub(super) fn internal() -> Self {
        let message = "We encountered an internal error. Please try again.";
        Self::coral(500, "InternalFailure", "InternalError", message)
    }

    pub(super) fn unavailable() -> Self {
        let message = "Service is unavailable, please try again later.";
        Self::coral(503, "ServiceUnavailableException", "ServiceUnavailable", message)
    }

    pub(super) fn throttled() -> Self {
        Self::sqs(403, "RequestThrottled", "RequestThrottled", "Request is throttled.")
    }

    pub(super) fn access_denied(action: impl Display) -> Self {
        let message = format_args!(
            "User: arn:aws:iam::000000000000:user/forebay is not authorized to perform: sqs:{action} \
             because no identity-based policy allows the sqs:{action} action"
        );
        Self::coral(403, "AccessDeniedException", "AccessDenied", message)
    }

    pub(super) fn expired_token() -> Self {
        let message = "The security token included in the request is expired";
        Self::coral(403, "ExpiredTokenException", "ExpiredToken", message)
    }

    pub(super) fn unknown_key() -> Self {
        let message = "The security token included in the request is invalid.";
        Self::coral(403, "UnrecognizedClientException", "InvalidClientTokenId", message)
    }

    pub(super) fn signature() -> Self {
        let message = "Signature expired: it was made by a clock that is too far from this one";
        Self::coral(403, "InvalidSignatureException", "SignatureDoesNotMatch", message)
    }

    pub(super) fn request_expired() -> Self {
        Self::coral(400, "RequestExpired", "RequestExpired", "Request has expired.")
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Value {
        json!({ "__type": self.shape, "message": self.message })
    }

    /// The header `x-amzn-query-error`.
    pub(super) fn query_error(&self) -> String {
        let fault = if self.sender { "Sender" } else { "Receiver" };
        format!("{};{fault}", self.code)
    }

    /// An entry of a batch's list of failures.
    pub(super) fn entry(&self, id: &str) -> Value {
        json!({ "Id": id, "SenderFault": self.sender, "Code": self.code, "Message": self.message })
    }
}
