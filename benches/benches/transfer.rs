//! How fast 300 MB go to S3 and come back, and what that costs, beside five tools that people use: object_store, s5cmd,
//! rclone, boto3 and @aws-sdk/lib-storage.
//!
//! All on one server in one run, Garage; each transfer is a process of its own with parts of 10 MB, 10 at a time, and
//! its seconds, CPU time and peak memory are those of the process. Cells: loopback; round trips of 40, 120 and 230 ms;
//! 100 Mbit/s up and 300 Mbit/s down: each link is a process of ours (`tests/src/link.rs`), which is exact to a
//! thousandth where a token bucket of the kernel would need root and two network namespaces. In blocks, every tool once
//! in each, in turns; what was downloaded is compared with the file, what was uploaded is fetched back and compared,
//! both outside the time. The server has all blocks already, so that its disk is not what is measured.
//!
//! `FOREBAY_TRANSFER_CELLS` picks cells by parts of their names, with commas; `FOREBAY_TRANSFER_BLOCKS` says how many
//! blocks. The first run installs the tools and builds Garage: half an hour. Needs python3 and npm.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use forebay::{Classify, Context, Error, Result};
use forebay_benches::transfer::{self, Direction};
use forebay_benches::{Spread, link, result, same};
use forebay_tests::{Link, Random, S3_BUCKET, S3_REGION, Server};
use serde_json::json;
use wait4::Wait4;

const BYTES: u64 = 300_000_000;
/// One transfer.
const WITHIN: Duration = Duration::from_secs(300);

/// Where the transfers go along, and how often each tool does.
struct Cell {
    name: &'static str,
    up: bool,
    /// Milliseconds, there and back.
    round_trip: u64,
    /// Bits a second.
    rate: Option<u64>,
    blocks: usize,
}

const fn cell(name: &'static str, up: bool, round_trip: u64, rate: Option<u64>, blocks: usize) -> Cell {
    Cell { name, up, round_trip, rate, blocks }
}

const CELLS: [Cell; 10] = [
    cell("loopback up", true, 0, None, 10),
    cell("loopback down", false, 0, None, 10),
    cell("40 ms up", true, 40, None, 10),
    cell("40 ms down", false, 40, None, 10),
    cell("120 ms up", true, 120, None, 10),
    cell("120 ms down", false, 120, None, 10),
    cell("230 ms up", true, 230, None, 10),
    cell("230 ms down", false, 230, None, 10),
    cell("100 Mbit/s up", true, 0, Some(100_000_000), 3),
    cell("300 Mbit/s down", false, 0, Some(300_000_000), 5),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if link::serve(&arguments)? || transfer::serve(&arguments)? {
        return Ok(());
    }
    let cells = cells()?;
    let tools = tools()?;
    let server =
        Server::start("garage").ok_or_else(|| Error::invalid("this compares over Garage, and may not start it"))?;
    let race = Race { tools, server, folder: tempfile::tempdir()? };
    race.prepare()?;
    let raced = cells.iter().map(|cell| race.run(cell)).collect::<Result<Vec<_>>>()?;
    let worst = |of: fn(&Raced) -> Option<f64>, pick: fn(f64, f64) -> f64| raced.iter().filter_map(of).reduce(pick);
    result(json!({
        "worst_ratio": worst(|cell| Some(cell.ratio), f64::max),
        "link_use": worst(|cell| cell.link_use, f64::min),
        "peak_mib": worst(|cell| Some(cell.peak_mib), f64::max),
        "cpu_ratio": worst(|cell| Some(cell.cpu_ratio), f64::max),
    }));
    Ok(())
}

/// Those that were asked for.
fn cells() -> Result<Vec<Cell>> {
    let set = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let blocks = set("FOREBAY_TRANSFER_BLOCKS").map(|text| text.parse::<usize>().or_invalid()).transpose();
    let blocks = blocks.context("FOREBAY_TRANSFER_BLOCKS")?.map(|blocks| blocks.max(1));
    let wanted = set("FOREBAY_TRANSFER_CELLS");
    let picked =
        |cell: &Cell| wanted.as_ref().is_none_or(|all| all.split(',').any(|part| cell.name.contains(part.trim())));
    let cells = CELLS.into_iter().filter(picked).map(|cell| Cell { blocks: blocks.unwrap_or(cell.blocks), ..cell });
    let cells: Vec<Cell> = cells.collect();
    match cells.is_empty() {
        true => Err(Error::invalid("FOREBAY_TRANSFER_CELLS picks none: want parts of names, as in `loopback,40 ms`")),
        false => Ok(cells),
    }
}

/// A program that is raced.
struct Tool {
    name: &'static str,
    command: fn(&Path, &Errand) -> Command,
    /// Where it is installed.
    home: PathBuf,
}

/// What it is to do.
struct Errand<'a> {
    up: bool,
    endpoint: &'a str,
    key: &'a str,
    file: &'a Path,
}

impl Errand<'_> {
    fn direction(&self) -> &'static str {
        if self.up { "up" } else { "down" }
    }

    /// From where to where, as `cp` has it.
    fn ends(&self, scheme: &str) -> [String; 2] {
        let (object, file) = (format!("{scheme}{S3_BUCKET}/{}", self.key), text(self.file));
        if self.up { [file, object] } else { [object, file] }
    }

    fn arguments(&self) -> [String; 5] {
        [self.direction(), self.endpoint, S3_BUCKET, self.key, &text(self.file)].map(str::to_owned)
    }
}

/// Ours first, and the others as they are installed.
fn tools() -> Result<Vec<Tool>> {
    let setup = scripts().join("setup");
    let setup = Command::new(setup).stderr(Stdio::inherit()).output().context("running scripts/transfer/setup")?;
    if !setup.status.success() {
        return Err(Error::invalid("scripts/transfer/setup could not install what is raced"));
    }
    let cache = PathBuf::from(String::from_utf8_lossy(&setup.stdout).trim());
    let tool = |name, command| Tool { name, command, home: cache.clone() };
    Ok(vec![
        Tool { name: "forebay", command: forebay, home: std::env::current_exe()? },
        tool("object_store", object_store),
        tool("s5cmd", s5cmd),
        tool("rclone", rclone),
        tool("boto3", boto3),
        tool("lib-storage", lib_storage),
    ])
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/transfer")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn forebay(home: &Path, errand: &Errand) -> Command {
    let direction = if errand.up { Direction::Up } else { Direction::Down };
    transfer::command(home, direction, errand.endpoint, errand.key, errand.file, &std::env::temp_dir())
}

fn object_store(home: &Path, errand: &Errand) -> Command {
    let mut command = Command::new(home.join("object-store"));
    command.args(errand.arguments());
    command
}

fn s5cmd(home: &Path, errand: &Errand) -> Command {
    let mut command = Command::new(home.join("s5cmd"));
    command.args(["--log", "error", "--endpoint-url", errand.endpoint, "cp", "-c", "10", "-p", "10"]);
    command.args(errand.ends("s3://"));
    command
}

fn rclone(home: &Path, errand: &Errand) -> Command {
    let mut command = Command::new(home.join("python/bin/rclone"));
    command.args(["copyto", "--quiet", "--config", "/dev/null", "--ignore-times", "--s3-provider", "Other"]);
    command.args(["--s3-env-auth", "--s3-no-check-bucket", "--s3-region", S3_REGION, "--s3-endpoint", errand.endpoint]);
    command.args(["--s3-chunk-size", "10000000B", "--s3-upload-cutoff", "10000000B", "--s3-upload-concurrency", "10"]);
    command.args(["--multi-thread-streams", "10", "--multi-thread-chunk-size", "10000000B"]);
    command.args(["--multi-thread-cutoff", "10000000B"]).args(errand.ends(":s3:"));
    command
}

fn boto3(home: &Path, errand: &Errand) -> Command {
    let mut command = Command::new(home.join("python/bin/python"));
    command.arg(scripts().join("boto3_copy.py")).args(errand.arguments());
    command
}

fn lib_storage(home: &Path, errand: &Errand) -> Command {
    let mut command = Command::new(home.join("node_modules/node/bin/node"));
    command.arg(scripts().join("lib_storage_copy.mjs")).arg(home).args(errand.arguments());
    command
}

/// What one transfer took.
struct Took {
    seconds: f64,
    cpu: f64,
    peak_mib: f64,
}

/// What came out for a cell.
struct Raced {
    /// Our seconds over those of the fastest other tool, in the same block.
    ratio: f64,
    /// What the link needs for the bytes at least, over our seconds; of those that have a rate.
    link_use: Option<f64>,
    /// Our highest.
    peak_mib: f64,
    /// Our CPU time over that of the leanest other tool, in the same block.
    cpu_ratio: f64,
}

struct Race {
    tools: Vec<Tool>,
    server: Server,
    folder: tempfile::TempDir,
}

impl Race {
    fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Makes the file, and has each tool send it once: the server keeps every block once.
    fn prepare(&self) -> Result<()> {
        let mut random = Random::new(300);
        let mut file = File::create(self.file())?;
        let mut piece = vec![0; 1_000_000];
        for _ in 0..BYTES / piece.len() as u64 {
            piece.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&random.bits().to_le_bytes()));
            file.write_all(&piece)?;
        }
        for tool in &self.tools {
            self.transfer(tool, true, &self.server.endpoint(), tool.name, &self.file())?;
        }
        Ok(())
    }

    fn run(&self, cell: &Cell) -> Result<Raced> {
        let limited = cell.round_trip > 0 || cell.rate.is_some();
        let link = || link::start(self.server.address(), cell.round_trip, cell.rate.unwrap_or(0));
        let link = limited.then(link).transpose()?;
        let endpoint = link.as_ref().map_or(self.server.endpoint(), |link| format!("http://{}", link.address));
        let mut took: Vec<Vec<Took>> = self.tools.iter().map(|_| Vec::new()).collect();
        for block in 0..cell.blocks {
            for turn in 0..self.tools.len() {
                let index = (block + turn) % self.tools.len();
                took[index].push(self.once(cell, &self.tools[index], &endpoint)?);
            }
        }
        Ok(self.report(cell, &took))
    }

    fn once(&self, cell: &Cell, tool: &Tool, endpoint: &str) -> Result<Took> {
        let (sent, came) = (self.file(), self.folder.path().join("came"));
        // What the one before has written is not to be written while the next is measured.
        let synced = Command::new("sync").status().context("running sync")?;
        if !synced.success() {
            return Err(Error::failed("sync failed"));
        }
        let took = if cell.up {
            // The key is that of the last time: nothing of then may be taken for what is sent now.
            let key = format!("{}-{:x}", tool.name, fresh());
            let took = self.transfer(tool, true, endpoint, &key, &sent)?;
            let fetcher = self.tools.iter().find(|tool| tool.name == "object_store").unwrap_or(tool);
            self.transfer(fetcher, false, &self.server.endpoint(), &key, &came)?;
            took
        } else {
            self.transfer(tool, false, endpoint, "object_store", &came)?
        };
        let same = same(&sent, &came)?;
        std::fs::remove_file(&came)?;
        match same {
            true => Ok(took),
            false => Err(Error::failed(format_args!("what {} has brought is not what was sent", tool.name))),
        }
    }

    fn transfer(&self, tool: &Tool, up: bool, endpoint: &str, key: &str, file: &Path) -> Result<Took> {
        let mut command = (tool.command)(&tool.home, &Errand { up, endpoint, key, file });
        transfer::credentials(&mut command);
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {}", tool.name))?;
        let id = child.id();
        let (ended, ends) = mpsc::channel::<()>();
        let used = std::thread::scope(|scope| {
            scope.spawn(move || {
                if ends.recv_timeout(WITHIN) == Err(mpsc::RecvTimeoutError::Timeout) {
                    // It shows in its status.
                    let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
                }
            });
            let used = child.wait4();
            drop(ended);
            used
        })?;
        let seconds = start.elapsed().as_secs_f64();
        if !used.status.success() {
            return Err(Error::failed(format_args!("{} ended with {} after {seconds:.1} s", tool.name, used.status)));
        }
        let cpu = (used.rusage.utime + used.rusage.stime).as_secs_f64();
        Ok(Took { seconds, cpu, peak_mib: used.rusage.maxrss as f64 / (1 << 20) as f64 })
    }

    fn report(&self, cell: &Cell, took: &[Vec<Took>]) -> Raced {
        let of = |index: usize, what: fn(&Took) -> f64| took[index].iter().map(what).collect::<Vec<f64>>();
        let highest = |index| of(index, |took| took.peak_mib).into_iter().fold(0.0, f64::max);
        let all = || 0..self.tools.len();
        println!("{} ({} blocks)", cell.name, cell.blocks);
        println!("  {:<14}{:<26}{:<26}peak MiB", "", "seconds", "CPU seconds");
        for index in all() {
            let [seconds, cpu] = [of(index, |took| took.seconds), of(index, |took| took.cpu)].map(|of| Spread::of(&of));
            let columns = [seconds.to_string(), cpu.to_string()];
            println!("  {:<14}{:<26}{:<26}{:.0}", self.tools[index].name, columns[0], columns[1], highest(index));
        }
        // The other tool with the lowest median, and how we do beside it.
        let beside = |what: fn(&Took) -> f64| {
            let median = |index: &usize| Spread::of(&of(*index, what)).median;
            let best = all().skip(1).min_by(|a, b| median(a).total_cmp(&median(b))).unwrap_or(0);
            (self.tools[best].name, Spread::of_ratios(&of(0, what), &of(best, what)))
        };
        let ((fastest, ratio), (leanest, cpu)) = (beside(|took| took.seconds), beside(|took| took.cpu));
        println!("  beside {fastest}: {ratio} times its seconds; beside {leanest}: {cpu} times its CPU time");
        let floor = cell.rate.map(|rate| Link::floor(BYTES, rate));
        let link_use = floor.map(|floor| floor / Spread::of(&of(0, |took| took.seconds)).median);
        if let (Some(floor), Some(link_use)) = (floor, link_use) {
            println!("  the link needs {floor:.2} s: {:.1} % of it used", 100.0 * link_use);
        }
        Raced { ratio: ratio.median, link_use, peak_mib: highest(0), cpu_ratio: cpu.median }
    }
}

/// A number that no other call in this process gets.
fn fresh() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
