//! Ends told on queues of SQS that keep its rules, in virtual time.

use super::*;
use crate::source::sqs::Sqs;
use crate::testing::fake_sqs::{Action, FakeSqs, Fault as Wrong, Refuse};

/// Two queues of SQS, for jobs and for results, and a worker with both.
struct Pair {
    fake: FakeSqs,
    client: aws_sdk_sqs::Client,
    jobs: String,
    results: String,
}

impl Pair {
    fn new(results: &str, kind: &[(&str, &str)]) -> Self {
        let fake = FakeSqs::new();
        let client = fake.client_without_retries();
        let jobs = fake.create_queue("jobs", &[]).unwrap();
        let results = fake.create_queue(results, kind).unwrap();
        Pair { fake, client, jobs, results }
    }

    fn source(&self, store: &store::Memory) -> Committed<Sqs> {
        let sqs = |url: &str| Sqs::from_client(self.client.clone(), url);
        let results = sqs(&self.results).queue().bare();
        let jobs = sqs(&self.jobs).lease(Duration::from_secs(60)).drop_rejected();
        Committed::new(jobs, store.clone()).results_to(results)
    }

    async fn send(&self, body: &str) {
        self.client.send_message().queue_url(&self.jobs).message_body(body).send().await.unwrap();
    }

    /// Works until the queue for jobs is empty: what was run.
    async fn work(&self, source: &mut Committed<Sqs>) -> Vec<String> {
        let mut runs = Vec::new();
        let end = Instant::now() + Duration::from_secs(3600);
        while !self.fake.messages("jobs").is_empty() {
            assert!(Instant::now() < end, "the queue is not empty within an hour");
            let taken = timeout(Duration::from_secs(60), source.receive(1)).await.map(Result::unwrap);
            for job in taken.unwrap_or_default() {
                job.receipt.settle(&verdict(&job)).await.unwrap();
                runs.push(job.id);
            }
        }
        runs
    }
}

#[tokio::test(start_paused = true)]
async fn results_are_put_on_a_queue_of_sqs_as_they_are() {
    for (name, kind) in [("results", &[][..]), ("results.fifo", &[("FifoQueue", "true")])] {
        let pair = Pair::new(name, kind);
        let store = store::Memory::new();
        pair.send(r#"{"forebay": 1, "id": "a/1", "text": "\uffff"}"#).await;
        pair.send(r#"{"forebay": 1, "id": "b", "text": "bad"}"#).await;
        pair.send(r#"{"forebay": 1, "id": "c", "text": "2", "output": "elsewhere"}"#).await;
        // For as long as the queue for results may not be sent to, jobs that are done wait on their own queue.
        pair.fake.fault(Action::SendMessage, 1..=4, Wrong::Refuse(Refuse::AccessDenied));
        let mut runs = pair.work(&mut pair.source(&store)).await;
        runs.sort();
        assert_eq!(runs, ["a/1", "b"]);
        let read = |body: &str| serde_json::from_str::<Value>(body).unwrap();
        let told: BTreeMap<String, Value> = pair
            .fake
            .messages(name)
            .iter()
            .map(|message| {
                let document = read(&message.body);
                (document["data"]["id"].as_str().unwrap().to_owned(), document)
            })
            .collect();
        assert_eq!(pair.fake.messages(name).len(), 3, "each once: {told:?}");
        assert_eq!((&told["a/1"]["type"], &told["a/1"]["data"]["base64"]), (&json!("job.done"), &json!("77+/")));
        assert_eq!(told["b"]["data"]["error"]["detail"], "no good");
        let unknown = told["c"]["data"]["error"]["detail"].as_str().unwrap();
        assert!(unknown.contains("`elsewhere`, and this worker knows none by name"), "{unknown}");

        let received = pair.client.receive_message().queue_url(&pair.results).max_number_of_messages(10);
        let received = received.message_attribute_names("All").send().await.unwrap().messages.unwrap();
        for message in received {
            let attributes = message.message_attributes.unwrap();
            let id = attributes["forebay.job"].string_value.as_deref().unwrap();
            assert_eq!(read(&message.body.unwrap())["data"]["id"], id);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_delete_was_lost_is_not_run_again_and_a_fifo_queue_keeps_one_result() {
    let pair = Pair::new("results.fifo", &[("FifoQueue", "true")]);
    let store = store::Memory::new();
    pair.send("1").await;
    pair.fake.fault(Action::DeleteMessageBatch, 2..=2, Wrong::Hang);
    let mut source = pair.source(&store);
    let job = source.receive(1).await.unwrap().remove(0);
    let result = verdict(&job);
    assert!(timeout(Duration::from_secs(60), job.receipt.settle(&result)).await.unwrap().is_err());
    drop(job);
    // The worker has gone; its lease runs out, and the next finds the end and tells it again.
    drop(source);
    assert_eq!(pair.work(&mut pair.source(&store)).await, [""; 0]);
    assert_eq!(pair.fake.messages("results.fifo").len(), 1);
    assert_eq!(pair.fake.calls().iter().filter(|call| call.action == Action::SendMessage).count(), 3);
}
