//! The way onto the queue: each job in an envelope of its own, and its body in a bucket where it is too large.
//!
//! A standard queue may take a job twice if it is put there twice; a FIFO queue takes it once within 5 minutes. Jobs are
//! put from any runtime, and each has a client of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::runtime::{Handle, Id};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::debug;

use super::broker::{Broker, Letter};
use super::envelope;
use super::letter::{JOB_ATTRIBUTE, SAFE, attribute, clean};
use super::objects::SIZE_ATTRIBUTE;
use super::send::{self, Pushed};
use super::settings::Settings;
use crate::error::{Context, Error, Fault, Result};
use crate::job::Priority;
use crate::source::Queue;

/// How often it is tried to put a job on the queue.
const ATTEMPTS: u32 = 3;
/// The pause after the first attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// Clients that are kept: there are two runtimes in a worker, but many over time in a test.
const CLIENTS: usize = 4;
/// Of an id, the characters that are told beside a bare payload.
const LONGEST_ID: usize = 2000;

/// Puts jobs on a queue of SQS. Cheap to clone.
///
/// Where a job of its id waits or is at work, a FIFO queue drops another one within 5 minutes; a standard queue cannot
/// tell, and delivers both. In a FIFO queue every job is a group of its own.
#[derive(Clone)]
pub struct SqsQueue(Arc<Shared>);

struct Shared {
    settings: Settings,
    given: Option<aws_sdk_sqs::Client>,
    /// Without envelopes.
    bare: bool,
    /// By the runtime that their connections are on, the newest last. An async mutex: whoever comes first connects.
    brokers: Mutex<VecDeque<(Id, Broker)>>,
}

/// A job to be put on a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SqsJob {
    /// Its name: the same each time it is put there.
    pub id: String,
    /// What the pipeline gets.
    pub payload: Bytes,
    /// What else its envelope says.
    pub terms: Terms,
}

/// What an envelope says beside a job's id and payload. By default nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// How soon the job wants its turn.
    pub priority: Priority,
    /// Which of the worker's pipelines it is for.
    pub route: Option<String>,
    /// Where its output should go, as the label [`Meta::OUTPUT`](crate::Meta::OUTPUT).
    pub output: Option<String>,
    /// Who wants to hear of its end, as the label [`Meta::WEBHOOK`](crate::Meta::WEBHOOK).
    pub webhook: Option<String>,
    /// When it must be done; past it the job is rejected.
    pub deadline: Option<SystemTime>,
    /// The payload's media type.
    pub content_type: Option<String>,
    /// Anything else, as texts by name.
    pub labels: BTreeMap<String, String>,
}

impl SqsQueue {
    pub(super) fn new(settings: Settings, given: Option<aws_sdk_sqs::Client>) -> Self {
        SqsQueue(Arc::new(Shared { settings, given, bare: false, brokers: Mutex::default() }))
    }

    /// The same queue for consumers that are not forebay: each payload is the message's body as it is, and the job's id
    /// is beside it in the attribute `forebay.job`. What is not text that SQS takes, or is empty, is refused as
    /// [`Invalid`](Fault::Invalid). A FIFO queue drops a job within 5 minutes only if its payload is the same too.
    pub fn bare(&self) -> Self {
        let (settings, given) = (self.0.settings.clone(), self.0.given.clone());
        SqsQueue(Arc::new(Shared { settings, given, bare: true, brokers: Mutex::default() }))
    }

    /// Puts jobs on the queue in calls of up to ten messages and 1 MiB, one call after the other, and says of each job,
    /// in order, what became of it. What fails for now is tried up to five times, with pauses that grow from 0.2 s.
    ///
    /// A payload that does not fit into a message goes to the first bucket of [`Sqs::objects`](super::Sqs::objects).
    pub async fn push_all(&self, jobs: &[SqsJob]) -> Vec<Pushed> {
        let broker = match self.0.broker().await {
            Ok(broker) => broker,
            Err(why) => return jobs.iter().map(|_| Pushed::Failed(why.clone())).collect(),
        };
        let mut letters = Vec::with_capacity(jobs.len());
        for SqsJob { id, payload, terms } in jobs {
            let letter = self.0.letter(id, payload, terms, broker.is_fifo()).await;
            letters.push(letter.with_context(|| format!("putting job `{id}` on the queue")));
        }
        send::all(&broker, letters).await
    }

    async fn put(&self, id: &str, payload: &[u8]) -> Result<()> {
        let broker = self.0.broker().await?;
        let letter = self.0.letter(id, payload, &Terms::default(), broker.is_fifo()).await?;
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match broker.send(letter.clone()).await {
                Err(why) if why.fault() == Fault::Transient => {
                    debug!(job = id, error = %why, ?pause, "a job could not be put on the queue");
                }
                sent => return sent,
            }
            sleep(pause).await;
            pause *= 2;
        }
        broker.send(letter).await
    }
}

impl Shared {
    async fn broker(&self) -> Result<Broker> {
        let runtime = Handle::current().id();
        let mut brokers = self.brokers.lock().await;
        if let Some((_, broker)) = brokers.iter().find(|(id, _)| *id == runtime) {
            return Ok(broker.clone());
        }
        let broker = match &self.given {
            Some(sdk) => Broker::new(sdk.clone(), &self.settings.queue),
            None => Broker::connect(&self.settings).await?,
        };
        if brokers.len() == CLIENTS {
            brokers.pop_front();
        }
        brokers.push_back((runtime, broker.clone()));
        Ok(broker)
    }

    async fn letter(&self, id: &str, payload: &[u8], terms: &Terms, fifo: bool) -> Result<Letter> {
        let mut attributes = HashMap::new();
        let sealed = if self.bare {
            if *terms != Terms::default() {
                return Err(Error::invalid("what a job's terms say needs an envelope, and this queue is bare"));
            }
            attributes.insert(JOB_ATTRIBUTE.to_owned(), attribute("String", clean(id, LONGEST_ID))?);
            envelope::bare(payload)?
        } else {
            envelope::seal(id, payload, terms)?
        };
        // An id may be longer than a group's name, and hold what that may not.
        let name = digest(id);
        // A job that was run again may have ended otherwise, and that is news.
        let once = if self.bare { digest(&format!("{id}\n{sealed}")) } else { name.clone() };
        let objects = &self.settings.objects;
        let body = if sealed.len() > SAFE && objects.take_bodies() {
            attributes.insert(SIZE_ATTRIBUTE.to_owned(), attribute("Number", sealed.len().to_string())?);
            // The same job under the same key, so that a second attempt leaves nothing behind.
            let key = format!("bodies/{}", digest(&sealed));
            objects.put_body(key, Bytes::from(sealed)).await.with_context(|| format!("the body of job `{id}`"))?
        } else {
            sealed
        };
        Ok(Letter { body, attributes, fifo: fifo.then_some((name, once)) })
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Queue for SqsQueue {
    fn push<'a>(&'a self, id: &'a str, payload: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(
            async move { self.put(id, &payload).await.with_context(|| format!("putting job `{id}` on the queue")) },
        )
    }
}
