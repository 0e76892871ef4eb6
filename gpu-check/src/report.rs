//! What a command found: checks, each held against what was wanted, and figures beside them.
//!
//! Owns the one line of JSON that a command ends with. It promises that no number that is not one, and no section
//! without a check, counts as passed. It measures nothing.

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Map, Value, json};

/// What one command found.
pub struct Report {
    section: &'static str,
    checks: Vec<Check>,
    figures: Map<String, Value>,
}

#[derive(Serialize)]
struct Check {
    what: String,
    passed: bool,
    measured: Value,
    wanted: String,
}

impl Report {
    /// Of this section, and empty.
    pub fn new(section: &'static str) -> Self {
        Self { section, checks: Vec::new(), figures: Map::new() }
    }

    /// Notes a figure that nothing is demanded of.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Notes whether something holds, with what was found and what was wanted.
    pub fn check(&mut self, what: impl Display, passed: bool, measured: impl Into<Value>, wanted: impl Display) {
        let (what, wanted) = (what.to_string(), wanted.to_string());
        if !passed {
            eprintln!("does not hold: {what} (wanted: {wanted})");
        }
        self.checks.push(Check { what, passed, measured: measured.into(), wanted });
    }

    /// Notes whether a number is below its limit.
    pub fn below(&mut self, what: impl Display, measured: f64, limit: f64) {
        self.check(what, measured < limit, measured, format_args!("below {limit:e}"));
    }

    /// Whether all holds, and there was something to hold.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    /// Prints all of it as one line of JSON, and gives the exit code: 0 if it passed, else 1.
    pub fn print(self) -> ExitCode {
        let passed = self.passed();
        let Self { section, checks, figures } = self;
        println!("{}", json!({ "section": section, "passed": passed, "checks": checks, "figures": figures }));
        ExitCode::from(u8::from(!passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_only_if_all_holds_and_there_is_something() {
        let mut report = Report::new("test");
        assert!(!report.passed());
        report.below("small", 0.5, 1.0);
        assert!(report.passed());
        report.below("not a number", f64::NAN, 1.0);
        assert!(!report.passed());
    }

    #[test]
    fn a_limit_itself_is_not_below_it() {
        let mut report = Report::new("test");
        report.below("equal", 1.0, 1.0);
        assert!(!report.passed());
    }
}
