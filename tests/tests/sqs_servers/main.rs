//! One suite of checks of what SQS does, run on the fake, on moto and on fauxqs.
//!
//! What a server does otherwise than SQS is stated in its [`Quirks`]; in everything else they must agree. So the fake
//! is held against two implementations that others wrote, and what they get wrong is known by name. The suite runs on
//! the fake twice: within the process, where the clock is paused, and over its port.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attributes;
mod batches;
mod fifo;
mod leases;
mod queues;
mod quirks;
mod sent;
mod support;

use aws_sdk_sqs::Client;
use forebay::testing::fake_sqs::FakeSqs;
use forebay_tests::{Server, sqs_client};
use tokio::task::JoinSet;

use quirks::{FAUXQS, MOTO, Quirks, SQS};

#[tokio::test(start_paused = true)]
async fn the_fake_within_the_process() {
    all(&FakeSqs::new().client_without_retries(), &SQS).await;
}

#[tokio::test]
async fn the_fake_over_its_port() {
    let served = FakeSqs::new().serve(0).await.unwrap();
    all(&sqs_client(&served.endpoint()), &SQS).await;
}

#[tokio::test]
async fn moto() {
    if let Some(server) = Server::start("moto") {
        all(&sqs_client(&server.endpoint()), &MOTO).await;
    }
}

#[tokio::test]
async fn fauxqs() {
    if let Some(server) = Server::start("fauxqs") {
        all(&sqs_client(&server.endpoint()), &FAUXQS).await;
    }
}

/// So that processes can be killed on both sides of a queue.
#[tokio::test]
async fn fauxqs_keeps_its_queues_in_a_directory_when_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start_in("fauxqs", Some(directory.path())) else {
        return;
    };
    support::Queue::new(&sqs_client(&server.endpoint()), "kept").await.send("still here").await;
    server.kill();
    let server = Server::start_in("fauxqs", Some(directory.path())).unwrap();
    let queue = support::Queue::new(&sqs_client(&server.endpoint()), "kept").await;
    assert_eq!(queue.bodies(5).await, ["still here"]);
}

/// Every check, all at once: each has a queue of its own.
async fn all(sqs: &Client, quirks: &'static Quirks) {
    let mut checks = JoinSet::new();
    macro_rules! check {
        ($($check:path),* $(,)?) => { $(checks.spawn($check(sqs.clone(), quirks));)* };
    }
    check!(
        attributes::come_back_with_their_checksums,
        attributes::only_those_asked_for_come_back,
        attributes::must_have_a_value,
        batches::tell_the_outcome_of_each_entry,
        batches::are_refused_as_a_whole,
        fifo::a_group_is_locked_while_one_of_it_is_held,
        fifo::order_holds_after_a_timeout,
        fifo::the_same_is_sent_once,
        fifo::nothing_is_deleted_after_the_timeout,
        leases::a_poll_waits_and_wakes,
        leases::a_timeout_brings_a_message_back_with_a_new_handle,
        leases::a_change_counts_from_the_call,
        leases::no_more_than_twelve_hours,
        leases::no_change_after_the_timeout,
        leases::an_older_handle_changes_nothing,
        leases::an_older_handle_deletes_nothing,
        leases::what_is_deleted_does_not_come_back,
        leases::a_handle_that_never_was,
        queues::are_found_by_name,
        queues::count_their_messages,
        queues::are_purged,
        queues::send_on_what_was_received_too_often,
        sent::a_delay_keeps_a_message_back,
        sent::too_large_is_refused,
        sent::characters_that_cannot_be_are_refused,
    );
    // Every check comes to its end, so that one run tells all that a server does otherwise.
    let mut failed = 0;
    while let Some(checked) = checks.join_next().await {
        failed += usize::from(checked.is_err());
    }
    assert_eq!(failed, 0, "checks failed; what each expected stands above");
}
