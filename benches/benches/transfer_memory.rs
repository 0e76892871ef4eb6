//! What transfers hold in memory: one object of 5 GB up and down, and 10,000 of 10 KB, 32 at once, up and down.
//!
//! Each is a process of its own at Garage; its highest resident memory is told by the system, which begins with that of
//! the process that started it: so this one holds little. What came is compared. The content repeats every 100 MB, so that
//! the server stores that much.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use forebay::{Error, Result};
use forebay_benches::transfer::{self, Direction};
use forebay_benches::{result, same};
use forebay_tests::{Random, Server};
use serde_json::json;
use wait4::Wait4;

const LARGE: u64 = 5_000_000_000;
const SMALL: u64 = 10_000;
const FILES: usize = 10_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if transfer::serve(&arguments)? {
        return Ok(());
    }
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let trial = Trial { endpoint: server.endpoint(), program: std::env::current_exe()?, uploads: at("uploads") };

    let mut file = File::create(at("large"))?;
    for _ in 0..LARGE / (FILES as u64 * SMALL) {
        for piece in pieces() {
            file.write_all(&piece)?;
        }
    }
    let up = trial.peak_mib(Direction::Up, "large", &at("large"))?;
    let down = trial.peak_mib(Direction::Down, "large", &at("came"))?;
    let mut whole = same(&at("large"), &at("came"))?;
    fs::remove_file(at("large"))?;
    fs::remove_file(at("came"))?;

    for name in ["small", "small-came"] {
        fs::create_dir(at(name))?;
    }
    for (number, piece) in pieces().enumerate() {
        fs::write(at("small").join(number.to_string()), piece)?;
    }
    let small_up = trial.peak_mib(Direction::UpAll, "small", &at("small"))?;
    let small_down = trial.peak_mib(Direction::DownAll, "small", &at("small-came"))?;
    for number in 0..FILES {
        let [sent, came] = ["small", "small-came"].map(|name| at(name).join(number.to_string()));
        whole &= same(&sent, &came)?;
    }
    let all = [up, down, small_up, small_down];
    result(json!({
        "peak_mib": all.into_iter().fold(0.0, f64::max),
        "large_mib": [up, down],
        "small_mib": [small_up, small_down],
        "identical": whole,
    }));
    Ok(())
}

/// The small files, which the large one repeats.
fn pieces() -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random::new(5);
    (0..FILES).map(move |_| (0..SMALL / 8).flat_map(|_| random.bits().to_le_bytes()).collect())
}

struct Trial {
    endpoint: String,
    program: PathBuf,
    uploads: PathBuf,
}

impl Trial {
    fn peak_mib(&self, direction: Direction, key: &str, file: &Path) -> Result<f64> {
        let start = Instant::now();
        let mut command = transfer::command(&self.program, direction, &self.endpoint, key, file, &self.uploads);
        let used = command.spawn()?.wait4()?;
        if !used.status.success() {
            return Err(Error::failed(format_args!("{direction:?} ended with {}", used.status)));
        }
        let peak = used.rusage.maxrss as f64 / (1 << 20) as f64;
        println!("{direction:?} {}: {:.1} s, {peak:.1} MiB", file.display(), start.elapsed().as_secs_f64());
        Ok(peak)
    }
}
