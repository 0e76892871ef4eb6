//! Workers that share a folder are killed at random moments: every file ends with exactly one whole result, none is
//! lost and none is torn. FOREBAY_KILLS says how many kills (30); `scripts/prove folder-kills` runs many.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const FILES: usize = 120;
/// No round takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn every_file_ends_with_one_whole_result() {
    let kills: usize = std::env::var("FOREBAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(30);
    let mut random = 0x5eed ^ u64::from(std::process::id());
    println!("seed {random}");
    let mut killed = 0;
    let mut rounds = 0;
    while killed < kills {
        killed += round(kills - killed, &mut random);
        rounds += 1;
    }
    println!("{killed} kills in {rounds} rounds of {FILES} files: 0 lost, 0 torn, 0 twice");
}

/// One folder from full to done, with at most so many kills on the way; how many there were.
fn round(most: usize, random: &mut u64) -> usize {
    let at = tempfile::tempdir().expect("a folder for the test");
    let (inbox, outbox) = (at.path().join("in"), at.path().join("out"));
    fs::create_dir(&inbox).expect("the inbox");
    for file in 0..FILES {
        fs::write(inbox.join(format!("file-{file}")), content(file)).expect("an input");
    }
    let mut workers = [start(&inbox, &outbox), start(&inbox, &outbox)];
    let begun = Instant::now();
    let mut killed = 0;
    while killed < most && workers.iter_mut().all(runs) {
        std::thread::sleep(Duration::from_micros(next(random) % 400_000)); // a random moment, not a wait for something
        let victim = &mut workers[(next(random) % 2) as usize];
        if !runs(victim) {
            break;
        }
        victim.kill().expect("a worker that runs can be killed");
        victim.wait().expect("it can be waited for");
        killed += 1;
        *victim = start(&inbox, &outbox);
    }
    for worker in &mut workers {
        while runs(worker) {
            assert!(begun.elapsed() < PATIENCE, "a worker hangs after {killed} kills");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(worker.wait().expect("it has ended").success(), "a worker that was not killed ends well");
    }
    check(&outbox);
    killed
}

fn check(outbox: &Path) {
    let mut expected = BTreeSet::new();
    for file in 0..FILES {
        let name = format!("file-{file}");
        let result = fs::read(outbox.join(format!("{name}.out"))).expect("a file was lost");
        assert!(result == forebay_tests::worked(&content(file)), "the result of {name} is torn or another file's");
        let record = fs::read_to_string(outbox.join(format!("{name}.done.json"))).expect("a record is missing");
        assert!(record.contains(&format!("{name}.out")), "the record of {name} is whole");
        expected.insert(format!("{name}.out"));
        expected.insert(format!("{name}.done.json"));
    }
    let entries = fs::read_dir(outbox).expect("the outbox").map(|entry| entry.expect("an entry").file_name());
    let found: BTreeSet<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    let visible: BTreeSet<String> = found.into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(visible, expected, "nothing but one result and one record a file");
}

fn start(inbox: &PathBuf, outbox: &PathBuf) -> Child {
    Command::new(env!("CARGO_BIN_EXE_folder_worker")).arg(inbox).arg(outbox).spawn().expect("a worker starts")
}

fn runs(worker: &mut Child) -> bool {
    worker.try_wait().expect("a worker can be asked").is_none()
}

fn content(file: usize) -> Vec<u8> {
    format!("content of file {file};").repeat(1 + file * 7 % 500).into_bytes()
}

/// xorshift64 (Marsaglia 2003).
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}
