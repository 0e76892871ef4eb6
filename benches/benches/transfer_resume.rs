//! What a kill costs: uploads and downloads of 1 GB that are killed on their way, and go on.
//!
//! Each is a process of its own at Garage, over a link of 800 Mbit/s that counts what it carries; it gets SIGKILL
//! somewhere between a fifth and four fifths of its way, and then the same is started again. What is sent again is what
//! both carried beyond the object itself; it should be no more than the parts that were under way, of which there were at
//! most as many as connections, and nothing of a part that was noted as done. What arrived is compared. `FOREBAY_RESUME_KILLS` says how often, each way.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::{Classify, Context, Error, Result};
use forebay_benches::transfer::{self, Direction};
use forebay_benches::{result, same};
use forebay_tests::{Link, OpenLink, Random, Server};
use serde_json::{Value, json};

const BYTES: u64 = 1_000_000_000;
const KILLS: usize = 20;
/// Bits a second, each way.
const RATE: u64 = 800_000_000;
/// Length of a part.
const PART: u64 = 10_000_000;

/// What one kill cost.
struct Cost {
    /// Bytes that were carried beyond those of the object.
    again: u64,
    /// Bytes of the parts that were under way at the most.
    in_flight: u64,
    /// Bytes of parts that were noted as done and yet were carried again.
    noted_again: u64,
    same: bool,
}

struct Trial {
    server: Server,
    folder: tempfile::TempDir,
    program: PathBuf,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if transfer::serve(&arguments)? {
        return Ok(());
    }
    let set = std::env::var("FOREBAY_RESUME_KILLS").ok().filter(|text| !text.is_empty());
    let kills = set.map(|text| text.parse::<usize>().or_invalid()).transpose().context("FOREBAY_RESUME_KILLS")?;
    let kills = kills.unwrap_or(KILLS);
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let trial = Trial { server, folder: tempfile::tempdir()?, program: std::env::current_exe()? };
    trial.prepare()?;
    let mut random = Random::new(20);
    let mut costs = Vec::new();
    for kill in 0..kills {
        for direction in [Direction::Up, Direction::Down] {
            let at = BYTES / 5 + random.below((BYTES * 3 / 5) as usize) as u64;
            let cost = trial.kill(direction, kill, at).with_context(|| format!("{direction:?} {kill}"))?;
            println!(
                "{direction:?} {kill}: killed after {} MB; sent again {:.1} MB of up to {} MB under way, and {:.1} MB of what \
                 was done",
                at / 1_000_000,
                cost.again as f64 / 1e6,
                cost.in_flight / 1_000_000,
                cost.noted_again as f64 / 1e6,
            );
            costs.push(cost);
        }
    }
    let most = |of: fn(&Cost) -> u64| costs.iter().map(of).max().unwrap_or(0) as f64 / 1e6;
    result(json!({
        "kills": costs.len(),
        "identical": costs.iter().filter(|cost| cost.same).count(),
        "sent_again_mb": most(|cost| cost.again),
        "of_in_flight": costs.iter().map(|cost| cost.again as f64 / cost.in_flight as f64).fold(0.0, f64::max),
        "done_sent_again_mb": most(|cost| cost.noted_again),
    }));
    Ok(())
}

impl Trial {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn prepare(&self) -> Result<()> {
        let mut random = Random::new(1);
        let mut file = File::create(self.at("file"))?;
        for _ in 0..BYTES / 1_000_000 {
            let piece: Vec<u8> = (0..125_000).flat_map(|_| random.bits().to_le_bytes()).collect();
            file.write_all(&piece)?;
        }
        self.finish(Direction::Up, &self.server.endpoint(), "down", &self.at("file"))
    }

    fn start(&self, direction: Direction, endpoint: &str, key: &str, file: &Path) -> Result<std::process::Child> {
        Ok(transfer::command(&self.program, direction, endpoint, key, file, &self.at("uploads")).spawn()?)
    }

    fn finish(&self, direction: Direction, endpoint: &str, key: &str, file: &Path) -> Result<()> {
        let status = self.start(direction, endpoint, key, file)?.wait()?;
        status.success().then_some(()).ok_or_else(|| Error::failed(format_args!("the transfer ended with {status}")))
    }

    fn kill(&self, direction: Direction, number: usize, at: u64) -> Result<Cost> {
        let link = Link::to(self.server.address()).up(RATE).down(RATE).open();
        let up = direction == Direction::Up;
        // A key of its own: what was there before may not be taken for what comes now.
        let (key, came) = (if up { format!("up-{number}") } else { "down".to_owned() }, self.at("came"));
        let file = if up { self.at("file") } else { came.clone() };
        let mut first = self.start(direction, &link.endpoint(), &key, &file)?;
        while carried(&link, up) < at {
            if first.try_wait()?.is_some() {
                return Err(Error::failed("it ended before it was killed"));
            }
            // Looks a thousand times a second: the link moves a hundredth of a part meanwhile.
            std::thread::sleep(Duration::from_millis(1));
        }
        let in_flight = link.connections() * PART;
        first.kill()?;
        first.wait()?;
        let noted = self.noted(up)?;
        let before = settled(&link, up);
        self.finish(direction, &link.endpoint(), &key, &file)?;
        let all = carried(&link, up);
        if up {
            self.finish(Direction::Down, &self.server.endpoint(), &key, &came)?;
        }
        let same = same(&self.at("file"), &came)?;
        fs::remove_file(&came)?;
        if all < BYTES {
            return Err(Error::failed(format_args!("{all} bytes were carried, which is less than the object has")));
        }
        // What HTTP adds is a thousandth of it.
        let more = |carried: u64, needed: u64| carried.saturating_sub(needed + needed / 1000);
        Ok(Cost { again: more(all, BYTES), in_flight, noted_again: more(all - before, BYTES - noted), same })
    }

    /// Bytes that the killed process noted as done.
    fn noted(&self, up: bool) -> Result<u64> {
        let log = if up {
            let journals = fs::read_dir(self.at("uploads"))?.flatten().map(|entry| entry.path());
            journals.into_iter().find(|path| path.extension().is_some_and(|end| end == "upload"))
        } else {
            Some(self.at(".came.partial.log"))
        };
        let mut text = String::new();
        File::open(log.ok_or_else(|| Error::failed("no journal is left"))?)?.read_to_string(&mut text)?;
        let lines = text.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter_map(|line| line["len"].as_u64()).sum())
    }
}

fn carried(link: &OpenLink, up: bool) -> u64 {
    link.carried()[usize::from(!up)]
}

/// What it has carried, once what the killed process left behind is through.
fn settled(link: &OpenLink, up: bool) -> u64 {
    let mut before = carried(link, up);
    loop {
        // A link that carries has carried something within that time.
        std::thread::sleep(Duration::from_millis(300));
        let now = carried(link, up);
        if now == before {
            return now;
        }
        before = now;
    }
}
