//! Conformance suites: run them against your own [`Source`](crate::source::Source) or [`Store`](crate::store::Store).

pub mod source;
pub mod store;
