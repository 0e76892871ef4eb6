//! `forebay queue status` and `forebay purge`.

use std::process::ExitCode;

use forebay::Result;
use forebay::source::sqs::{QueueDepth, SqsStatus};
use humantime::format_duration;
use serde_json::{Value, json};

use super::place::Both;
use super::{confirmed, count, whether};

#[derive(clap::Args)]
pub struct Status {
    #[command(flatten)]
    queues: Both,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub async fn run(self) -> Result<ExitCode> {
        let status = self.queues.admin().status().await?;
        match self.json {
            true => println!("{}", as_json(self.queues.queue(), &status)),
            false => print!("{}", as_text(self.queues.queue(), &status)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(queue: &str, status: &SqsStatus) -> Value {
    let with = |queue: &str, depth: QueueDepth| {
        let QueueDepth { visible, in_flight, delayed } = depth;
        json!({ "queue": queue, "visible": visible, "in_flight": in_flight, "delayed": delayed })
    };
    let mut all = with(queue, status.depth);
    all["fifo"] = status.fifo.into();
    all["visibility_s"] = status.visibility.as_secs().into();
    all["retention_s"] = status.retention.as_secs().into();
    all["dead_letters"] = status.dead_letters.as_ref().map(|(url, depth)| with(url, *depth)).into();
    all
}

fn as_text(queue: &str, status: &SqsStatus) -> String {
    let QueueDepth { visible, in_flight, delayed } = status.depth;
    let dead = match &status.dead_letters {
        Some((url, depth)) => format!("{} in {url}", depth.total()),
        None => "no dead-letter queue".to_owned(),
    };
    let rows = [
        ("queue", queue.to_owned()),
        ("kind", if status.fifo { "FIFO" } else { "standard" }.to_owned()),
        ("visible", visible.to_string()),
        ("in flight", in_flight.to_string()),
        ("delayed", delayed.to_string()),
        ("visibility timeout", format_duration(status.visibility).to_string()),
        ("messages are kept", format_duration(status.retention).to_string()),
        ("dead letters", dead),
    ];
    rows.iter().map(|(name, value)| format!("{name:<19} {value}\n")).collect()
}

#[derive(clap::Args)]
pub struct Purge {
    #[command(flatten)]
    queues: Both,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Purge {
    pub async fn run(self) -> Result<ExitCode> {
        let admin = self.queues.admin();
        let depth = admin.status().await?.depth;
        let messages = count(depth.total() as usize, "message");
        let what = format!("{messages} ({} in flight) of {}", depth.in_flight, self.queues.queue());
        if !self.yes && !confirmed(&what)? {
            println!("nothing was removed");
            return Ok(whether(false));
        }
        admin.purge().await?;
        println!("removed {what}; it may take SQS a minute");
        Ok(ExitCode::SUCCESS)
    }
}
