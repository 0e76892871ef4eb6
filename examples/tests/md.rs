//! `md` is killed, stopped and continued beside its successor, and given nonsense. FOREBAY_KILLS says how many kills (12).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::{PATIENCE, Random};

/// A second or two of work, with a trajectory.
const SIMULATION: &str = r#"{"atoms": 108, "equilibrate": 300, "steps": 4000, "trajectory_every": 50, "skin": 0.2,
    "cutoff": 2.1, "thermostat": {"time": 0.5}}"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(simulation: &str) -> Self {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        fs::write(folder.path("input.json"), simulation).expect("an input");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_md"));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        command.arg(self.0.path()).args(["--every", "0.05"]).stdout(Stdio::null()).stderr(Stdio::from(log));
        command
    }

    fn start(&self) -> Child {
        self.command().spawn().expect("md starts")
    }

    fn finish(&self) {
        assert!(self.command().status().expect("md starts").success(), "{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn results(&self) -> [Vec<u8>; 2] {
        ["output.json", "trajectory.xyz"].map(|name| fs::read(self.path(name)).expect("a result"))
    }

    fn is_done(&self) -> bool {
        self.path("output.json").exists()
    }

    /// Waits until so many workers have taken the job.
    fn taken(&self, times: usize) {
        let begun = Instant::now();
        while self.log().matches("generation=").count() < times {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(2)); // between two looks
        }
    }
}

fn uninterrupted() -> [Vec<u8>; 2] {
    let folder = Folder::new(SIMULATION);
    folder.finish();
    folder.results()
}

#[test]
fn kills_change_no_bit_of_the_result() {
    let kills: usize = std::env::var("FOREBAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let expected = uninterrupted();
    let mut random = Random::new(seed);
    let (mut killed, mut resumed) = (0, 0);
    while killed < kills {
        let folder = Folder::new(SIMULATION);
        while killed < kills && !folder.is_done() {
            let mut worker = folder.start();
            std::thread::sleep(Duration::from_millis(random.below(900) as u64)); // a random moment, not a wait
            if worker.try_wait().expect("its state").is_none() {
                worker.kill().expect("it can be killed");
                killed += 1;
            }
            worker.wait().expect("it has ended");
        }
        folder.finish();
        assert!(folder.results() == expected, "seed {seed}: the result differs from the uninterrupted one");
        resumed += folder.log().matches("taken over, with a state").count();
    }
    println!("{killed} kills, gone on from a state {resumed} times, every result the same bit for bit");
    assert!(resumed > 0);
}

#[test]
fn a_worker_that_was_stopped_leaves_the_job_to_its_successor() {
    let expected = uninterrupted();
    let folder = Folder::new(SIMULATION);
    let mut zombie = folder.start();
    folder.taken(1);
    signal(&zombie, "STOP");
    let mut successor = folder.start();
    let begun = Instant::now();
    while folder.log().matches("generation=").count() < 2 {
        assert!(begun.elapsed() < PATIENCE, "{}", folder.log());
        std::thread::sleep(Duration::from_millis(5)); // between two looks
        // It may have been stopped while it held a lock of the folder, as no node of another machine could.
        if begun.elapsed().as_millis() % 3000 < 5 {
            signal(&zombie, "CONT");
            std::thread::sleep(Duration::from_millis(1)); // it goes on a little, to stop elsewhere
            signal(&zombie, "STOP");
        }
    }
    signal(&zombie, "CONT");
    for worker in [&mut successor, &mut zombie] {
        assert!(worker.wait().expect("it ends").success(), "{}", folder.log());
    }
    folder.finish();
    assert!(folder.results() == expected);
}

#[test]
fn a_worker_that_is_told_to_stop_says_that_the_job_is_unfinished() {
    let expected = uninterrupted();
    let folder = Folder::new(SIMULATION);
    let mut worker = folder.start();
    folder.taken(1);
    signal(&worker, "TERM");
    let code = worker.wait().expect("it ends").code();
    assert_eq!(code, Some(forebay::EXIT_UNFINISHED.into()), "{}", folder.log());
    assert!(!folder.is_done());
    folder.finish();
    assert!(folder.results() == expected);
}

fn signal(process: &Child, name: &str) {
    let kill = format!("kill -{name} {}", process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
}

#[test]
fn nonsense_is_refused_with_what_to_change() {
    for (input, said) in [
        (r#"{"atoms": 0}"#, "atoms"),
        (r#"{"atoms": 1000000000000}"#, "atoms"),
        (r#"{"atoms": 108, "steps": 0}"#, "steps"),
        (r#"{"atom": 108}"#, "unknown field `atom`"),
        ("nonsense", "expected"),
    ] {
        let folder = Folder::new(input);
        folder.finish();
        let error = fs::read_to_string(folder.path("output.json.error")).expect("what was wrong");
        assert!(error.contains(said) && error.contains("invalid"), "{input}: {error}");
        assert!(!folder.is_done());
    }
    let missing = Path::new("/no/such/folder");
    let refused = Command::new(env!("CARGO_BIN_EXE_md")).arg(missing).output().expect("md starts");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/no/such/folder"));
}
