//! Crashes told from losses, with real processes that share a folder: a job that kills its process is rejected after
//! three crashes, every other job ends with one result, and whoever is killed together with its supervisor counts
//! against nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use forebay::source::committed::Records;
use forebay::store::{self, Store};
use forebay::{Bytes, Verdict};
use forebay_tests::eventually;

const FILES: usize = 40;
/// Nothing here takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Folders with files to work on, for workers that are started and end.
struct Bench {
    at: tempfile::TempDir,
    disks: usize,
}

impl Bench {
    /// Files of which one, in the middle, is as `bad` says.
    fn new(bad: &[u8]) -> Self {
        let bench = Bench { at: tempfile::tempdir().expect("a folder for the test"), disks: 0 };
        fs::create_dir(bench.path("in")).expect("the inbox");
        for file in 0..FILES {
            fs::write(bench.path("in").join(name(file)), content(file)).expect("an input");
        }
        if !bad.is_empty() {
            fs::write(bench.path("in").join("file-20-bad"), bad).expect("an input");
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    /// A worker on a disk that no other had.
    fn start_elsewhere(&mut self) -> Child {
        self.disks += 1;
        self.start(&format!("disk-{}", self.disks), true)
    }

    fn start(&self, disk: &str, supervised: bool) -> Child {
        Command::new(env!("CARGO_BIN_EXE_poison_worker"))
            .args([self.path("in"), self.path("out"), self.path("store")])
            .env("FOREBAY_WITNESS", self.path(disk))
            .env("FOREBAY_SUPERVISE", if supervised { "1" } else { "0" })
            .env("RUST_LOG", "warn")
            .spawn()
            .expect("a worker starts")
    }

    fn store(&self) -> store::Folder {
        store::Folder::open(self.path("store")).expect("the store")
    }

    fn crashes_told(&self) -> usize {
        let store = self.store();
        let store: &dyn Store = &store;
        wait_for(store.list_all("crashes/")).expect("a list").len()
    }

    /// Every good file has its result, and the store has one end and one result of each job that is done.
    fn check(&self, bad: Option<&str>) {
        let records = Records::new(self.store());
        for file in 0..FILES {
            let worked = forebay_tests::worked(&content(file));
            let kept = wait_for(records.outcome(&name(file))).expect("the store answers");
            assert!(matches!(&kept, Some(Verdict::Done(result)) if *result == worked), "{}: {kept:?}", name(file));
            let told = fs::read(self.path("out").join(format!("{}.out", name(file)))).expect("a file was lost");
            assert!(told == worked, "the result of {} is another's", name(file));
        }
        if let Some(reason) = bad {
            let kept = wait_for(records.outcome("file-20-bad")).expect("the store answers");
            let rejected = matches!(&kept, Some(Verdict::Reject { why }) if why.to_string().contains(reason));
            assert!(rejected, "it should be rejected since it {reason}: {kept:?}");
            let told = fs::read_to_string(self.path("out").join("file-20-bad.failed.json")).expect("why it failed");
            assert!(told.contains(reason), "{told}");
        }
        let store = self.store();
        let store: &dyn Store = &store;
        let keys = wait_for(store.list_all("jobs/")).expect("a list").into_iter().map(|meta| meta.key.to_string());
        let (ends, results): (BTreeSet<_>, BTreeSet<_>) = keys.partition(|key| key.ends_with("/end"));
        assert_eq!(ends.len(), FILES + usize::from(bad.is_some()), "one end a job");
        assert!(results.len() >= FILES, "{results:?}");
        let suspects = wait_for(store.list_all("crashes/")).expect("a list");
        assert!(suspects.iter().all(|meta| meta.key.as_str().starts_with("crashes/file-20-bad/")), "{suspects:?}");
    }
}

fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn name(file: usize) -> String {
    format!("file-{file:02}")
}

fn content(file: usize) -> Bytes {
    format!("content of file {file};").repeat(1 + file % 9).into()
}

fn ends(worker: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = worker.try_wait().expect("a worker can be asked") {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "a worker hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The child of a supervisor, once it has jobs, by the marker that it leaves on its disk.
fn at_work(disk: &Path, supervisor: u32) -> Option<u32> {
    let processes = fs::read_dir(disk).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let busy = processes.filter(|process| fs::metadata(process.join("journal")).is_ok_and(|meta| meta.len() > 0));
    let pid = |process: PathBuf| {
        let header: serde_json::Value = serde_json::from_slice(&fs::read(process.join("header")).ok()?).ok()?;
        u32::try_from(header["pid"].as_u64()?).ok()
    };
    busy.filter_map(pid).find(|pid| is_child(*pid, supervisor))
}

fn is_child(process: u32, parent: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|id| id.trim() == parent.to_string()))
}

/// By the shell's own `kill`, since a program of that name is not everywhere.
fn signal(signal: &str, process: u32) {
    let kill = format!("kill {signal} {process}");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
}

/// Runs two workers until all is done; each that crashed is replaced on another disk. How many crashed.
fn run_to_the_end(bench: &mut Bench) -> usize {
    let mut workers = vec![bench.start_elsewhere(), bench.start_elsewhere()];
    let mut crashed = 0;
    let begun = Instant::now();
    while let Some(mut worker) = workers.pop() {
        assert!(begun.elapsed() < PATIENCE, "it does not end after {crashed} crashes");
        match worker.try_wait().expect("a worker can be asked").map(|status| status.code()) {
            None => workers.insert(0, worker),
            Some(Some(0)) => {}
            Some(Some(134)) => {
                crashed += 1;
                workers.insert(0, bench.start_elsewhere());
            }
            Some(other) => panic!("a worker ended with {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    crashed
}

#[test]
fn a_job_that_aborts_its_process_is_rejected_after_three_crashes_and_all_others_are_done() {
    let mut bench = Bench::new(b"poison");
    assert_eq!(run_to_the_end(&mut bench), 3);
    bench.check(Some("crashed its worker 3 times, on 3 workers"));
    let why = wait_for(Records::new(bench.store()).crashes("file-20-bad")).expect("the store answers");
    assert!(why.iter().all(|crash| crash.cause.contains("SIGABRT")), "{why:?}");
    assert!(why.iter().filter(|crash| crash.others == 0).count() >= 2, "a suspect runs alone: {why:?}");
}

#[test]
fn a_job_that_aborts_in_an_async_stage_is_found_too() {
    let mut bench = Bench::new(b"bad io");
    let crashed = run_to_the_end(&mut bench);
    assert!((3..=4).contains(&crashed), "{crashed} crashes");
    bench.check(Some("crashed its worker"));
}

#[test]
fn a_process_that_finds_its_own_marker_tells_the_crash() {
    let bench = Bench::new(b"poison");
    let mut crashed = 0;
    // One worker on one disk, without a supervisor: nobody else can say that it is not the disk.
    while !ends(&mut bench.start("disk", false)).success() {
        crashed += 1;
        assert!(crashed <= 6, "it goes on crashing");
    }
    assert_eq!(crashed, 6);
    bench.check(Some("crashed its worker 6 times, on 1 worker,"));
}

#[test]
fn who_is_killed_with_its_supervisor_is_lost_and_counts_against_nobody() {
    let bench = Bench::new(b"");
    let disk = bench.path("disk");
    for kill in 0..12 {
        let mut supervisor = bench.start("disk", true);
        // What the process before left there is told, or not, before this one takes jobs.
        let begun = Instant::now();
        let worker = loop {
            if let Some(worker) = at_work(&disk, supervisor.id()) {
                break worker;
            }
            if supervisor.try_wait().expect("it can be asked").is_some() || begun.elapsed() > PATIENCE {
                break 0;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if worker == 0 {
            assert!(kill > 3, "all was done after {kill} kills");
            break;
        }
        assert_eq!(bench.crashes_told(), 0, "after {kill} kills");
        match kill % 2 {
            0 => {
                supervisor.kill().expect("it can be killed");
                signal("-KILL", worker);
            }
            _ => {
                signal("-KILL", worker);
                supervisor.kill().expect("it can be killed");
            }
        }
        supervisor.wait().expect("it can be waited for");
        let gone = || !Path::new(&format!("/proc/{worker}")).exists();
        eventually("the worker is gone", gone);
    }
    assert!(ends(&mut bench.start("disk", true)).success());
    assert_eq!(bench.crashes_told(), 0);
    bench.check(None);
}

#[test]
fn a_supervisor_passes_on_that_it_is_to_stop() {
    let bench = Bench::new(b"");
    let disk = bench.path("disk");
    let mut supervisor = bench.start("disk", true);
    eventually("the worker works", || at_work(&disk, supervisor.id()).is_some());
    signal("-TERM", supervisor.id());
    assert!(ends(&mut supervisor).success(), "it drained");
    let left: Vec<_> =
        fs::read_dir(&disk).expect("the disk").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["worker"], "no marker is left");
}
