//! Letters on their way to a queue: in calls of up to ten and at most 1 MiB, each letter with an outcome of its own.
//!
//! What fails for now is tried again within a budget. A call without an answer may have taken effect all the same, and
//! that is remembered: who repeats it on a standard queue may have the letter there twice.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::batch::{Answer, MOST};
use super::broker::{Broker, Letter};
use super::fault::Unanswered;
use super::letter;
use crate::error::{Error, Fault, Result};

/// The largest message, and the largest call.
const LARGEST: usize = 1 << 20;
/// How often a letter is sent, and a call of an operator made, before it is given up.
const ATTEMPTS: u32 = 5;
/// The pause after the first attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of a job that was to be put on a queue.
#[derive(Clone, Debug)]
pub enum Pushed {
    /// It is there.
    Once,
    /// It is there, maybe twice: an earlier attempt had no answer, and a standard queue cannot tell repeats.
    MaybeTwice,
    /// It is not there, and never will be as it is: too large, or nothing that SQS takes.
    Refused(Error),
    /// It is not there: the queue took nothing.
    Failed(Error),
    /// Nobody knows whether it is there: no attempt had an answer that says so.
    Unclear(Error),
}

/// Sends letters; those that could not be written are passed over.
pub(super) async fn all(broker: &Broker, letters: Vec<Result<Letter>>) -> Vec<Pushed> {
    let mut all: Vec<Sending> = letters.into_iter().map(Sending::new).collect();
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS {
        for call in calls(&all) {
            let letters: Vec<&Letter> = call.iter().filter_map(|place| all[*place].letter.as_ref()).collect();
            match broker.send_all(&letters).await {
                Ok(answers) => {
                    for (place, answer) in call.into_iter().zip(answers) {
                        all[place].hear(answer, broker.is_fifo());
                    }
                }
                Err(why) => call.into_iter().for_each(|place| all[place].fail(why.clone())),
            }
        }
        if attempt == ATTEMPTS || all.iter().all(|sending| sending.over.is_some()) {
            break;
        }
        debug!(queue = broker.url(), attempt, ?pause, "not all messages could be sent");
        sleep(pause).await;
        pause *= 2;
    }
    all.into_iter().map(Sending::outcome).collect()
}

/// The places of what is still to be sent, in calls that SQS takes.
fn calls(all: &[Sending]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for (place, sending) in all.iter().enumerate().filter(|(_, sending)| sending.over.is_none()) {
        match calls.last_mut().filter(|call| call.len() < MOST && bytes + sending.bytes <= LARGEST) {
            Some(call) => call.push(place),
            None => {
                calls.push(vec![place]);
                bytes = 0;
            }
        }
        bytes += sending.bytes;
    }
    calls
}

/// A letter and what is known of it.
struct Sending {
    letter: Option<Letter>,
    bytes: usize,
    /// An attempt had no answer.
    unclear: bool,
    why: Option<Error>,
    over: Option<Pushed>,
}

impl Sending {
    fn new(letter: Result<Letter>) -> Self {
        let bytes = letter.as_ref().map_or(0, |letter| letter::size(&letter.body, &letter.attributes));
        let too_large = || {
            Error::invalid(format_args!(
                "the message has {bytes} bytes, and SQS takes {LARGEST}: name a bucket for what is too large \
                 (Sqs::objects, or `forebay submit --objects`)"
            ))
        };
        let (letter, over) = match letter {
            Ok(_) if bytes > LARGEST => (None, Some(Pushed::Refused(too_large()))),
            Ok(letter) => (Some(letter), None),
            Err(why) if why.fault() == Fault::Invalid => (None, Some(Pushed::Refused(why))),
            Err(why) => (None, Some(Pushed::Failed(why))),
        };
        Sending { letter, bytes, unclear: false, why: None, over }
    }

    fn hear(&mut self, answer: Answer, fifo: bool) {
        match answer {
            Answer::Done if self.unclear && !fifo => self.over = Some(Pushed::MaybeTwice),
            Answer::Done => self.over = Some(Pushed::Once),
            Answer::Refused(why) if why.is_senders() && !self.unclear => {
                let why = why.error("sending a message").with_fault(Fault::Invalid);
                self.over = Some(Pushed::Refused(why));
            }
            Answer::Refused(why) => {
                self.unclear |= why.is_unclear();
                self.why = Some(why.error("sending a message"));
            }
        }
    }

    fn fail(&mut self, why: Error) {
        self.unclear |= why.find::<Unanswered>().is_some();
        if why.fault() != Fault::Transient {
            self.over = Some(self.given_up(why));
        } else {
            self.why = Some(why);
        }
    }

    fn given_up(&self, why: Error) -> Pushed {
        if self.unclear { Pushed::Unclear(why) } else { Pushed::Failed(why) }
    }

    fn outcome(self) -> Pushed {
        let why = || self.why.clone().unwrap_or_else(|| Error::transient("it was not sent"));
        self.over.clone().unwrap_or_else(|| self.given_up(why()))
    }
}

/// Makes a call that changes nothing, or may be repeated, again while it fails for now.
pub(super) async fn patiently<T>(call: impl AsyncFn() -> Result<T>) -> Result<T> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(why) if why.fault() == Fault::Transient => debug!(error = %why, ?pause, "a call is made again"),
            done => return done,
        }
        sleep(pause).await;
        pause *= 2;
    }
    call().await
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::source::sqs::{Sqs, SqsJob, Terms};
    use crate::testing::fake_sqs::{Action, FakeSqs, Fault as Wrong, Refuse};

    const SENDS: Action = Action::SendMessageBatch;

    fn jobs(payloads: &[&str]) -> Vec<SqsJob> {
        let job = |(n, payload): (usize, &&str)| {
            let (id, payload) = (format!("job-{n}"), Bytes::from((*payload).to_owned()));
            SqsJob { id, payload, terms: Terms::default() }
        };
        payloads.iter().enumerate().map(job).collect()
    }

    async fn pushed(fake: &FakeSqs, url: &str, payloads: &[&str]) -> String {
        let queue = Sqs::from_client(fake.client_without_retries(), url).queue();
        let outcome = |pushed: Pushed| match pushed {
            Pushed::Once => "once",
            Pushed::MaybeTwice => "twice",
            Pushed::Refused(why) if why.fault() == Fault::Invalid => "refused",
            Pushed::Refused(_) => "refused, but not for ever",
            Pushed::Failed(_) => "failed",
            Pushed::Unclear(_) => "unclear",
        };
        let outcomes: Vec<&str> = queue.push_all(&jobs(payloads)).await.into_iter().map(outcome).collect();
        outcomes.join(" ")
    }

    fn fake(attributes: &[(&str, &str)]) -> (FakeSqs, String) {
        let fake = FakeSqs::new();
        let url = fake.create_queue("q", attributes).unwrap();
        (fake, url)
    }

    fn calls(fake: &FakeSqs) -> Vec<usize> {
        fake.calls().iter().map(|call| call.touched.len()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_go_in_calls_of_ten_and_a_mebibyte() {
        let (fake, url) = fake(&[]);
        assert_eq!(pushed(&fake, &url, &["x"; 23]).await, ["once"; 23].join(" "));
        assert_eq!(calls(&fake), [10, 10, 3]);
        let large = "x".repeat(400 << 10);
        let payloads = [large.as_str(), &large, &large, "y"];
        assert_eq!(pushed(&fake, &url, &payloads).await, ["once"; 4].join(" "));
        assert_eq!(calls(&fake)[3..], [2, 2]);
        assert_eq!(fake.messages("q").len(), 27);
    }

    #[tokio::test(start_paused = true)]
    async fn each_hears_of_its_own_outcome_and_only_what_failed_is_sent_again() {
        let (fake, url) = fake(&[("MaximumMessageSize", "1024")]);
        fake.fault(SENDS, 1..=1, Wrong::Entries(vec![2]));
        let (large, larger) = ("x".repeat(2048), "x".repeat(LARGEST));
        let payloads = ["a", &large, "b", &larger];
        assert_eq!(pushed(&fake, &url, &payloads).await, "once refused once refused");
        assert_eq!(calls(&fake), [2, 1], "the entry that failed is not in the first, and alone in the second");
        assert_eq!(fake.messages("q").len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_had_no_answer_is_told_from_what_was_refused() {
        let (fake, url) = fake(&[]);
        fake.fault(SENDS, 1..=1, Wrong::BreakAfter);
        assert_eq!(pushed(&fake, &url, &["a"]).await, "twice");
        assert_eq!(fake.messages("q").len(), 2);
        fake.fault(SENDS, 1..=4, Wrong::Refuse(Refuse::Throttled));
        assert_eq!(pushed(&fake, &url, &["b"]).await, "once");
        fake.outage(Wrong::Refuse(Refuse::Throttled));
        assert_eq!(pushed(&fake, &url, &["c"]).await, "failed");
        fake.outage(Wrong::Refuse(Refuse::AccessDenied));
        let before = fake.calls().len();
        assert_eq!(pushed(&fake, &url, &["d"]).await, "failed");
        assert_eq!(fake.calls().len(), before + 1, "and is not tried again");
        for silent in [Wrong::Hang, Wrong::Break, Wrong::Refuse(Refuse::Internal)] {
            fake.outage(silent.clone());
            let before = fake.calls().len();
            assert_eq!(pushed(&fake, &url, &["e"]).await, "unclear", "{silent:?}");
            assert_eq!(fake.calls().len(), before + ATTEMPTS as usize);
        }
        assert_eq!(fake.messages("q").len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifo_queue_drops_repeats() {
        let fake = FakeSqs::new();
        let url = fake.create_queue("q.fifo", &[("FifoQueue", "true")]).unwrap();
        fake.fault(SENDS, 1..=1, Wrong::BreakAfter);
        assert_eq!(pushed(&fake, &url, &["a", "b"]).await, "once once");
        assert_eq!(pushed(&fake, &url, &["a", "b"]).await, "once once");
        assert_eq!(fake.messages("q.fifo").len(), 2);
    }
}
