//! One stepper on the device thread: states join and leave between steps, and what is due is copied to be saved.
//!
//! It owns the states. Each turn it looks who has gone, lets in who waits, advances a group of states by one step, and
//! answers those that are done. Whoever is told to stop while it waits is answered in the next turn of any model,
//! whether the stepper is there or not. It never waits for a save: snapshots go to [`Saves`], and come to nothing here.
//! It [recovers](recovery) from steps that fail.

mod recovery;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::smallvec;
use tracing::{debug_span, warn};

use super::batcher::{Next, Request};
use super::engine::{Engine, Loader, drop_fenced};
use super::inbox::Inbox;
use super::memory::away_for;
use super::{Answers, Call, Gpu, Waiter};
use crate::checkpoint::saver::Saves;
use crate::checkpoint::{Saved, Snapshot, Workplace};
use crate::error::{Error, Result};
use crate::job::{Event, Job};
use crate::model::Admit;
use crate::pool::panic::{Failure, fence};
use crate::stepper::{Progress, Stepper};
use crate::telemetry::{BatchMeter, StageMeter};
use recovery::Suspicion;

/// How long an idle stepper that takes no more is left before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A job on its way to its seat.
pub(crate) struct Start<T> {
    pub(crate) spec: T,
    pub(crate) place: Workplace,
    pub(crate) saved: Option<Saved>,
    pub(crate) saves: Option<Saves>,
}

/// How a job left its seat.
pub(crate) enum Ending<O> {
    Done(O),
    /// It was told to stop; after so many steps, with its last snapshot on its way.
    Left(u64),
}

/// The way into a stepper's queue.
pub(crate) type GpuOfSteps<S> = Gpu<Start<<S as Stepper>::Spec>, Ending<<S as Stepper>::Output>>;

type StepWaiter<S> = Waiter<Ending<<S as Stepper>::Output>>;
type StepCall<S> = Call<Start<<S as Stepper>::Spec>, Ending<<S as Stepper>::Output>>;
type StepRequest<S> = Request<Start<<S as Stepper>::Spec>, StepWaiter<S>>;

/// What the engine is made of; it travels to the device thread.
pub(crate) struct Plan<S: Stepper> {
    pub(crate) name: &'static str,
    pub(crate) jobs: usize,
    pub(crate) share: u32,
    pub(crate) load: Arc<Loader<S>>,
    pub(crate) inbox: Arc<Inbox<StepCall<S>>>,
    pub(crate) meter: StageMeter,
    pub(crate) answers: Answers<Ending<S::Output>>,
}

impl<S: Stepper> Plan<S> {
    /// The engine, without its stepper.
    pub(crate) fn engine(self) -> Result<Box<dyn Engine>> {
        Ok(Box::new(Steps {
            batches: BatchMeter::new(self.name),
            stepper: None,
            received: Vec::new(),
            waiting: VecDeque::new(),
            seated: Vec::new(),
            suspicion: Suspicion::default(),
            turn: 0,
            ask_at: None,
            puts_off: false,
            load_took: Duration::ZERO,
            plan: self,
        }))
    }

    fn fresh(&self) -> Result<S> {
        let warm = || {
            let mut stepper = (self.load)()?;
            stepper.warm_up()?;
            Ok(stepper)
        };
        fence(warm).map_err(|failure| {
            let name = self.name;
            failure.into_error().context(format_args!("loading the stepper of stage `{name}`"))
        })
    }
}

struct Steps<S: Stepper> {
    plan: Plan<S>,
    /// `None` until it is loaded, while it is dropped for others, and after a panic until it is made anew.
    stepper: Option<S>,
    batches: BatchMeter,
    received: Vec<(StepCall<S>, Instant)>,
    waiting: VecDeque<StepRequest<S>>,
    seated: Vec<Seated<S>>,
    suspicion: Suspicion,
    /// Which group was stepped last.
    turn: usize,
    /// When those who wait are asked for again, if nobody is seated and nobody has come since.
    ask_at: Option<Instant>,
    /// It is the stepper that has put them off.
    puts_off: bool,
    load_took: Duration,
}

/// A job and its state.
struct Seated<S: Stepper> {
    state: S::State,
    saves: Option<Saves>,
    waiter: StepWaiter<S>,
    place: Workplace,
    began: Instant,
    worked: Duration,
    steps: u64,
    /// How many there were at the last snapshot.
    saved: u64,
}

impl<S: Stepper> Seated<S> {
    fn job(&self) -> &Job {
        &self.waiter.caller.job
    }
}

impl<S: Stepper> Engine for Steps<S> {
    fn receive(&mut self) -> Result<()> {
        let mut received = std::mem::take(&mut self.received);
        self.plan.inbox.drain(&mut received);
        let requests = received.drain(..).map(|(call, arrived)| call.into_request(arrived, self.plan.inbox.place()));
        let waited = self.waiting.len();
        self.waiting.extend(requests);
        self.received = received;
        if self.waiting.len() > waited {
            self.ask_at = None;
        }
        self.let_go_of_waiting();
        Ok(())
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.seated.is_empty() && self.waiting.is_empty() {
            return Next::Empty;
        }
        match self.ask_at {
            // Asked sooner than that, it sees who is told to stop meanwhile.
            Some(at) if self.seated.is_empty() && now < at => Next::Ask(at.min(now + ASK_AGAIN)),
            _ => Next::Run,
        }
    }

    fn run(&mut self, ahead: bool) -> Result<Duration> {
        let begun = Instant::now();
        self.let_go()?;
        if ahead {
            self.let_in()?;
        }
        let group = self.next_group();
        self.ask_at = group.is_empty().then(|| Instant::now() + ASK_AGAIN);
        self.puts_off = ahead;
        if group.is_empty() {
            return Ok(begun.elapsed());
        }
        self.step(&group)?;
        self.save_what_is_due()?;
        Ok(begun.elapsed())
    }

    fn in_hand(&self) -> bool {
        !self.seated.is_empty()
    }

    fn load(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.stepper = Some(self.plan.fresh()?);
        self.load_took = begun.elapsed();
        self.ask_at = None;
        Ok(())
    }

    fn unload(&mut self) -> Result<()> {
        let stepper = self.stepper.take();
        self.ask_at = self.ask_at.filter(|_| self.puts_off).map(|at| at + away_for(self.load_took));
        drop_fenced(stepper, self.plan.name)
    }

    fn is_launched(&self) -> bool {
        false
    }

    fn share(&self) -> u32 {
        self.plan.share
    }

    fn close(&mut self, why: &Error) {
        self.plan.inbox.close(why.clone());
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|request| request.reply);
        let seated = std::mem::take(&mut self.seated).into_iter().map(|seated| seated.waiter);
        waiting.chain(seated).for_each(|waiter| waiter.fail(why.clone(), &self.plan.answers));
    }
}

impl<S: Stepper> Drop for Steps<S> {
    /// However the device thread ends, nobody may wait for it.
    fn drop(&mut self) {
        let name = self.plan.name;
        self.close(&Error::fatal(format_args!("the device thread of stage `{name}` has ended")));
    }
}

impl<S: Stepper> Steps<S> {
    /// Those who wait leave when their callers have gone, or when they are told to stop: they have made no step here.
    fn let_go_of_waiting(&mut self) {
        if !self.waiting.iter().any(|request| request.reply.is_gone()) {
            return;
        }
        for request in std::mem::take(&mut self.waiting) {
            if !request.reply.is_gone() {
                self.waiting.push_back(request);
            } else if !request.reply.is_alone() {
                request.reply.done(smallvec![Ending::Left(0)], Instant::now(), &self.plan.answers);
            }
        }
    }

    /// Those who are seated leave when their callers have gone, when they are told to stop, or must not go on here.
    fn let_go(&mut self) -> Result<()> {
        let mut index = 0;
        while let Some(seated) = self.seated.get(index) {
            if seated.waiter.is_alone() {
                self.seated.remove(index);
            } else if let Some(why) = seated.saves.as_ref().and_then(Saves::verdict) {
                self.seated.remove(index).waiter.fail(why, &self.plan.answers);
            } else if seated.job().is_cancelled() {
                self.hand_over(index)?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// A job that was told to stop leaves, with a last snapshot if it is saved at all.
    fn hand_over(&mut self, index: usize) -> Result<()> {
        let snapshot = self.seated[index].saves.clone().map(|saves| (saves, self.snapshot(index)));
        let Seated { waiter, steps, place, .. } = self.seated.remove(index);
        match snapshot {
            Some((saves, Ok((snapshot, blocked)))) => saves.give_last(snapshot, blocked),
            Some((_, Err(failure))) => {
                let survived = self.survive(failure);
                let why = survived.as_ref().unwrap_or_else(|fatal| fatal);
                warn!(job = place.job().id(), error = %why, "no last state: the job goes on from the one before");
                if let Err(fatal) = survived {
                    waiter.fail(fatal.clone(), &self.plan.answers);
                    return Err(fatal);
                }
            }
            None => {}
        }
        waiter.done(smallvec![Ending::Left(steps)], Instant::now(), &self.plan.answers);
        Ok(())
    }

    /// Those who wait take free seats, as far as the stepper has room for them.
    fn let_in(&mut self) -> Result<()> {
        let mut put_off = VecDeque::new();
        let let_in = self.let_in_but(&mut put_off);
        put_off.append(&mut self.waiting);
        self.waiting = put_off;
        let_in
    }

    fn let_in_but(&mut self, put_off: &mut VecDeque<StepRequest<S>>) -> Result<()> {
        while self.seated.len() < self.plan.jobs {
            let Some(mut request) = self.waiting.pop_front() else {
                break;
            };
            let Some(start) = request.items.first_mut().and_then(Option::take) else {
                continue;
            };
            let Some(stepper) = &mut self.stepper else {
                return Err(self.gone());
            };
            match fence(|| Ok(stepper.admit(&start.spec))) {
                Ok(Admit::Now) => self.seat(start, request.reply)?,
                Ok(Admit::Later) => {
                    request.items = smallvec![Some(start)];
                    put_off.push_back(request);
                }
                Ok(Admit::Never(why)) => request.reply.fail(why, &self.plan.answers),
                Err(failure) => self.blame(request.reply, failure)?,
            }
        }
        Ok(())
    }

    fn seat(&mut self, start: Start<S::Spec>, waiter: StepWaiter<S>) -> Result<()> {
        let Start { spec, place, saved, saves } = start;
        let Some(stepper) = &mut self.stepper else {
            return Err(self.gone());
        };
        let began = Instant::now();
        let state = fence(|| match saved {
            None => stepper.begin(&spec, &place),
            Some(saved) => stepper.restore(&spec, &place, saved),
        });
        match state {
            Ok(state) => {
                let worked = began.elapsed();
                self.seated.push(Seated { state, saves, waiter, place, began, worked, steps: 0, saved: 0 });
            }
            Err(failure) => self.blame(waiter, failure)?,
        }
        Ok(())
    }

    /// Whom to step now: all that are above suspicion together, and each suspect alone, in turns.
    fn next_group(&mut self) -> Vec<usize> {
        let suspect = |&index: &usize| self.suspicion.is_on(self.seated[index].job());
        let (suspects, others): (Vec<usize>, Vec<usize>) = (0..self.seated.len()).partition(suspect);
        let mut groups: Vec<Vec<usize>> = suspects.into_iter().map(|index| vec![index]).collect();
        if !others.is_empty() {
            groups.push(others);
        }
        if groups.is_empty() {
            return Vec::new();
        }
        self.turn = (self.turn.wrapping_add(1)) % groups.len();
        groups.swap_remove(self.turn)
    }

    /// Advances the states of a group, in ascending order of their seats, by one step.
    fn step(&mut self, group: &[usize]) -> Result<()> {
        let name = self.plan.name;
        let Some(stepper) = &mut self.stepper else {
            return Err(self.gone());
        };
        let started = Instant::now();
        let span = debug_span!("step", stage = name, jobs = group.len());
        let chosen = self.seated.iter_mut().enumerate().filter(|(index, _)| group.contains(index));
        let mut marks: Vec<Mark<'_, S>> = chosen.map(|(_, seated)| Mark::of(seated)).collect();
        let at_work: Vec<_> = marks.iter().filter_map(|mark| mark.job.at_work()).collect();
        let mut states: Vec<&mut S::State> = marks.iter_mut().map(|mark| &mut *mark.state).collect();
        let outcome = span.in_scope(|| fence(|| stepper.step(&mut states)));
        drop(at_work);
        let took = started.elapsed();
        for mark in &mut marks {
            *mark.steps += 1;
            *mark.worked += took;
        }
        self.batches.ran(group.len(), group.len() as f64 / self.plan.jobs as f64, took);
        match outcome {
            Ok(progress) if progress.len() == group.len() => self.tell(group, progress),
            Ok(progress) => Err(Error::fatal(format_args!(
                "the stepper of stage `{name}` told {} progresses of {} states",
                progress.len(),
                group.len()
            ))),
            Err(failure) => self.fail(group, failure),
        }
    }

    /// Tells what a step has made of its states, and answers those that are done.
    fn tell(&mut self, group: &[usize], progress: Vec<Progress>) -> Result<()> {
        self.passed(group);
        let mut done = Vec::new();
        for (&index, progress) in group.iter().zip(progress) {
            let job = self.seated[index].job();
            progress.pieces.into_iter().for_each(|piece| job.emit(Event::Partial(piece)));
            if let Some(fraction) = progress.fraction {
                job.emit(Event::Progress(fraction));
            }
            if progress.done {
                done.push(index);
            }
        }
        // From the last one on, so that the seats before keep their numbers.
        for index in done.into_iter().rev() {
            let seated = self.seated.remove(index);
            self.finish(seated)?;
        }
        Ok(())
    }

    fn finish(&mut self, seated: Seated<S>) -> Result<()> {
        let Some(stepper) = &mut self.stepper else {
            return Err(self.gone());
        };
        let Seated { state, waiter, began, worked, saves: _saves, place: _place, .. } = seated;
        let output = fence(|| stepper.finish(state));
        match output {
            Ok(output) => {
                let waited = began.saturating_duration_since(waiter.caller.since);
                self.plan.meter.ran(&waiter.caller.job, waited, worked);
                waiter.done(smallvec![Ending::Done(output)], Instant::now(), &self.plan.answers);
            }
            Err(failure) => self.blame(waiter, failure)?,
        }
        Ok(())
    }

    fn save_what_is_due(&mut self) -> Result<()> {
        let mut index = 0;
        while let Some(seated) = self.seated.get(index) {
            if let Some(saves) = seated.saves.clone().filter(Saves::is_due) {
                match self.snapshot(index) {
                    Ok((snapshot, blocked)) => saves.give(snapshot, blocked),
                    Err(failure) => {
                        let waiter = self.seated.remove(index).waiter;
                        self.blame(waiter, failure)?;
                        continue;
                    }
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// A copy of a job's state, and how long the device stood still for it.
    fn snapshot(&mut self, index: usize) -> Result<(Snapshot, Duration), Failure> {
        let started = Instant::now();
        let Some(stepper) = &mut self.stepper else {
            return Err(Failure::Error(self.gone()));
        };
        let Seated { state, place, .. } = &mut self.seated[index];
        let snapshot = fence(|| stepper.save(state)?.taken(place))?;
        let blocked = started.elapsed();
        let seated = &mut self.seated[index];
        seated.worked += blocked;
        seated.saved = seated.steps;
        Ok((snapshot, blocked))
    }

    fn gone(&self) -> Error {
        Error::fatal(format_args!("the stepper of stage `{}` is gone", self.plan.name))
    }
}

/// What a step touches of a seat.
struct Mark<'a, S: Stepper> {
    state: &'a mut S::State,
    job: &'a Job,
    steps: &'a mut u64,
    worked: &'a mut Duration,
}

impl<'a, S: Stepper> Mark<'a, S> {
    fn of(seated: &'a mut Seated<S>) -> Self {
        let Seated { state, waiter, steps, worked, .. } = seated;
        Mark { state, job: &waiter.caller.job, steps, worked }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
