//! What nvidia-smi says of the card, sampled beside something else.
//!
//! Owns the process of nvidia-smi. Where there is none, there are no samples, and nothing fails.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// One look at the card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// The share of time, from 0 to 100, in which a kernel ran.
    pub busy_percent: f64,
    /// Of the whole card, whoever has it.
    pub used_mib: f64,
    /// What it draws.
    pub watts: f64,
}

/// nvidia-smi at work.
pub struct Smi {
    /// Locked by the task that reads and by whoever asks: a look is put in or all are taken.
    looks: Arc<Mutex<Vec<Look>>>,
    _process: Option<Child>,
}

impl Smi {
    /// Has it look at the first card four times a second.
    pub fn start() -> Self {
        let looks: Arc<Mutex<Vec<Look>>> = Arc::default();
        let arguments = [
            "--id=0",
            "--query-gpu=utilization.gpu,memory.used,power.draw",
            "--format=csv,noheader,nounits",
            "-lms",
            "250",
        ];
        let process = Command::new("nvidia-smi")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut process) = process else {
            return Self { looks, _process: None };
        };
        if let Some(out) = process.stdout.take() {
            let looks = looks.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(out).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    looks.lock().unwrap_or_else(PoisonError::into_inner).extend(parse(&line));
                }
            });
        }
        Self { looks, _process: Some(process) }
    }

    /// All looks since the last call.
    pub fn take(&self) -> Vec<Look> {
        std::mem::take(&mut self.looks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A line as in `98, 1024, 312.5`. What the card does not tell is not a number.
fn parse(line: &str) -> Option<Look> {
    let mut parts = line.split(',').map(|part| part.trim().parse().unwrap_or(f64::NAN));
    let (busy_percent, used_mib, watts) = (parts.next()?, parts.next()?, parts.next()?);
    busy_percent.is_finite().then_some(Look { busy_percent, used_mib, watts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let look = parse("98, 1024, 312.5").unwrap();
        assert_eq!((look.busy_percent, look.used_mib, look.watts), (98.0, 1024.0, 312.5));
        assert!(parse("98, 1024, [N/A]").unwrap().watts.is_nan());
        assert_eq!(parse("No devices were found"), None);
    }
}
