//! What makes a queue FIFO: groups that are locked while one of their messages is held, sends that are taken once in
//! five minutes, and receives that can be asked for again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// For how long the same send, and the same attempt at a receive, is known.
const KNOWN: Duration = Duration::from_secs(300);

/// The messages that could be received now, by their numbers, which are their order.
#[derive(Debug)]
pub(super) enum Ready {
    /// In any order; here the oldest first.
    Standard(BTreeSet<u64>),
    /// In the order of each group.
    Fifo(BTreeMap<String, Group>),
}

/// The messages of one group.
#[derive(Debug, Default)]
pub(super) struct Group {
    ready: BTreeSet<u64>,
    /// How many are held. While there is one, nobody gets another.
    held: usize,
}

impl Ready {
    pub(super) fn new(fifo: bool) -> Self {
        match fifo {
            true => Ready::Fifo(BTreeMap::new()),
            false => Ready::Standard(BTreeSet::new()),
        }
    }

    pub(super) fn add(&mut self, number: u64, group: Option<&str>) {
        match self {
            Ready::Standard(ready) => ready.insert(number),
            Ready::Fifo(groups) => groups.entry(name(group)).or_default().ready.insert(number),
        };
    }

    pub(super) fn remove(&mut self, number: u64, group: Option<&str>) {
        self.with_group(group, |group| {
            group.ready.remove(&number);
        });
        if let Ready::Standard(ready) = self {
            ready.remove(&number);
        }
    }

    /// One more of the group is held.
    pub(super) fn hold(&mut self, group: Option<&str>) {
        self.with_group(group, |group| group.held += 1);
    }

    /// One fewer of the group is held.
    pub(super) fn release(&mut self, group: Option<&str>) {
        self.with_group(group, |group| group.held = group.held.saturating_sub(1));
    }

    /// What a receive of `max` messages gets: of a FIFO queue as many of one group as there are, then of the next.
    pub(super) fn first(&self, max: usize) -> Vec<u64> {
        match self {
            Ready::Standard(ready) => ready.iter().copied().take(max).collect(),
            Ready::Fifo(groups) => {
                let free = groups.values().filter(|group| group.held == 0);
                let mut free: Vec<&Group> = free.filter(|group| !group.ready.is_empty()).collect();
                free.sort_by_key(|group| group.ready.first().copied());
                free.into_iter().flat_map(|group| &group.ready).copied().take(max).collect()
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Ready::Standard(ready) => ready.len(),
            Ready::Fifo(groups) => groups.values().map(|group| group.ready.len()).sum(),
        }
    }

    fn with_group(&mut self, of: Option<&str>, change: impl FnOnce(&mut Group)) {
        let Ready::Fifo(groups) = self else {
            return;
        };
        let group = groups.entry(name(of)).or_default();
        change(group);
        if group.held == 0 && group.ready.is_empty() {
            groups.remove(&name(of));
        }
    }
}

fn name(group: Option<&str>) -> String {
    group.unwrap_or_default().to_owned()
}

/// What was done lately, so that the same is not done again.
#[derive(Debug)]
pub(super) struct Known<T> {
    what: HashMap<String, (Instant, T)>,
    /// In the order in which it will be forgotten.
    order: VecDeque<(Instant, String)>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known { what: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Known<T> {
    /// What came of it, if it was done within the last five minutes.
    pub(super) fn get(&mut self, key: &str, now: Instant) -> Option<T> {
        while let Some((at, _)) = self.order.front()
            && *at + KNOWN <= now
        {
            let Some((at, old)) = self.order.pop_front() else { break };
            // It may have been done again since.
            if self.what.get(&old).is_some_and(|(last, _)| *last == at) {
                self.what.remove(&old);
            }
        }
        self.what.get(key).map(|(_, known)| known.clone())
    }

    pub(super) fn put(&mut self, key: String, now: Instant, known: T) {
        self.order.push_back((now, key.clone()));
        self.what.insert(key, (now, known));
    }
}
