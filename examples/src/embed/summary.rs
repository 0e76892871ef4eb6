//! What a run of `embed folder` did, in figures.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use forebay::telemetry::{BATCH_FILL, BATCH_ITEMS, GPU_BUSY, GPU_IDLE, STAGE_RUN, STAGE_WAIT, Telemetry};
use forebay::{Report, Result};

use crate::index::files;

pub struct Summary {
    pub telemetry: Telemetry,
    pub report: Report,
    /// In the whole of the results, those of earlier runs included.
    pub passages: usize,
    pub took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.telemetry.snapshot();
        let items = snapshot.summary(BATCH_ITEMS, &[]);
        let embedded = items.mean * items.count as f64;
        let seconds = self.took.as_secs_f64();
        let (busy, idle) = (snapshot.counter(GPU_BUSY, &[]) as f64, snapshot.counter(GPU_IDLE, &[]) as f64);
        writeln!(
            f,
            "documents   {} ({} failed), {} passages in all",
            self.report.done, self.report.rejected, self.passages
        )?;
        writeln!(f, "embedded    {embedded:.0} passages in {seconds:.1} s, {:.1} passages/s", embedded / seconds)?;
        writeln!(
            f,
            "batches     {} of {:.1} passages, mean fill {:.0} %",
            items.count,
            items.mean,
            100.0 * snapshot.summary(BATCH_FILL, &[]).mean
        )?;
        writeln!(f, "device busy {:.0} %", 100.0 * busy / (busy + idle).max(1.0))?;
        write!(f, "stage   wait p50      p99   run p50      p99   (ms)")?;
        for stage in ["read", "cut", "embed", "write"] {
            let [wait, run] = [STAGE_WAIT, STAGE_RUN].map(|name| snapshot.summary(name, &[("stage", stage)]));
            let [a, b, c, d] = [wait.p50, wait.p99, run.p50, run.p99].map(|seconds| seconds * 1e3);
            write!(f, "\n{stage:<7} {a:>8.1} {b:>8.1}  {c:>8.1} {d:>8.1}")?;
        }
        Ok(())
    }
}

/// Each document that failed, with why.
pub fn failures(out: &Path) -> Result<Vec<String>> {
    let why = |path: &std::path::PathBuf| -> Result<String> {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
        Ok(record["failed"].as_str().unwrap_or("(no reason was written)").to_owned())
    };
    files(out, ".failed.json")?.iter().map(why).collect()
}
