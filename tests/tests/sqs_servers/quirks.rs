//! What servers do otherwise than SQS. A field holds what is observed; [`SQS`] what the documentation of SQS says.

/// The error codes of SQS that the checks know, without the prefix of the query protocol.
pub const OK: &str = "ok";
pub const INVALID: &str = "InvalidParameterValue";
pub const NOT_IN_FLIGHT: &str = "MessageNotInflight";
pub const BAD_HANDLE: &str = "ReceiptHandleIsInvalid";

/// How a server behaves where servers differ.
#[derive(Clone, Debug)]
pub struct Quirks {
    /// Deleting with the handle of an older receive deletes the message that another holds.
    pub stale_delete_deletes: bool,
    /// Changing the timeout with the handle of an older receive.
    pub stale_change: &'static str,
    /// Changing the timeout after it, before another receive.
    pub change_after_timeout: &'static str,
    /// Deleting with what never was a handle.
    pub bogus_delete: &'static str,
    /// Changing the timeout with what never was a handle.
    pub bogus_change: &'static str,
    /// Changing the timeout to 12 h some time after the receive.
    pub twelve_hours_once_more: &'static str,
    /// Changing the timeout to less than 0.
    pub negative_timeout: &'static str,
    /// A dead letter names the queue that it comes from.
    pub dead_letter_source: bool,
    /// It is known which queues a dead-letter queue has.
    pub dead_letter_queues: bool,
    /// A receive brings several messages of one group.
    pub group_in_one_receive: bool,
    /// A group keeps its order when its messages come back by a timeout.
    pub order_after_timeout: bool,
    /// What is sent again to a FIFO queue is answered with the first one's id.
    pub same_id_again: bool,
    /// What is sent again is known even after the first one is deleted.
    pub known_after_delete: bool,
    /// Deleting from a FIFO queue after the timeout.
    pub fifo_delete_after_timeout: &'static str,
    /// A trace header comes back.
    pub trace_header: bool,
    /// Attributes come back without being asked for.
    pub unasked_attributes: bool,
    /// The checksum is over all attributes, even if some were asked for.
    pub checksum_of_all: bool,
    /// Sending an attribute with an empty value.
    pub empty_attribute: &'static str,
    /// Sending an attribute of a type that is none.
    pub odd_attribute: &'static str,
    /// Sending a control character.
    pub control_character: &'static str,
    /// Sending a character beyond 16 bits.
    pub wide_character: &'static str,
    /// Sending with a delay of more than 15 minutes.
    pub long_delay: &'static str,
    /// Creating a queue of a name that another has.
    pub other_queue: &'static str,
}

/// What SQS is documented to do, and the fake does.
pub const SQS: Quirks = Quirks {
    stale_delete_deletes: false,
    stale_change: INVALID,
    change_after_timeout: NOT_IN_FLIGHT,
    bogus_delete: BAD_HANDLE,
    bogus_change: BAD_HANDLE,
    twelve_hours_once_more: INVALID,
    negative_timeout: INVALID,
    dead_letter_source: true,
    dead_letter_queues: true,
    group_in_one_receive: true,
    order_after_timeout: true,
    same_id_again: true,
    known_after_delete: true,
    fifo_delete_after_timeout: INVALID,
    trace_header: true,
    unasked_attributes: false,
    checksum_of_all: false,
    empty_attribute: INVALID,
    odd_attribute: INVALID,
    control_character: "InvalidMessageContents",
    wide_character: OK,
    long_delay: INVALID,
    other_queue: "QueueAlreadyExists",
};

/// moto 5.2.5.
pub const MOTO: Quirks = Quirks {
    stale_delete_deletes: true,
    stale_change: OK,
    change_after_timeout: OK,
    negative_timeout: OK,
    dead_letter_source: false,
    order_after_timeout: false,
    same_id_again: false,
    known_after_delete: false,
    fifo_delete_after_timeout: OK,
    empty_attribute: OK,
    control_character: OK,
    ..SQS
};

/// fauxqs 2.4.1.
pub const FAUXQS: Quirks = Quirks {
    stale_change: NOT_IN_FLIGHT,
    change_after_timeout: OK,
    bogus_delete: OK,
    bogus_change: NOT_IN_FLIGHT,
    twelve_hours_once_more: OK,
    dead_letter_source: false,
    dead_letter_queues: false,
    group_in_one_receive: false,
    fifo_delete_after_timeout: OK,
    trace_header: false,
    unasked_attributes: true,
    checksum_of_all: true,
    empty_attribute: OK,
    odd_attribute: OK,
    wide_character: "InvalidMessageContents",
    long_delay: OK,
    other_queue: "QueueNameExists",
    ..SQS
};
