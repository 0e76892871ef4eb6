//! The commands for buckets of S3: objects are listed, copied, shown, removed, and kept the same as a folder.
//!
//! How bytes move is the framework's (`forebay::store`); here is what the user types and sees. Nothing is written into a
//! bucket that is only read. Told to stop, a command leaves what has come where the same command finds it.

pub mod bar;
mod cat;
mod copy;
mod list;
pub mod place;
mod reader;
mod remove;
mod side;
mod sync;
mod tree;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use forebay::store::Progress;
use forebay::{Context, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::say;

#[derive(Subcommand)]
pub enum Command {
    /// Lists the objects whose keys begin with a path: size in bytes, time, key.
    Ls(list::Arguments),
    /// Copies files to a bucket, from one, or between two. Interrupted, it goes on where it was when it is called again.
    Cp(copy::Arguments),
    /// Writes an object's bytes to standard output, and ends with 1 if they were not those of the checksum that the store
    /// keeps.
    Cat(cat::Arguments),
    /// Removes objects, or uploads that nobody finishes.
    Rm(remove::Arguments),
    /// Copies what is missing or other in a folder or bucket, and only that.
    Sync(sync::Arguments),
}

pub fn run(command: Command) -> Result<ExitCode> {
    let goes_on = match &command {
        Command::Cp(arguments) => arguments.goes_on(),
        Command::Rm(_) | Command::Sync(_) => true,
        Command::Ls(_) | Command::Cat(_) => false,
    };
    until_told(goes_on, async {
        match command {
            Command::Ls(arguments) => arguments.run().await,
            Command::Cp(arguments) => arguments.run().await,
            Command::Cat(arguments) => arguments.run().await,
            Command::Rm(arguments) => arguments.run().await,
            Command::Sync(arguments) => arguments.run().await,
        }
    })
}

/// Runs a command until it is done or told to stop.
fn until_told(goes_on: bool, command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    block_on(async {
        tokio::select! {
            ended = command => ended,
            told = told_to_stop() => {
                told?;
                let does = if goes_on { "goes on where this one was" } else { "begins anew" };
                eprintln!("stopped: the same command {does}");
                Ok(say::whether(false))
            }
        }
    })
}

/// Runs a command.
pub fn block_on(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = Runtime::new()?;
    let ended = runtime.block_on(Box::pin(command));
    // A thread may be reading standard input for ever.
    runtime.shutdown_background();
    ended
}

/// By SIGINT or SIGTERM.
pub async fn told_to_stop() -> Result<()> {
    let listen = |kind| signal(kind).context("listening to signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// What was moved, in words.
pub struct Summary {
    moved: u64,
    kept: u64,
    took: Duration,
}

impl Summary {
    pub fn of(progress: &Progress, took: Duration) -> Self {
        let kept = progress.kept();
        Summary { moved: progress.done().saturating_sub(kept), kept, took }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { moved, kept, took } = self;
        let seconds = took.as_secs_f64();
        let rate = say::bytes((*moved as f64 / seconds.max(0.001)) as u64);
        write!(f, ", {} in {seconds:.1} s ({rate}/s)", say::bytes(*moved))?;
        match kept {
            0 => Ok(()),
            kept => write!(f, "; {} were kept from an earlier attempt", say::bytes(*kept)),
        }
    }
}
