//! An engine driven by hand, without its thread: what runs, in which order and how often, is exact.
//!
//! All models here note what they are told. Whatever happens, every call is answered exactly once.

mod ahead;
mod away;
mod memory;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::runtime::{Builder, Runtime};
use tracing::Span;

use super::*;
use crate::error::Fault;
use crate::gpu::Gpu;
use crate::gpu::inbox::Inbox;
use crate::job::Job;
use crate::pipeline::outlook::Outlook;
use crate::pool::replies::Replies;

/// More than any test has jobs.
const PLACES: usize = 100_000;

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    /// Takes what has happened since it was last asked.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// An engine, and the calls to it.
struct Driven<M: Model> {
    engine: Box<dyn Engine>,
    gpu: Arc<Gpu<M::Input, M::Output>>,
    answers: Vec<BoxFuture<'static, Result<Vec<M::Output>>>>,
    outlook: Outlook,
    forecast: Arc<Forecast>,
    runtime: Runtime,
}

impl<M: Model> Driven<M> {
    /// It lingers for nobody unless that is said, so that what it does depends on no time.
    fn new(mut batching: Batching, load: impl Fn() -> Result<M> + Send + Sync + 'static) -> Self {
        batching.linger.get_or_insert(Duration::ZERO);
        let runtime = Builder::new_current_thread().build().unwrap();
        let meter = StageMeter::new("driven");
        let inbox = Arc::new(Inbox::new(PLACES, meter.clone(), Arc::default()));
        let outlook = Outlook::default();
        let forecast = outlook.add_device(batching.items);
        let plan = Plan {
            name: "driven",
            load: Arc::new(load),
            inbox: inbox.clone(),
            forecast: forecast.clone(),
            batching,
            meter,
            answers: Replies::start(runtime.handle()),
        };
        let mut engine = plan.engine().unwrap();
        engine.load().unwrap();
        let gpu = Arc::new(Gpu { inbox });
        Driven { engine, gpu, answers: Vec::new(), outlook, forecast, runtime }
    }

    /// A job of one item for each.
    fn call_each(&mut self, items: impl IntoIterator<Item = M::Input>) {
        items.into_iter().for_each(|item| self.call(vec![item]));
    }

    /// A job of these items.
    fn call(&mut self, items: Vec<M::Input>) {
        let job = Job::new(format!("job-{}", self.answers.len()));
        let items = items.into_iter().map(Some).collect();
        let gpu = self.gpu.clone();
        let call = async move { Ok(gpu.run(&job, items, None, Instant::now(), Span::none()).await?.value.into_vec()) };
        let mut answer = call.boxed();
        // Asked once, it has handed its items over.
        assert!((&mut answer).now_or_never().is_none());
        self.answers.push(answer);
    }

    /// What it says it would do then, having taken in what has come.
    fn next(&mut self, now: Instant) -> Next {
        self.engine.receive().unwrap();
        self.engine.next(now)
    }

    /// How long a job would take that comes behind so many.
    fn seconds_behind(&self, ahead: usize) -> f64 {
        self.outlook.finish_behind(ahead).saturating_duration_since(Instant::now()).as_secs_f64()
    }

    /// One turn, as the device thread gives it. False if there was nothing to run.
    fn turn(&mut self, ahead: bool) -> Result<bool> {
        self.engine.receive()?;
        if self.engine.next(Instant::now()) != Next::Run {
            return Ok(false);
        }
        self.engine.run(ahead)?;
        Ok(true)
    }

    /// Turns until there is nothing to run.
    fn run_dry(&mut self) {
        while self.turn(true).unwrap() {}
        assert!(!self.engine.is_launched());
    }

    /// The answers to all calls, in order; whoever has none is failed as the engine ends.
    fn answers(self) -> Vec<Result<Vec<M::Output>>> {
        drop(self.engine);
        self.runtime.block_on(join_all(self.answers))
    }
}

/// Items as text: `1,2,3`.
fn list(items: &[u32]) -> String {
    items.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
