//! A worker with jobs of many steps, to be killed and stopped: `steps_worker IN OUT STATES`. Its result for a file is
//! [`forebay_tests::walked`]. It saves every FOREBAY_EVERY milliseconds (20).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use forebay::checkpoint::{Saved, Saving, Snapshot, Workplace};
use forebay::source::folder::Folder;
use forebay::{Bytes, Pipeline, Progress, Result, Stepper, Stepping, Worker, store};
use forebay_tests::Walk;

struct Walker;

struct Walking {
    walk: Walk,
    place: Workplace,
}

const LOG: &str = "log";

impl Stepper for Walker {
    type Spec = Bytes;
    type State = Walking;
    type Output = Bytes;
    const FORMAT: &'static str = "walk 1";

    fn begin(&mut self, input: &Bytes, place: &Workplace) -> Result<Walking> {
        Ok(Walking { walk: Walk::begin(input), place: place.clone() })
    }

    fn step(&mut self, walks: &mut [&mut Walking]) -> Result<Vec<Progress>> {
        // The work itself.
        std::thread::sleep(Duration::from_millis(2));
        let advance = |walking: &mut &mut Walking| {
            let line = walking.walk.step();
            let path = walking.place.folder()?.join(LOG);
            OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
            Ok(if walking.walk.is_done() { Progress::done() } else { Progress::some() })
        };
        walks.iter_mut().map(advance).collect()
    }

    fn finish(&mut self, walking: Walking) -> Result<Bytes> {
        let log = std::fs::read(walking.place.folder()?.join(LOG))?;
        Ok([log, walking.walk.save()].concat().into())
    }

    fn save(&mut self, walking: &mut Walking) -> Result<Snapshot> {
        let snapshot = Snapshot::new().bytes("walk", walking.walk.save());
        let log = walking.place.folder()?.join(LOG);
        Ok(if log.exists() { snapshot.grows(LOG) } else { snapshot })
    }

    fn restore(&mut self, _: &Bytes, place: &Workplace, saved: Saved) -> Result<Walking> {
        Ok(Walking { walk: Walk::restore(&saved.bytes("walk")?)?, place: place.clone() })
    }
}

fn worker(folders: &[PathBuf]) -> Result<Worker> {
    let [inbox, outbox, states] = folders else {
        return Err(forebay::Error::invalid("usage: steps_worker IN OUT STATES"));
    };
    let every = std::env::var("FOREBAY_EVERY").ok().map_or(Ok(20), |every| every.parse())?;
    let saving = Saving::to(store::Folder::open(states)?).every(Duration::from_millis(every));
    let pipeline = Pipeline::new().gpu_steps("walk", Stepping::jobs(2).saving(saving), || Ok(Walker));
    let source = Folder::open(inbox, outbox)?.once().lease(Duration::from_millis(700));
    Ok(Worker::bytes(pipeline).source(source).in_flight(2))
}

#[tokio::main]
async fn main() -> ExitCode {
    let _ = forebay::telemetry::init();
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match worker(&folders) {
        Ok(worker) => worker.run().await,
        Err(why) => {
            eprintln!("steps_worker: {why}");
            ExitCode::FAILURE
        }
    }
}
