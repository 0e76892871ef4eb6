//! Cuts waiting items into batches and gathers their outputs: jobs in, batches out.
//!
//! A plain structure with one owner, the device thread: no lock, no clock (time is handed in), no channel. It
//! promises that a batch is within its limits and the ceiling of its shape, that the item whose turn it is is always in
//! the next batch, that jobs with many items take turns with jobs of few, and that outputs are gathered in the order of
//! the inputs.

mod fit;

use std::collections::BTreeMap;
use std::time::Instant;

use super::Items;
use super::batching::{Batching, Limits};
use super::ceiling::Ceilings;
use super::linger::Linger;
use crate::job::Priority;

/// Where items of like weight are put together, they are chosen from this many batches' worth of waiting items.
const SORT_BATCHES: usize = 4;

/// Measures of an item that decide with which others it may run.
pub(crate) struct Measure<I> {
    pub(crate) weight: fn(&I) -> usize,
    pub(crate) key: fn(&I) -> u64,
}

/// A job's items as they come in, with whatever is needed to answer it.
pub(crate) struct Request<I, R> {
    pub(crate) items: Items<Option<I>>,
    pub(crate) arrived: Instant,
    pub(crate) priority: Priority,
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: R,
}

/// Items to run together, and where each belongs.
pub(crate) struct Batch<I> {
    pub(crate) inputs: Vec<I>,
    pub(crate) origins: Vec<Origin>,
    /// Of its items or its weight, whichever is nearer the limit: 0 to 1, above 1 for a single item too heavy.
    pub(crate) fill: f64,
}

impl<I> Batch<I> {
    /// The first and the second half of its items, in order; of an odd number the second is larger.
    pub(crate) fn halves(mut self) -> [Self; 2] {
        let middle = self.inputs.len() / 2;
        let fill = self.fill / 2.0;
        let second = Batch { inputs: self.inputs.split_off(middle), origins: self.origins.split_off(middle), fill };
        [Batch { fill, ..self }, second]
    }
}

/// Which item of which job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Origin {
    slot: usize,
    ticket: u64,
    index: usize,
}

/// What the device thread should do for this model.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Run,
    Wait(Instant),
    /// There is only what the model would not take yet: ask again then.
    Ask(Instant),
    Empty,
}

impl Next {
    /// There is something to run, now or soon.
    pub(crate) fn is_work(&self) -> bool {
        matches!(self, Next::Run | Next::Wait(_))
    }
}

/// A job that is done: its reply, its outputs, and when its first batch was cut.
pub(crate) struct Finished<O, R> {
    pub(crate) reply: R,
    pub(crate) outputs: Items<O>,
    pub(crate) started: Instant,
}

pub(crate) struct Batcher<I, O, R> {
    batching: Batching,
    measure: Measure<I>,
    linger: Linger,
    ceilings: Ceilings,
    work: Vec<Option<Work<I, O, R>>>,
    free: Vec<usize>,
    /// Of jobs that were given up since somebody asked.
    gone: Vec<R>,
    /// Jobs with items that wait, by whose turn it is.
    turns: BTreeMap<Turn, usize>,
    tickets: u64,
    waiting: usize,
    waiting_weight: u128,
    /// Since when the device could have run what waits; the start of a fixed linger.
    idle_since: Option<Instant>,
}

/// When a job's turn comes: when it arrived or last had its turn, plus its class's budget, or its deadline if that
/// is sooner. The ticket keeps those of one moment in order.
type Turn = (Instant, u64);

struct Work<I, O, R> {
    ticket: u64,
    turn: Turn,
    request: Request<I, R>,
    /// No item before this one waits.
    first: usize,
    waiting: usize,
    outputs: Items<Option<O>>,
    unfinished: usize,
    started: Option<Instant>,
}

struct Pick {
    slot: usize,
    index: usize,
    weight: usize,
}

impl<I, O, R> Batcher<I, O, R> {
    pub(crate) fn new(batching: Batching, measure: Measure<I>) -> Self {
        Batcher {
            batching,
            measure,
            linger: Linger::new(),
            ceilings: Ceilings::default(),
            work: Vec::new(),
            free: Vec::new(),
            gone: Vec::new(),
            turns: BTreeMap::new(),
            tickets: 0,
            waiting: 0,
            waiting_weight: 0,
            idle_since: None,
        }
    }

    /// Items that wait for a batch.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a job's items, of which there is at least one.
    pub(crate) fn push(&mut self, request: Request<I, R>) {
        self.tickets += 1;
        let ticket = self.tickets;
        let turn = (due(&request, request.arrived), ticket);
        let count = request.items.len();
        self.waiting += count;
        let weights = request.items.iter().flatten().map(self.measure.weight);
        self.waiting_weight += weights.map(|weight| weight as u128).sum::<u128>();
        (0..count).for_each(|_| self.linger.arrived(request.arrived));
        let work = Work {
            ticket,
            turn,
            first: 0,
            waiting: count,
            outputs: (0..count).map(|_| None).collect(),
            unfinished: count,
            started: None,
            request,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.work[slot] = Some(work);
                slot
            }
            None => {
                self.work.push(Some(work));
                self.work.len() - 1
            }
        };
        self.turns.insert(turn, slot);
    }

    /// Whether what waits fills a batch.
    pub(crate) fn is_full(&self) -> bool {
        let limits = self.limits();
        let heavy = |limit| self.waiting_weight >= limit as u128;
        self.waiting >= limits.items || limits.weight.is_some_and(heavy)
    }

    /// What the next batch may be at most.
    fn limits(&self) -> Limits {
        let ceiling = match self.ceilings.is_empty() {
            true => None,
            false => self.next_key().and_then(|key| self.ceilings.of(key)),
        };
        self.batching.limits(ceiling)
    }

    /// The key of the item whose turn it is.
    fn next_key(&self) -> Option<u64> {
        let work = self.work[*self.turns.values().next()?].as_ref()?;
        work.request.items[work.first..].iter().flatten().next().map(self.measure.key)
    }

    /// What to do while the device is free: run at once if a batch is full or no more items are worth waiting for.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.waiting == 0 {
            self.idle_since = None;
            return Next::Empty;
        }
        if self.is_full() {
            return Next::Run;
        }
        let since = *self.idle_since.get_or_insert(now);
        let until = match self.batching.linger {
            Some(fixed) => since + fixed,
            None => self.linger.until(now, self.waiting, self.full()),
        };
        if until <= now { Next::Run } else { Next::Wait(until) }
    }

    /// How many items of the weight seen now make a full batch.
    fn full(&self) -> usize {
        let by_weight = |limit: usize| {
            let count = (limit as u128).saturating_mul(self.waiting as u128).div_ceil(self.waiting_weight.max(1));
            usize::try_from(count).unwrap_or(usize::MAX)
        };
        let limits = self.limits();
        limits.weight.map_or(usize::MAX, by_weight).clamp(1, limits.items)
    }

    /// Cuts the next batch. Jobs that are `gone` are [given up](Self::gone) instead; `None` if nothing else waits.
    pub(crate) fn cut(&mut self, now: Instant, gone: impl Fn(&R) -> bool) -> Option<Batch<I>> {
        self.drop_gone(&gone);
        let mut picks = self.candidates();
        if picks.is_empty() {
            return None;
        }
        let limits = self.limits();
        let fill = match self.batching.padded {
            true => fit::padded(&mut picks, limits),
            false => fit::summed(&mut picks, limits),
        };
        let batch = self.take(now, &picks, fill);
        self.idle_since = None;
        Some(batch)
    }

    /// A batch of `items` starts on the device.
    pub(crate) fn started(&mut self, now: Instant, items: usize) {
        self.linger.started(now, items);
    }

    /// The batch ended; its outputs are handed out from now on.
    pub(crate) fn ended(&mut self, now: Instant) {
        self.linger.ended(now);
    }

    /// Whether a batch is still within the ceiling of its shape. One item always is.
    pub(crate) fn allows(&self, inputs: &[I]) -> bool {
        let Some(ceiling) = inputs.first().and_then(|item| self.ceilings.of((self.measure.key)(item))) else {
            return true;
        };
        inputs.len() == 1 || self.size(inputs) <= ceiling
    }

    /// A batch of several items ran out of memory: the next ones of its shape are cut below it.
    pub(crate) fn ran_out(&mut self, inputs: &[I]) {
        if let Some(first) = inputs.first() {
            self.ceilings.ran_out((self.measure.key)(first), self.size(inputs));
        }
    }

    /// A batch has passed. Whether that may have moved a ceiling.
    pub(crate) fn passed(&mut self, inputs: &[I]) -> bool {
        let Some(first) = inputs.first().filter(|_| !self.ceilings.is_empty()) else {
            return false;
        };
        self.ceilings.passed((self.measure.key)(first), self.size(inputs));
        true
    }

    /// How many items a full batch holds: as many as are allowed, or under a ceiling as many as this one. `None` if it
    /// was not full under its ceiling.
    pub(crate) fn held_when_full(&self, inputs: &[I]) -> Option<usize> {
        let Some(first) = inputs.first().filter(|_| !self.ceilings.is_empty()) else {
            return Some(self.batching.items);
        };
        match self.ceilings.is_reached((self.measure.key)(first), self.size(inputs)) {
            None => Some(self.batching.items),
            Some(is_full) => is_full.then_some(inputs.len()),
        }
    }

    /// The lowest ceiling of any shape.
    pub(crate) fn lowest_ceiling(&self) -> Option<usize> {
        self.ceilings.lowest()
    }

    fn size(&self, inputs: &[I]) -> usize {
        self.batching.size(inputs.iter().map(self.measure.weight))
    }

    /// A batch that was cut and has not run, less the items of jobs that have failed meanwhile. `None` if that is all.
    pub(crate) fn still_wanted(&self, batch: Batch<I>) -> Option<Batch<I>> {
        let items = batch.inputs.into_iter().zip(batch.origins);
        let (inputs, origins): (Vec<I>, Vec<Origin>) = items.filter(|&(_, origin)| self.wants(origin)).unzip();
        (!inputs.is_empty()).then_some(Batch { inputs, origins, fill: batch.fill })
    }

    /// Takes one output in; the job, if that was its last.
    pub(crate) fn complete(&mut self, origin: Origin, output: O) -> Option<Finished<O, R>> {
        let work = self.find(origin)?;
        work.outputs[origin.index] = Some(output);
        work.unfinished -= 1;
        if work.unfinished > 0 {
            return None;
        }
        let work = self.remove(origin.slot)?;
        Some(Finished {
            started: work.started.unwrap_or(work.request.arrived),
            outputs: work.outputs.into_iter().flatten().collect(),
            reply: work.request.reply,
        })
    }

    /// Gives up the job of a failed item: the rest of its items are not run. `None` if that was done before.
    pub(crate) fn fail(&mut self, origin: Origin) -> Option<R> {
        self.find(origin)?;
        self.remove(origin.slot).map(|work| work.request.reply)
    }

    /// Gives up the job of an item if it is `gone`.
    pub(crate) fn drop_if(&mut self, origin: Origin, gone: impl Fn(&R) -> bool) {
        if self.find(origin).is_some_and(|work| gone(&work.request.reply)) {
            let work = self.remove(origin.slot);
            self.gone.extend(work.map(|work| work.request.reply));
        }
    }

    /// The jobs that were given up since this was asked last.
    pub(crate) fn gone(&mut self) -> Vec<R> {
        std::mem::take(&mut self.gone)
    }

    /// Gives up everything.
    pub(crate) fn fail_all(&mut self) -> Vec<R> {
        (0..self.work.len()).filter_map(|slot| self.remove(slot)).map(|work| work.request.reply).collect()
    }

    /// The jobs that an item's answer would go to.
    pub(crate) fn replies<'a>(&'a self, origins: &'a [Origin]) -> impl Iterator<Item = &'a R> {
        origins.iter().filter_map(|origin| {
            let work = self.work[origin.slot].as_ref()?;
            (work.ticket == origin.ticket).then_some(&work.request.reply)
        })
    }

    /// Whether an item's output is still wanted.
    pub(crate) fn wants(&self, origin: Origin) -> bool {
        self.work[origin.slot].as_ref().is_some_and(|work| work.ticket == origin.ticket)
    }

    fn find(&mut self, origin: Origin) -> Option<&mut Work<I, O, R>> {
        let work = self.work[origin.slot].as_mut()?;
        (work.ticket == origin.ticket).then_some(work)
    }

    fn remove(&mut self, slot: usize) -> Option<Work<I, O, R>> {
        let work = self.work[slot].take()?;
        self.free.push(slot);
        if work.waiting > 0 {
            self.turns.remove(&work.turn);
            self.waiting -= work.waiting;
            let left = work.request.items.iter().flatten();
            self.waiting_weight -= left.map(|item| (self.measure.weight)(item) as u128).sum::<u128>();
        }
        Some(work)
    }

    /// Gives up jobs that are gone, as far as they are in line for the next batch.
    pub(crate) fn drop_gone(&mut self, gone: &impl Fn(&R) -> bool) {
        loop {
            let is_gone = |&slot: &usize| self.work[slot].as_ref().is_some_and(|w| gone(&w.request.reply));
            let looked_at = self.turns.values().copied().take(self.window());
            let found: Vec<usize> = looked_at.filter(is_gone).collect();
            if found.is_empty() {
                return;
            }
            for slot in found {
                let work = self.remove(slot);
                self.gone.extend(work.map(|work| work.request.reply));
            }
        }
    }

    /// How many items may be chosen from.
    fn window(&self) -> usize {
        self.batching.items.saturating_mul(if self.batching.padded { SORT_BATCHES } else { 1 })
    }

    /// Items in the order of their turn: one of each job, then a second one of each, and so on. All are of the first
    /// one's key.
    fn candidates(&self) -> Vec<Pick> {
        let window = self.window();
        let mut lanes: Vec<(usize, usize)> = self
            .turns
            .values()
            .take(window)
            .filter_map(|&slot| Some((slot, self.work[slot].as_ref()?.first)))
            .collect();
        let mut picks = Vec::with_capacity(window.min(self.waiting));
        let mut key = None;
        while !lanes.is_empty() && picks.len() < window {
            lanes.retain_mut(|(slot, index)| {
                if picks.len() == window {
                    return false;
                }
                let Some(work) = &self.work[*slot] else {
                    return false;
                };
                let items = work.request.items.iter().enumerate().skip(*index);
                let mut alike = items.filter_map(|(i, item)| Some((i, item.as_ref()?))).filter(|(_, item)| {
                    let its = (self.measure.key)(item);
                    *key.get_or_insert(its) == its
                });
                let Some((i, item)) = alike.next() else {
                    return false;
                };
                picks.push(Pick { slot: *slot, index: i, weight: (self.measure.weight)(item) });
                *index = i + 1;
                true
            });
        }
        picks
    }

    /// Takes the picked items out; the jobs that have more go to the end of the line.
    fn take(&mut self, now: Instant, picks: &[Pick], fill: f64) -> Batch<I> {
        let mut batch =
            Batch { inputs: Vec::with_capacity(picks.len()), origins: Vec::with_capacity(picks.len()), fill };
        for pick in picks {
            let Some(work) = &mut self.work[pick.slot] else {
                continue;
            };
            let Some(input) = work.request.items[pick.index].take() else {
                continue;
            };
            work.started.get_or_insert(now);
            work.waiting -= 1;
            self.waiting -= 1;
            self.waiting_weight -= pick.weight as u128;
            batch.inputs.push(input);
            batch.origins.push(Origin { slot: pick.slot, ticket: work.ticket, index: pick.index });
        }
        for pick in picks {
            self.requeue(now, pick.slot);
        }
        batch
    }

    fn requeue(&mut self, now: Instant, slot: usize) {
        let Some(work) = &mut self.work[slot] else {
            return;
        };
        // A job of several picks comes by here several times; only the first finds it in line.
        if self.turns.remove(&work.turn).is_none() || work.waiting == 0 {
            return;
        }
        let items = &work.request.items[work.first..];
        work.first += items.iter().position(Option::is_some).unwrap_or(0);
        self.tickets += 1;
        work.turn = (due(&work.request, now), self.tickets);
        self.turns.insert(work.turn, slot);
    }
}

fn due<I, R>(request: &Request<I, R>, from: Instant) -> Instant {
    let turn = from + request.priority.budget();
    request.deadline.map_or(turn, |deadline| deadline.min(turn))
}

#[cfg(test)]
mod tests;
