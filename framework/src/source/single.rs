//! One job and no queue: environment variables name where its input, its states and its output are.
//!
//! It owns that job's way through the worker: delivered until it has ended, and then the source is at its end. The output
//! can only be created, so a second worker, or one that is started again after the end, changes nothing. For a platform
//! that runs one replica for one job.
//!
//! ```text
//! FOREBAY_JOB_INPUT=s3://bucket/jobs/7/input.json      what the job asks for
//! FOREBAY_JOB_STATE=s3://bucket/jobs/7/state/          its checkpoints
//! FOREBAY_JOB_OUTPUT=s3://bucket/jobs/7/output.json    its result
//! ```
//!
//! A process that is stopped before the job has ended hands it over and exits with
//! [`EXIT_UNFINISHED`](crate::EXIT_UNFINISHED), so that no platform takes it for done. A job that is rejected leaves `<output>.error` instead, a JSON object with `job`, `fault` and `error`; whoever wants it
//! run again removes that.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Delivery, Extended, Receipt, Source, Unfinished};
use crate::checkpoint::Saving;
use crate::config::JobConfig;
use crate::error::{Context, Result};
use crate::job::Meta;
use crate::places::{Places, Reference};
use crate::store::{Content, Outcome, Put};
use crate::verdict::Verdict;

/// The longest input, in bytes: it names large things, and does not hold them.
const LONGEST_INPUT: u64 = 16 << 20;
/// After its end could not be told, how long it is before the job is run again.
const TOLD_AGAIN: Duration = Duration::from_secs(30);
/// Nobody else waits for the job, so its lease is as long as it is extended.
const LEASE: Duration = Duration::from_secs(3600);

/// The source of one job.
///
/// ```
/// use forebay::source::single::Single;
/// use forebay::places::Places;
/// use forebay::store::{Content, Key, Memory, Put, Store};
/// use forebay::{Pipeline, Worker};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = std::sync::Arc::new(Memory::new());
/// store.put(&Key::new("7/input.json")?, "[1, 2, 3]".into(), Put::Create).await?;
/// let places = Places::new().bucket("jobs", store.clone());
/// let job = Single::new(&places, "s3://jobs/7/input.json".parse()?, "s3://jobs/7/output.json".parse()?);
/// let pipeline = Pipeline::new().cpu("sum", 1, |_, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// let report = Worker::new(pipeline).source(job).run_once().await?;
/// assert_eq!(report.done, 1);
/// assert_eq!(store.get(&Key::new("7/output.json")?).await?.unwrap().bytes, "6");
/// # Ok::<(), forebay::Error>(()) }).unwrap();
/// ```
pub struct Single {
    places: Places,
    id: String,
    input: Reference,
    output: Reference,
    state: Option<Reference>,
    idle: bool,
    payload: Option<Bytes>,
    attempt: u32,
    stands: watch::Receiver<Stands>,
    tell: watch::Sender<Stands>,
}

/// How the job stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stands {
    AtWork,
    /// It was given back, until then.
    Again(Instant),
    Ended,
}

impl Single {
    /// The job whose input is at one place and whose output is to be at another. Its id is the output's reference.
    pub fn new(places: &Places, input: Reference, output: Reference) -> Self {
        let (tell, stands) = watch::channel(Stands::Again(Instant::now()));
        let id = output.to_string();
        let places = places.clone();
        Single { places, id, input, output, state: None, idle: false, payload: None, attempt: 0, stands, tell }
    }

    /// The job that the environment names: `FOREBAY_JOB_INPUT` and `FOREBAY_JOB_OUTPUT`, with `FOREBAY_JOB_STATE`,
    /// `FOREBAY_JOB_ID` and `FOREBAY_JOB_THEN` (`exit`, or `idle` for a platform that starts again whatever exits) where
    /// they are set.
    ///
    /// # Errors
    /// `Invalid`, with the variable that is missing or wrong.
    pub fn from_env(places: &Places) -> Result<Self> {
        let JobConfig { id, input, state, output, idle } = JobConfig::from_env()?;
        let reference = |name: &str, text: String| Reference::new(text).context(name.to_owned());
        let mut job =
            Single::new(places, reference("FOREBAY_JOB_INPUT", input)?, reference("FOREBAY_JOB_OUTPUT", output)?);
        if let Some(state) = state {
            job = job.state(reference("FOREBAY_JOB_STATE", state)?);
        }
        if let Some(id) = id {
            job.id = id;
        }
        job.idle = idle;
        Ok(job)
    }

    /// Where the job's states are: a folder of a bucket, such as `s3://bucket/jobs/7/state/`.
    pub fn state(mut self, folder: Reference) -> Self {
        self.state = Some(folder);
        self
    }

    /// After the job's end the worker goes on doing nothing, until it is told to stop. Default: it ends.
    pub fn then_idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// How a stage of steps saves this job's states.
    ///
    /// # Errors
    /// `Invalid` where no place for them is named, or it is no folder of a bucket that is known.
    pub fn saving(&self) -> Result<Saving> {
        let missing = || crate::Error::invalid("no place for the job's states: set FOREBAY_JOB_STATE");
        let folder = self.state.as_ref().ok_or_else(missing)?;
        let (store, key) = self.places.folder_key(folder)?;
        Ok(Saving::to(store).at(move |_| Ok(key.clone())))
    }

    /// Where it is written that the job was rejected.
    fn error(&self) -> Result<Reference> {
        Reference::new(format!("{}.error", self.output.expose()))
    }

    /// Whether the job has ended already, in an earlier life.
    async fn has_ended(&self) -> Result<bool> {
        if self.places.exists(&self.output).await? {
            info!(job = self.id, output = %self.output, "the job is done already");
            return Ok(true);
        }
        let error = self.error()?;
        if self.places.exists(&error).await? {
            warn!(job = self.id, %error, "the job was rejected already; remove that to have it run again");
            return Ok(true);
        }
        Ok(false)
    }

    fn deliver(&mut self, payload: Bytes) -> Result<Vec<Delivery>> {
        self.attempt += 1;
        self.tell.send_replace(Stands::AtWork);
        let error = self.error()?;
        let (places, id, output, tell) = (self.places.clone(), self.id.clone(), self.output.clone(), self.tell.clone());
        let receipt = Arc::new(Ticket { places, id: id.clone(), output, error, tell });
        let (attempt, until) = (self.attempt, Instant::now() + LEASE);
        Ok(vec![Delivery { id, attempt, payload, until, meta: Meta::default(), receipt }])
    }
}

impl Source for Single {
    fn name(&self) -> &'static str {
        "single"
    }

    fn unfinished(&self) -> Option<Unfinished> {
        let stands = self.stands.clone();
        Some(Box::new(move || *stands.borrow() != Stands::Ended))
    }

    async fn receive(&mut self, _: usize) -> Result<Vec<Delivery>> {
        let payload = match &self.payload {
            Some(payload) => payload.clone(),
            None => {
                if self.has_ended().await? {
                    self.tell.send_replace(Stands::Ended);
                }
                let ended = *self.stands.borrow() == Stands::Ended;
                let payload = if ended { Bytes::new() } else { self.places.get(&self.input, LONGEST_INPUT).await? };
                self.payload.insert(payload).clone()
            }
        };
        loop {
            let stands = *self.stands.borrow_and_update();
            match stands {
                Stands::Again(at) => {
                    sleep_until(at).await;
                    return self.deliver(payload);
                }
                // The sender is our own, so it never closes.
                Stands::AtWork => drop(self.stands.changed().await),
                Stands::Ended if self.idle => {
                    info!(job = self.id, "the job has ended; idle until told to stop");
                    pending::<()>().await;
                }
                Stands::Ended => return Ok(Vec::new()),
            }
        }
    }
}

struct Ticket {
    places: Places,
    id: String,
    output: Reference,
    error: Reference,
    tell: watch::Sender<Stands>,
}

impl Ticket {
    async fn create(&self, what: &Reference, bytes: Bytes) -> Result<()> {
        if self.places.send(what, Content::bytes(bytes), Put::Create).await? == Outcome::Conflict {
            warn!(job = self.id, place = %what, "there is something already, and it stands");
        }
        self.tell.send_replace(Stands::Ended);
        Ok(())
    }
}

impl Drop for Ticket {
    /// What could not be told is not done: the job goes on from its last state, and is told again.
    fn drop(&mut self) {
        let at_work = |stands: &mut Stands| {
            let left = *stands == Stands::AtWork;
            if left {
                *stands = Stands::Again(Instant::now() + TOLD_AGAIN);
            }
            left
        };
        if self.tell.send_if_modified(at_work) {
            warn!(job = self.id, again = ?TOLD_AGAIN, "the job's end could not be told: it is run again");
        }
    }
}

impl Receipt for Ticket {
    /// To take the job back would only take turns with whoever has it.
    fn overtaken(&self) {
        warn!(job = self.id, "this worker leaves the job to the one that came after it");
        self.tell.send_replace(Stands::Ended);
    }

    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(async move { Ok(Extended::Until(Instant::now() + by)) })
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match verdict {
                Verdict::Done(result) => self.create(&self.output, result.clone()).await,
                Verdict::Reject { why } => {
                    let said = json!({ "job": self.id, "fault": why.fault().as_str(), "error": why.to_string() });
                    self.create(&self.error, said.to_string().into()).await
                }
                Verdict::Retry { after, .. } => {
                    self.tell.send_replace(Stands::Again(Instant::now() + *after));
                    Ok(())
                }
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;
    use crate::checkpoint::{Checkpoints, Snapshot, Workplace};
    use crate::store::{Key, Memory, Store};
    use crate::{Error, Pipeline, Report, Worker};

    async fn store() -> (Arc<Memory>, Places) {
        let store = Arc::new(Memory::new());
        let _ = store.put(&Key::new("7/input").unwrap(), "5".into(), Put::Create).await.unwrap();
        (store.clone(), Places::new().bucket("jobs", store))
    }

    fn single(places: &Places) -> Single {
        Single::new(places, "s3://jobs/7/input".parse().unwrap(), "s3://jobs/7/output".parse().unwrap())
    }

    async fn text(store: &Memory, key: &str) -> Option<String> {
        let found = store.get(&Key::new(key).unwrap()).await.unwrap()?;
        Some(String::from_utf8(found.bytes.to_vec()).unwrap())
    }

    async fn run(places: &Places, work: impl Fn(u32) -> Result<u32> + Send + Sync + 'static) -> Report {
        let pipeline = Pipeline::new().cpu("work", 1, move |_, n: u32| work(n));
        Worker::new(pipeline).source(single(places)).run_once().await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_done_once() {
        let (store, places) = store().await;
        assert_eq!(run(&places, |n| Ok(n + 1)).await.done, 1);
        assert_eq!(text(&store, "7/output").await.unwrap(), "6");
        let report = run(&places, |_| panic!("it was done")).await;
        assert_eq!((report.done, report.rejected), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_tried_again_after_a_failure() {
        let (store, places) = store().await;
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let report = run(&places, move |n| match counted.fetch_add(1, SeqCst) {
            0 => Err(Error::transient("not now")),
            _ => Ok(n),
        });
        let report = report.await;
        assert_eq!((report.done, report.retried, tries.load(SeqCst)), (1, 1, 2));
        assert_eq!(text(&store, "7/output").await.unwrap(), "5");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_rejected_job_says_so_and_is_not_run_again() {
        let (store, places) = store().await;
        assert_eq!(run(&places, |_| Err(Error::invalid("five is right out"))).await.rejected, 1);
        let said = text(&store, "7/output.error").await.unwrap();
        assert!(said.contains(r#""fault":"invalid""#) && said.contains("five is right out"), "{said}");
        assert_eq!(run(&places, Ok).await.done, 0);
        store.delete(&Key::new("7/output.error").unwrap()).await.unwrap();
        assert_eq!(run(&places, Ok).await.done, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_that_was_overtaken_leaves_the_job() {
        let (store, places) = store().await;
        let states = Key::new("7/state").unwrap();
        let work = move |job: crate::Job, _: u32| {
            let (store, states) = (store.clone(), states.clone());
            async move {
                let place = Workplace::new(&job, None);
                let open = || Checkpoints::open(store.clone(), &states, &place, "1");
                let mut ours = open().await?;
                // The node that replaces this one, while it is still at work.
                let _theirs = open().await?;
                ours.save(Snapshot::new().bytes("x", "1")).await.map(|_| 0u32)
            }
        };
        let pipeline = Pipeline::new().io("work", 1, work);
        let report = Worker::new(pipeline).source(single(&places)).run_once().await.unwrap();
        assert_eq!((report.done, report.retried, report.lost), (0, 0, 1), "it ends, and is not run again here");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn afterwards_it_may_go_on_doing_nothing() {
        let (store, places) = store().await;
        let pipeline = Pipeline::new().cpu("work", 1, |_, n: u32| Ok(n));
        let worker = tokio::spawn(Worker::new(pipeline).source(single(&places).then_idle()).run_once());
        while text(&store, "7/output").await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ended = tokio::time::timeout(Duration::from_millis(200), worker).await;
        assert!(ended.is_err(), "it goes on");
    }
}
