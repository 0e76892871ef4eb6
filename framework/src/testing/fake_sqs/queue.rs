//! One queue: which messages are visible, delayed or in flight, and what a receipt handle still allows.
//!
//! Everything happens at a time that is handed in. What falls due is made visible, or forgotten, by [`Queue::wake`],
//! which comes before everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::fifo::{Known, Ready};
use super::message::{Held, Message};
use super::refusal::Refusal;
use super::settings::{LONGEST_HIDDEN, Settings};

/// Messages in flight that a standard queue may have; one more receive is refused.
const IN_FLIGHT: usize = 120_000;
/// The same of a FIFO queue; one more receive gets nothing.
const IN_FLIGHT_FIFO: usize = 20_000;

/// A queue and its messages.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) settings: Settings,
    /// In seconds since 1970.
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) purged: Option<Instant>,
    messages: BTreeMap<u64, Message>,
    ready: Ready,
    /// What is delayed or in flight, by when it is visible.
    hidden: BTreeSet<(Instant, u64)>,
    in_flight: usize,
    /// By when each message is forgotten.
    kept: BTreeSet<(Instant, u64)>,
    /// Sends that were taken, with their answers.
    pub(super) sent: Known<(String, Option<String>)>,
    /// Receives that were answered, with the numbers of their messages and receives.
    pub(super) attempts: Known<Vec<(u64, u64)>>,
}

/// A receipt handle: which message, and which receive of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Handle {
    pub(super) message: u64,
    pub(super) receive: u64,
}

/// How many messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// That could be received now, or once their group is free.
    pub visible: usize,
    /// Received, and their visibility timeout is not over.
    pub in_flight: usize,
    /// Sent with a delay that is not over.
    pub delayed: usize,
}

/// What a receive asks for.
pub(super) struct Take {
    pub(super) now: Instant,
    pub(super) now_ms: u64,
    pub(super) max: usize,
    pub(super) hide: Duration,
    /// What was received so often goes to the dead-letter queue.
    pub(super) receives: u32,
}

/// What a receive gets.
#[derive(Default)]
pub(super) struct Received {
    pub(super) messages: Vec<Handle>,
    /// Received too often: for the dead-letter queue.
    pub(super) dead: Vec<Message>,
}

impl Queue {
    pub(super) fn new(settings: Settings, created: u64) -> Self {
        Queue {
            ready: Ready::new(settings.fifo),
            settings,
            created,
            modified: created,
            purged: None,
            messages: BTreeMap::new(),
            hidden: BTreeSet::new(),
            in_flight: 0,
            kept: BTreeSet::new(),
            sent: Known::default(),
            attempts: Known::default(),
        }
    }

    /// Makes visible what is hidden no longer, and forgets what was kept long enough.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.kept.first()
            && at <= now
        {
            self.remove(number);
        }
        while let Some(&(at, number)) = self.hidden.first()
            && at <= now
        {
            self.show(number);
        }
    }

    /// When the next message becomes visible by itself.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.hidden.first().map(|(at, _)| *at)
    }

    pub(super) fn depth(&self) -> Depth {
        let delayed = self.hidden.len() - self.in_flight;
        Depth { visible: self.ready.count(), in_flight: self.in_flight, delayed }
    }

    pub(super) fn message(&self, number: u64) -> Option<&Message> {
        self.messages.get(&number)
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// Adds a message that nobody may have before the delay is over.
    pub(super) fn add(&mut self, now: Instant, number: u64, mut message: Message, delay: Duration) {
        // What is moved to a FIFO queue begins anew; elsewhere its time goes on.
        let since = if self.settings.fifo { now } else { message.sent };
        message.kept = since + self.settings.retention();
        self.kept.insert((message.kept, number));
        message.held = None;
        message.hidden = (!delay.is_zero()).then(|| now + delay);
        match message.hidden {
            Some(until) => {
                self.hidden.insert((until, number));
            }
            None => self.ready.add(number, message.group.as_deref()),
        }
        self.messages.insert(number, message);
    }

    /// Takes messages and hides them; `numbers` counts the receives.
    pub(super) fn receive(&mut self, take: &Take, numbers: &mut u64) -> Result<Received, Refusal> {
        let limit = if self.settings.fifo { IN_FLIGHT_FIFO } else { IN_FLIGHT };
        let room = limit.saturating_sub(self.in_flight);
        if room == 0 && !self.settings.fifo {
            return Err(Refusal::over_limit());
        }
        let mut received = Received::default();
        while received.messages.is_empty() {
            let chosen = self.ready.first(take.max.min(room));
            if chosen.is_empty() {
                break;
            }
            for number in chosen {
                self.take(take, number, numbers, &mut received);
            }
        }
        Ok(received)
    }

    fn take(&mut self, take: &Take, number: u64, numbers: &mut u64, to: &mut Received) {
        if self.messages.get(&number).is_some_and(|message| message.receives >= take.receives) {
            to.dead.extend(self.remove(number));
            return;
        }
        let Some(message) = self.messages.get_mut(&number) else {
            return;
        };
        *numbers += 1;
        message.receives += 1;
        if message.receives == 1 {
            message.first_received_ms = take.now_ms;
        }
        message.held = Some(Held { number: *numbers, since: take.now });
        to.messages.push(Handle { message: number, receive: *numbers });
        if !take.hide.is_zero() {
            self.hide(number, take.now + take.hide);
        }
    }

    /// Gives the same messages again to an attempt that is made again, with their time begun anew; `None` if one of
    /// them is no longer as it was.
    pub(super) fn again(&mut self, now: Instant, handles: &[(u64, u64)], hide: Duration) -> Option<Vec<Handle>> {
        let same = |(message, receive): &(u64, u64)| {
            let found = self.messages.get(message);
            found.is_some_and(|found| found.hidden.is_some() && found.held.is_some_and(|held| held.number == *receive))
        };
        if !handles.iter().all(same) {
            return None;
        }
        for (number, _) in handles {
            self.show(*number);
            self.hide(*number, now + hide);
        }
        Some(handles.iter().map(|&(message, receive)| Handle { message, receive }).collect())
    }

    /// Deletes a message. With the handle of an older receive that is done without any effect, and a FIFO queue
    /// refuses a handle whose time is up.
    pub(super) fn delete(&mut self, handle: Handle, text: &str) -> Result<(), Refusal> {
        let Some(message) = self.messages.get(&handle.message) else {
            return Ok(());
        };
        let latest = message.held.is_some_and(|held| held.number == handle.receive);
        if self.settings.fifo && !(latest && message.hidden.is_some()) {
            return Err(Refusal::expired(text));
        }
        if latest {
            self.remove(handle.message);
        }
        Ok(())
    }

    /// Hides a message from now on for `seconds`, or gives it back with 0.
    pub(super) fn change(&mut self, now: Instant, handle: Handle, text: &str, seconds: u64) -> Result<(), Refusal> {
        let message = self.messages.get(&handle.message);
        let held = message.and_then(|message| message.held).filter(|held| held.number == handle.receive);
        let (Some(message), Some(held)) = (message, held) else {
            return Err(Refusal::not_available(text));
        };
        if message.hidden.is_none() {
            return Err(match self.settings.fifo {
                true => Refusal::expired(text),
                false => Refusal::not_in_flight(),
            });
        }
        let until = now + Duration::from_secs(seconds);
        if until > held.since + Duration::from_secs(LONGEST_HIDDEN) {
            let reason =
                format_args!("Total VisibilityTimeout for the message is beyond the limit [{LONGEST_HIDDEN} seconds]");
            return Err(Refusal::parameter("VisibilityTimeout", seconds, reason));
        }
        self.show(handle.message);
        if seconds > 0 {
            self.hide(handle.message, until);
        }
        Ok(())
    }

    /// Forgets all messages.
    pub(super) fn purge(&mut self) {
        let numbers: Vec<u64> = self.messages.keys().copied().collect();
        for number in numbers {
            self.remove(number);
        }
    }

    /// From visible to in flight.
    fn hide(&mut self, number: u64, until: Instant) {
        let Some(message) = self.messages.get_mut(&number) else {
            return;
        };
        message.hidden = Some(until);
        self.hidden.insert((until, number));
        self.in_flight += 1;
        self.ready.remove(number, message.group.as_deref());
        self.ready.hold(message.group.as_deref());
    }

    /// From delayed or in flight to visible.
    fn show(&mut self, number: u64) {
        let Some(message) = self.messages.get_mut(&number) else {
            return;
        };
        let Some(until) = message.hidden.take() else {
            return;
        };
        self.hidden.remove(&(until, number));
        self.ready.add(number, message.group.as_deref());
        if message.held.is_some() {
            self.in_flight -= 1;
            self.ready.release(message.group.as_deref());
        }
    }

    fn remove(&mut self, number: u64) -> Option<Message> {
        self.show(number);
        let message = self.messages.remove(&number)?;
        self.ready.remove(number, message.group.as_deref());
        self.kept.remove(&(message.kept, number));
        Some(message)
    }
}

#[cfg(test)]
mod tests;
