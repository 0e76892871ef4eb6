//! What `forebay submit` puts on the queue, and what it says where it cannot.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use forebay::testing::fake_sqs::{Action, Fault, Refuse};

use crate::{Said, World, forebay};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_job() {
    let world = World::new(false).await;
    world.write("in/a.bin", b"\x00\xff");
    let said = world.run(&["submit", "in/a.bin"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("sent 1 job in "), "{said:?}");
    let envelopes = world.envelopes();
    assert_eq!(envelopes.len(), 1);
    assert_eq!(envelopes[0].to_string(), r#"{"base64":"AP8=","forebay":1,"id":"a.bin"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_of_a_folder_is_a_job_but_for_hidden_ones() {
    let world = World::new(false).await;
    for name in ["in/b.txt", "in/a/2.txt", "in/a/1.txt", "in/.hidden", "in/.git/x", "in/old.forebay-journal"] {
        world.write(name, name);
    }
    let said = world.run(&["submit", "in", "--prefix", "p/", "--priority", "high", "--label", "k=v=w", "--route", "r"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let ids: Vec<String> = world.ids().into_keys().collect();
    assert_eq!(ids, ["p/a/1.txt", "p/a/2.txt", "p/b.txt"]);
    let envelope = &world.envelopes()[0];
    assert_eq!(envelope["text"], "in/a/1.txt");
    assert_eq!((envelope["priority"].as_str(), envelope["route"].as_str()), (Some("high"), Some("r")));
    assert_eq!(envelope["labels"]["k"], "v=w");
    assert!(world.path("in.forebay-journal").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_a_job_in_calls_of_ten() {
    let world = World::new(false).await;
    world.write("jobs.jsonl", "one\n\n  \ntwo\r\nthree");
    let options = ["--output", "o", "--webhook", "http://w", "--deadline", "2999-01-01T00:00:00Z"];
    let said =
        world.run(&[&["submit", "--lines", "jobs.jsonl", "--content-type", "text/plain"], &options[..]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let envelopes = world.envelopes();
    let jobs: Vec<_> = envelopes.iter().map(|e| (e["id"].as_str().unwrap(), e["text"].as_str().unwrap())).collect();
    assert_eq!(jobs, [("jobs.jsonl:1", "one"), ("jobs.jsonl:4", "two"), ("jobs.jsonl:5", "three")]);
    let last = &envelopes[2];
    assert_eq!((last["output"].as_str(), last["webhook"].as_str()), (Some("o"), Some("http://w")));
    assert_eq!(
        (last["deadline"].as_str(), last["content_type"].as_str()),
        (Some("2999-01-01T00:00:00Z"), Some("text/plain"))
    );
    world.write_lines("more.jsonl", 95);
    assert_eq!(world.run(&["submit", "--lines", "more.jsonl"]).code, Some(0));
    let sends = world.fake.calls().into_iter().filter(|call| call.action == Action::SendMessageBatch);
    let sizes: Vec<usize> = sends.map(|call| call.touched.len()).collect();
    assert_eq!((sizes[0], sizes[1..].iter().sum::<usize>(), sizes.len()), (3, 95, 11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_those_of_a_field() {
    let world = World::new(true).await;
    world.write("jobs.jsonl", "{\"name\": \"x\"}\n{\"name\": 7}\n");
    let said = world.run(&["submit", "--lines", "jobs.jsonl", "--id-field", "name", "--prefix", "run-"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), ["run-7", "run-x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_is_read_to_its_end_and_wants_names() {
    let world = World::new(false).await;
    let said = world.run(&["submit", "--lines", "-"]);
    assert!(said.code == Some(2) && said.err.contains("--prefix or --id-field"), "{said:?}");
    let mut command = world.command(&["submit", "--lines", "-", "--prefix", "p-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("without --journal nothing is remembered"), "{said:?}");
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), ["p-stdin:1", "p-stdin:2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_are_named_and_nothing_is_sent() {
    let world = World::new(false).await;
    world.write("jobs.jsonl", "{\"id\": \"a\"}\nnot json\n{\"id\": \"a\"}\n{}\n{\"id\": []}\n{\"id\": \"\"}\n{}\n");
    let said = world.run(&["submit", "--lines", "jobs.jsonl", "--id-field", "id"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    for says in [
        "jobs.jsonl:2: it is not JSON",
        "jobs.jsonl:3: line 1 has the id `a` too",
        "jobs.jsonl:4: it has no field `id`",
        "jobs.jsonl:5: its field `id` should be",
        "and 1 more",
    ] {
        assert!(said.err.contains(says), "{says}: {said:?}");
    }
    assert!(world.fake.calls().is_empty());
    assert!(!world.path("jobs.jsonl.forebay-journal").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_goes_to_a_bucket_or_is_named_while_the_others_are_sent() {
    let world = World::new(false).await;
    let large = "x".repeat((1 << 20) + 1);
    world.write("jobs.jsonl", format!("a\n{large}\nb\n"));
    let said = world.run(&["submit", "--lines", "jobs.jsonl"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("jobs.jsonl:2: the message has"), "{said:?}");
    assert!(said.err.contains("--objects") && said.err.contains("1 job of 3 could not be sent"), "{said:?}");
    assert_eq!(world.count(), 2);
    // Only that one is sent now.
    let said = world.run(&["submit", "--lines", "jobs.jsonl", "--objects", "bucket=objects"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let bodies: Vec<String> = world.fake.messages("jobs").into_iter().map(|message| message.body).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies[2].contains("PayloadS3Pointer") && bodies[2].contains("\"bucket\""), "{}", bodies[2]);
    let said = world.run(&["submit", "--lines", "jobs.jsonl", "--objects", "bucket"]);
    assert!(said.code == Some(2) && said.err.contains("BUCKET=FOLDER"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_are_cut_into_calls_that_sqs_takes() {
    let world = World::new(false).await;
    for n in 0..10 {
        world.write(&format!("in/{n}"), "y".repeat(250 << 10));
    }
    let said = world.run(&["submit", "in"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.count(), 10);
    let refused = world.fake.calls().into_iter().filter(|call| call.touched.is_empty()).count();
    assert_eq!(refused, 0, "no call was too large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_fail_are_sent_again_and_the_others_are_not() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 100);
    world.fake.fault(Action::SendMessageBatch, 2..=2, Fault::Entries(vec![0, 3]));
    world.fake.fault(Action::SendMessageBatch, 4..=4, Fault::Refuse(Refuse::Throttled));
    let said = world.run(&["submit", "--lines", "jobs.jsonl"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.out.contains("twice"), "{said:?}");
    assert!(world.ids().into_values().all(|times| times == 1));
    assert_eq!(world.count(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_may_make_repeats_on_a_standard_queue_and_they_are_counted() {
    for (fifo, repeats) in [(false, 10), (true, 0)] {
        let world = World::new(fifo).await;
        world.write_lines("jobs.jsonl", 100);
        world.fake.fault(Action::SendMessageBatch, 3..=3, Fault::BreakAfter);
        let said = world.run(&["submit", "--lines", "jobs.jsonl"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out.contains("10 jobs may be on the queue twice"), repeats > 0, "{said:?}");
        assert_eq!(world.count(), 100 + repeats);
        assert_eq!(world.ids().len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_queue_is_said_and_leaves_no_journal() {
    let world = World::new(false).await;
    world.write_lines("jobs.jsonl", 30);
    let missing = world.url("missing");
    let cases = [
        ("FOREBAY_SQS_QUEUE", missing.as_str(), "there is no such queue"),
        ("FOREBAY_SQS_QUEUE", "jobs", "is not the URL of a queue"),
        ("FOREBAY_SQS_ENDPOINT", "http://127.0.0.1:9", "cannot be reached"),
        ("FOREBAY_SQS_REGION", "", "no AWS region"),
        ("AWS_ACCESS_KEY_ID", "", "no AWS credentials"),
    ];
    for (key, value, says) in cases {
        let mut command = world.command(&["submit", "--lines", "jobs.jsonl"]);
        let said = Said::from(command.env(key, value).output().unwrap());
        assert!(said.code == Some(2) && said.err.contains(says), "{key}={value}: {said:?}");
        assert!(!world.path("jobs.jsonl.forebay-journal").exists(), "{key}={value}");
    }
    let refused = [(Refuse::AccessDenied, "no permission"), (Refuse::ExpiredToken, "have expired")];
    for (refuse, says) in refused {
        world.fake.outage(Fault::Refuse(refuse));
        let said = world.run(&["submit", "--lines", "jobs.jsonl"]);
        assert!(said.code == Some(2) && said.err.contains(says), "{said:?}");
    }
    world.fake.heal();
    assert_eq!(world.run(&["submit", "--lines", "jobs.jsonl"]).code, Some(0));
    assert_eq!(world.count(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_input_is_said() {
    let world = World::new(false).await;
    world.write("empty.jsonl", "\n\n");
    fs::create_dir(world.path("empty")).unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["submit", "missing"], "opening `missing`"),
        (&["submit", "--lines", "missing"], "opening `missing`"),
        (&["submit", "empty"], "there are no files in"),
        (&["submit", "--lines", "empty.jsonl"], "there are no lines in"),
        (&["submit", "--lines", "empty.jsonl", "--label", "k"], "NAME=TEXT"),
    ];
    for (arguments, says) in cases {
        let said = world.run(arguments);
        assert!(said.code == Some(2) && said.err.contains(says), "{arguments:?}: {said:?}");
    }
    let said = Said::from(forebay(world.at.path(), &["submit", "empty"]).output().unwrap());
    assert!(said.code == Some(2) && said.err.contains("--queue"), "{said:?}");
}
