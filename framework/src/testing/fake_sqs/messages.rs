//! The actions that concern messages, one by one and in batches.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::calls::Touched;
use super::message::{Message, hex};
use super::queue::{Handle, Queue, Take};
use super::refusal::Refusal;
use super::request::{Batch, Change, Delete, Entry, ReceiveMessage, Send};
use super::settings::{self, LARGEST, LONGEST_DELAY, LONGEST_HIDDEN, LONGEST_POLL};
use super::state::{State, name_of};

/// Messages, or entries of a batch, at most.
const BATCH: usize = 10;

const NOT_OF_THIS_TYPE: &str = "The request include parameter that is not valid for this queue type";

/// What an action notes down of the messages that it touches.
pub(super) type Trace = Vec<Touched>;

impl State {
    pub(super) fn send(&mut self, url: &str, send: &Send, now: Instant, trace: &mut Trace) -> Result<Value, Refusal> {
        let sent = self.put(url, send, now);
        note(trace, sent.as_ref().ok().and_then(|sent| sent["MessageId"].as_str()), None, sent.as_ref().err());
        Ok(sent?.into())
    }

    pub(super) fn send_batch(&mut self, asked: &Batch<Send>, now: Instant, trace: &mut Trace) -> Answer {
        self.queue(&asked.queue_url, now)?;
        let size = |send: &Send| Message::of(send, String::new(), now, 0).map_or(0, |message| message.size());
        let total: usize = asked.entries.iter().map(size).sum();
        if total > LARGEST {
            return Err(Refusal::batch_too_long(LARGEST, total));
        }
        batch(&asked.entries, trace, |send, trace| self.send(&asked.queue_url, send, now, trace))
    }

    fn put(&mut self, url: &str, send: &Send, now: Instant) -> Result<Map<String, Value>, Refusal> {
        let now_ms = self.millis(now);
        let number = self.messages + 1;
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", now_ms & 0xffff_ffff);
        let mut message = Message::of(send, id, now, now_ms)?;
        let queue = self.queue(url, now)?;
        if message.size() > queue.settings.largest {
            return Err(Refusal::too_long(queue.settings.largest));
        }
        let delay = delay(send, queue)?;
        if let Some(dedup) = message.dedup.as_ref().filter(|_| !queue.settings.fifo) {
            return Err(Refusal::parameter("MessageDeduplicationId", dedup, NOT_OF_THIS_TYPE));
        }
        if queue.settings.fifo {
            let key = prepare(&mut message, queue, number)?;
            if let Some((id, sequence)) = queue.sent.get(&key, now) {
                (message.id, message.sequence) = (id, sequence);
                return Ok(message.sent_answer());
            }
            queue.sent.put(key, now, (message.id.clone(), message.sequence.clone()));
        }
        let answer = message.sent_answer();
        queue.add(now, number, message, delay);
        self.messages = number;
        Ok(answer)
    }

    /// How long a receive waits at most, if it is one that can be.
    pub(super) fn wait(&mut self, asked: &ReceiveMessage, now: Instant) -> Result<Duration, Refusal> {
        let queue = self.queue(&asked.queue_url, now)?;
        let in_range = |name: &str, value: Option<i64>, least: i64, most: u64, how: &str| {
            let wrong = value.filter(|value| !(least..=most as i64).contains(value));
            wrong.map_or(Ok(()), |wrong| Err(Refusal::parameter(name, wrong, how)))
        };
        in_range(
            "MaxNumberOfMessages",
            asked.max_number_of_messages,
            1,
            BATCH as u64,
            "Must be between 1 and 10, if provided",
        )?;
        in_range(
            "VisibilityTimeout",
            asked.visibility_timeout,
            0,
            LONGEST_HIDDEN,
            "Must be between 0 and 43200, if provided",
        )?;
        in_range("WaitTimeSeconds", asked.wait_time_seconds, 0, LONGEST_POLL, "Must be >= 0 and <= 20, if provided")?;
        if let Some(attempt) = asked.receive_request_attempt_id.as_ref().filter(|_| !queue.settings.fifo) {
            return Err(Refusal::parameter("ReceiveRequestAttemptId", attempt, NOT_OF_THIS_TYPE));
        }
        let seconds = asked.wait_time_seconds.map_or(queue.settings.wait, |seconds| seconds as u64);
        Ok(Duration::from_secs(seconds))
    }

    /// What a receive gets now; and whether messages went to a dead-letter queue.
    pub(super) fn receive(
        &mut self,
        asked: &ReceiveMessage,
        now: Instant,
        trace: &mut Trace,
    ) -> Result<(Vec<Value>, bool), Refusal> {
        let now_ms = self.millis(now);
        let name = name_of(&asked.queue_url);
        let mut receives = self.receives;
        let dead_letters = self.dead_letters(name);
        let queue = self.queue(&asked.queue_url, now)?;
        let seconds = asked.visibility_timeout.map_or(queue.settings.visibility, |seconds| seconds as u64);
        let hide = Duration::from_secs(seconds);
        let attempt = asked.receive_request_attempt_id.as_ref();
        let known = attempt.and_then(|attempt| queue.attempts.get(attempt, now));
        let known = known.and_then(|handles| queue.again(now, &handles, hide));
        let (handles, dead) = match known {
            Some(handles) => (handles, Vec::new()),
            None => {
                let max = asked.max_number_of_messages.map_or(1, |max| max as usize);
                let most = dead_letters.as_ref().map_or(u32::MAX, |(_, most)| *most);
                let take = Take { now, now_ms, max, hide, receives: most };
                let received = queue.receive(&take, &mut receives)?;
                (received.messages, received.dead)
            }
        };
        if let Some(attempt) = attempt.filter(|_| !handles.is_empty()) {
            let numbers = handles.iter().map(|handle| (handle.message, handle.receive)).collect();
            queue.attempts.put(attempt.clone(), now, numbers);
        }
        let mut deliveries = Vec::new();
        for handle in handles {
            let Some(message) = queue.message(handle.message) else {
                continue;
            };
            note(trace, Some(&message.id), Some(seconds), None);
            deliveries.push(message.delivery(&text_of(handle, name), asked));
        }
        self.receives = receives;
        let moved = !dead.is_empty();
        if let Some((to, _)) = dead_letters {
            self.bury(dead, name, &to, now);
        }
        Ok((deliveries, moved))
    }

    /// Where messages go that were received too often, and how often that is.
    fn dead_letters(&self, queue: &str) -> Option<(String, u32)> {
        let redrive = self.queues.get(queue)?.settings.redrive.as_ref()?;
        // Without its dead-letter queue, a queue delivers on.
        self.queues.contains_key(redrive.queue()).then(|| (redrive.queue().to_owned(), redrive.receives))
    }

    fn bury(&mut self, dead: Vec<Message>, from: &str, to: &str, now: Instant) {
        let Some(queue) = self.queues.get_mut(to) else {
            return;
        };
        for mut message in dead {
            self.messages += 1;
            message.source = Some(settings::arn(from));
            queue.add(now, self.messages, message, Duration::ZERO);
        }
    }

    pub(super) fn delete_message(&mut self, url: &str, delete: &Delete, now: Instant, trace: &mut Trace) -> Answer {
        let text = &delete.receipt_handle;
        let queue = self.queue(url, now)?;
        let handle = handle(text, url);
        let id =
            handle.as_ref().ok().and_then(|handle| queue.message(handle.message)).map(|message| message.id.clone());
        let deleted = handle.and_then(|handle| queue.delete(handle, text));
        note(trace, Some(id.as_ref().unwrap_or(text)), None, deleted.as_ref().err());
        deleted.map(|()| json!({}))
    }

    pub(super) fn delete_batch(&mut self, asked: &Batch<Delete>, now: Instant, trace: &mut Trace) -> Answer {
        self.queue(&asked.queue_url, now)?;
        batch(&asked.entries, trace, |delete, trace| self.delete_message(&asked.queue_url, delete, now, trace))
    }

    pub(super) fn change(&mut self, url: &str, change: &Change, now: Instant, trace: &mut Trace) -> Answer {
        let text = &change.receipt_handle;
        let queue = self.queue(url, now)?;
        let handle = handle(text, url);
        let id =
            handle.as_ref().ok().and_then(|handle| queue.message(handle.message)).map(|message| message.id.clone());
        let changed = handle.and_then(|handle| queue.change(now, handle, text, seconds(change)?));
        let seconds = change.visibility_timeout.and_then(|seconds| u64::try_from(seconds).ok());
        note(trace, Some(id.as_ref().unwrap_or(text)), seconds, changed.as_ref().err());
        changed.map(|()| json!({}))
    }

    pub(super) fn change_batch(&mut self, asked: &Batch<Change>, now: Instant, trace: &mut Trace) -> Answer {
        self.queue(&asked.queue_url, now)?;
        batch(&asked.entries, trace, |change, trace| self.change(&asked.queue_url, change, now, trace))
    }
}

/// The body of an answer, or why there is none.
pub(super) type Answer = Result<Value, Refusal>;

fn note(trace: &mut Trace, message: Option<&str>, seconds: Option<u64>, refused: Option<&Refusal>) {
    let message = message.unwrap_or_default().to_owned();
    trace.push(Touched { message, seconds, refused: refused.map(|refusal| refusal.code.to_owned()) });
}

/// Walks through a batch: its answer tells the outcome of each entry.
fn batch<E: Entry>(entries: &[E], trace: &mut Trace, mut one: impl FnMut(&E, &mut Trace) -> Answer) -> Answer {
    check(entries)?;
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in entries {
        match one(entry, trace) {
            Ok(mut done) => {
                done["Id"] = entry.id().into();
                successful.push(done);
            }
            Err(refusal) => failed.push(refusal.entry(entry.id())),
        }
    }
    let mut answer = json!({});
    for (name, list) in [("Successful", successful), ("Failed", failed)] {
        if !list.is_empty() {
            answer[name] = list.into();
        }
    }
    Ok(answer)
}

fn check<E: Entry>(entries: &[E]) -> Result<(), Refusal> {
    if entries.is_empty() {
        return Err(Refusal::empty_batch());
    }
    if entries.len() > BATCH {
        return Err(Refusal::too_many_entries(entries.len()));
    }
    let mut ids = BTreeSet::new();
    for entry in entries {
        let id = entry.id();
        let allowed = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !allowed || id.is_empty() || id.len() > 80 {
            return Err(Refusal::entry_id());
        }
        if !ids.insert(id) {
            return Err(Refusal::ids_not_distinct(id));
        }
    }
    Ok(())
}

fn delay(send: &Send, queue: &Queue) -> Result<Duration, Refusal> {
    let wrong = |seconds: i64, reason: &str| Err(Refusal::parameter("DelaySeconds", seconds, reason));
    let seconds = match send.delay_seconds {
        None => queue.settings.delay,
        Some(seconds @ 1..) if queue.settings.fifo => return wrong(seconds, NOT_OF_THIS_TYPE),
        Some(seconds) if !(0..=LONGEST_DELAY as i64).contains(&seconds) => {
            return wrong(seconds, "DelaySeconds must be >= 0 and <= 900");
        }
        Some(_) if queue.settings.fifo => queue.settings.delay,
        Some(seconds) => seconds as u64,
    };
    Ok(Duration::from_secs(seconds))
}

/// Gives a message of a FIFO queue its sequence number; says by what it is known when it is sent again.
fn prepare(message: &mut Message, queue: &Queue, number: u64) -> Result<String, Refusal> {
    let group = message.group.clone().ok_or_else(|| Refusal::missing("MessageGroupId"))?;
    if message.dedup.is_none() {
        if !queue.settings.dedup_by_content {
            return Err(Refusal::invalid(
                "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided \
                 explicitly",
            ));
        }
        message.dedup = Some(hex(&Sha256::digest(&message.body)));
    }
    message.sequence = Some(format!("{number:020}"));
    let scope = if queue.settings.dedup_by_group { group.as_str() } else { "" };
    Ok(format!("{}/{scope}", message.dedup.as_deref().unwrap_or_default()))
}

fn seconds(change: &Change) -> Result<u64, Refusal> {
    let seconds = change.visibility_timeout.ok_or_else(|| Refusal::missing("VisibilityTimeout"))?;
    let known = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LONGEST_HIDDEN);
    let wrong = || Refusal::parameter("VisibilityTimeout", seconds, "Must be between 0 and 43200, if provided");
    known.ok_or_else(wrong)
}

/// A handle as callers see it. Which queue it is of stands in it, as SQS knows it too.
fn text_of(handle: Handle, queue: &str) -> String {
    format!("AQEB.{:x}.{:x}.{queue}", handle.message, handle.receive)
}

fn handle(text: &str, url: &str) -> Result<Handle, Refusal> {
    let parsed = || {
        let mut parts = text.strip_prefix("AQEB.")?.splitn(3, '.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let handle = Handle { message: number()?, receive: number()? };
        (parts.next()? == name_of(url)).then_some(handle)
    };
    parsed().ok_or_else(|| Refusal::handle(text))
}
