//! Numbers that a job asks for, held against what they may be.
//!
//! Owns the two comparisons and their words. What is not a number is within no bounds.

use forebay::{Error, Result};

/// Demands a whole number within bounds, both of which are allowed.
pub(crate) fn whole(name: &str, value: u64, low: u64, high: u64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} must be from {low} to {high}, not {value}")))
}

/// The same of any number.
pub(crate) fn real(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} must be from {low} to {high}, not {value}")))
}
