//! The thread of one device: loads its models, then takes turns between them until it is told to stop.
//!
//! When several models have work, the one runs that has used the least of its share of the device's time. A model
//! that waits for its batch to grow does not hold up another that is ready; then it runs as it is, in its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::error;

use super::batcher::Next;
use super::engine::Engine;
use super::inbox::Waker;
use crate::error::{Context, Error, Result};
use crate::pool::queue::LINGER_AWAKE;
use crate::telemetry::DeviceMeter;

/// Makes an engine on the device thread.
pub(crate) type LoadEngine = Box<dyn FnOnce() -> Result<Box<dyn Engine>> + Send>;

/// A device with the models that will run on it.
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) waker: Arc<Waker>,
    pub(crate) engines: Vec<LoadEngine>,
}

/// A device thread that runs. Dropped, it is told to stop and is not waited for.
pub(crate) struct Running {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl Device {
    pub(crate) fn new(number: usize) -> Self {
        Device { number, waker: Arc::default(), engines: Vec::new() }
    }

    /// Starts the thread; the receiver answers when all models are loaded and warm, or why not.
    pub(crate) fn start(self) -> Result<(Running, oneshot::Receiver<Result<()>>)> {
        let (ready, is_ready) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let waker = self.waker.clone();
        let stopped = stop.clone();
        let thread = Builder::new()
            .name(format!("gpu{}", self.number))
            .spawn(move || serve(self, &stopped, ready))
            .context("starting a device thread")?;
        let running = Running { waker, stop, thread: Some(thread) };
        Ok((running, is_ready))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

fn serve(device: Device, stop: &AtomicBool, ready: oneshot::Sender<Result<()>>) {
    device.waker.register();
    let loaded: Result<Vec<_>> = device.engines.into_iter().map(|load| load()).collect();
    let mut engines: Vec<_> = match loaded {
        Ok(engines) => engines.into_iter().map(Shared::new).collect(),
        Err(why) => return drop(ready.send(Err(why))),
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    let meter = DeviceMeter::new(device.number);
    let why = match take_turns(&mut engines, stop, &meter) {
        Ok(()) => Error::transient("the worker is stopping"),
        Err(why) => {
            error!(device = device.number, error = %why, "device thread ends");
            why
        }
    };
    engines.iter_mut().for_each(|shared| shared.engine.close(&why));
}

/// An engine and how much of its share it has used.
struct Shared {
    engine: Box<dyn Engine>,
    used: Duration,
    active: bool,
}

impl Shared {
    fn new(engine: Box<dyn Engine>) -> Self {
        Shared { engine, used: Duration::ZERO, active: false }
    }
}

fn take_turns(engines: &mut [Shared], stop: &AtomicBool, meter: &DeviceMeter) -> Result<()> {
    let mut free_since = Instant::now();
    loop {
        engines.iter_mut().try_for_each(|shared| shared.engine.receive())?;
        let now = Instant::now();
        let choice = choose(engines, now);
        if let Choice::Run(index) = choice {
            let chosen = &mut engines[index];
            let took = chosen.engine.run()?;
            chosen.used += took / chosen.engine.share();
            meter.busy(took);
            free_since = Instant::now();
            continue;
        }
        if stop.load(Ordering::Acquire) {
            // Whatever is left is not worth an answer: those who waited have gone.
            return Ok(());
        }
        match choice {
            _ if now - free_since < LINGER_AWAKE => std::thread::yield_now(),
            Choice::Wait(until) => std::thread::park_timeout(until - now),
            _ => std::thread::park(),
        }
        meter.idle(now.elapsed());
    }
}

enum Choice {
    Run(usize),
    Wait(Instant),
    Sleep,
}

fn choose(engines: &mut [Shared], now: Instant) -> Choice {
    let nexts: Vec<Next> = engines.iter_mut().map(|shared| shared.engine.next(now)).collect();
    credit(engines, &nexts);
    let any_ready = nexts.contains(&Next::Run);
    let least_used =
        (0..engines.len()).filter(|&i| any_ready && nexts[i] != Next::Empty).min_by_key(|&i| engines[i].used);
    if let Some(index) = least_used {
        return Choice::Run(index);
    }
    let soonest = nexts.iter().filter_map(|next| match next {
        Next::Wait(until) => Some(*until),
        _ => None,
    });
    soonest.min().map_or(Choice::Sleep, Choice::Wait)
}

/// A model that had nothing to do has saved up nothing: it joins level with the one that used the least.
fn credit(engines: &mut [Shared], nexts: &[Next]) {
    let level = engines.iter().filter(|shared| shared.active).map(|shared| shared.used).min();
    for (shared, next) in engines.iter_mut().zip(nexts) {
        let active = *next != Next::Empty;
        if active && !shared.active {
            shared.used = shared.used.max(level.unwrap_or(shared.used));
        }
        shared.active = active;
    }
}
