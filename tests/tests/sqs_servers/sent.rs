//! What can be sent, and when it is there.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;

use super::quirks::Quirks;
use super::support::{Queue, outcome};

pub async fn a_delay_keeps_a_message_back(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "delays").await;
    let later = sqs.send_message().queue_url(&queue.url).message_body("later").delay_seconds(2);
    later.send().await.unwrap();
    queue.send("now").await;
    assert_eq!(queue.bodies(0).await, ["now"]);
    let mut bodies = Vec::new();
    while !bodies.iter().any(|body| body == "later") {
        bodies = queue.bodies(5).await;
        assert!(!bodies.is_empty(), "the delayed message does not come");
    }
    let too_long = sqs.send_message().queue_url(&queue.url).message_body("x").delay_seconds(901);
    assert_eq!(outcome(too_long.send().await), quirks.long_delay);
}

pub async fn too_large_is_refused(sqs: Client, _: &'static Quirks) {
    let queue = Queue::with(&sqs, "sizes", &[(QueueAttributeName::MaximumMessageSize, "1048576")]).await;
    let send = async |bytes: usize| {
        let body = "x".repeat(bytes);
        outcome(sqs.send_message().queue_url(&queue.url).message_body(body).send().await)
    };
    assert_eq!(send(1024 * 1024).await, "ok");
    assert_eq!(send(1024 * 1024 + 1).await, "InvalidParameterValue");
}

pub async fn characters_that_cannot_be_are_refused(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "characters").await;
    let send = async |body: &str| {
        let sent = sqs.send_message().queue_url(&queue.url).message_body(body).send().await;
        (outcome(sent), queue.bodies(0).await)
    };
    let (control, wide) = ("a\u{1}b", "tab\t, line\nand \u{1f600}");
    for (body, expected) in [(control, quirks.control_character), (wide, quirks.wide_character)] {
        let (sent, received) = send(body).await;
        assert_eq!(sent, expected);
        assert_eq!(received, if sent == "ok" { vec![body] } else { Vec::new() });
    }
}
