//! How commands say what they did: by their exit code, and in words.
//!
//! Every command ends with 0 if all was done, 1 if a part was not, and 2 if it could not run.

#[cfg(any(feature = "s3", feature = "sqs"))]
use std::process::ExitCode;

#[cfg(any(feature = "s3", feature = "sqs"))]
use forebay::{Error, Result};

/// 0 if all was done, else 1.
#[cfg(any(feature = "s3", feature = "sqs"))]
pub fn whether(all: bool) -> ExitCode {
    if all { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// `1 job`, `2 jobs`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Asks on a terminal whether to go on, past what the command prints.
#[cfg(any(feature = "s3", feature = "sqs"))]
pub fn confirmed(what: &str) -> Result<bool> {
    use std::io::{IsTerminal, Write, stderr, stdin};
    if !stdin().is_terminal() {
        return Err(Error::invalid(format_args!("this would remove {what}: say --yes")));
    }
    eprint!("remove {what}? Type yes: ");
    stderr().flush()?;
    let mut said = String::new();
    stdin().read_line(&mut said)?;
    Ok(said.trim() == "yes")
}

/// `999 bytes`, `1.5 kB`, `300.0 MB`: decimal, as links and disks are sold.
#[cfg(any(feature = "fleet", feature = "s3"))]
pub fn bytes(number: u64) -> String {
    let mut value = number as f64;
    if number < 1000 {
        return count(number as usize, "byte");
    }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    value /= 1000.0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(all(test, any(feature = "fleet", feature = "s3")))]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_decimal_units() {
        let said = [0, 1, 999, 1000, 1550, 999_949, 999_950, 300_000_000, u64::MAX].map(bytes);
        let want = ["0 bytes", "1 byte", "999 bytes", "1.0 kB", "1.6 kB", "999.9 kB", "1.0 MB", "300.0 MB", "18.4 EB"];
        assert_eq!(said, want);
    }
}
