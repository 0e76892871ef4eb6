//! The same at servers that others wrote.

use std::collections::BTreeSet;

use aws_sdk_sqs::Client;
use forebay_tests::{Server, sqs_client};
use serde_json::Value;

use crate::{Said, forebay};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_moto() {
    if let Some(server) = Server::start("moto") {
        commands_work(&server.endpoint()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_fauxqs() {
    if let Some(server) = Server::start("fauxqs") {
        commands_work(&server.endpoint()).await;
    }
}

async fn create(client: &Client, name: &str, fifo: bool, dead: Option<&str>) -> String {
    let name = format!("{name}{}", if fifo { ".fifo" } else { "" });
    let mut create = client.create_queue().queue_name(name);
    if fifo {
        create = create.attributes("FifoQueue".into(), "true");
    }
    if let Some(dead) = dead {
        let asked = client.get_queue_attributes().queue_url(dead).attribute_names("QueueArn".into());
        let arn = asked.send().await.unwrap().attributes.unwrap()[&"QueueArn".into()].clone();
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"1000"}}"#);
        create = create.attributes("RedrivePolicy".into(), policy);
    }
    create.send().await.unwrap().queue_url.unwrap()
}

async fn commands_work(endpoint: &str) {
    let client = sqs_client(endpoint);
    let at = tempfile::tempdir().unwrap();
    let lines = |count| (1..=count).map(|n| format!("line {n}\n")).collect::<String>();
    std::fs::write(at.path().join("jobs"), lines(45)).unwrap();
    for fifo in [false, true] {
        let dead = create(&client, "dead", fifo, None).await;
        let jobs = create(&client, "jobs", fifo, Some(&dead)).await;
        let run = |queue: &str, arguments: &[&str]| {
            let mut command = forebay(at.path(), arguments);
            let command = command.env("FOREBAY_SQS_QUEUE", queue).env("FOREBAY_SQS_ENDPOINT", endpoint);
            let said = Said::from(command.output().unwrap());
            assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
            said
        };
        let status = || -> Value { serde_json::from_str(&run(&jobs, &["queue", "status", "--json"]).out).unwrap() };

        let journal = if fifo { "fifo.journal" } else { "standard.journal" };
        run(&jobs, &["submit", "--lines", "jobs", "--journal", journal]);
        let said = run(&jobs, &["submit", "--lines", "jobs", "--journal", journal]);
        assert_eq!(said.out, "all 45 jobs were sent already\n");
        let told = status();
        assert_eq!((&told["visible"], &told["fifo"]), (&45.into(), &fifo.into()), "{told}");

        // As if these had been rejected.
        run(&dead, &["submit", "--lines", "jobs", "--prefix", "dead-", "--journal", &format!("dead-{journal}")]);
        assert_eq!(status()["dead_letters"]["visible"], 45);
        for _ in 0..2 {
            let said = run(&jobs, &["dlq", "ls", "--max", "200"]);
            let ids: BTreeSet<&str> = said.out.lines().filter_map(|line| line.split('\t').next()).collect();
            assert_eq!((ids.len(), said.out.lines().count()), (45, 45));
        }
        run(&jobs, &["dlq", "redrive", "--id", "dead-jobs:5"]);
        assert_eq!(status()["dead_letters"]["visible"], 44);
        run(&jobs, &["dlq", "redrive"]);
        let told = status();
        assert_eq!((&told["visible"], &told["dead_letters"]["visible"]), (&90.into(), &0.into()), "{told}");

        run(&jobs, &["purge", "--yes"]);
        assert_eq!(status()["visible"], 0);
    }
}
