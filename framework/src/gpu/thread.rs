//! The thread of one device: loads its models, then takes turns between them until it is told to stop.
//!
//! When several models have work, the one runs that has used the least of its share of the device's time. A model
//! that waits for its batch to grow does not hold up another that is ready; then it runs as it is, in its turn. A batch
//! that was launched ahead is fetched, and charged to its model, before another model's turn. A model that is not there
//! is loaded when its turn comes, or as soon after as there is room; meanwhile the others run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::error;

use super::batcher::Next;
use super::inbox::Waker;
use super::memory::{Doing, Memory, Room};
use super::residents::{Newcomer, Residents};
use crate::error::{Context, Error, Result};
use crate::pool::queue::LINGER_AWAKE;
use crate::telemetry::DeviceMeter;

/// A device with the models that will run on it.
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) waker: Arc<Waker>,
    /// In the order in which they are loaded.
    pub(crate) models: Vec<Newcomer>,
    /// Bytes that they may keep together.
    pub(crate) budget: Option<u64>,
}

/// A device thread that runs. Dropped, it is told to stop and is not waited for.
pub(crate) struct Running {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl Device {
    pub(crate) fn new(number: usize) -> Self {
        Device { number, waker: Arc::default(), models: Vec::new(), budget: None }
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
    let mut residents = match Residents::load(device.models, device.number, device.budget) {
        Ok(residents) => residents,
        Err(why) => return drop(ready.send(Err(why))),
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    let meter = DeviceMeter::new(device.number);
    let why = match take_turns(&mut residents, stop, &meter) {
        Ok(()) => Error::transient("the worker is stopping"),
        Err(why) => {
            error!(device = device.number, error = %why, "device thread ends");
            why
        }
    };
    residents.close(&why);
}

fn take_turns(residents: &mut Residents, stop: &AtomicBool, meter: &DeviceMeter) -> Result<()> {
    let mut turns = Turns::new(residents.shares());
    let mut free_since = Instant::now();
    loop {
        residents.receive()?;
        let now = Instant::now();
        let nexts = residents.nexts(now);
        let step = next_step(&mut turns, &residents.memory, &nexts, |index| residents.in_hand(index));
        let step = step.after(residents.launched());
        if let Step::Run { index, ahead } = step {
            let took = residents.run(index, ahead)?;
            turns.ran(index, took);
            free_since = Instant::now();
            meter.busy(took);
            meter.idle((free_since - now).saturating_sub(took));
            continue;
        }
        if stop.load(Ordering::Acquire) {
            // Whatever is left is not worth an answer: those who waited have gone.
            return Ok(());
        }
        match step {
            Step::Load { index, instead } => {
                residents.exchange(&instead, index)?;
                free_since = Instant::now();
                continue;
            }
            _ if now - free_since < LINGER_AWAKE => std::thread::yield_now(),
            Step::Wait(until) => std::thread::park_timeout(until - now),
            _ => std::thread::park(),
        }
        meter.idle(now.elapsed());
    }
}

/// What the device does next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Runs a model, which may get its next batch in hand too if it is to run `ahead`.
    Run {
        index: usize,
        ahead: bool,
    },
    /// Loads a model after others have gone.
    Load {
        index: usize,
        instead: Vec<usize>,
    },
    Wait(Instant),
    Sleep,
}

impl Step {
    /// This step, unless a model has a batch `launched`: that comes back before another gets at the device.
    fn after(self, launched: Option<usize>) -> Self {
        match (launched, self) {
            (Some(index), Step::Run { index: chosen, ahead }) => Step::Run { index, ahead: ahead && index == chosen },
            (Some(index), Step::Load { .. }) => Step::Run { index, ahead: false },
            (_, step) => step,
        }
    }
}

pub(super) fn next_step(turns: &mut Turns, memory: &Memory, nexts: &[Next], in_hand: impl Fn(usize) -> bool) -> Step {
    let index = match turns.choose(nexts) {
        Choice::Run(index) => index,
        Choice::Wait(until) => return Step::Wait(until),
        Choice::Sleep => return Step::Sleep,
    };
    if memory.is_there(index) {
        return Step::Run { index, ahead: true };
    }
    let about = nexts.iter().enumerate();
    let doing: Vec<_> = about.map(|(index, next)| Doing { works: next.is_work(), in_hand: in_hand(index) }).collect();
    match memory.room(index, &doing) {
        Room::After(instead) => Step::Load { index, instead },
        // Whoever keeps its place or has something in hand has work, so that somebody runs.
        Room::Later(leaving) => match turns.least_used(|index| memory.is_there(index)) {
            Some(index) => Step::Run { index, ahead: !leaving.contains(&index) },
            None => Step::Sleep,
        },
    }
}

/// Whose turn it is: start-time fair queueing (Goyal et al. 1996) of the device's time.
pub(super) struct Turns {
    shares: Vec<u32>,
    /// The time that each model has used, divided by its share.
    used: Vec<Duration>,
    active: Vec<bool>,
    /// What the model had used whose turn it was last. It never goes back.
    clock: Duration,
}

#[derive(Debug, PartialEq)]
enum Choice {
    Run(usize),
    Wait(Instant),
    Sleep,
}

impl Turns {
    pub(super) fn new(shares: Vec<u32>) -> Self {
        let count = shares.len();
        Turns { shares, used: vec![Duration::ZERO; count], active: vec![false; count], clock: Duration::ZERO }
    }

    fn choose(&mut self, nexts: &[Next]) -> Choice {
        for (index, next) in nexts.iter().enumerate() {
            let active = next.is_work();
            if active && !self.active[index] {
                // While it had nothing to do it saved up nothing.
                self.used[index] = self.used[index].max(self.clock);
            }
            self.active[index] = active;
        }
        if nexts.contains(&Next::Run) {
            return self.least_used(|_| true).map_or(Choice::Sleep, Choice::Run);
        }
        let soonest = nexts.iter().filter_map(|next| match next {
            Next::Wait(until) | Next::Ask(until) => Some(*until),
            _ => None,
        });
        soonest.min().map_or(Choice::Sleep, Choice::Wait)
    }

    /// Who of these has work and has used the least.
    fn least_used(&self, among: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.used.len()).filter(|&i| self.active[i] && among(i)).min_by_key(|&i| self.used[i])
    }

    pub(super) fn ran(&mut self, index: usize, took: Duration) {
        self.clock = self.clock.max(self.used[index]);
        self.used[index] += took / self.shares[index];
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::gpu::engine::Engine;

    const BATCH: Duration = Duration::from_millis(10);

    /// How many of so many turns each model gets.
    fn turns(turns: &mut Turns, count: usize, nexts: &[Next]) -> Vec<usize> {
        let mut got = vec![0; nexts.len()];
        for _ in 0..count {
            let Choice::Run(index) = turns.choose(nexts) else {
                panic!("there is work");
            };
            turns.ran(index, BATCH);
            got[index] += 1;
        }
        got
    }

    #[test]
    fn models_with_work_get_their_shares() {
        assert_eq!(turns(&mut Turns::new(vec![1, 1]), 100, &[Next::Run, Next::Run]), [50, 50]);
        assert_eq!(turns(&mut Turns::new(vec![3, 1]), 100, &[Next::Run, Next::Run]), [75, 25]);
    }

    #[test]
    fn a_model_that_had_nothing_to_do_has_saved_up_nothing() {
        let mut both = Turns::new(vec![1, 1]);
        turns(&mut both, 1000, &[Next::Run, Next::Empty]);
        assert_eq!(both.choose(&[Next::Empty, Next::Empty]), Choice::Sleep);
        assert_eq!(turns(&mut both, 1, &[Next::Empty, Next::Run]), [0, 1]);
        let got = turns(&mut both, 100, &[Next::Run, Next::Run]);
        assert!((49..=51).contains(&got[0]), "{got:?}");
    }

    #[test]
    fn a_model_that_takes_no_more_holds_up_no_other() {
        let now = Instant::now();
        let mut both = Turns::new(vec![1, 1]);
        assert_eq!(turns(&mut both, 10, &[Next::Ask(now), Next::Run]), [0, 10]);
        assert_eq!(both.choose(&[Next::Ask(now), Next::Empty]), Choice::Wait(now));
    }

    /// Answers a batch a turn, and then has the next one on the device if it may.
    struct Fake {
        name: &'static str,
        left: usize,
        launched: bool,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Engine for Fake {
        fn receive(&mut self) -> Result<()> {
            Ok(())
        }

        fn next(&mut self, _: Instant) -> Next {
            if self.left > 0 { Next::Run } else { Next::Empty }
        }

        fn run(&mut self, ahead: bool) -> Result<Duration> {
            self.left -= 1;
            self.launched = ahead && self.left > 0;
            let next = if self.launched { ", one ahead" } else { "" };
            self.log.lock().unwrap().push(format!("{}{next}", self.name));
            Ok(BATCH)
        }

        fn is_launched(&self) -> bool {
            self.launched
        }

        fn in_hand(&self) -> bool {
            self.launched
        }

        fn load(&mut self) -> Result<()> {
            Ok(())
        }

        fn unload(&mut self) -> Result<()> {
            Ok(())
        }

        fn share(&self) -> u32 {
            1
        }

        fn close(&mut self, _: &Error) {}
    }

    #[test]
    fn what_is_ahead_comes_back_before_another_model_runs_and_is_charged() {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let fake = |name, left| {
            let fake = Fake { name, left, launched: false, log: log.clone() };
            Newcomer { stage: name, bytes: 0, make: Box::new(|| Ok(Box::new(fake))) }
        };
        let mut residents = Residents::load(vec![fake("a", 5), fake("b", 3)], 0, None).unwrap();
        take_turns(&mut residents, &AtomicBool::new(true), &DeviceMeter::new(0)).unwrap();
        // It stops when nothing is left, on the device neither.
        let expected = ["a, one ahead", "a", "b, one ahead", "b, one ahead", "b", "a, one ahead", "a, one ahead", "a"];
        assert_eq!(*log.lock().unwrap(), expected);
    }

    #[test]
    fn a_linger_ends_when_another_model_is_ready() {
        let later = Instant::now() + BATCH;
        let mut both = Turns::new(vec![1, 1]);
        assert_eq!(turns(&mut both, 10, &[Next::Wait(later), Next::Run]), [5, 5]);
    }
}
