//! Models of known sizes on one device, behind a worker: what is loaded and dropped, in which order, and what fails.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};

use super::*;
use crate::checkpoint::Workplace;
use crate::pipeline::{Starter, Walker};
use crate::source::memory::Memory as Queue;
use crate::{Batching, Collated, Job, Meta, Model, Pipeline, Progress, Report, Stepper, Stepping, Worker};

/// What models did, and how many bytes of them are there.
#[derive(Default)]
struct Book {
    told: Mutex<Vec<String>>,
    bytes: AtomicU64,
    most: AtomicU64,
}

impl Book {
    fn tell(&self, what: &str, model: &str) {
        self.told.lock().unwrap().push(format!("{what} {model}"));
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|told| *told == line).count()
    }
}

/// Counts its bytes while it lives, and says when it comes and goes.
struct Body {
    name: &'static str,
    bytes: u64,
    book: Arc<Book>,
}

impl Body {
    fn new(name: &'static str, bytes: u64, book: &Arc<Book>) -> Self {
        book.tell("load", name);
        let there = book.bytes.fetch_add(bytes, SeqCst) + bytes;
        book.most.fetch_max(there, SeqCst);
        Body { name, bytes, book: book.clone() }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.book.bytes.fetch_sub(self.bytes, SeqCst);
        self.book.tell("drop", self.name);
    }
}

/// Gives numbers back, and collates them before.
struct Echo(Body);

impl Model for Echo {
    type Input = u32;
    type Output = u32;
    const COLLATES: bool = true;

    fn warm_up(&mut self) -> Result<()> {
        self.0.book.tell("warm", self.0.name);
        Ok(())
    }

    fn collate(inputs: &[u32]) -> Result<Collated> {
        Ok(Collated::new(inputs.to_vec()))
    }

    fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
        Ok(inputs.to_vec())
    }

    fn infer_collated(&mut self, inputs: &[u32], collated: Collated) -> Result<Vec<u32>> {
        assert_eq!(collated.take::<Vec<u32>>().as_deref(), Some(inputs));
        self.0.book.tell("run", self.0.name);
        Ok(inputs.to_vec())
    }
}

/// Counts down, with states that only the stepper which made them may step.
struct Countdown(Rc<Body>);

impl Stepper for Countdown {
    type Spec = u32;
    type State = (u32, Rc<Body>);
    type Output = u32;
    const FORMAT: &'static str = "countdown 1";

    fn begin(&mut self, from: &u32, _: &Workplace) -> Result<Self::State> {
        Ok((from % 7, self.0.clone()))
    }

    fn step(&mut self, states: &mut [&mut Self::State]) -> Result<Vec<Progress>> {
        let step = |state: &mut &mut Self::State| {
            let (left, body) = &mut **state;
            assert!(Rc::ptr_eq(body, &self.0), "a stranger's state");
            *left = left.saturating_sub(1);
            if *left == 0 { Progress::done() } else { Progress::some() }
        };
        Ok(states.iter_mut().map(step).collect())
    }

    fn finish(&mut self, (left, _): Self::State) -> Result<u32> {
        Ok(left)
    }
}

fn echo(name: &'static str, bytes: u64, book: &Arc<Book>) -> Pipeline<u32, u32> {
    let book = book.clone();
    let batching = Batching::items(2).memory(bytes);
    Pipeline::new().gpu(name, batching, move || Ok(Echo(Body::new(name, bytes, &book))))
}

/// Jobs for these routes, in this order; an empty one is the worker's first pipeline.
fn queue<'a>(routes: impl IntoIterator<Item = &'a str>) -> Queue {
    let queue = Queue::new();
    for (number, route) in routes.into_iter().enumerate() {
        let route = Some(route.to_owned()).filter(|route| !route.is_empty());
        let meta = Meta { route, ..Meta::default() };
        queue.push_with(format!("job {number}"), number.to_string(), meta);
    }
    queue.close();
    queue
}

fn three(book: &Arc<Book>) -> Worker {
    // A pipeline is built from its end on; models are loaded from its begin on all the same.
    let loader = book.clone();
    let second = Batching::items(2).memory(4);
    let first = echo("a", 4, book).gpu("b", second, move || Ok(Echo(Body::new("b", 4, &loader))));
    Worker::new(echo("c", 6, book)).route("ab", first).route("d", echo("d", 4, book))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_loaded_and_dropped_in_this_order() {
    let book = Arc::new(Book::default());
    let queue = queue(["d", "ab", "ab", "d"]);
    let report = three(&book).device_memory(10).in_flight(1).source(queue).run_once().await.unwrap();
    assert_eq!(report.done, 4);
    let expected = [
        // Those without room, and then those that stay.
        "load b", "warm b", "drop b", "load d", "warm d", "drop d", "load c", "warm c", "load a", "warm a",
        // c was loaded before a.
        "drop c", "load d", "warm d", "run d", // And d before a.
        "run a", "drop d", "load b", "warm b", "run b", "run a", "run b", "drop a", "load d", "warm d", "run d",
    ];
    assert_eq!(book.told()[..expected.len()], expected);
    assert!(book.most.load(SeqCst) <= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_together_is_loaded_once() {
    let book = Arc::new(Book::default());
    let queue = queue(["ab", "d", "ab", "d"]);
    let report = three(&book).device_memory(18).in_flight(1).source(queue).run_once().await.unwrap();
    assert_eq!(report.done, 4);
    let expected = ["load c", "warm c", "load a", "warm a", "load b", "warm b", "load d", "warm d", "run a", "run b"];
    assert_eq!(book.told()[..expected.len()], expected);
    assert_eq!(book.count("load d"), 1);
}

#[tokio::test]
async fn without_a_budget_nothing_is_refused() {
    let book = Arc::new(Book::default());
    let pipeline = echo("endless", u64::MAX, &book);
    assert!(Worker::new(pipeline).source(queue([])).run_once().await.is_ok());
}

#[tokio::test]
async fn a_model_that_would_not_fit_alone_keeps_the_worker_from_starting() {
    let book = Arc::new(Book::default());
    let why = three(&book).device_memory(5).source(queue([])).run_once().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
    assert!(why.to_string().starts_with("stage `c` keeps 6 B (6 bytes) on device 0"), "{why}");
    assert_eq!(book.told(), [] as [&str; 0], "nothing was loaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_loaded_again_ends_the_worker() {
    let book = Arc::new(Book::default());
    let (tried, loader) = (AtomicU64::new(0), book.clone());
    let broken =
        Pipeline::new().gpu("broken", Batching::items(1).memory(6), move || match tried.fetch_add(1, SeqCst) {
            0 => Ok(Echo(Body::new("broken", 6, &loader))),
            _ => Err(Error::failed("the disk is gone")),
        });
    let worker = Worker::new(echo("a", 6, &book)).route("broken", broken);
    let why = worker.device_memory(10).source(queue(["broken"])).run_once().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert!(why.to_string().contains("loading the model of stage `broken`: the disk is gone"), "{why}");
}

#[tokio::test]
async fn a_model_that_is_broken_shows_before_the_worker_is_ready_even_where_it_has_no_room() {
    let book = Arc::new(Book::default());
    let load = || Err::<Echo, _>(Error::failed("no such file"));
    let broken = Pipeline::new().gpu("broken", Batching::items(1).memory(6), load);
    let worker = Worker::new(echo("a", 6, &book)).route("broken", broken);
    let why = worker.device_memory(10).source(queue([])).run_once().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Failed);
    assert!(why.to_string().contains("loading the model of stage `broken`: no such file"), "{why}");
}

/// Many jobs at once for models of which two have room, all of which have batches or states in hand all the time.
async fn crowded() -> (Arc<Book>, Report) {
    let book = Arc::new(Book::default());
    let loader = book.clone();
    let steps = Pipeline::new().gpu_steps("steps", Stepping::jobs(3).memory(4), move || {
        Ok(Countdown(Rc::new(Body::new("steps", 4, &loader))))
    });
    let worker = Worker::new(echo("a", 4, &book)).route("b", echo("b", 4, &book)).route("steps", steps);
    let routes = ["a", "b", "steps"].into_iter().cycle().take(300).map(|route| if route == "a" { "" } else { route });
    let report = worker.device_memory(8).in_flight(24).source(queue(routes)).run_once().await.unwrap();
    (book, report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_have_their_turns_where_not_all_have_room() {
    let (book, report) = crowded().await;
    assert_eq!((report.done, report.rejected), (300, 0));
    assert!(book.most.load(SeqCst) <= 8, "{} bytes at once", book.most.load(SeqCst));
    assert!(book.count("load steps") > 1, "it goes and comes back");
}

/// A model that panics when it is dropped.
struct Clinging;

impl Drop for Clinging {
    fn drop(&mut self) {
        panic!("not now");
    }
}

impl Model for Clinging {
    type Input = u32;
    type Output = u32;

    fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
        Ok(inputs.to_vec())
    }
}

#[tokio::test]
async fn a_model_that_panics_when_it_goes_is_fatal_since_nobody_knows_what_it_still_keeps() {
    let book = Arc::new(Book::default());
    let clinging = Pipeline::new().gpu("clinging", Batching::items(1).memory(6), || Ok(Clinging));
    let worker = Worker::new(echo("a", 6, &book)).route("clinging", clinging);
    let why = worker.device_memory(10).source(queue([])).run_once().await.unwrap_err();
    assert_eq!(why.fault(), Fault::Fatal);
    assert_eq!(why.to_string(), "dropping the model of stage `clinging`: panicked: not now");
}

/// Waits for a word before each batch.
struct Told(Arc<Mutex<mpsc::Receiver<()>>>);

impl Model for Told {
    type Input = u32;
    type Output = u32;

    fn infer(&mut self, inputs: &[u32]) -> Result<Vec<u32>> {
        let _ = self.0.lock().unwrap().recv();
        Ok(inputs.to_vec())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_loaded_for_a_job_that_was_called_off() {
    let book = Arc::new(Book::default());
    let (tell, told) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let first = Pipeline::new().gpu("first", Batching::items(1).memory(4), move || Ok(Told(told.clone())));
    let mut starter = Starter::new();
    starter.device_memory = Some(4);
    let first = Arc::new(Walker::build(&mut starter, &first).unwrap());
    let other = Arc::new(Walker::build(&mut starter, &echo("other", 4, &book)).unwrap());
    let pools = starter.finish().await.unwrap();
    let walk = |walker: &Arc<Walker<u32, u32>>, job: &Job| {
        let (walker, job) = (walker.clone(), job.clone());
        tokio::spawn(async move { walker.walk(&job, 1, 0).await })
    };
    let (at_work, called_off) = (Job::new("at work"), Job::new("called off"));
    let at_work = walk(&first, &at_work);
    let waits = walk(&other, &called_off);
    while called_off.stage() != "other" {
        tokio::task::yield_now().await;
    }
    called_off.cancel();
    tell.send(()).unwrap();
    assert_eq!(at_work.await.unwrap().unwrap(), 1);
    assert_eq!(waits.await.unwrap().unwrap_err().fault(), Fault::Transient);
    assert_eq!(book.count("load other"), 1, "at the start");
    let again = Job::new("again");
    assert_eq!(walk(&other, &again).await.unwrap().unwrap(), 1);
    assert_eq!(book.count("load other"), 2);
    tokio::task::spawn_blocking(move || pools.join()).await.unwrap();
}

#[test]
fn a_pipeline_prints_what_its_models_keep() {
    let book = Arc::default();
    let small = echo("small", 2 << 30, &book);
    let stepping = Stepping::jobs(2).memory(512 << 20);
    let both = small.gpu_steps("steps", stepping, || Err::<Countdown, _>(Error::failed("never loaded")));
    assert_eq!(both.to_string(), "small[gpu 2 items, 2 GiB] -> steps[gpu steps of 2 jobs, 512 MiB]");
}

#[cfg(feature = "telemetry")]
mod meters {
    use super::*;
    use crate::telemetry::{MODEL_BYTES, MODEL_EVICTIONS, MODEL_LOAD, Telemetry};

    /// An engine that is its model.
    struct Bare(Option<Body>, Arc<Book>);

    impl Engine for Bare {
        fn receive(&mut self) -> Result<()> {
            Ok(())
        }

        fn next(&mut self, _: Instant) -> Next {
            Next::Empty
        }

        fn run(&mut self, _ahead: bool) -> Result<Duration> {
            Ok(Duration::ZERO)
        }

        fn is_launched(&self) -> bool {
            false
        }

        fn in_hand(&self) -> bool {
            false
        }

        fn load(&mut self) -> Result<()> {
            self.0 = Some(Body::new("bare", 0, &self.1));
            Ok(())
        }

        fn unload(&mut self) -> Result<()> {
            self.0 = None;
            Ok(())
        }

        fn share(&self) -> u32 {
            1
        }

        fn close(&mut self, _: &Error) {}
    }

    #[test]
    fn meters_show_who_is_there_who_went_and_how_long_loading_took() {
        let telemetry = Telemetry::new();
        let _recorder = metrics::set_default_local_recorder(&telemetry);
        let book = Arc::new(Book::default());
        let newcomer = |(stage, bytes)| {
            let book = book.clone();
            Newcomer { stage, bytes, make: Box::new(move || Ok(Box::new(Bare(None, book)) as Box<dyn Engine>)) }
        };
        let newcomers = [("a", 6), ("b", 5)].map(newcomer).into();
        let mut residents = Residents::load(newcomers, 3, Some(10)).unwrap();
        let shown = || {
            let snapshot = telemetry.snapshot();
            ["a", "b"].map(|stage| {
                let labels = [("stage", stage), ("device", "3")];
                let loads = snapshot.summary(MODEL_LOAD, &labels).count;
                (snapshot.gauge(MODEL_BYTES, &labels), snapshot.counter(MODEL_EVICTIONS, &labels), loads)
            })
        };
        assert_eq!(shown(), [(6.0, 0, 1), (0.0, 0, 1)], "who is only tried at the start is not evicted");
        residents.exchange(&[0], 1).unwrap();
        assert_eq!(shown(), [(0.0, 1, 1), (5.0, 0, 2)]);
    }
}
