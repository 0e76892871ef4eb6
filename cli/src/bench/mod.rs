//! `forebay bench`: measures what this machine has to do with.

mod plot;
mod storage;
mod table;

use std::process::ExitCode;

use clap::Subcommand;
use forebay::Result;

use crate::store::block_on;

#[derive(Subcommand)]
pub enum Command {
    /// How fast buckets take and give a large file: uploads and downloads through the framework, and round trips. What it
    /// writes there is removed afterwards.
    Storage(storage::Arguments),
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Storage(arguments) => block_on(arguments.run()),
    }
}
