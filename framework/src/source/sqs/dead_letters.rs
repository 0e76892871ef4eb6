//! Dead letters as an operator sees them: looked at without being taken, or sent back to their queue.
//!
//! They are received like any message and hidden meanwhile, so that each is seen once; what was only looked at is given
//! back. A message that SQS has moved by itself has no reason beside it, and is shown all the same.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use bytes::Bytes;

use super::batch::{Answer, MOST};
use super::broker::{Broker, CALL_WITHIN, Change, Letter};
use super::envelope;
use super::send::{self, Pushed, patiently};
use crate::error::{Error, Fault, Result};

/// For how long a letter is hidden from others; what an operator who vanished held comes back after that.
const HOLD: Duration = Duration::from_secs(120);
/// How long the queue looks for letters: above 0, or it would not look everywhere.
const WAIT: Duration = Duration::from_secs(1);
/// Receives that bring only letters which were seen, before that counts as the end.
const LOOKS: usize = 100;
/// What the worker that rejected a job wrote beside it begins so.
const OURS: &str = "forebay.";

/// A job that was rejected, as it lies in the dead-letter queue.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The job's id.
    pub id: String,
    /// The letter's own id in the dead-letter queue.
    pub message_id: String,
    /// With which delivery the job was rejected. `None` if SQS moved it, not a worker; so for the next two.
    pub attempts: Option<u32>,
    /// Whose fault it was: `invalid` or `failed`.
    pub reason: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// When it was sent there. Of a message that SQS moved, when it was sent at first.
    pub sent: SystemTime,
    message: Message,
}

/// The dead letters of a queue, each of them once. Made by [`SqsAdmin::dead_letters`](super::SqsAdmin::dead_letters).
///
/// Of a group of a FIFO queue only the first ten are seen until these are sent back.
pub struct DeadLetterBox {
    queue: Broker,
    graves: Broker,
    seen: HashSet<String>,
    /// The receipts of what is hidden for us, by the letter's id.
    held: BTreeMap<String, String>,
}

impl DeadLetterBox {
    pub(super) fn new(queue: Broker, graves: Broker) -> Self {
        DeadLetterBox { queue, graves, seen: HashSet::new(), held: BTreeMap::new() }
    }

    /// The URL of the dead-letter queue.
    pub fn url(&self) -> &str {
        self.graves.url()
    }

    /// Up to ten more; none at the end. They are hidden from others for two minutes, or until
    /// [`close`](DeadLetterBox::close).
    ///
    /// # Errors
    /// If the dead-letter queue cannot be read.
    pub async fn next(&mut self) -> Result<Vec<DeadLetter>> {
        for _ in 0..LOOKS {
            let received = patiently(async || self.graves.receive(MOST, WAIT, HOLD).await).await?;
            let is_end = received.is_empty();
            let letters: Vec<_> = received.into_iter().filter_map(|message| self.take(message)).collect();
            // Of those that were seen, some may have become visible again.
            if is_end || !letters.is_empty() {
                return Ok(letters);
            }
        }
        Ok(Vec::new())
    }

    /// A letter that was not seen yet.
    fn take(&mut self, message: Message) -> Option<DeadLetter> {
        let (id, handle) = (message.message_id.clone()?, message.receipt_handle.clone()?);
        self.held.insert(id.clone(), handle);
        self.seen.insert(id).then(|| DeadLetter::of(message))
    }

    /// Sends letters back to the queue, without what was written beside them, and then deletes them here: of each, in
    /// order, whether it was done. Killed in between, it leaves some in both queues.
    ///
    /// An error says whether a letter is still here, on the queue, or on both.
    pub async fn redrive(&mut self, letters: Vec<DeadLetter>) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(letters.len());
        for some in letters.chunks(MOST) {
            outcomes.extend(self.redrive_some(some).await);
        }
        outcomes
    }

    async fn redrive_some(&mut self, letters: &[DeadLetter]) -> Vec<Result<()>> {
        let again: Vec<_> = letters.iter().map(|letter| Ok(letter.again(self.queue.is_fifo()))).collect();
        let sent = send::all(&self.queue, again).await;
        let is_sent = |pushed: &Pushed| matches!(pushed, Pushed::Once | Pushed::MaybeTwice);
        let places = sent.iter().zip(letters).filter(|(pushed, _)| is_sent(pushed));
        let ids: Vec<&String> = places.map(|(_, letter)| &letter.message_id).collect();
        let mut deleted = self.delete(&ids).await.into_iter();
        let outcome = |pushed| match pushed {
            Pushed::Once | Pushed::MaybeTwice => deleted.next().unwrap_or_else(|| Err(both(not_held()))),
            Pushed::Refused(why) | Pushed::Failed(why) => Err(why.context("it is still in the dead-letter queue")),
            Pushed::Unclear(why) => {
                Err(why.context("it is still in the dead-letter queue, and may be on the queue too"))
            }
        };
        sent.into_iter().map(outcome).collect()
    }

    /// Takes letters off the dead-letter queue.
    async fn delete(&mut self, ids: &[&String]) -> Vec<Result<()>> {
        // Without a receipt it cannot be deleted; the queue says so of this one.
        let handles: Vec<String> = ids.iter().map(|id| self.held.remove(*id).unwrap_or_default()).collect();
        if handles.is_empty() {
            return Vec::new();
        }
        let answers = patiently(async || self.graves.delete(handles.clone(), CALL_WITHIN).await).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => return handles.iter().map(|_| Err(both(why.clone()))).collect(),
        };
        let mut outcomes = Vec::new();
        for (handle, answer) in handles.iter().zip(answers) {
            outcomes.push(match is_deleted(answer) {
                Ok(true) => Ok(()),
                // Refused for now, and tried again alone.
                Ok(false) => patiently(async || self.delete_one(handle).await).await.map_err(both),
                Err(why) => Err(both(why)),
            });
        }
        outcomes
    }

    async fn delete_one(&self, handle: &str) -> Result<()> {
        for answer in self.graves.delete(vec![handle.to_owned()], CALL_WITHIN).await? {
            if !is_deleted(answer)? {
                return Err(Error::transient("deleting a dead letter: the queue refused it for now"));
            }
        }
        Ok(())
    }

    /// Gives back what is still held, so that others see it at once.
    ///
    /// # Errors
    /// If that cannot be told; then others see it when two minutes are over.
    pub async fn close(self) -> Result<()> {
        let handles: Vec<String> = self.held.into_values().collect();
        for some in handles.chunks(MOST) {
            let changes = || some.iter().map(|handle| Change { handle: handle.clone(), seconds: 0 }).collect();
            patiently(async || self.graves.change(changes(), CALL_WITHIN).await).await?;
        }
        Ok(())
    }
}

fn not_held() -> Error {
    Error::transient("the queue did not say whether it was deleted")
}

fn both(why: Error) -> Error {
    why.context("it is on the queue again, and may still be in the dead-letter queue too")
}

/// Whether it was; an error if it never will be, since it is not held any more.
fn is_deleted(answer: Answer) -> Result<bool> {
    match answer {
        Answer::Done => Ok(true),
        Answer::Refused(why) if why.is_lost() => Err(why.error("deleting a dead letter").with_fault(Fault::Invalid)),
        Answer::Refused(_) => Ok(false),
    }
}

impl DeadLetter {
    fn of(message: Message) -> Self {
        let text = |name: &str| {
            let attributes = message.message_attributes.as_ref()?;
            attributes.get(&format!("{OURS}{name}"))?.string_value.clone()
        };
        let body = Bytes::from(message.body.clone().unwrap_or_default());
        let message_id = message.message_id.clone().unwrap_or_default();
        // As its sender wrote it; what stands beside it may be cut short.
        let own = envelope::open(&body).ok().and_then(|opened| opened.id).filter(|id| !id.is_empty());
        let system = message.attributes.as_ref().and_then(|all| all.get(&MessageSystemAttributeName::SentTimestamp));
        let millis = system.and_then(|text| text.parse().ok()).unwrap_or_default();
        DeadLetter {
            id: own.or_else(|| text("job")).unwrap_or_else(|| message_id.clone()),
            attempts: text("attempts").and_then(|number| number.parse().ok()),
            reason: text("reason"),
            error: text("error"),
            sent: SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            message_id,
            message,
        }
    }

    /// The message as it was before it was rejected.
    fn again(&self, fifo: bool) -> Letter {
        let mut attributes = self.message.message_attributes.clone().unwrap_or_default();
        attributes.retain(|name, _| !name.starts_with(OURS));
        let group = || {
            let system = self.message.attributes.as_ref()?;
            system.get(&MessageSystemAttributeName::MessageGroupId).cloned()
        };
        // Under the id that it was sent with at first, it would be dropped within five minutes of that.
        let once = format!("redrive-{}", self.message_id);
        let fifo = fifo.then(|| (group().unwrap_or_else(|| self.message_id.clone()), once));
        Letter { body: self.message.body.clone().unwrap_or_default(), attributes, fifo }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use super::*;
    use crate::source::sqs::Sqs;
    use crate::testing::fake_sqs::FakeSqs;

    /// A queue without jobs, and its dead letters.
    async fn dead(letters: usize) -> (FakeSqs, DeadLetterBox) {
        let fake = FakeSqs::new();
        let (url, dead) = (fake.create_queue("jobs", &[]).unwrap(), fake.create_queue("dead", &[]).unwrap());
        let client = fake.client_without_retries();
        for number in 0..letters {
            client.send_message().queue_url(&dead).message_body(number.to_string()).send().await.unwrap();
        }
        let graves = Sqs::from_client(client, url).dead_letters(dead).admin().dead_letters().await.unwrap();
        (fake, graves)
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_letters_is_sent_back_and_deleted() {
        let (fake, mut graves) = dead(23).await;
        let mut all = Vec::new();
        while all.len() < 23 {
            all.extend(graves.next().await.unwrap());
        }
        let outcomes = graves.redrive(all).await;
        assert!(outcomes.len() == 23 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!((fake.messages("jobs").len(), fake.messages("dead").len()), (23, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn letters_that_have_become_visible_again_are_not_the_end() {
        let (_fake, mut graves) = dead(30).await;
        assert_eq!(graves.next().await.unwrap().len(), 10);
        tokio::time::sleep(HOLD * 2).await;
        let mut seen = 10;
        while seen < 30 {
            let some = graves.next().await.unwrap();
            assert!(!some.is_empty(), "only {seen} of 30 were seen");
            seen += some.len();
        }
        assert_eq!(graves.next().await.unwrap().len(), 0);
    }
}
