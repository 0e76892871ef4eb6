//! Where results go, with a worker over queues of SQS: the store, a queue for results, queues by name, a webhook.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use aws_sdk_sqs::Client;
use forebay::source::committed::{Committed, Records};
use forebay::source::sqs::Sqs;
use forebay::store::Memory;
use forebay::testing::fake_sqs::FakeSqs;
use forebay::{Error, Pipeline, Verdict, Worker};
use forebay_tests::{Hook, Server, sqs_client, start, within};
use serde_json::{Value, json};

const JOBS: usize = 20;

async fn create(client: &Client, name: &str) -> String {
    client.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap()
}

/// All that is on a queue of results, which is taken off it: documents by job, each told once.
async fn results(client: &Client, url: &str, count: usize) -> BTreeMap<String, Value> {
    let mut results = BTreeMap::new();
    let read = async {
        while results.len() < count {
            let asked = client.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(1);
            let received = asked.message_attribute_names("All").send().await.unwrap();
            for message in received.messages.unwrap_or_default() {
                let handle = message.receipt_handle.unwrap();
                client.delete_message().queue_url(url).receipt_handle(handle).send().await.unwrap();
                let document: Value = serde_json::from_str(&message.body.unwrap()).unwrap();
                let attributes = message.message_attributes.unwrap();
                let id = attributes["forebay.job"].string_value.clone().unwrap();
                assert_eq!(document["data"]["id"], id);
                assert!(results.insert(id, document).is_none(), "each once");
            }
        }
    };
    within("all results are on their queue", read).await;
    let more = client.receive_message().queue_url(url).wait_time_seconds(1).send().await.unwrap();
    assert!(more.messages.unwrap_or_default().is_empty(), "and no more");
    results
}

async fn results_go_everywhere(endpoint: &str) {
    let client = sqs_client(endpoint);
    let [jobs, all, special] =
        [create(&client, "jobs").await, create(&client, "all").await, create(&client, "special").await];
    let hook = Hook::refusing(1);
    let send = async |body: Value| {
        client.send_message().queue_url(&jobs).message_body(body.to_string()).send().await.unwrap();
    };
    for n in 0..JOBS {
        send(json!({ "forebay": 1, "id": format!("job-{n}"), "input": n, "webhook": hook.url() })).await;
    }
    send(json!({ "forebay": 1, "id": "special", "input": 50, "output": "special" })).await;
    send(json!({ "forebay": 1, "id": "unknown", "input": 60, "output": "http://elsewhere" })).await;
    send(json!({ "forebay": 1, "id": "bad", "input": 13 })).await;

    let runs: Arc<AtomicUsize> = Arc::default();
    let counted = runs.clone();
    let double = Pipeline::new().cpu("double", 2, move |_, n: u64| {
        counted.fetch_add(1, SeqCst);
        if n == 13 { Err(Error::invalid("thirteen is not doubled")) } else { Ok(2 * n) }
    });
    let store = Memory::new();
    let sqs = |url: &str| Sqs::from_client(client.clone(), url);
    let source = Committed::new(sqs(&jobs).wait(Duration::from_secs(1)).drop_rejected(), store.clone())
        .results_to(sqs(&all).queue().bare())
        .results_named("special", sqs(&special).queue().bare())
        .webhooks(Hook::sender());
    drop(start(Worker::new(double).source(source)));

    // Thirteen is among the jobs with a webhook too.
    let results_of_all = results(&client, &all, JOBS + 2).await;
    for n in (0..JOBS).filter(|n| *n != 13) {
        let document = &results_of_all[&format!("job-{n}")];
        assert_eq!((&document["type"], &document["data"]["result"]), (&json!("job.done"), &json!(2 * n)));
    }
    for id in ["bad", "job-13"] {
        let document = &results_of_all[id];
        assert_eq!(document["type"], "job.failed");
        assert!(document["data"]["error"]["detail"].as_str().unwrap().contains("thirteen"), "{document}");
    }
    let unknown = results_of_all["unknown"]["data"]["error"]["detail"].as_str().unwrap();
    assert!(unknown.contains("`http://elsewhere`, and this worker knows `special`"), "{unknown}");
    assert_eq!(results(&client, &special, 1).await["special"]["data"]["result"], 100);

    // One was refused, and is sent again after 5 s by whoever gets its message then.
    let told = async {
        while hook.told().len() < JOBS + 1 {
            // Between two looks.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("every webhook has arrived", told).await;
    let told = hook.told();
    let mut attempts = BTreeMap::<_, usize>::new();
    for (message, document) in &told {
        let id = document["data"]["id"].as_str().unwrap();
        assert_eq!((message.as_str(), document), (format!("msg_{id}").as_str(), &results_of_all[id]));
        *attempts.entry(id.to_owned()).or_default() += 1;
    }
    assert_eq!((told.len(), attempts.len()), (JOBS + 1, JOBS));
    assert_eq!(runs.load(SeqCst), JOBS + 2, "each is run once, and the unknown one never");
    let outcome = Records::new(store).outcome("job-7").await.unwrap();
    assert!(matches!(&outcome, Some(Verdict::Done(result)) if result == "14"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_go_to_queues_and_a_webhook_over_the_fake() {
    let served = FakeSqs::new().serve(0).await.unwrap();
    results_go_everywhere(&served.endpoint()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_go_to_queues_and_a_webhook_over_moto() {
    if let Some(server) = Server::start("moto") {
        results_go_everywhere(&server.endpoint()).await;
    }
}
