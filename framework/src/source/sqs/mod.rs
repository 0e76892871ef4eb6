//! Amazon SQS as a source: any number of workers share a queue, and each message is held for as long as its job lives.
//!
//! A message that is received is hidden from others for a lease of 300 s, which is extended while the job is at work. Done,
//! it is deleted; failed for now, it comes back after a pause; rejected, it goes to the dead-letter queue with its
//! reason. A worker that is lost has its messages delivered again when their leases run out.
//!
//! # Messages
//! A body that is a JSON object with the field `forebay` is an envelope. Anything else is the payload, as it is.
//!
//! | field | what it is |
//! |---|---|
//! | `forebay` | 1, the version |
//! | `input` | the payload as JSON, or one of the next three instead |
//! | `text` | the payload as text |
//! | `base64` | the payload as bytes in base64 |
//! | `object` | where the payload is: `{"bucket": "...", "key": "..."}`, of a bucket that [`Sqs::objects`] names |
//! | `id` | the job's name, the same each time it is sent; otherwise the message's own id |
//! | `route` | which of the worker's pipelines it is for |
//! | `priority` | `high`, `normal` or `low` |
//! | `deadline` | when it must be done, as in `2030-01-31T12:00:00Z`; past it the job is rejected |
//! | `content_type` | the payload's media type |
//! | `trace` | the caller's trace, as a W3C `traceparent` |
//! | `labels` | anything else, as texts by name: the job's [labels](crate::Meta::labels) |
//! | `output` | the name of the queue that the result is wanted on, one of [`Committed::results_named`] |
//! | `webhook` | a URL that wants to hear of the job's end, by `Committed::webhooks` (feature `webhook`) |
//!
//! Only `forebay` and a payload are needed. An unknown field, as any other error in an envelope, rejects the message.
//! Message attributes are labels too. A body above the limit of SQS may be in a bucket, written by Amazon's extended
//! client library or by [`SqsQueue`]; the object is left there after the job, to be removed by a rule of the bucket.
//!
//! # Results
//! By itself this source deletes the message of a job that is done, and its result is wherever the pipeline has put it.
//! [`Committed`] around it keeps the result in a store and tells it on queues and to URLs. Without it, or where it was
//! given no queue or no sender, `output` and `webhook` are left to the pipeline's stages as the labels
//! [`Meta::OUTPUT`](crate::Meta::OUTPUT) and [`Meta::WEBHOOK`](crate::Meta::WEBHOOK).
//!
//! ```no_run
//! use forebay::source::{committed::Committed, sqs::Sqs};
//! use forebay::store::Folder;
//!
//! # fn source() -> forebay::Result<Committed<Sqs>> {
//! let results = Sqs::new("https://sqs.eu-central-1.amazonaws.com/123456789012/results").queue().bare();
//! let source = Committed::new(Sqs::from_env()?, Folder::open("/data/results")?).results_to(results);
//! # Ok(source) }
//! ```
//!
//! [`Committed`]: crate::source::committed::Committed
//! [`Committed::results_named`]: crate::source::committed::Committed::results_named
//!
//! # Limits
//! SQS lets nobody hold a message for more than 12 h, counted from its receive. A job that is still at work after 11 h
//! 45 min is handed over if [its progress is kept](crate::Job::keeps_progress); any other is stopped and rejected, saying
//! so. SQS counts deliveries, those too that a worker which leaves gives back at once; [`attempt`](crate::Job::attempt)
//! is that count.
//!
//! # FIFO queues
//! A group's next message is received only when the one before it has ended, so within a group the order is kept. A
//! job that failed for now keeps its group waiting for its pause. Of two messages with one deduplication id within 5
//! minutes SQS keeps the first; the id of an envelope plays no part in that.
//!
//! # Permissions
//! `sqs:ReceiveMessage`, `sqs:DeleteMessage`, `sqs:ChangeMessageVisibility` and `sqs:GetQueueAttributes` on the queue;
//! `sqs:SendMessage`, `sqs:GetQueueUrl` and `sqs:GetQueueAttributes` on its dead-letter queue. `sqs:SendMessage` on a
//! queue for results.

mod admin;
mod batch;
mod broker;
mod dead_letters;
mod desk;
mod envelope;
mod fault;
mod letter;
mod message;
mod objects;
mod queue;
mod receipt;
mod send;
mod settings;
mod shelf;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use super::{Delivery, Source, Vitals, give_back};
use crate::config::SqsConfig;
use crate::error::{Error, Result};
use crate::store::Store;
pub use admin::{QueueDepth, SqsAdmin, SqsStatus};
pub use dead_letters::{DeadLetter, DeadLetterBox};
use desk::Desk;
pub use queue::{SqsJob, SqsQueue, Terms};
pub use send::Pushed;
use settings::{DeadLetters, Settings};
use shelf::Shelf;

/// How long a drain waits for polls under way. On a queue with messages they end at once; what a later one brings stays
/// hidden until its lease ends.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A queue of Amazon SQS, or of a server that speaks its protocol, as a source of jobs.
///
/// ```no_run
/// use forebay::source::sqs::Sqs;
/// use forebay::{Pipeline, Worker};
///
/// # async fn serve() -> forebay::Result<std::process::ExitCode> {
/// let pipeline = Pipeline::new().cpu("shout", 1, |_, text: String| Ok(text.to_uppercase()));
/// Ok(Worker::new(pipeline).source(Sqs::from_env()?).run().await)
/// # }
/// ```
pub struct Sqs {
    settings: Settings,
    given: Option<aws_sdk_sqs::Client>,
    /// Opening is a task, so that dropping a receive does not begin it anew.
    opening: Option<JoinHandle<Result<Arc<Desk>>>>,
    desk: Option<Arc<Desk>>,
    shelf: Arc<Shelf>,
}

impl Sqs {
    /// The label of a job that holds its message's id.
    pub const MESSAGE_ID: &'static str = "sqs.message_id";
    /// The label of a job of a FIFO queue that holds its group.
    pub const GROUP: &'static str = "sqs.group";

    pub(crate) const NAME: &'static str = "sqs";

    /// The queue that the environment names: `FOREBAY_SQS_QUEUE`, its URL, which must be set; `FOREBAY_SQS_REGION` (of
    /// the URL, or as AWS's own settings say), `FOREBAY_SQS_ENDPOINT` (of the URL), `FOREBAY_SQS_LEASE` (300 seconds),
    /// `FOREBAY_SQS_WAIT` (20 seconds) and `FOREBAY_SQS_DEAD_LETTERS` (as the queue's redrive policy says; a URL, or
    /// `none`). Credentials are found as by AWS's own tools: in the environment, a profile, or by the machine's role.
    ///
    /// # Errors
    /// A setting that is missing or not what it should be.
    pub fn from_env() -> Result<Self> {
        let SqsConfig { queue, region, endpoint, lease, wait, dead_letters } = SqsConfig::from_env()?;
        let mut settings = Settings::new(queue);
        (settings.region, settings.endpoint) = (region, endpoint);
        (settings.lease, settings.wait) = (lease, wait);
        settings.dead_letters = match dead_letters {
            None => DeadLetters::OfQueue,
            Some(text) if text == "none" => DeadLetters::Dropped,
            Some(url) => DeadLetters::At(url),
        };
        settings.check()?;
        Ok(Sqs::with(settings, None))
    }

    /// The queue at `url`, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/jobs`, with the defaults of
    /// [`from_env`](Sqs::from_env). Credentials are found as there.
    pub fn new(url: impl Into<String>) -> Self {
        Sqs::with(Settings::new(url.into()), None)
    }

    /// The queue at `url` by a client of the SDK, for whoever needs to set up more than this source offers. This is the
    /// only place where a type of the SDK is asked for. The client should try nothing again by itself, and have no
    /// timeout below the [`wait`](Sqs::wait).
    pub fn from_client(client: aws_sdk_sqs::Client, url: impl Into<String>) -> Self {
        Sqs::with(Settings::new(url.into()), Some(client))
    }

    fn with(settings: Settings, given: Option<aws_sdk_sqs::Client>) -> Self {
        Sqs { settings, given, opening: None, desk: None, shelf: Shelf::new() }
    }

    /// The queue's region. Default: that of its URL, or as AWS's own settings say.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.settings.region = Some(region.into());
        self
    }

    /// Where the service is, such as `http://localhost:4566`. Default: where the queue's URL says.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.settings.endpoint = Some(url.into());
        self
    }

    /// How long a message is hidden from others without being extended, in whole seconds: how long the jobs of a worker
    /// that is lost wait for another. It should be longer than any stall of the network, and at least twice the
    /// [`wait`](Sqs::wait). Default 300 s: renewed at a third, it outlives a stall of 140 s with time to spare.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long the queue waits for messages before it says that there are none, in whole seconds up to 20, the default.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Sends rejected jobs to the queue at `url`, whatever the queue's redrive policy says.
    pub fn dead_letters(mut self, url: impl Into<String>) -> Self {
        self.settings.dead_letters = DeadLetters::At(url.into());
        self
    }

    /// Drops rejected jobs: what was wrong with them is in the log only.
    pub fn drop_rejected(mut self) -> Self {
        self.settings.dead_letters = DeadLetters::Dropped;
        self
    }

    /// Reads inputs and bodies that messages refer to in `bucket` from `store`, each in 60 s at most; may be called for
    /// several buckets. What does not fit into a message is put into the first of them.
    pub fn objects(mut self, bucket: impl Into<String>, store: impl Store) -> Self {
        self.settings.objects.add(bucket.into(), Arc::new(store));
        self
    }

    /// The way to put jobs on the queue. To be asked for after the settings are made.
    pub fn queue(&self) -> SqsQueue {
        SqsQueue::new(self.settings.clone(), self.given.clone())
    }

    /// What an operator asks of the queue: how full it is, its dead letters, emptying it. To be asked for after the
    /// settings are made.
    pub fn admin(&self) -> SqsAdmin {
        SqsAdmin::new(self.settings.clone(), self.given.clone())
    }

    async fn open(&mut self) -> Result<Arc<Desk>> {
        if let Some(desk) = &self.desk {
            return Ok(desk.clone());
        }
        let opening = self.opening.get_or_insert_with(|| {
            let (settings, given) = (self.settings.clone(), self.given.clone());
            tokio::spawn(Desk::open(settings, given))
        });
        let opened = opening.await;
        self.opening = None;
        let desk = opened.map_err(|_| Error::transient("opening the queue was cut off"))??;
        Ok(self.desk.insert(desk).clone())
    }
}

impl Source for Sqs {
    fn name(&self) -> &'static str {
        Sqs::NAME
    }

    fn start(&mut self, _: &Vitals) -> Result<()> {
        // Transfers belong there and not on the thread that keeps the leases.
        self.settings.objects.runtime = Handle::try_current().ok();
        self.settings.check()
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let desk = self.open().await?;
        loop {
            let taken = self.shelf.take(max)?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            self.shelf.poll(&desk, max);
            self.shelf.changed().await;
        }
    }

    async fn close(&mut self) {
        give_back(self.shelf.close()).await;
        if timeout(CLOSE_WITHIN, self.shelf.emptied()).await.is_err() {
            debug!("a poll is left behind; what it brings is delivered again when its lease ends");
        }
    }
}

impl Drop for Sqs {
    /// Gives back what was received and not given out.
    fn drop(&mut self) {
        let left = self.shelf.close();
        if let (Ok(runtime), false) = (Handle::try_current(), left.is_empty()) {
            runtime.spawn(give_back(left));
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
