//! The commands for queues of Amazon SQS: jobs are submitted, the queue is looked after, results are collected.
//!
//! What they do to a queue is the framework's (`forebay::source::sqs`); here is what the user types and sees. Every
//! command ends with 0 if all was done, 1 if a part was not, and 2 if it could not run.

mod dead;
mod place;
mod results;
mod status;
mod submit;

use std::process::ExitCode;

use clap::Subcommand;
use forebay::Result;

use crate::say::{confirmed, count, whether};

#[derive(Subcommand)]
pub enum Command {
    /// Puts jobs on a queue: a file, every file of a folder, or every line of a file. Interrupted, it goes on where it
    /// was when it is called again.
    Submit(Box<submit::Arguments>),
    /// Asks a queue how full it is.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Looks at a queue's dead letters, or sends them back.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Removes all messages of a queue, those at work too.
    Purge(status::Purge),
    /// Says what became of jobs of workers with `Committed`, and collects their results. Ends with 0 only if all are
    /// done.
    Results(results::Arguments),
}

#[derive(Subcommand)]
pub enum QueueCommand {
    /// Says how many messages the queue has, what kind it is, and how many dead letters there are. How old the oldest
    /// message is only CloudWatch knows (ApproximateAgeOfOldestMessage).
    Status(status::Status),
}

#[derive(Subcommand)]
pub enum DlqCommand {
    /// Shows dead letters and leaves them where they are.
    Ls(dead::Ls),
    /// Moves dead letters back to the queue, to be run again: each is sent, then deleted. Killed in between, it leaves
    /// up to ten jobs in both queues.
    Redrive(dead::Redrive),
}

#[tokio::main]
pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Submit(arguments) => submit::run(*arguments).await,
        Command::Queue(QueueCommand::Status(arguments)) => arguments.run().await,
        Command::Dlq(DlqCommand::Ls(arguments)) => arguments.run().await,
        Command::Dlq(DlqCommand::Redrive(arguments)) => arguments.run().await,
        Command::Purge(arguments) => arguments.run().await,
        Command::Results(arguments) => arguments.run().await,
    }
}
