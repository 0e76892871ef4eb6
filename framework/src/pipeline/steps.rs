//! The stage of steps at work: brings a job's saved state back, has it stepped on the device, and saves it meanwhile.
//!
//! The device thread does the stepping and takes the snapshots ([`gpu::steps`](crate::gpu::steps)); all that goes over
//! the network is done here, by the job's own task and one beside it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use smallvec::smallvec;
use tokio::task::JoinHandle;

use super::{Handover, Label, Next, Rest, Stage, Starter, Step};
use crate::checkpoint::saver::Saves;
use crate::checkpoint::{Checkpoints, Saving, Workplace};
use crate::error::{Error, Result};
use crate::gpu::steps::{Ending, GpuOfSteps, Start};
use crate::job::Job;
use crate::pool::panic::panicked;
use crate::pool::places::Places;
use crate::stepper::Stepper;

/// How long a job that is to go to another worker may take at most to save its last state. Most often its worker has
/// less patience: the grace of a drain, or a minute where the source lets nobody hold the job for longer.
const FLUSH_WITHIN: Duration = Duration::from_secs(3600);

pub(crate) struct GpuSteps<S: Stepper> {
    next: Next<S::Output>,
    label: Label,
    gpu: GpuOfSteps<S>,
    seats: Arc<Places>,
    saving: Option<Saving>,
}

impl<S: Stepper> GpuSteps<S> {
    pub(crate) fn new(
        starter: &mut Starter,
        stage: &Stage,
        next: Next<S::Output>,
        load: Arc<impl Fn() -> Result<S> + Send + Sync + 'static>,
        saving: Option<Saving>,
    ) -> Result<Arc<Self>> {
        let label = Label::new(stage);
        let gpu = starter.steps(stage, label.meter.clone(), load)?;
        let seats = Places::new(stage.places());
        starter.close_later({
            let seats = seats.clone();
            move || seats.close()
        });
        Ok(Arc::new(GpuSteps { next, label, gpu, seats, saving }))
    }

    async fn work(&self, job: &Job, spec: S::Spec, since: Instant) -> Result<S::Output> {
        let Some(saving) = &self.saving else {
            let start = Start { spec, place: Workplace::new(job, None), saved: None, saves: None };
            return match self.step(job, start, since).await? {
                Ending::Done(output) => Ok(output),
                Ending::Left(_) => Err(Error::transient("the job was called off")),
            };
        };
        let place = Workplace::new(job, saving.folder());
        let mut checkpoints = Checkpoints::open(saving.store.clone(), &saving.key(job)?, &place, S::FORMAT).await?;
        let saved = checkpoints.restore_parts(S::wants).await?;
        let saves = Saves::new(saving, &checkpoints);
        place.set_saves(&saves);
        job.keeps_progress();
        let saver = AssertUnwindSafe(saves.clone().run(checkpoints)).catch_unwind();
        let given_up = saves.clone();
        let task = tokio::spawn(async move {
            if let Err(payload) = saver.await {
                given_up.give_up(panicked(&*payload).context("saving a state"));
            }
        });
        let _saver = EndsWithIt(task, saves.clone());
        let start = Start { spec, place, saved, saves: Some(saves.clone()) };
        match self.step(job, start, since).await? {
            Ending::Done(output) => {
                job.keeps_no_progress();
                Ok(output)
            }
            Ending::Left(steps) => {
                saves.flush(FLUSH_WITHIN).await;
                Err(Error::transient(format_args!("handed over after {steps} steps here")))
            }
        }
    }

    async fn step(&self, job: &Job, start: Start<S::Spec>, since: Instant) -> Result<Ending<S::Output>> {
        let ended = self.gpu.run(job, smallvec![Some(start)], None, since, self.label.span()).await?;
        ended.value.into_iter().next().ok_or_else(|| Error::fatal("a job was stepped, and nothing came of it"))
    }
}

impl<S: Stepper> Rest<S::Spec> for Arc<GpuSteps<S>> {
    fn run(&self, job: Job, from: Handover<S::Spec>) -> Step {
        let stage = self.clone();
        Step::Stage(Box::pin(async move {
            let label = &stage.label;
            let seat = stage.seats.enter(&job).await.map_err(|why| label.blame(why))?;
            drop(from.place);
            job.enter(label.name);
            let result = stage.work(&job, from.value, from.since).await;
            let value = label.leave(result)?;
            Ok(stage.next.run(job, Handover { value, place: Some(seat), since: Instant::now() }))
        }))
    }
}

/// A task that ends, and forgets what it still had to save, when nobody holds this any more.
struct EndsWithIt(JoinHandle<()>, Saves);

impl Drop for EndsWithIt {
    fn drop(&mut self) {
        self.0.abort();
        self.1.clear();
    }
}
