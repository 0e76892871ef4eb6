//! A job's own saved states.

pub mod interval;
