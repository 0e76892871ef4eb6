//! `forebay results`: what became of jobs, told by the store that workers with `Committed` write into.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use forebay::source::committed::Records;
use forebay::store::Folder;
use forebay::{Context, Error, Result, Verdict};
use serde_json::json;

use super::submit::Journal;
use super::whether;

#[derive(clap::Args)]
pub struct Arguments {
    /// The store of the workers' `Committed`.
    #[arg(long, value_name = "FOLDER")]
    results: PathBuf,
    /// The job of this id. May be given several times.
    #[arg(long, required_unless_present = "journal", conflicts_with = "journal")]
    id: Vec<String>,
    /// All jobs that `forebay submit` has written into this journal.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Where each job's result is written as a file of the job's id; folders are made.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// As JSON, one line a job.
    #[arg(long)]
    json: bool,
}

/// What became of a job.
enum State {
    Done(usize),
    Failed(String),
    NotYet,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        let records = open_store(&self.results)?;
        let (ids, unsent) = match &self.journal {
            Some(journal) => Journal::ids(journal)?,
            None => (self.id.clone(), 0),
        };
        let (mut done, mut failed, mut open) = (0, 0, 0);
        for id in &ids {
            let state = self.collect(&records, id).await.with_context(|| format!("the result of job `{id}`"))?;
            let counter = match state {
                State::Done(_) => &mut done,
                State::Failed(_) => &mut failed,
                State::NotYet => &mut open,
            };
            *counter += 1;
            println!("{}", self.line(id, &state));
        }
        let unsent_too = if unsent > 0 { format!(", {unsent} not submitted yet") } else { String::new() };
        eprintln!("{done} done, {failed} failed, {open} not yet{unsent_too}");
        Ok(whether(failed + open + unsent == 0))
    }

    async fn collect(&self, records: &Records, id: &str) -> Result<State> {
        Ok(match records.outcome(id).await? {
            Some(Verdict::Done(result)) => {
                if let Some(out) = &self.out {
                    write(&out.join(file_of(id)?), &result)?;
                }
                State::Done(result.len())
            }
            Some(Verdict::Reject { why }) => State::Failed(why.to_string()),
            Some(Verdict::Retry { .. }) | None => State::NotYet,
        })
    }

    fn line(&self, id: &str, state: &State) -> String {
        if self.json {
            return match state {
                State::Done(bytes) => json!({ "id": id, "state": "done", "bytes": bytes }),
                State::Failed(why) => json!({ "id": id, "state": "failed", "error": why }),
                State::NotYet => json!({ "id": id, "state": "not yet" }),
            }
            .to_string();
        }
        let line = match state {
            State::Done(bytes) => format!("done\t{id}\t{bytes} bytes"),
            State::Failed(why) => format!("failed\t{id}\t{why}"),
            State::NotYet => format!("not yet\t{id}"),
        };
        line.replace(|c: char| c.is_control() && c != '\t', " ")
    }
}

/// The records in a folder that is there: a mistyped one would look like jobs that are not done.
pub fn open_store(folder: &Path) -> Result<Records> {
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(Error::invalid(format_args!(
            "there is no folder `{shown}`: name the store of the workers' results"
        )));
    }
    Ok(Records::new(Folder::open(folder)?))
}

/// An id as a path below a folder.
fn file_of(id: &str) -> Result<PathBuf> {
    let path = Path::new(id);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if id.is_empty() || !plain || id.contains('\0') {
        return Err(Error::invalid("its id is no path below a folder: write this one without --out"));
    }
    Ok(path.to_owned())
}

/// Puts a file in place whole.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let put = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(&part, bytes)?;
        fs::rename(&part, path)
    };
    put().with_context(|| format!("writing `{}`", path.display()))
}
