//! A submit that was interrupted goes on where it was: nothing is lost, and what may be there twice is counted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use forebay::testing::fake_sqs::{Action, Fault};
use forebay_tests::eventually;

use crate::{Said, World, child_of, lives, shell};

const SUBMIT: [&str; 3] = ["submit", "--lines", "jobs.jsonl"];
const JOURNAL: &str = "jobs.jsonl.forebay-journal";
/// Jobs on their way at once: 16 calls of ten.
const ON_THEIR_WAY: usize = 160;

/// Lines of the inputs whose submit is killed or stopped half-way: more by hand.
fn lines() -> usize {
    let told = std::env::var("FOREBAY_SUBMIT_LINES").ok();
    told.map_or(6000, |told| told.parse().expect("FOREBAY_SUBMIT_LINES is a number"))
}

/// The number before ` jobs in doubt`, or 0.
fn doubts(said: &str) -> usize {
    let before = said.split(" in doubt").next().filter(|before| before.len() < said.len());
    let jobs = before.and_then(|before| before.strip_suffix(" jobs").or(before.strip_suffix(" job")));
    jobs.and_then(|text| text.rsplit('\n').next()).map_or(0, |number| number.parse().unwrap())
}

/// Kills a submit of so many lines when half of them are there, and lets another one end it. How many jobs it said
/// were in doubt.
async fn killed_half_way(world: &World, lines: usize) -> usize {
    world.write_lines("jobs.jsonl", lines);
    let first = world.start(&SUBMIT);
    eventually("half of it is there", || world.count() >= lines / 2);
    first.kill();
    let second = world.run(&SUBMIT);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.err.contains("were sent before"), "{second:?}");
    let ids = world.ids();
    assert_eq!(ids.len(), lines, "nothing is lost");
    assert!((1..=lines).all(|line| ids.contains_key(&format!("jobs.jsonl:{line}"))));
    println!("{} {}; {} messages", second.err.trim(), second.out.trim(), world.count());
    doubts(&second.err)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_half_way_every_line_is_once_on_a_fifo_queue() {
    let world = World::new(true).await;
    killed_half_way(&world, lines()).await;
    assert_eq!(world.count(), lines());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_half_way_repeats_on_a_standard_queue_are_no_more_than_was_said() {
    let world = World::new(false).await;
    let doubts = killed_half_way(&world, lines()).await;
    let repeats = world.count() - lines();
    assert!(repeats <= doubts && doubts <= ON_THEIR_WAY, "{repeats} repeats, {doubts} doubts");
}

/// The worst case: all calls on their way have taken effect, and none was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_its_way_is_in_doubt_and_nothing_else() {
    for (fifo, repeats) in [(false, ON_THEIR_WAY), (true, 0)] {
        let world = World::new(fifo).await;
        world.write_lines("jobs.jsonl", 1000);
        world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, Fault::HangAfter);
        let first = world.start(&SUBMIT);
        eventually("no more can be on their way", || world.count() == 300 + ON_THEIR_WAY);
        first.kill();
        world.fake.heal();
        let second = world.run(&SUBMIT);
        assert_eq!(second.code, Some(0), "{second:?}");
        assert!(second.err.contains("300 of 1000 jobs were sent before"), "{second:?}");
        assert_eq!(doubts(&second.err), ON_THEIR_WAY, "{second:?}");
        let says = if fifo { "this FIFO queue drops those that it has" } else { "twice on this standard queue" };
        assert!(second.err.contains(says), "{second:?}");
        assert_eq!((world.ids().len(), world.count()), (1000, 1000 + repeats));
        let third = world.run(&SUBMIT);
        assert_eq!((third.code, third.out.as_str()), (Some(0), "all 1000 jobs were sent already\n"));
        assert_eq!(world.count(), 1000 + repeats);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_leaves_nothing_in_doubt() {
    let world = World::new(false).await;
    let lines = lines();
    world.write_lines("jobs.jsonl", lines);
    world.fake.fault(Action::SendMessageBatch, 1..=u64::MAX, Fault::Late(Duration::from_millis(20)));
    let first = world.start(&SUBMIT);
    eventually("half of it is there", || world.count() >= lines / 2);
    first.signal("TERM");
    let first = first.ended();
    assert_eq!(first.code, Some(1), "{first:?}");
    assert!(first.out.starts_with("sent ") && first.err.contains("the same command goes on"), "{first:?}");
    let there = world.count();
    assert!((lines / 2..lines).contains(&there), "{there}");
    let second = goes_on_without_doubt(&world, lines);
    assert!(second.err.contains(&format!("{there} of {lines} jobs were sent before")), "{second:?}");
}

/// Every signal, to the parent and to both: no matter which of them comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_tells_it_to_stop_it_leaves_no_doubt_and_no_process() {
    for (signal, to_both) in [("TERM", true), ("INT", false), ("INT", true), ("HUP", false), ("HUP", true)] {
        if signal == "HUP" && ignores_hangup() {
            eprintln!("this runs under nohup, and so would the program: it is not told to stop by HUP");
            continue;
        }
        let world = World::new(false).await;
        world.write_lines("jobs.jsonl", 1000);
        let late = Fault::Late(Duration::from_millis(500));
        world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, late);
        let first = world.start(&SUBMIT);
        eventually("it is half-way", || world.count() >= 300);
        let child = first.child();
        if to_both {
            shell(&format!("kill -{signal} {child} {}", first.0.id()));
        } else {
            first.signal(signal);
        }
        let first = first.ended();
        assert_eq!(first.code, Some(1), "{signal}: {first:?}");
        assert!(first.err.contains("waiting for the jobs on their way"), "{signal}: {first:?}");
        assert!(!lives(child), "{signal}");
        goes_on_without_doubt(&world, 1000);
    }
}

/// Whether this process does, and so those that it starts.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 != 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_it_at_once() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 1000);
    world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, Fault::HangAfter);
    let first = world.start(&SUBMIT);
    eventually("no more can be on their way", || world.count() == 300 + ON_THEIR_WAY);
    let child = first.child();
    first.signal("TERM");
    first.signal("INT");
    let first = first.ended();
    assert!(first.code == Some(2) && first.err.contains("stopped at once"), "{first:?}");
    assert!(!lives(child));
    world.fake.heal();
    assert_eq!(doubts(&world.run(&SUBMIT).err), ON_THEIR_WAY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_nohup_the_end_of_the_terminal_changes_nothing() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 1000);
    world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, Fault::Late(Duration::from_millis(20)));
    let first = world.start_ignoring_hangup(&SUBMIT);
    eventually("it is half-way", || world.count() >= 300);
    first.signal("HUP");
    let first = first.ended();
    assert!(first.code == Some(0) && first.out.starts_with("sent 1000 jobs"), "{first:?}");
}

/// The promise: nobody but this process need live on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_the_process_alone_leaves_nothing_in_doubt() {
    for told_before in [false, true] {
        let world = World::new(false).await;
        let lines = lines();
        world.write_lines("jobs.jsonl", lines);
        world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, Fault::Late(Duration::from_millis(20)));
        let first = world.start(&SUBMIT);
        eventually("half of it is there", || world.count() >= lines / 2);
        // Who kills has often asked before.
        if told_before {
            first.signal("TERM");
        }
        let child = first.kill_parent();
        goes_on_without_doubt(&world, lines);
        eventually("no process is left behind", || !lives(child));
    }
}

/// What was on its way had all taken effect, and was answered after the kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_one_waits_for_what_the_killed_one_has_on_its_way() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 1000);
    world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, Fault::Late(Duration::from_millis(2500)));
    let first = world.start(&SUBMIT);
    eventually("no more can be on their way", || world.fake.calls().len() >= 30 + ON_THEIR_WAY / 10);
    let child = first.kill_parent();
    assert!(lives(child));
    world.fake.heal();
    let second = world.start(&SUBMIT).ended();
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.err.contains("has the journal: waiting up to 200 s"), "{second:?}");
    assert!(second.err.contains("460 of 1000 jobs were sent before"), "{second:?}");
    assert!(!second.err.contains("doubt") && !lives(child), "{second:?}");
    assert_eq!((world.ids().len(), world.count()), (1000, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_the_one_that_sends_is_said() {
    let world = World::new(true).await;
    world.write_lines("jobs.jsonl", 100);
    world.fake.outage(Fault::Hang);
    let first = world.start(&SUBMIT);
    eventually("it is at work", || !world.fake.calls().is_empty());
    shell(&format!("kill -KILL {}", child_of(first.0.id()).unwrap()));
    let first = first.ended();
    assert!(first.code == Some(137) && first.err.contains("killed by signal 9"), "{first:?}");
}

/// The same command sends the others, and those only.
fn goes_on_without_doubt(world: &World, lines: usize) -> Said {
    let second = world.run(&SUBMIT);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.err.contains(&format!(" of {lines} jobs were sent before")), "{second:?}");
    assert!(!second.err.contains("doubt") && !second.out.contains("twice"), "{second:?}");
    println!("{} {}; {} messages", second.err.trim(), second.out.trim(), world.count());
    assert_eq!((world.ids().len(), world.count()), (lines, lines));
    second
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_goes_away_stops_it_and_is_said() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 1000);
    let gone = Fault::Refuse(forebay::testing::fake_sqs::Refuse::NoQueue);
    world.fake.fault(Action::SendMessageBatch, 31..=u64::MAX, gone);
    let said = world.run(&SUBMIT);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.starts_with("sent 300 jobs in "), "{said:?}");
    assert!(said.err.contains("there is no such queue") && said.err.contains("the same command goes on"), "{said:?}");
    world.fake.heal();
    let said = world.run(&SUBMIT);
    assert!(said.code == Some(0) && !said.err.contains("doubt"), "{said:?}");
    assert_eq!((world.ids().len(), world.count()), (1000, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_line_of_the_journal_is_as_if_it_was_not_written() {
    let world = World::new(true).await;
    world.write_lines("jobs.jsonl", 50);
    assert_eq!(world.run(&SUBMIT).code, Some(0));
    let whole = fs::read_to_string(world.path(JOURNAL)).unwrap();
    let last = whole.trim_end().rfind('\n').unwrap();
    for cut in [last + 1, last + 4, whole.len() - 1] {
        world.write(JOURNAL, &whole[..cut]);
        let said = world.run(&SUBMIT);
        assert_eq!((said.code, doubts(&said.err)), (Some(0), 10), "{cut}: {said:?}");
        assert_eq!(world.count(), 50);
    }
    // Killed while it was made.
    world.write(JOURNAL, &whole[..20]);
    assert!(world.run(&SUBMIT).out.starts_with("sent 50 jobs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_of_one_input_one_queue_and_one_way_to_send() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 20);
    assert_eq!(world.run(&SUBMIT).code, Some(0));
    let refused = |more: &[&str], says: &str| {
        let said = world.run(&[&SUBMIT[..], more].concat());
        assert!(said.code == Some(2) && said.err.contains(says) && said.err.contains("--restart"), "{says}: {said:?}");
        assert!(said.err.contains(JOURNAL), "{said:?}");
    };
    refused(&["--queue", &world.url(&world.dead)], "is about the queue");
    refused(&["--endpoint", "http://127.0.0.1:1"], "is about the queue");
    refused(&["--prefix", "x"], "another --prefix");
    refused(&["--id-field", "n"], "another --prefix or --id-field");
    refused(&["--priority", "low"], "other labels or terms");
    world.write_lines("other.jsonl", 20);
    let said = world.run(&["submit", "--lines", "other.jsonl", "--journal", JOURNAL]);
    assert!(said.code == Some(2) && said.err.contains("is about `"), "{said:?}");
    writeln!(OpenOptions::new().append(true).open(world.path("jobs.jsonl")).unwrap(), "more").unwrap();
    refused(&[], "was changed");
    assert_eq!(world.count(), 20);
    let said = world.run(&[&SUBMIT[..], &["--restart"]].concat());
    assert!(said.code == Some(0) && said.out.starts_with("sent 21 jobs"), "{said:?}");
    assert_eq!(world.count(), 41);
    // Somebody's file is not taken for one.
    for text in ["mine\n", "mine"] {
        world.write("notes", text);
        for more in [&["--journal", "notes"][..], &["--journal", "notes", "--restart"]] {
            let said = world.run(&[&SUBMIT[..], more].concat());
            assert!(said.code == Some(2) && said.err.contains("the journal `notes`: it"), "{said:?}");
            assert_eq!(fs::read_to_string(world.path("notes")).unwrap(), text);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_do_not_work_with_one_journal() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 20);
    world.fake.outage(Fault::Hang);
    let first = world.start(&SUBMIT);
    eventually("it is at work", || world.fake.calls().len() == 2);
    let second = world.start(&SUBMIT);
    let child = || child_of(second.0.id());
    eventually("the second one has begun", || child().is_some_and(|child| has_open(child, &world.path(JOURNAL))));
    first.kill();
    world.fake.heal();
    let second = second.ended();
    assert!(second.code == Some(0) && second.out.starts_with("sent 20 jobs"), "{second:?}");
    assert_eq!(doubts(&second.err), 20, "what the first one had on its way: {second:?}");
    assert_eq!((world.ids().len(), world.count()), (20, 20));
}

fn has_open(process: u32, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd"));
    files.is_ok_and(|mut files| {
        files.any(|file| file.and_then(|file| fs::read_link(file.path())).is_ok_and(|at| at == path))
    })
}
