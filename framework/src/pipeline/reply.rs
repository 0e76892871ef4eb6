//! A job's task, as the stages of threads see it.
//!
//! Consecutive stages of threads are one run: each hands the job straight on to the next, and the job's task sleeps. It
//! is woken once, where the run ends: by an error, before an async stage, at the end of the pipeline.

use tokio::sync::oneshot;
use tracing::Span;
use tracing::level_filters::LevelFilter;

use super::Step;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pool::replies::Answer;

/// The way back to a job's task, which waits for the end of a run. Dropped, it tells the task that nobody will come.
pub(crate) struct Reply {
    task: oneshot::Sender<Result<Step>>,
    /// In which the task was: the spans of the run's stages belong there.
    span: Span,
}

/// The end of a run, which a job's task waits for while threads have the job.
pub(crate) struct Awaited(oneshot::Receiver<Result<Step>>);

/// A job at the end of a run, with what comes next.
pub(crate) struct Arrival {
    reply: Reply,
    step: Result<Step>,
}

impl Reply {
    /// To be called by the job's task.
    pub(crate) fn new() -> (Self, Awaited) {
        let (task, told) = oneshot::channel();
        // To ask for the current span costs more than a span that nobody wants.
        let wanted = LevelFilter::current() >= LevelFilter::DEBUG;
        let span = if wanted { Span::current() } else { Span::none() };
        (Reply { task, span }, Awaited(told))
    }

    /// Nobody waits any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.task.is_closed()
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn with(self, step: Result<Step>) -> Arrival {
        Arrival { reply: self, step }
    }
}

impl Awaited {
    pub(crate) async fn of(self, job: &Job) -> Result<Step> {
        self.0.await.unwrap_or_else(|_| Err(dropped(job)))
    }
}

/// Why a job that was handed to threads got no answer. One that was refused has got one.
pub(crate) fn dropped(job: &Job) -> Error {
    match job.is_cancelled() {
        // Its task may hear of it here before it is aborted.
        true => called_off(),
        false => Error::fatal(format_args!("a thread has ended with the job, after it entered `{}`", job.stage())),
    }
}

/// What a job hears that nobody waits for any more, if it still hears.
pub(crate) fn called_off() -> Error {
    Error::transient("the job was called off")
}

impl Answer for Arrival {
    fn hand_out(self) {
        // A task that has gone meanwhile needs no answer.
        let _ = self.reply.task.send(self.step);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};

    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::pipeline::{Starter, Walker};
    use crate::{Batching, Model, Pipeline, Running};

    struct Same;

    impl Model for Same {
        type Input = u32;
        type Output = u32;

        fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
            Ok(inputs.to_vec())
        }
    }

    /// A stage that waits for a word before each job, and how often it has begun to wait.
    struct Gate {
        words: Mutex<mpsc::Receiver<()>>,
        begun: AtomicUsize,
    }

    impl Gate {
        fn new() -> (mpsc::Sender<()>, Arc<Self>) {
            let (tell, words) = mpsc::channel();
            (tell, Arc::new(Gate { words: Mutex::new(words), begun: AtomicUsize::new(0) }))
        }

        fn pass(&self) {
            self.begun.fetch_add(1, Ordering::SeqCst);
            // Whoever would speak has gone: nobody is kept.
            let _ = self.words.lock().unwrap().recv();
        }

        async fn begun(&self, times: usize) {
            until(|| self.begun.load(Ordering::SeqCst) == times).await;
        }
    }

    struct Gated(Arc<Gate>);

    impl Model for Gated {
        type Input = u32;
        type Output = u32;

        fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
            self.0.pass();
            Ok(inputs.to_vec())
        }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            yield_now().await;
        }
    }

    fn call(running: &Arc<Running<u32, u32>>, job: &Job) -> JoinHandle<Result<u32>> {
        let (running, job) = (running.clone(), job.clone());
        tokio::spawn(async move { running.call_as(&job, 1).await })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_run_of_stages_of_threads_wakes_the_jobs_task_once() {
        let (tell, gate) = Gate::new();
        let shut = gate.clone();
        let pipeline = Pipeline::new()
            .io("in", 1, async |_, x| Ok(x))
            .cpu("before", 1, move |_, x: u32| {
                shut.pass();
                Ok(((), vec![x]))
            })
            .sized(|_| 1)
            .gpu_each("each", Batching::items(1), || Ok(Same))
            .cpu("between", 1, |_, (_, items)| Ok(items[0]))
            .gpu("one", Batching::items(1), || Ok(Same))
            .cpu("after", 1, |_, x| Ok(x))
            .io("out", 1, async |_, x| Ok(x));
        let running = Arc::new(pipeline.start().await.unwrap());
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let task = tokio::spawn(async move {
            let mut call = pin!(running.call(7));
            poll_fn(|context| {
                let poll = call.as_mut().poll(context);
                counted.fetch_add(1, Ordering::SeqCst);
                poll
            })
            .await
        });
        until(|| polls.load(Ordering::SeqCst) == 1).await;
        tell.send(()).unwrap();
        assert_eq!(task.await.unwrap().unwrap(), 7);
        assert_eq!(polls.load(Ordering::SeqCst), 2, "once to go in, and once at the end of five stages");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_whose_task_has_gone_is_handed_to_no_further_stage_and_frees_its_place() {
        let (tell, gate) = Gate::new();
        let shut = gate.clone();
        let pipeline = Pipeline::new()
            .cpu("first", 1, move |_, x| {
                shut.pass();
                Ok(x)
            })
            .gpu("second", Batching::items(1), || Ok(Same))
            .configure("first.places=1")
            .unwrap();
        let running = Arc::new(pipeline.start().await.unwrap());
        let (gone, next) = (Job::new("gone"), Job::new("next"));
        let task = call(&running, &gone);
        gate.begun(1).await;
        let next_task = call(&running, &next);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        (0..2).for_each(|_| tell.send(()).unwrap());
        assert_eq!(next_task.await.unwrap().unwrap(), 1, "there is a place for the next one");
        assert_eq!((gone.stage(), next.stage()), ("first", "second"));
    }

    /// A user's value that panics as it is dropped, and says where.
    struct Fuse(Arc<Mutex<Vec<String>>>);

    impl Drop for Fuse {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(std::thread::current().name().unwrap_or_default().to_owned());
            panic!("dropped");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_output_that_nobody_waits_for_may_panic_as_it_is_dropped() {
        let (tell, gate) = Gate::new();
        let (shut, dropped) = (gate.clone(), Arc::default());
        let fuses: Arc<Mutex<Vec<String>>> = Arc::clone(&dropped);
        let pipeline = Pipeline::new()
            .cpu("first", 1, move |_, x: u32| {
                shut.pass();
                Ok((x, Fuse(fuses.clone())))
            })
            .cpu("second", 1, |_, (x, fuse)| {
                std::mem::forget(fuse);
                Ok(x)
            });
        let running = Arc::new(pipeline.start().await.unwrap());
        let task = call(&running, &Job::new("gone"));
        gate.begun(1).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        (0..2).for_each(|_| tell.send(()).unwrap());
        assert_eq!(call(&running, &Job::new("next")).await.unwrap().unwrap(), 1, "its thread goes on");
        assert_eq!(*dropped.lock().unwrap(), ["first"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_passes_a_device_by_is_not_dropped_on_its_thread() {
        let (tell, gate) = Gate::new();
        let (shut, dropped) = (gate.clone(), Arc::default());
        let fuses: Arc<Mutex<Vec<String>>> = Arc::clone(&dropped);
        let pipeline = Pipeline::new()
            .cpu("before", 1, move |_, x: u32| Ok((Fuse(fuses.clone()), vec![x])))
            .gpu_each("each", Batching::items(1), move || Ok(Gated(shut.clone())))
            .cpu("after", 1, |_, (fuse, items)| {
                std::mem::forget(fuse);
                Ok(items[0])
            });
        let running = Arc::new(pipeline.start().await.unwrap());
        let (first, second) = (Job::new("first"), Job::new("second"));
        // One leaves the batcher, which the device fills before it runs the second; the other has only come to its inbox.
        let (waits, comes) = (Job::new("waits"), Job::new("comes"));
        let first = call(&running, &first);
        gate.begun(1).await;
        let second_task = call(&running, &second);
        until(|| second.stage() == "each").await;
        let waits_task = call(&running, &waits);
        until(|| waits.stage() == "each").await;
        tell.send(()).unwrap();
        gate.begun(2).await;
        let comes_task = call(&running, &comes);
        until(|| comes.stage() == "each").await;
        for task in [waits_task, comes_task] {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        (0..2).for_each(|_| tell.send(()).unwrap());
        assert_eq!((first.await.unwrap().unwrap(), second_task.await.unwrap().unwrap()), (1, 1));
        assert_eq!(call(&running, &Job::new("next")).await.unwrap().unwrap(), 1, "the device goes on");
        until(|| dropped.lock().unwrap().len() == 2).await;
        assert!(!dropped.lock().unwrap().contains(&"gpu0".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_in_the_middle_of_a_run_tells_everybody_why() {
        let (first, second) = (Arc::new(AtomicUsize::new(0)), Gate::new());
        let (done, (tell, gate)) = (first.clone(), second);
        let shut = gate.clone();
        let pipeline = Pipeline::new()
            .cpu("first", 1, move |_, x: u32| {
                done.fetch_add(1, Ordering::SeqCst);
                Ok(x)
            })
            .cpu("second", 1, move |_, x| {
                shut.pass();
                Ok(x)
            })
            .configure("second.places=2")
            .unwrap();
        let mut starter = Starter::new();
        let walker = Arc::new(Walker::build(&mut starter, &pipeline).unwrap());
        let pools = starter.finish().await.unwrap();
        let walk = |_| {
            let walker = walker.clone();
            tokio::spawn(async move { walker.walk(&Job::new("job"), 1, 0).await })
        };
        // One is worked on, one is queued, and one waits in line for a place.
        let tasks: Vec<_> = (0..3).map(walk).collect();
        gate.begun(1).await;
        until(|| first.load(Ordering::SeqCst) == 3).await;
        drop(pools);
        drop(tell);
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(task.await.unwrap().map_err(|why| why.to_string()));
        }
        ends.sort();
        let closed = || Err("stage `second` is closed".to_owned());
        assert_eq!(ends, [Ok(1), closed(), closed()]);
        let late = walker.walk(&Job::new("late"), 1, 0).await.unwrap_err();
        assert_eq!(late.to_string(), "stage `first` is closed");
    }

    #[tokio::test]
    async fn a_panic_while_a_value_is_sized_fails_the_job_and_leaves_the_thread() {
        let pipeline = Pipeline::new()
            .cpu("first", 1, |_, x: u32| Ok(x))
            .sized(|&x| match x {
                0 => panic!("no size"),
                x => x as usize,
            })
            .cpu("second", 1, |_, x| Ok(x))
            .budget(100);
        let running = pipeline.start().await.unwrap();
        let why = running.call(0).await.unwrap_err();
        assert_eq!(why.to_string(), "stage `first`: panicked: no size");
        assert_eq!(running.call(7).await.unwrap(), 7);
        assert_eq!(running.held_bytes(), 0);
    }

    /// Stages by the names of the spans in which theirs are.
    #[cfg(feature = "telemetry")]
    mod spans {
        use tracing::dispatcher::set_default;
        use tracing::span::{Attributes, Id};
        use tracing::{Dispatch, Instrument, info_span};
        use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
        use tracing_subscriber::registry::{LookupSpan, Registry};

        use super::*;

        #[derive(Clone, Default)]
        struct Parents(Arc<Mutex<Vec<Option<&'static str>>>>);

        impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Parents {
            fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
                if attributes.metadata().name() == "stage" {
                    let parent = context.span(id).and_then(|span| span.parent()).map(|parent| parent.name());
                    self.0.lock().unwrap().push(parent);
                }
            }
        }

        #[tokio::test]
        async fn the_spans_of_all_stages_of_a_run_are_in_the_jobs_own() {
            // What a span's place in the code is worth is asked when a thread first comes by: of all subscribers, but of
            // that thread's own alone where there is only one, and threads of other tests have none. So all places are
            // passed before, and there are two.
            let passed = Pipeline::new().cpu("cpu", 1, |_, x: u32| Ok(x)).io("io", 1, async |_, x| Ok(x));
            passed.start().await.unwrap().call(1).await.unwrap();
            let parents = Parents::default();
            let subscriber = Dispatch::new(Registry::default().with(parents.clone()));
            let _another = Dispatch::new(Registry::default());
            let _here = set_default(&subscriber);
            let pipeline = Pipeline::new()
                .cpu("first", 1, move |_, x| {
                    // The thread is this test's, and goes with it.
                    std::mem::forget(set_default(&subscriber));
                    Ok(x)
                })
                .gpu("second", Batching::items(1), || Ok(Same))
                .cpu("third", 1, |_, x| Ok(x))
                .io("fourth", 1, async |_, x| Ok(x));
            let running = pipeline.start().await.unwrap();
            running.call(1).instrument(info_span!("job")).await.unwrap();
            assert_eq!(*parents.0.lock().unwrap(), [Some("job"); 4]);
        }
    }
}
