//! Conformance suites: run them against your own [`Source`](crate::source::Source) or [`Store`](crate::store::Store).

#[cfg(feature = "sqs")]
pub mod fake_sqs;
pub mod machine;
pub mod source;
pub mod store;
