//! Molecular dynamics that survives its node: kill it when you like, start it again, and it goes on where it was.
//!
//! ```sh
//! mkdir -p /tmp/job && echo '{"steps": 50000, "trajectory_every": 500}' > /tmp/job/input.json
//! cargo run --release -p forebay-examples --bin md -- /tmp/job
//! ```
//!
//! The folder then has `output.json` (energies, pressure, the radial distribution function) and `trajectory.xyz`, which
//! OVITO, VMD and ASE read; while it runs, its states are in `states/`. In a container that has one job (one replica),
//! start it without a folder: FOREBAY_S3 names the bucket, FOREBAY_JOB_INPUT, FOREBAY_JOB_STATE and FOREBAY_JOB_OUTPUT
//! where the job has its things. That needs `--features s3`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use forebay::places::{Places, Reference};
use forebay::source::single::Single;
use forebay::store::{Content, Folder, Outcome, Put};
use forebay::{Context, Job, Pipeline, Result, Stepping, Worker};
use forebay_models::DeviceChoice;
use forebay_models::md::{Dynamics, Outcome as Simulated, Simulation, Summary, TRAJECTORY};

/// Simulates a Lennard-Jones fluid, saves its states, and goes on from the last.
#[derive(Parser)]
struct Arguments {
    /// The job's folder, with `input.json`. Without one, the environment names the job.
    folder: Option<PathBuf>,
    /// Seconds between two saves. Default: as often as pays.
    #[arg(long)]
    every: Option<f64>,
}

/// Where the job is, and how a file beside its output is called.
struct Desk {
    places: Places,
    single: Single,
    output: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match simulate(Arguments::parse()).await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("md: {why}");
            why.exit_code()
        }
    }
}

async fn simulate(arguments: Arguments) -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let device = DeviceChoice::from_env()?;
    let Desk { places, single, output } = match arguments.folder {
        Some(folder) => local(&folder)?,
        None => remote().await?,
    };
    let mut saving = single.saving()?;
    if let Some(seconds) = arguments.every {
        saving = saving.every(Duration::try_from_secs_f64(seconds)?);
    }
    let pipeline = Pipeline::new()
        .cpu("check", 1, |_, asked: Simulation| asked.check().map(|()| asked))
        .gpu_steps("md", Stepping::jobs(1).saving(saving), move || Ok(Dynamics::new(&device.open()?)))
        .io("keep", 1, move |job, done| keep(places.clone(), output.clone(), job, done));
    Ok(Worker::new(pipeline).source(single).run().await)
}

/// Puts the trajectory beside the output, before the job is done.
async fn keep(places: Places, output: String, _: Job, simulated: Simulated) -> Result<Summary> {
    let Simulated { summary, trajectory, place: _folder } = simulated;
    if let Some(file) = trajectory {
        let beside = Reference::new(format!("{output}/{TRAJECTORY}"))?;
        match places.send(&beside, Content::file(file), Put::Create).await? {
            Outcome::Stored(_) => {}
            // The same simulation gives the same bytes, so what an earlier life has put there is as good.
            Outcome::Conflict => println!("{beside} is there already"),
        }
    }
    Ok(summary)
}

/// A job in a folder of this machine.
fn local(folder: &Path) -> Result<Desk> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let url = format!("file://{}", folder.display());
    let places = Places::new().folder(&folder).bucket("states", Folder::open(folder.join("states"))?);
    let single = Single::new(&places, format!("{url}/input.json").parse()?, format!("{url}/output.json").parse()?);
    Ok(Desk { single: single.state("s3://states/job/".parse()?), places, output: url })
}

/// The job that the environment names, in a bucket.
#[cfg(feature = "s3")]
async fn remote() -> Result<Desk> {
    let store = forebay::store::S3::from_env()?.open().await?;
    let bucket = std::env::var("FOREBAY_S3").unwrap_or_default();
    let bucket = bucket.trim_start_matches("s3://").split('/').next().unwrap_or_default().to_owned();
    let places = Places::new().bucket(bucket, store);
    let single = Single::from_env(&places)?;
    let output = std::env::var("FOREBAY_JOB_OUTPUT").unwrap_or_default();
    let beside = output.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    Ok(Desk { places, single, output: beside })
}

#[cfg(not(feature = "s3"))]
async fn remote() -> Result<Desk> {
    Err(forebay::Error::invalid("name a folder; for a job in a bucket, build with --features s3"))
}
