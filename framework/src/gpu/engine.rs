//! One model on the device thread: takes its calls in, has its batches run in [turns](turn), and
//! [recovers](recovery) from their failures.
//!
//! It owns the model, and every item from when it has come until it is answered. It promises that however it ends nobody
//! is left waiting. Whose turn it is on the device it does not know: its [thread](super::thread) does.

mod recovery;
mod turn;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batcher::{Batch, Batcher, Measure, Next, Request};
use super::batching::Batching;
use super::collator::Collator;
use super::memory::away_for;
use super::{Answers, Call, ModelInbox, Waiter};
use crate::error::{Error, Fault, Result};
use crate::model::{Admit, Model};
use crate::pipeline::outlook::Forecast;
use crate::pool::panic::fence;
use crate::telemetry::{BatchMeter, CeilingMeter, StageMeter};
use turn::Flight;

/// How long a model that is idle, and yet takes no more, is left before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// An engine as the device thread sees it, whatever its model.
pub(crate) trait Engine {
    /// Takes in what has come since. An error is fatal.
    fn receive(&mut self) -> Result<()>;
    /// What to do now that the device is free.
    fn next(&mut self, now: Instant) -> Next;
    /// Runs one batch and answers it; only with `ahead` may it have taken a new one in hand afterwards. How long the device
    /// was busy with what is its own since it was last told, as [`ModelEngine::lap`] defines it; an error is fatal.
    fn run(&mut self, ahead: bool) -> Result<Duration>;
    /// It has a batch on the device, launched ahead.
    fn is_launched(&self) -> bool;
    /// It has begun something that would be lost with its model. Then [`next`](Engine::next) says [`Run`](Next::Run).
    fn in_hand(&self) -> bool;
    /// Loads the model, which is not there, and warms it up.
    fn load(&mut self) -> Result<()>;
    /// Drops the model, with nothing in hand. Whoever waits goes on waiting. An error is fatal.
    fn unload(&mut self) -> Result<()>;
    /// Its part of the device's time beside others.
    fn share(&self) -> u32;
    /// Refuses what comes and fails what waits.
    fn close(&mut self, why: &Error);
}

pub(crate) type Loader<M> = dyn Fn() -> Result<M> + Send + Sync;

/// What an engine is made of; it travels to the device thread, where [`Plan::engine`] makes the engine.
pub(crate) struct Plan<M: Model> {
    pub(crate) name: &'static str,
    pub(crate) batching: Batching,
    pub(crate) load: Arc<Loader<M>>,
    pub(crate) inbox: Arc<ModelInbox<M>>,
    pub(crate) forecast: Arc<Forecast>,
    pub(crate) meter: StageMeter,
    pub(crate) answers: Answers<M::Output>,
}

impl<M: Model> Plan<M> {
    /// The engine, without its model.
    pub(crate) fn engine(self) -> Result<Box<dyn Engine>> {
        let measure = Measure { weight: M::weight, key: M::key };
        let collator = M::COLLATES.then(|| Collator::start(self.name)).transpose()?;
        Ok(Box::new(ModelEngine {
            batcher: Batcher::new(self.batching.clone(), measure),
            batches: BatchMeter::new(self.name),
            ceilings: CeilingMeter::new(self.name),
            flights: VecDeque::new(),
            model: None,
            collator,
            again: VecDeque::new(),
            alone_for: 0,
            busy_since: None,
            came: (0, 0),
            received: Vec::new(),
            held: Vec::new(),
            guilty: Vec::new(),
            load_took: Duration::ZERO,
            away_until: None,
            plan: self,
        }))
    }

    fn fresh_model(&self) -> Result<M> {
        let warm = || {
            let mut model = (self.load)()?;
            model.warm_up()?;
            Ok(model)
        };
        fence(warm).map_err(|failure| {
            let name = self.name;
            failure.into_error().context(format_args!("loading the model of stage `{name}`"))
        })
    }
}

/// Drops a model to make room. If it panics, nobody knows what it still keeps, which is fatal.
pub(crate) fn drop_fenced<M>(model: Option<M>, stage: &str) -> Result<()> {
    let drop_it = || {
        drop(model);
        Ok(())
    };
    fence(drop_it).map_err(|failure| {
        let why = failure.into_error().with_fault(Fault::Fatal);
        why.context(format_args!("dropping the model of stage `{stage}`"))
    })
}

type ModelBatcher<M> = Batcher<<M as Model>::Input, <M as Model>::Output, Waiter<<M as Model>::Output>>;

type ModelCall<M> = Call<<M as Model>::Input, <M as Model>::Output>;
type ModelRequest<M> = Request<<M as Model>::Input, Waiter<<M as Model>::Output>>;

struct ModelEngine<M: Model> {
    plan: Plan<M>,
    /// What is on the device, in order: the batch to be answered next, and one launched ahead. Dropped before the model.
    flights: VecDeque<Flight<M>>,
    /// `None` until it is loaded, while it is dropped for others, and after a panic until it is made anew.
    model: Option<M>,
    batcher: ModelBatcher<M>,
    collator: Option<Collator<M>>,
    /// Batches that were cut before and come first: halves, and what was lost with a model.
    again: VecDeque<Batch<M::Input>>,
    /// So many batches run without another beside them on the device, which had no memory for two.
    alone_for: usize,
    /// Since when the device was busy that is not told yet.
    busy_since: Option<Instant>,
    batches: BatchMeter,
    ceilings: CeilingMeter,
    /// Jobs and items that have come since the last batch.
    came: (usize, usize),
    received: Vec<(ModelCall<M>, Instant)>,
    /// Requests that the model would take later, or that wait for it to be loaded.
    held: Vec<ModelRequest<M>>,
    /// Jobs whose items panicked alone, since an item last passed.
    guilty: Vec<String>,
    load_took: Duration,
    /// Until when it is not loaded again, where the model has put off whatever waits and nothing has come since.
    away_until: Option<Instant>,
}

impl<M: Model> Engine for ModelEngine<M> {
    fn receive(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        self.admit_all(held.into_iter())?;
        let mut received = std::mem::take(&mut self.received);
        self.plan.inbox.drain(&mut received);
        if !received.is_empty() {
            self.away_until = None;
        }
        let inbox = self.plan.inbox.clone();
        let admitted =
            self.admit_all(received.drain(..).map(|(call, arrived)| call.into_request(arrived, inbox.place())));
        self.received = received;
        admitted
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.in_hand() {
            return Next::Run;
        }
        if self.model.is_none() {
            return self.next_while_away(now);
        }
        let next = self.batcher.next(now);
        let puts_off = next == Next::Empty && !self.held.is_empty();
        self.away_until = puts_off.then(|| now + away_for(self.load_took));
        if puts_off { Next::Ask(now + ASK_AGAIN) } else { next }
    }

    fn run(&mut self, ahead: bool) -> Result<Duration> {
        self.take_turn(ahead)?;
        Ok(self.lap())
    }

    fn is_launched(&self) -> bool {
        !self.flights.is_empty()
    }

    fn in_hand(&self) -> bool {
        let prepared = self.collator.as_ref().is_some_and(Collator::holds);
        prepared || !self.flights.is_empty() || !self.again.is_empty()
    }

    fn load(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.model = Some(self.plan.fresh_model()?);
        self.load_took = begun.elapsed();
        self.plan.forecast.loads_first(Duration::ZERO);
        Ok(())
    }

    fn unload(&mut self) -> Result<()> {
        let model = self.model.take();
        self.plan.forecast.loads_first(self.load_took);
        drop_fenced(model, self.plan.name)
    }

    fn share(&self) -> u32 {
        self.plan.batching.share
    }

    fn close(&mut self, why: &Error) {
        self.plan.inbox.close(why.clone());
        let held = std::mem::take(&mut self.held);
        let waiters = held.into_iter().map(|request| request.reply);
        for waiter in waiters.chain(self.batcher.fail_all()) {
            waiter.fail(why.clone(), &self.plan.answers);
        }
    }
}

impl<M: Model> Drop for ModelEngine<M> {
    /// However the device thread ends, nobody may wait for it.
    fn drop(&mut self) {
        let name = self.plan.name;
        self.close(&Error::fatal(format_args!("the device thread of stage `{name}` has ended")));
    }
}

impl<M: Model> ModelEngine<M> {
    /// It is loaded before anything is worth waiting for.
    fn next_while_away(&mut self, now: Instant) -> Next {
        self.batcher.drop_gone(&Waiter::is_gone);
        self.let_go();
        if self.batcher.waiting() == 0 && self.held.is_empty() {
            return Next::Empty;
        }
        match self.away_until {
            // Asked sooner than that, it sees who has gone meanwhile.
            Some(until) if now < until => Next::Ask(now + ASK_AGAIN),
            _ => Next::Run,
        }
    }

    /// Those whom an error leaves over are told of it when the engine is closed.
    fn admit_all(&mut self, mut requests: impl Iterator<Item = ModelRequest<M>>) -> Result<()> {
        let admitted = requests.by_ref().try_for_each(|request| self.admit(request));
        self.held.extend(requests);
        admitted
    }

    fn admit(&mut self, request: ModelRequest<M>) -> Result<()> {
        if request.reply.is_gone() {
            request.reply.let_go(&self.plan.answers);
            return Ok(());
        }
        if self.model.is_none() {
            self.held.push(request);
            return Ok(());
        }
        for item in request.items.iter().flatten() {
            // Weight and key are asked for again, unfenced, when batches are cut: a panic would show here first.
            let asked = self.fenced(|model| {
                let _ = (M::weight(item), M::key(item));
                Ok(model.admit(item))
            });
            match asked {
                Ok(Admit::Now) => {}
                Ok(Admit::Later) => {
                    self.held.push(request);
                    return Ok(());
                }
                Ok(Admit::Never(why)) => {
                    request.reply.fail(why, &self.plan.answers);
                    return Ok(());
                }
                Err(failure) => {
                    let survived = self.survive(failure);
                    let why = survived.as_ref().unwrap_or_else(|fatal| fatal);
                    request.reply.fail(why.clone(), &self.plan.answers);
                    return survived.map(drop);
                }
            }
        }
        self.came.0 += 1;
        self.came.1 += request.items.len();
        self.batcher.push(request);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
