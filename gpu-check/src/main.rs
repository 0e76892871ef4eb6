//! Proves and measures forebay on a machine with a card: `scripts/gpu-check` runs these commands, one after the other.
//!
//! Each command prints one line of JSON last and ends with 0 where all that it checked holds, 1 where something does
//! not, and 2 or 70 where it could not be run (with 70 it is the node's fault). Models run where FOREBAY_DEVICE says;
//! on the CPU the same checks are made of what is there without a card.

mod bad;
mod ballast;
mod busy;
mod device;
mod dynamics;
mod finetune;
mod first;
mod inputs;
mod memory;
mod model;
mod parity;
#[cfg(feature = "cuda")]
mod raw;
mod report;
mod serve;
mod smi;
mod sticky;
mod variant;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use forebay::Result;
use forebay::telemetry::{Level, Telemetry};

/// Vectors and texts are made in great numbers, on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Proves and measures forebay on a machine with a card.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what the device is and how fast.
    Device,
    /// Writes a model of random weights, with a tokenizer and texts.
    Model {
        /// Where to; made if it is missing.
        dir: PathBuf,
        /// How large it is.
        #[arg(long, default_value = "minilm")]
        shape: model::Shape,
        /// Of all random numbers.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Holds the embedder on the device against the CPU's.
    Parity(Given),
    /// Holds molecular dynamics on the device against the CPU's.
    Dynamics,
    /// Holds a training on the device against the CPU's.
    Finetune(Given),
    /// Has batches run out of memory.
    Memory(Given),
    /// Has a worker's process lose its card, and takes its job over.
    Sticky,
    /// The worker of `sticky` that loses its card.
    #[command(hide = true)]
    StickyChild {
        /// Where its job is.
        inbox: PathBuf,
        /// Where the result would go.
        outbox: PathBuf,
    },
    /// Gives what cannot work, and wants each to be refused in words.
    Bad(Given),
    /// Embeds one text and says when that was done.
    First(Given),
    /// Measures how busy the device is behind stages that read and write files.
    Busy(busy::Arguments),
    /// Embeds texts on demand: see docs/gpu.md for what it reads and prints.
    Serve(serve::Arguments),
}

#[derive(clap::Args)]
struct Given {
    /// The model's directory, as `gpu-check model` writes it.
    #[arg(long)]
    model: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command).await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("gpu-check: {why}");
            println!("{}", serde_json::json!({ "passed": null, "why": why.to_string() }));
            why.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    let telemetry = forebay::telemetry::init_at(Level::WARN)?;
    match command {
        Command::StickyChild { inbox, outbox } => sticky::child(&inbox, &outbox).await,
        Command::Serve(arguments) => serve::serve(arguments).await,
        command => Ok(check(command, telemetry).await?.print()),
    }
}

async fn check(command: Command, telemetry: Telemetry) -> Result<report::Report> {
    match command {
        Command::Device => device::check(),
        Command::Model { dir, shape, seed } => model::write(&dir, shape, seed),
        Command::Parity(Given { model }) => parity::check(&model),
        Command::Dynamics => dynamics::check(),
        Command::Finetune(Given { model }) => finetune::check(&model),
        Command::Memory(Given { model }) => memory::check(&model, &telemetry).await,
        Command::Sticky => sticky::check().await,
        Command::Bad(Given { model }) => bad::check(&model),
        Command::First(Given { model }) => first::check(&model).await,
        Command::Busy(arguments) => busy::check(arguments, &telemetry).await,
        Command::StickyChild { .. } | Command::Serve(_) => Err(forebay::Error::fatal("not a check")),
    }
}
