//! `forebay fleet`: simulates a fleet of interruptible nodes, and says what saves and losses cost.
//!
//! The simulation is [`forebay::fleet`]; here are its settings as arguments, and its figures as a table, JSON and a plot.

mod plot;
mod sweep;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use forebay::checkpoint::interval::Interval;
use forebay::fleet::{Fleet, Preset};
use forebay::{Context, Error, Result};
use humantime::parse_duration;

use crate::size::size;

#[derive(clap::Args)]
pub struct Arguments {
    /// How nodes are lost: calm (each 93 h), typical (the young most, 33 h on average), storm (each 2.9 h), burst (typical,
    /// and many at once every 36 h), zombie (typical, and some go on after their loss).
    #[arg(long, default_value_t = Preset::Typical, value_parser = preset)]
    preset: Preset,
    /// How many nodes there are while none is lost.
    #[arg(long, value_name = "N", default_value_t = 100)]
    nodes: usize,
    /// How long the fleet is watched.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3660))]
    days: u32,
    /// The work of one job.
    #[arg(long, value_name = "TIME", default_value = "48h", value_parser = parse_duration)]
    job: Duration,
    /// How many jobs there are; else as many as keep all nodes busy.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    jobs: Option<u64>,
    /// How long a save blocks its job.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    cost: Duration,
    /// The size of a job's state, uploaded whole with each save.
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = size)]
    state: u64,
    /// Saves at this interval, at least a second, instead of the automatic one.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    every: Option<Duration>,
    /// Plays the same nodes with fixed intervals from 30 s to 1 h too.
    #[arg(long, conflicts_with = "every")]
    sweep: bool,
    /// The same seed gives the same fleet.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Plays every event, also those that change nothing: the same figures, later.
    #[arg(long)]
    every_event: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Draws nodes and finished jobs over time, and what intervals waste.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Arguments {
    pub fn run(self) -> Result<ExitCode> {
        let fleet = self.fleet();
        let outcome = fleet.run()?;
        let swept = if self.sweep { sweep::all(&fleet)? } else { Vec::new() };
        if let Some(path) = &self.plot {
            let svg = plot::svg(&self.title(), &fleet, &outcome, &swept);
            std::fs::write(path, svg).with_context(|| format!("writing `{}`", path.display()))?;
        }
        if self.json {
            print!("{}", table::json(&self, &outcome, &swept));
        } else {
            print!("{}", table::text(&self, &fleet, &outcome, &swept));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn fleet(&self) -> Fleet {
        Fleet {
            preset: self.preset,
            nodes: self.nodes,
            time: Duration::from_secs(86_400) * self.days,
            job: self.job,
            jobs: self.jobs,
            cost: self.cost,
            state: self.state,
            interval: self.every.map_or_else(Interval::automatic, Interval::every),
            seed: self.seed,
            every_event: self.every_event,
            ..Fleet::default()
        }
    }

    /// `typical: 100 nodes for 30 days, seed 1`.
    fn title(&self) -> String {
        let Self { preset, nodes, days, seed, .. } = self;
        format!("{preset}: {} for {}, seed {seed}", counted(*nodes, "node"), counted(*days as usize, "day"))
    }
}

fn preset(text: &str) -> Result<Preset, String> {
    text.parse().map_err(|why: Error| why.to_string())
}

fn counted(number: usize, what: &str) -> String {
    crate::say::count(number, what)
}
