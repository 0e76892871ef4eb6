//! The actions that the fake knows, by the names they have in `X-Amz-Target`.

use std::fmt;

/// Something that SQS can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "they are named as in the reference of SQS")]
pub enum Action {
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    CreateQueue,
    DeleteMessage,
    DeleteMessageBatch,
    DeleteQueue,
    GetQueueAttributes,
    GetQueueUrl,
    ListDeadLetterSourceQueues,
    ListQueues,
    PurgeQueue,
    ReceiveMessage,
    SendMessage,
    SendMessageBatch,
    SetQueueAttributes,
}

const NAMES: [(Action, &str); 15] = [
    (Action::ChangeMessageVisibility, "ChangeMessageVisibility"),
    (Action::ChangeMessageVisibilityBatch, "ChangeMessageVisibilityBatch"),
    (Action::CreateQueue, "CreateQueue"),
    (Action::DeleteMessage, "DeleteMessage"),
    (Action::DeleteMessageBatch, "DeleteMessageBatch"),
    (Action::DeleteQueue, "DeleteQueue"),
    (Action::GetQueueAttributes, "GetQueueAttributes"),
    (Action::GetQueueUrl, "GetQueueUrl"),
    (Action::ListDeadLetterSourceQueues, "ListDeadLetterSourceQueues"),
    (Action::ListQueues, "ListQueues"),
    (Action::PurgeQueue, "PurgeQueue"),
    (Action::ReceiveMessage, "ReceiveMessage"),
    (Action::SendMessage, "SendMessage"),
    (Action::SendMessageBatch, "SendMessageBatch"),
    (Action::SetQueueAttributes, "SetQueueAttributes"),
];

impl Action {
    /// The action of an `X-Amz-Target`, as in `AmazonSQS.SendMessage`.
    pub(super) fn of_target(target: &str) -> Option<Action> {
        let name = target.strip_prefix("AmazonSQS.")?;
        NAMES.iter().find(|(_, known)| *known == name).map(|(action, _)| *action)
    }

    /// Whether it changes how long messages are hidden.
    pub fn extends(self) -> bool {
        matches!(self, Action::ChangeMessageVisibility | Action::ChangeMessageVisibilityBatch)
    }

    /// Whether it deletes messages one by one.
    pub fn deletes(self) -> bool {
        matches!(self, Action::DeleteMessage | Action::DeleteMessageBatch)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
