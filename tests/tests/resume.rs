//! I9: whatever becomes of its workers, a job of many steps ends with the result of one that nobody interrupted. They are
//! killed, stopped beyond their leases and continued beside their successors, and told to end.
//!
//! FOREBAY_KILLS says how many kills (30).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::{Random, walked};

const FILES: usize = 6;
/// No round takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with jobs, and what became of them.
struct Site(tempfile::TempDir);

/// A worker process, killed if the test ends before it does.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`, since a program of that name is not everywhere.
        let kill = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Until it has ended by itself.
    fn ends(mut self) {
        let begun = Instant::now();
        while self.runs() {
            assert!(begun.elapsed() < PATIENCE, "a worker hangs");
            std::thread::sleep(Duration::from_millis(5)); // between two looks
        }
        assert!(self.0.wait().unwrap().success(), "a worker that was not killed ends well");
    }
}

impl Site {
    fn new(files: usize) -> Self {
        let site = Site(tempfile::tempdir().unwrap());
        fs::create_dir(site.path("in")).unwrap();
        for file in 0..files {
            fs::write(site.path("in").join(format!("file-{file}")), content(file)).unwrap();
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn worker(&self) -> Process {
        self.worker_that_saves_every(20)
    }

    fn worker_that_saves_every(&self, millis: u64) -> Process {
        let folders = ["in", "out", "states"].map(|name| self.path(name));
        let mut command = Command::new(env!("CARGO_BIN_EXE_steps_worker"));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command
            .env("RUST_LOG", "forebay=info")
            .env("FOREBAY_EVERY", millis.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        Process(command.args(folders).spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for a number of states in the store.
    fn saved(&self, at_least: usize) {
        let begun = Instant::now();
        while count(&self.path("states/objects"), "states") < at_least {
            assert!(begun.elapsed() < PATIENCE, "nothing is saved: {}", self.log());
            std::thread::sleep(Duration::from_millis(2)); // between two looks
        }
    }

    fn check(&self, files: usize) {
        for file in 0..files {
            let result = fs::read(self.path("out").join(format!("file-{file}.out"))).expect("a job was lost");
            assert!(result == walked(&content(file)), "file {file} has another result than without interruptions");
        }
    }
}

/// Files in folders of that name, below a root.
fn count(root: &Path, folder: &str) -> usize {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    let inside = |entry: fs::DirEntry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        true => count(&entry.path(), folder),
        false => usize::from(root.file_name().is_some_and(|name| name == folder)),
    };
    entries.flatten().map(inside).sum()
}

fn content(file: usize) -> Vec<u8> {
    format!("content of file {file}").into_bytes()
}

#[test]
fn kills_change_no_result() {
    let kills: usize = std::env::var("FOREBAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(30);
    let seed = 0x5eed ^ u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (mut killed, mut rounds, mut resumed) = (0, 0, 0);
    while killed < kills {
        let site = Site::new(FILES);
        let mut workers = [site.worker(), site.worker()];
        while killed < kills && workers.iter_mut().all(Process::runs) {
            std::thread::sleep(Duration::from_millis(random.below(400) as u64)); // a random moment, not a wait
            let victim = &mut workers[random.below(2)];
            if victim.runs() {
                *victim = site.worker();
                killed += 1;
            }
        }
        workers.into_iter().for_each(Process::ends);
        site.check(FILES);
        resumed += site.log().matches("taken over, with a state").count();
        rounds += 1;
    }
    println!("{killed} kills in {rounds} rounds of {FILES} jobs, which went on from a state {resumed} times: 0 wrong");
    assert!(resumed > killed / 10, "hardly a job went on from a state: {resumed} of {killed} kills");
}

#[test]
fn a_worker_that_was_stopped_beyond_its_lease_changes_nothing() {
    for round in 0..3 {
        let site = Site::new(1);
        let zombie = site.worker();
        site.saved(1 + round);
        zombie.signal("STOP");
        let successor = site.worker();
        // It has the job once the zombie's lease is over.
        let begun = Instant::now();
        while site.log().matches("generation=").count() < 2 {
            assert!(begun.elapsed() < PATIENCE, "nobody takes the job over: {}", site.log());
            std::thread::sleep(Duration::from_millis(5)); // between two looks
            // It may have been stopped while it held a lock of the folder, as no node of another machine could.
            if begun.elapsed().as_millis() % 3000 < 5 {
                zombie.signal("CONT");
                std::thread::sleep(Duration::from_millis(1)); // it goes on a little, to stop elsewhere
                zombie.signal("STOP");
            }
        }
        zombie.signal("CONT");
        successor.ends();
        zombie.ends();
        site.check(1);
    }
}

#[test]
fn a_worker_that_is_told_to_end_saves_and_gives_its_job_back() {
    let site = Site::new(1);
    let mut lives = 0;
    while !site.path("out/file-0.out").exists() {
        // Only being told to end makes it save.
        let mut worker = site.worker_that_saves_every(3_600_000);
        let taken = site.log().matches("generation=").count();
        let begun = Instant::now();
        while site.log().matches("generation=").count() <= taken && worker.runs() {
            assert!(begun.elapsed() < PATIENCE, "{}", site.log());
            std::thread::sleep(Duration::from_millis(2)); // between two looks
        }
        std::thread::sleep(Duration::from_millis(60)); // some steps are made, or the job ends before
        if worker.runs() {
            worker.signal("TERM");
        }
        worker.ends();
        lives += 1;
        assert!(lives < 100, "each life makes some steps: {}", site.log());
    }
    site.check(1);
    assert!(lives > 2, "{lives}");
    assert!(site.log().contains("told to write down how far it is"), "{}", site.log());
}
