//! `forebay dlq ls` and `forebay dlq redrive`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use forebay::source::committed::Records;
use forebay::source::sqs::{DeadLetter, DeadLetterBox};
use forebay::{Context, Result};
use humantime::format_rfc3339_seconds;
use serde_json::{Value, json};

use super::place::Both;
use super::results::open_store;
use super::{count, whether};

#[derive(clap::Args)]
pub struct Ls {
    #[command(flatten)]
    queues: Both,
    /// How many to show at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    max: usize,
    /// As JSON, one a line.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub async fn run(self) -> Result<ExitCode> {
        let mut letters = self.queues.admin().dead_letters().await?;
        let shown = self.show(&mut letters).await;
        let url = letters.url().to_owned();
        // Also after a failure: others should not have to wait for them.
        letters.close().await.context("giving back what was looked at; it can be seen again in two minutes")?;
        let (shown, more) = shown?;
        let more = if more { "; there are more: say --max" } else { "" };
        eprintln!("{} in {url}{more}", count(shown, "dead letter"));
        Ok(ExitCode::SUCCESS)
    }

    /// How many it has shown, and whether there are more.
    async fn show(&self, letters: &mut DeadLetterBox) -> Result<(usize, bool)> {
        let mut shown = 0;
        loop {
            let some = letters.next().await?;
            if some.is_empty() {
                return Ok((shown, false));
            }
            for letter in some {
                if shown == self.max {
                    return Ok((shown, true));
                }
                match self.json {
                    true => println!("{}", as_json(&letter)),
                    false => println!("{}", as_text(&letter)),
                }
                shown += 1;
            }
        }
    }
}

fn as_json(letter: &DeadLetter) -> Value {
    let DeadLetter { id, message_id, attempts, reason, error, sent, .. } = letter;
    let sent = format_rfc3339_seconds(*sent).to_string();
    json!({
        "id": id, "message_id": message_id, "attempts": attempts, "reason": reason, "error": error, "sent": sent,
    })
}

fn as_text(letter: &DeadLetter) -> String {
    let attempts = letter.attempts.map_or("-".to_owned(), |attempts| attempts.to_string());
    let why = match (&letter.reason, &letter.error) {
        (Some(reason), Some(error)) => format!("{reason}: {error}"),
        _ => "moved by SQS: received too often".to_owned(),
    };
    let row = [letter.id.clone(), attempts, format_rfc3339_seconds(letter.sent).to_string(), why];
    // One line each, whatever stands in it.
    row.map(|text| text.replace(|c: char| c.is_control(), " ")).join("\t")
}

#[derive(clap::Args)]
pub struct Redrive {
    #[command(flatten)]
    queues: Both,
    /// Only the job of this id. May be given several times.
    #[arg(long)]
    id: Vec<String>,
    /// The store that workers with `Committed` keep ends and results in: a job is forgotten there, or it would be
    /// rejected again without being run.
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
}

impl Redrive {
    pub async fn run(self) -> Result<ExitCode> {
        let records = self.results.as_deref().map(open_store).transpose()?;
        if records.is_none() {
            eprintln!(
                "without --results, jobs that workers with `Committed` have rejected will be rejected again, unrun"
            );
        }
        let admin = self.queues.admin();
        let there = admin.status().await?.dead_letters.map_or(0, |(_, depth)| depth.total() as usize);
        let mut letters = admin.dead_letters().await?;
        // Jobs that fail at once come back while it is at work: what was there at first is the end of it. The number
        // may lag behind, so one look is taken in any case.
        let mut moved = Moved { wanted: self.id.iter().cloned().collect(), left: there.max(1), ..Moved::default() };
        let outcome = moved.all(&mut letters, records.as_ref()).await;
        letters.close().await.context("giving back what was looked at; it can be seen again in two minutes")?;
        println!("moved {} back to {}", count(moved.jobs.len(), "job"), self.queues.queue());
        outcome?;
        for id in moved.wanted.difference(&moved.jobs) {
            eprintln!("forebay: there is no dead letter of job `{id}`, or it could not be moved");
        }
        Ok(whether(moved.failed == 0 && moved.wanted.is_subset(&moved.jobs)))
    }
}

/// What is to be moved, and what has been.
#[derive(Default)]
struct Moved {
    /// All jobs if empty.
    wanted: BTreeSet<String>,
    /// Letters that may still be looked at.
    left: usize,
    jobs: BTreeSet<String>,
    failed: usize,
}

impl Moved {
    async fn all(&mut self, letters: &mut DeadLetterBox, records: Option<&Records>) -> Result<()> {
        while self.left > 0 {
            let some = letters.next().await?;
            if some.is_empty() {
                break;
            }
            self.left = self.left.saturating_sub(some.len());
            self.some(letters, some, records).await?;
        }
        Ok(())
    }

    async fn some(
        &mut self,
        letters: &mut DeadLetterBox,
        mut some: Vec<DeadLetter>,
        records: Option<&Records>,
    ) -> Result<()> {
        some.retain(|letter| self.wanted.is_empty() || self.wanted.contains(&letter.id));
        if let Some(records) = records {
            for letter in &some {
                let id = &letter.id;
                records.forget(id).await.with_context(|| format!("forgetting job `{id}`"))?;
            }
        }
        let ids: Vec<String> = some.iter().map(|letter| letter.id.clone()).collect();
        for (id, outcome) in ids.into_iter().zip(letters.redrive(some).await) {
            match outcome {
                Ok(()) => {
                    self.jobs.insert(id);
                }
                Err(why) => {
                    self.failed += 1;
                    eprintln!("forebay: job `{id}` was not moved: {why}");
                }
            }
        }
        Ok(())
    }
}
