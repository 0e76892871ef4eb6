//! A pipeline whose jobs talk while they run, and stop at a gate between what they say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay::{Error, Event, Job, Pipeline, Worker};
use serde_json::json;

use crate::Gate;

/// Says something, waits at the gate, says more, and gives what it was given; below zero it fails. Notes its jobs.
#[derive(Clone, Default)]
pub struct Talker {
    /// Where its jobs wait; closed at first.
    pub gate: Gate,
    jobs: Arc<Mutex<Vec<Job>>>,
}

impl Talker {
    /// One whose jobs wait for nothing.
    pub fn open() -> Self {
        let talker = Talker::default();
        talker.gate.open();
        talker
    }

    /// A worker with this pipeline.
    pub fn worker(&self) -> Worker {
        let talker = self.clone();
        Worker::new(Pipeline::new().cpu("talk", 2, move |job, n: i64| {
            talker.jobs().push(job.clone());
            job.emit(Event::Progress(0.25));
            job.emit(Event::Partial(format!("{n}").into()));
            talker.gate.pass();
            job.emit(Event::Partial("two\nlines".into()));
            match n {
                0.. => Ok(json!({ "n": n })),
                _ => Err(Error::invalid("below zero")),
            }
        }))
    }

    /// How many jobs have begun.
    pub fn begun(&self) -> usize {
        self.jobs().len()
    }

    /// How many of them have been called off.
    pub fn called_off(&self) -> usize {
        self.jobs().iter().filter(|job| job.is_cancelled()).count()
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
