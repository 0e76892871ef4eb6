//! `forebay new NAME` makes a project with a worker of its own, which builds, serves and passes its test as it stands.
//! With the feature `sqs` other commands put jobs on a queue, look after it, and collect what became of them; with the
//! feature `s3` others move files to and from buckets, and measure these. `forebay fleet` simulates fleets of nodes.

#[cfg(feature = "s3")]
mod bench;
#[cfg(feature = "fleet")]
mod fleet;
mod project;
#[cfg(any(feature = "fleet", feature = "s3", feature = "sqs"))]
mod say;
#[cfg(any(feature = "fleet", feature = "s3"))]
mod size;
#[cfg(feature = "sqs")]
mod sqs;
#[cfg(feature = "s3")]
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Makes projects with a forebay worker, and looks after their queues and buckets.
#[derive(Parser)]
#[command(name = "forebay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a project in the folder NAME: a model, a pipeline, a service, a test, a Dockerfile.
    New {
        /// Names the folder, the package and the program.
        name: String,
        /// A checkout of forebay to build with, instead of the published crate; or say it in FOREBAY_PATH.
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
    },
    /// Simulates a fleet of interruptible nodes: what saves cost, what losses cost, and which interval is best.
    #[cfg(feature = "fleet")]
    Fleet(fleet::Arguments),
    #[cfg(feature = "sqs")]
    #[command(flatten)]
    Sqs(sqs::Command),
    /// Moves files to and from buckets of S3, and looks after these.
    #[cfg(feature = "s3")]
    #[command(subcommand)]
    Store(store::Command),
    /// Measures.
    #[cfg(feature = "s3")]
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::New { name, path } => make(&name, path),
        #[cfg(feature = "fleet")]
        Command::Fleet(arguments) => arguments.run().unwrap_or_else(refuse),
        #[cfg(feature = "sqs")]
        Command::Sqs(command) => sqs::run(command).unwrap_or_else(refuse),
        #[cfg(feature = "s3")]
        Command::Store(command) => store::run(command).unwrap_or_else(refuse),
        #[cfg(feature = "s3")]
        Command::Bench(command) => bench::run(command).unwrap_or_else(refuse),
    }
}

fn make(name: &str, path: Option<PathBuf>) -> ExitCode {
    let set = || std::env::var_os("FOREBAY_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    match project::make(name, path.or_else(set).as_deref()) {
        Ok(()) => {
            print!("{}", include_str!("../template/next.txt").replace("NAME", name));
            ExitCode::SUCCESS
        }
        Err(why) => refuse(why),
    }
}

fn refuse(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("forebay: {why}");
    ExitCode::from(2)
}
