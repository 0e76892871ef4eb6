//! What comes with a message: attributes of the sender and of SQS, and checksums over them.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    MessageAttributeValue, MessageSystemAttributeName as System, MessageSystemAttributeNameForSends as ForSends,
    MessageSystemAttributeValue,
};

use super::quirks::Quirks;
use super::support::{Queue, outcome, system};

/// MD5 of `hello`.
const BODY: &str = "5d41402abc4b2a76b9719d911017c592";
/// Of the three attributes below, as `md5sum` says of the bytes that the documentation describes.
const ATTRIBUTES: &str = "63403c59e3f56d5fdefd15a4a845927e";
/// Of one attribute, the string `é` with the name `a.text`.
const ONE: &str = "f631f8e30e4e1d64174bb3dd10578367";

fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

pub async fn come_back_with_their_checksums(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "attributes").await;
    let number = MessageAttributeValue::builder().data_type("Number.int").string_value("7").build().unwrap();
    let binary = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new([0, 255, 1])).build();
    let trace = MessageSystemAttributeValue::builder()
        .data_type("String")
        .string_value("Root=1-5759e988-bd862e3fe1be46a994272793");
    let sent = sqs
        .send_message()
        .queue_url(&queue.url)
        .message_body("hello")
        .message_attributes("b-number", number)
        .message_attributes("a-text", text("é"))
        .message_attributes("c-bytes", binary.unwrap())
        .message_system_attributes(ForSends::AwsTraceHeader, trace.build().unwrap());
    let sent = sent.send().await.unwrap();
    assert_eq!((sent.md5_of_message_body(), sent.md5_of_message_attributes()), (Some(BODY), Some(ATTRIBUTES)));
    let receive = sqs.receive_message().queue_url(&queue.url).message_attribute_names("All").wait_time_seconds(5);
    let message = receive.message_system_attribute_names(System::All).send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!((message.md5_of_body(), message.md5_of_message_attributes()), (Some(BODY), Some(ATTRIBUTES)));
    let attributes = message.message_attributes().unwrap();
    assert_eq!(attributes["a-text"].string_value(), Some("é"));
    assert_eq!(attributes["b-number"].data_type(), "Number.int");
    assert_eq!(attributes["c-bytes"].binary_value(), Some(&Blob::new([0, 255, 1])));
    for name in [System::SenderId, System::SentTimestamp, System::ApproximateFirstReceiveTimestamp] {
        assert!(system(&message, name.clone()).is_some(), "{name:?}");
    }
    assert_eq!(system(&message, System::AwsTraceHeader).is_some(), quirks.trace_header);
}

pub async fn only_those_asked_for_come_back(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "some-attributes").await;
    let send = sqs.send_message().queue_url(&queue.url).message_body("hello");
    send.message_attributes("a.text", text("é")).message_attributes("other", text("x")).send().await.unwrap();
    let receive = || sqs.receive_message().queue_url(&queue.url).visibility_timeout(0).wait_time_seconds(5);
    let none = receive().send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(none.message_attributes().is_some(), quirks.unasked_attributes);
    assert_eq!(none.attributes(), None);
    let one = receive().message_attribute_names("a.text").send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(one.message_attributes().unwrap().len(), 1);
    assert_eq!(one.md5_of_message_attributes() == Some(ONE), !quirks.checksum_of_all);
    let some = receive().message_attribute_names("a.*").send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(some.message_attributes().unwrap().keys().collect::<Vec<_>>(), ["a.text"]);
}

pub async fn must_have_a_value(sqs: Client, quirks: &'static Quirks) {
    let queue = Queue::new(&sqs, "empty-attributes").await;
    let send = |value| {
        let send = sqs.send_message().queue_url(&queue.url).message_body("hello");
        send.message_attributes("a", value).send()
    };
    assert_eq!(outcome(send(text("")).await), quirks.empty_attribute);
    let odd = MessageAttributeValue::builder().data_type("Odd").string_value("x").build().unwrap();
    assert_eq!(outcome(send(odd).await), quirks.odd_attribute);
}
