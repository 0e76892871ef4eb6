//! What becomes of the jobs of a step that has failed, and of the stepper.
//!
//! A step that fails takes the jobs of its group with it, since nobody knows how far their states got; each of them is
//! stepped alone when it comes back, for as many steps as it had made, so that one bad state fails alone. A panic makes
//! the stepper anew. A stepper that panics on its warm-up, or on two jobs in a row, each alone, is fatal.

use std::collections::HashMap;

use tracing::warn;

use super::{StepWaiter, Steps};
use crate::error::{Error, Fault, Result};
use crate::job::Job;
use crate::pool::panic::Failure;
use crate::stepper::Stepper;

/// Jobs that are kept in mind since a step with them has failed.
const MOST_SUSPECTS: usize = 1000;

/// Which jobs may be to blame for steps that failed, and which are.
#[derive(Default)]
pub(super) struct Suspicion {
    /// Jobs that were in a step which failed, and after how many steps of theirs here. Nobody knows which is to blame
    /// before each has made as many alone.
    suspects: HashMap<String, u64>,
    /// Jobs with which a step has panicked, each alone, since a step last passed.
    guilty: Vec<String>,
}

impl Suspicion {
    pub(super) fn is_on(&self, job: &Job) -> bool {
        self.suspects.contains_key(job.id())
    }

    /// The job was in a step that failed after so many of its steps.
    fn fall_on(&mut self, job: &Job, steps: u64) {
        if self.suspects.len() < MOST_SUSPECTS {
            self.suspects.insert(job.id().to_owned(), steps);
        }
    }

    /// The job has made so many steps alone.
    fn lift(&mut self, job: &Job, steps: u64) {
        if self.suspects.get(job.id()).is_some_and(|failed| steps > *failed) {
            self.suspects.remove(job.id());
        }
    }

    /// The stepper has panicked on the job alone.
    fn convict(&mut self, job: &Job) {
        if !self.guilty.iter().any(|guilty| guilty == job.id()) {
            self.guilty.push(job.id().to_owned());
        }
    }

    /// Two jobs alone, and no step that passed between them: the stepper of the stage is to blame.
    fn check(&self, stage: &str) -> Result<()> {
        if self.guilty.len() < 2 {
            return Ok(());
        }
        Err(Error::fatal(format_args!(
            "the stepper of stage `{stage}` panicked on {} jobs in a row, each alone and freshly loaded",
            self.guilty.len()
        )))
    }
}

impl<S: Stepper> Steps<S> {
    /// A step of a group has passed.
    pub(super) fn passed(&mut self, group: &[usize]) {
        self.suspicion.guilty.clear();
        if let &[index] = group {
            self.suspicion.lift(self.seated[index].job(), self.seated[index].steps);
        }
    }

    /// Fails the jobs of a step that failed.
    pub(super) fn fail(&mut self, group: &[usize], failure: Failure) -> Result<()> {
        let panicked = matches!(failure, Failure::Panic(_));
        let alone = group.len() == 1;
        let mut failed = Vec::new();
        for &index in group.iter().rev() {
            failed.push(self.seated.remove(index));
        }
        if panicked && alone {
            self.suspicion.convict(failed[0].job());
        }
        let survived = self.survive(failure);
        let why = survived.as_ref().unwrap_or_else(|fatal| fatal);
        for seated in failed {
            self.suspicion.fall_on(seated.job(), seated.steps - seated.saved);
            // Of several, nobody knows whose fault it was.
            let why = match alone || why.fault() == Fault::Fatal {
                true => why.clone().context(format_args!("step {} here", seated.steps)),
                false => {
                    let together = why.clone().context(format_args!("a step of {} jobs together", group.len()));
                    together.with_fault(Fault::Transient)
                }
            };
            seated.waiter.fail(why, &self.plan.answers);
        }
        survived?;
        self.suspicion.check(self.plan.name)
    }

    /// Fails one job with what went wrong with it alone.
    pub(super) fn blame(&mut self, waiter: StepWaiter<S>, failure: Failure) -> Result<()> {
        if matches!(failure, Failure::Panic(_)) {
            self.suspicion.convict(&waiter.caller.job);
        }
        let survived = self.survive(failure);
        let why = survived.as_ref().unwrap_or_else(|fatal| fatal);
        waiter.fail(why.clone(), &self.plan.answers);
        survived?;
        self.suspicion.check(self.plan.name)
    }

    /// The error of a failure that is not fatal. After a panic there is a new stepper, and states that the old one has
    /// made are not given to it: their jobs go on from what was saved.
    pub(super) fn survive(&mut self, failure: Failure) -> Result<Error> {
        match failure {
            Failure::Error(why) if why.fault() == Fault::Fatal => Err(why),
            Failure::Error(why) => Ok(why),
            Failure::Panic(why) => {
                let name = self.plan.name;
                warn!(stage = name, error = %why, "stepper panicked, loading it again");
                self.stepper = None;
                let bystanders = Error::transient("the stepper panicked on another job, and was loaded again");
                for seated in std::mem::take(&mut self.seated) {
                    seated.waiter.fail(bystanders.clone(), &self.plan.answers);
                }
                let stepper = self.plan.fresh();
                self.stepper = Some(stepper.map_err(|again| again.with_fault(Fault::Fatal))?);
                Ok(why)
            }
        }
    }
}
