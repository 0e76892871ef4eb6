//! A source whose receipts follow a script and write down every call, and which rules of the contract were broken.
//!
//! Its leases really end. Each job is delivered once only, so that every entry is the story of one delivery.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay::source::{Delivery, Extended, Receipt, Source};
use forebay::{BoxFuture, Bytes, Error, Event, Meta, Result, Verdict};
use tokio::time::{Instant, sleep};

/// What a receipt does when it is asked to extend.
#[derive(Clone, Copy, Debug)]
pub enum Extend {
    /// Extends, at once.
    Keep,
    /// Extends, after a while.
    KeepAfter(Duration),
    /// Says yes, but the lease ends no later than so long after it was received.
    UpTo(Duration),
    /// Fails.
    Fail,
    /// Never answers.
    Hang,
    /// Says that somebody else has the job.
    Lost,
    /// Says that the job was called off.
    Cancelled,
}

/// What a receipt does when it is told a verdict.
#[derive(Clone, Copy, Debug)]
pub enum Settle {
    /// Takes it.
    Take,
    /// Takes it, after a while.
    TakeAfter(Duration),
    /// Fails.
    Fail,
    /// Never answers.
    Hang,
}

/// The source and what it has seen. Clones are the same.
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Entry, Bytes, Meta)>,
    delivered: Vec<Arc<Mutex<Entry>>>,
    most_unsettled: usize,
}

/// The story of one delivery.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The job.
    pub id: String,
    /// How often it was asked to extend.
    pub extends: usize,
    /// How often it was told a verdict, heard or not.
    pub settles: usize,
    /// The verdicts that it has taken.
    pub taken: Vec<&'static str>,
    /// The last verdict that was told, taken or not.
    pub verdict: Option<Verdict>,
    /// It answered that the lease is lost, or that the job is called off.
    pub lost: bool,
    /// When the lease ends.
    pub until: Instant,
    /// Rules of the contract that were broken.
    pub broken: Vec<String>,
    received: Instant,
    extending: bool,
    script: (VecDeque<Extend>, VecDeque<Settle>),
}

impl Entry {
    /// Whether the delivery is over: settled, or its lease lost or run out.
    pub fn is_over(&self) -> bool {
        !self.taken.is_empty() || self.is_lost()
    }

    /// Whether the lease is lost or has run out.
    pub fn is_lost(&self) -> bool {
        self.lost || self.until <= Instant::now()
    }

    fn broke(&mut self, rule: &str) {
        let told = format!("{}: {rule}", self.id);
        self.broken.push(told);
    }
}

impl Ledger {
    /// A source whose leases last so long.
    pub fn new(lease: Duration) -> Self {
        Ledger(Arc::new(Shared { lease, state: Mutex::default() }))
    }

    /// Adds a job whose receipt does as the scripts say and then as it should.
    pub fn push(&self, id: impl Into<String>, payload: impl Into<Bytes>, extends: &[Extend], settles: &[Settle]) {
        let now = Instant::now();
        let entry = Entry {
            id: id.into(),
            extends: 0,
            settles: 0,
            taken: Vec::new(),
            verdict: None,
            lost: false,
            until: now,
            broken: Vec::new(),
            received: now,
            extending: false,
            script: (extends.iter().copied().collect(), settles.iter().copied().collect()),
        };
        lock(&self.0.state).waiting.push_back((entry, payload.into(), Meta::default()));
    }

    /// The deliveries so far.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0.state).delivered.iter().map(|entry| lock(entry).clone()).collect()
    }

    /// The story of one job.
    pub fn entry(&self, id: &str) -> Option<Entry> {
        self.entries().into_iter().find(|entry| entry.id == id)
    }

    /// The most deliveries that were out at once.
    pub fn most_unsettled(&self) -> usize {
        lock(&self.0.state).most_unsettled
    }

    /// All rules that were broken.
    pub fn broken(&self) -> Vec<String> {
        self.entries().into_iter().flat_map(|entry| entry.broken).collect()
    }
}

impl Source for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let now = Instant::now();
        let state = &mut *lock(&self.0.state);
        let count = max.min(state.waiting.len());
        let mut deliveries = Vec::new();
        for (mut entry, payload, meta) in state.waiting.drain(..count) {
            entry.until = now + self.0.lease;
            entry.received = now;
            let (id, until) = (entry.id.clone(), entry.until);
            let entry = Arc::new(Mutex::new(entry));
            state.delivered.push(entry.clone());
            let receipt = Arc::new(Scripted(entry));
            deliveries.push(Delivery { id, attempt: 1, payload, until, meta, receipt });
        }
        // A worker gives a job up, and may take another, once its next attempt to extend, a 24th of the lease later,
        // would fall into the last tenth of the lease.
        let last = self.0.lease / 10 + self.0.lease / 24;
        let given_up = |entry: &Entry| entry.is_over() || entry.until <= now + last;
        let unsettled = state.delivered.iter().filter(|entry| !given_up(&lock(entry))).count();
        state.most_unsettled = state.most_unsettled.max(unsettled);
        Ok(deliveries)
    }
}

struct Scripted(Arc<Mutex<Entry>>);

/// While it lives, an extension is under way.
struct Extending<'a>(&'a Mutex<Entry>);

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        lock(self.0).extending = false;
    }
}

impl Receipt for Scripted {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(async move {
            let asked = Instant::now();
            let act = {
                let mut entry = lock(&self.0);
                entry.extends += 1;
                if std::mem::replace(&mut entry.extending, true) {
                    entry.broke("asked to extend while an earlier call was under way");
                }
                if entry.settles > 0 {
                    entry.broke("asked to extend after settling had begun");
                }
                if entry.lost {
                    entry.broke("asked to extend after the lease was lost");
                }
                entry.script.0.pop_front().unwrap_or(Extend::Keep)
            };
            let _extending = Extending(&self.0);
            match act {
                Extend::Hang => pending().await,
                Extend::KeepAfter(time) => sleep(time).await,
                _ => {}
            }
            let mut entry = lock(&self.0);
            let ran_out = entry.until <= Instant::now();
            match act {
                Extend::Fail => return Err(Error::transient("the broker is away")),
                Extend::Cancelled => {
                    entry.lost = true;
                    return Ok(Extended::Cancelled);
                }
                Extend::UpTo(most) => {
                    let end = entry.received + most;
                    entry.until = entry.until.max(asked + by).min(end);
                    // This is what a broker with a total limit does: it goes on saying yes.
                    let act = Extend::UpTo(most);
                    entry.script.0.push_front(act);
                }
                _ if ran_out || matches!(act, Extend::Lost) => {
                    entry.lost = true;
                    return Ok(Extended::Lost);
                }
                _ => entry.until = entry.until.max(asked + by),
            }
            Ok(Extended::Until(entry.until))
        })
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let act = {
                let mut entry = lock(&self.0);
                entry.settles += 1;
                if entry.extending {
                    entry.broke("told a verdict while it was asked to extend");
                }
                if entry.lost {
                    entry.broke("told a verdict after the lease was lost");
                }
                if !entry.taken.is_empty() {
                    entry.broke("told a verdict after one was taken");
                }
                let before = entry.verdict.replace(verdict.clone());
                if before.is_some_and(|before| before.as_str() != verdict.as_str()) {
                    entry.broke("told two different verdicts");
                }
                entry.script.1.pop_front().unwrap_or(Settle::Take)
            };
            match act {
                Settle::Fail => return Err(Error::transient("the broker is away")),
                Settle::Hang => pending().await,
                Settle::TakeAfter(time) => sleep(time).await,
                Settle::Take => {}
            }
            let mut entry = lock(&self.0);
            if entry.until <= Instant::now() {
                return Err(Error::invalid("the lease has ended"));
            }
            entry.taken.push(verdict.as_str());
            Ok(())
        })
    }

    fn emit(&self, _: Event) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
