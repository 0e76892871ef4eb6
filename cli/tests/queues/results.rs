//! `forebay results`.

use std::fs;
use std::sync::atomic::Ordering;

use forebay_tests::eventually;
use serde_json::{Value, json};

use crate::World;
use crate::dead::Judge;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_said_and_written_and_only_all_done_is_0() {
    let world = World::new(false).await;
    fs::create_dir(world.path("results")).unwrap();
    world.write("in/a/good", "GOOD");
    let said = world.run(&["submit", "in"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let results = ["results", "--results", "results"];
    let ask = |more: &[&str]| world.run(&[&results[..], more].concat());
    let said = ask(&["--journal", "in.forebay-journal"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), "not yet\ta/good\n"), "{said:?}");
    assert_eq!(said.err, "0 done, 0 failed, 1 not yet\n");

    let judge = Judge::start(&world);
    judge.good.store(true, Ordering::SeqCst);
    let done = || ask(&["--id", "a/good"]).code == Some(0);
    eventually("it is done", done);
    judge.good.store(false, Ordering::SeqCst);
    world.write("bad", "BAD");
    assert_eq!(world.run(&["submit", "bad"]).code, Some(0));
    eventually("it is rejected", || ask(&["--id", "bad"]).out.starts_with("failed\tbad\t"));

    let said = ask(&["--id", "a/good", "--id", "bad", "--id", "other", "--json", "--out", "out"]);
    assert_eq!((said.code, said.err.as_str()), (Some(1), "1 done, 1 failed, 1 not yet\n"), "{said:?}");
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "id": "a/good", "state": "done", "bytes": 4 }));
    assert!(lines[1]["state"] == "failed" && lines[1]["error"].as_str().unwrap().contains("no good"), "{}", lines[1]);
    assert_eq!(lines[2], json!({ "id": "other", "state": "not yet" }));
    assert_eq!(fs::read(world.path("out/a/good")).unwrap(), b"GOOD");
    assert_eq!(fs::read_dir(world.path("out")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(world.path("out/a")).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said() {
    let world = World::new(false).await;
    world.write("notes", "mine\n");
    fs::create_dir(world.path("results")).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["results", "--results", "nowhere", "--id", "a"], "there is no folder `nowhere`"),
        (&["results", "--results", "results"], "--id <ID>"),
        (&["results", "--results", "results", "--journal", "nowhere"], "the journal `nowhere`"),
        (&["results", "--results", "results", "--journal", "notes"], "it is no journal"),
    ];
    for (arguments, says) in cases {
        let said = world.run(arguments);
        assert!(said.code == Some(2) && said.err.contains(says), "{arguments:?}: {said:?}");
    }
}
