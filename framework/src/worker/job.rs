//! One job's walk: payload in, verdict out; and the routes that lead to the worker's pipelines.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout_at;
use tracing::{debug, warn};

use crate::error::{DeadlinePassed, Error, Fault, Result};
use crate::job::Job;
use crate::pipeline::outlook::Outlook;
use crate::pipeline::{Pipeline, Stage, Starter, Walker};
use crate::pool::panic::panicked;
use crate::verdict::{Verdict, judge};

/// How a job ended, on its way to the control thread.
pub(super) struct Outcome {
    pub(super) lease: u64,
    pub(super) verdict: Verdict,
    /// Set if this process must not go on.
    pub(super) fatal: Option<Error>,
}

/// What all jobs need: the pipelines, and where a job's end is told.
pub(super) struct Desk {
    pub(super) routes: Routes,
    pub(super) max_attempts: u32,
    // Unbounded, but never fuller than there are jobs in flight: each sends once.
    pub(super) outcomes: UnboundedSender<Outcome>,
}

/// A job's hold on its delivery. It ends once, by value; dropped without, as after a panic or when the job is
/// aborted, the job is given back.
pub(super) struct Lease {
    number: u64,
    desk: Arc<Desk>,
    ended: bool,
}

impl Lease {
    pub(super) fn new(number: u64, desk: Arc<Desk>) -> Self {
        Lease { number, desk, ended: false }
    }

    fn end(mut self, verdict: Verdict, fatal: Option<Error>) {
        self.ended = true;
        self.send(verdict, fatal);
    }

    fn send(&self, verdict: Verdict, fatal: Option<Error>) {
        let outcome = Outcome { lease: self.number, verdict, fatal };
        // If the control thread has gone, so has the lease.
        let _ = self.desk.outcomes.send(outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Verdict::give_back(), None);
        }
    }
}

/// Runs a job to its verdict.
pub(super) async fn run(job: Job, payload: Bytes, lease: Lease) {
    let outcome = walk(&lease.desk.routes, &job, payload).await;
    if let Err(why) = &outcome {
        match why.fault() {
            Fault::Transient => debug!(error = %why, "job failed for now"),
            _ => warn!(error = %why, fault = why.fault().as_str(), "job failed"),
        }
    }
    let fatal = outcome.as_ref().err().filter(|why| why.fault() == Fault::Fatal).cloned();
    let verdict = judge(outcome, job.id(), job.tries(), lease.desk.max_attempts);
    lease.end(verdict, fatal);
}

async fn walk(routes: &Routes, job: &Job, payload: Bytes) -> Result<Bytes> {
    let route = routes.find(job)?;
    let work = AssertUnwindSafe(route.handle(job, payload)).catch_unwind();
    let outcome = match job.deadline() {
        None => work.await,
        Some(deadline) => match timeout_at(deadline, work).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(Error::new(Fault::Invalid, DeadlinePassed)),
        },
    };
    outcome.unwrap_or_else(|payload| Err(panicked(&*payload)))
}

/// The pipelines by the name of their route; the first is also for jobs without one.
pub(super) struct Routes {
    first: Option<Arc<dyn Handle>>,
    named: HashMap<String, Arc<dyn Handle>>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Routes { first: None, named: HashMap::new() }
    }

    pub(super) fn add(&mut self, name: String, handle: Arc<dyn Handle>) -> Result<()> {
        self.first.get_or_insert_with(|| handle.clone());
        if self.named.contains_key(&name) {
            return Err(Error::invalid(format_args!("two pipelines have the route `{name}`")));
        }
        self.named.insert(name, handle);
        Ok(())
    }

    fn find(&self, job: &Job) -> Result<&dyn Handle> {
        let found = match &job.meta().route {
            None => self.first.as_ref(),
            Some(name) => self.named.get(name),
        };
        found.map(|handle| &**handle).ok_or_else(|| {
            let name = job.meta().route.as_deref().unwrap_or_default();
            Error::invalid(format_args!("this worker has no route `{name}`"))
        })
    }
}

/// A running pipeline behind its codec.
pub(super) trait Handle: Send + Sync {
    fn outlook(&self) -> Outlook;
    fn handle<'a>(&'a self, job: &'a Job, payload: Bytes) -> BoxFuture<'a, Result<Bytes>>;
}

/// A pipeline with its codec, before it runs.
pub(super) trait AnyRoute: Send {
    fn stages(&mut self) -> &mut [Stage];
    fn set_budget(&mut self, bytes: Option<usize>);
    fn describe(&self) -> String;
    fn places(&self) -> usize;
    fn media(&self) -> Media;
    fn build(&self, starter: &mut Starter) -> Result<Arc<dyn Handle>>;
}

/// The media types that a codec takes and gives.
#[derive(Clone, Copy)]
pub(super) struct Media {
    /// `None` where any will do.
    pub(super) takes: Option<&'static str>,
    pub(super) gives: &'static str,
}

impl Media {
    pub(super) const JSON: Media = Media { takes: Some("application/json"), gives: "application/json" };
    #[cfg(feature = "http")]
    pub(super) const FORM: Media = Media { takes: Some("multipart/form-data"), gives: "application/json" };
    pub(super) const BYTES: Media = Media { takes: None, gives: "application/octet-stream" };
}

pub(super) struct Route<In, Out, D, E> {
    pipeline: Pipeline<In, Out>,
    codec: Arc<(D, E)>,
    media: Media,
}

impl<In, Out, D, E> Route<In, Out, D, E> {
    pub(super) fn new(pipeline: Pipeline<In, Out>, media: Media, decode: D, encode: E) -> Self {
        Route { pipeline, codec: Arc::new((decode, encode)), media }
    }
}

impl<In, Out, D, E> AnyRoute for Route<In, Out, D, E>
where
    In: Send + 'static,
    Out: Send + 'static,
    D: Fn(&Job, Bytes) -> Result<In> + Send + Sync + 'static,
    E: Fn(&Job, Out) -> Result<Bytes> + Send + Sync + 'static,
{
    fn stages(&mut self) -> &mut [Stage] {
        &mut self.pipeline.stages
    }

    fn set_budget(&mut self, bytes: Option<usize>) {
        self.pipeline.budget = bytes.or(self.pipeline.budget);
    }

    fn describe(&self) -> String {
        self.pipeline.to_string()
    }

    fn places(&self) -> usize {
        self.pipeline.places()
    }

    fn media(&self) -> Media {
        self.media
    }

    fn build(&self, starter: &mut Starter) -> Result<Arc<dyn Handle>> {
        let walker = Walker::build(starter, &self.pipeline)?;
        let codec = self.codec.clone();
        Ok(Arc::new(Coded { walker, codec }))
    }
}

struct Coded<In, Out, D, E> {
    walker: Walker<In, Out>,
    codec: Arc<(D, E)>,
}

impl<In, Out, D, E> Handle for Coded<In, Out, D, E>
where
    In: Send + 'static,
    Out: Send + 'static,
    D: Fn(&Job, Bytes) -> Result<In> + Send + Sync,
    E: Fn(&Job, Out) -> Result<Bytes> + Send + Sync,
{
    fn outlook(&self) -> Outlook {
        self.walker.outlook.clone()
    }

    fn handle<'a>(&'a self, job: &'a Job, payload: Bytes) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let (decode, encode) = &*self.codec;
            let bytes = payload.len();
            let input = decode(job, payload)?;
            let output = self.walker.walk(job, input, bytes).await?;
            encode(job, output)
        })
    }
}
