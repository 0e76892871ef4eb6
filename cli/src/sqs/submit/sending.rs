//! The sending: batches of the input, several on their way at once, each with its lines in the journal.
//!
//! Told to stop, it sends no more batches and waits for those on their way, so that only a kill of this process leaves
//! jobs in doubt, and never more than are on their way at once.

use std::io::Write;

use forebay::source::sqs::{Pushed, SqsJob, SqsQueue, Terms};
use forebay::{Context, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::input::{Input, Job};
use super::journal::Journal;
use super::survivor::STOP_AT_ONCE;

/// Jobs in a batch: what SQS takes in one call.
const JOBS: usize = 10;
/// Bytes of payloads in a batch, unless one alone is larger.
const BYTES: usize = 1 << 20;
/// Batches on their way: enough for thousands of jobs a second at 20 ms a call.
const AT_ONCE: usize = 16;
/// Batches that were read ahead.
const AHEAD: usize = 4;
/// Refused jobs that are shown.
const SHOWN: usize = 10;

/// What came of it.
#[derive(Default)]
pub struct Report {
    pub sent: usize,
    pub maybe_twice: usize,
    /// Nobody knows whether these are on the queue.
    pub unclear: usize,
    /// Why jobs could not be sent, with where they are: the first few.
    pub refused: Vec<String>,
    pub refused_count: usize,
    /// It was told to stop.
    pub interrupted: bool,
    pub stopped_by: Option<Error>,
}

/// Jobs that follow each other.
#[derive(Default)]
struct Batch {
    first: usize,
    jobs: Vec<SqsJob>,
    origins: Vec<String>,
    bytes: usize,
}

/// What the reader hands over.
enum Read {
    Batch(Batch),
    /// A job that cannot be read.
    Bad(Error),
    /// The input itself cannot be read further.
    End(Error),
}

/// A batch that has come back.
struct Back {
    number: u64,
    batch: Batch,
    outcomes: Vec<Pushed>,
}

struct Sending {
    queue: SqsQueue,
    journal: Journal,
    report: Report,
    on_their_way: JoinSet<Back>,
    bar: ProgressBar,
}

/// Sends all jobs that are not on the queue yet.
pub async fn send(queue: SqsQueue, input: Input, terms: Terms, prefix: String, journal: Journal) -> Result<Report> {
    let (sender, mut batches) = mpsc::channel(AHEAD);
    let bar = bar(input.count(), journal.sent());
    let is_sent = journal.is_sent();
    let was_new = journal.sent() + journal.doubts() == 0;
    spawn_blocking(move || read(input, &is_sent, &terms, &prefix, &sender));
    let mut sending = Sending { queue, journal, report: Report::default(), on_their_way: JoinSet::new(), bar };
    let outcome = sending.run(&mut batches).await;
    sending.bar.finish_and_clear();
    outcome?;
    let Sending { journal, report, .. } = sending;
    if was_new && report.sent == 0 && report.unclear == 0 {
        journal.remove()?;
    }
    Ok(report)
}

fn bar(total: usize, sent: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs, {per_sec}, {eta} to go");
    let bar = ProgressBar::new(total as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    bar.with_position(sent as u64)
}

/// Puts the jobs that are not on the queue into batches, until there are no more or nobody wants any.
fn read(input: Input, is_sent: &[bool], terms: &Terms, prefix: &str, batches: &mpsc::Sender<Read>) {
    let mut batch = Batch::default();
    // What has been added to the input since it was looked at is not of this run.
    let wanted = |number: usize| is_sent.get(number) == Some(&false);
    let ended = input.each(wanted, |Job { number, id, origin, payload }| {
        let payload = match payload {
            Ok(payload) => payload,
            Err(why) => return batches.blocking_send(Read::Bad(why)).is_err(),
        };
        if !batch.takes(number, payload.len()) {
            let full = std::mem::take(&mut batch);
            if batches.blocking_send(Read::Batch(full)).is_err() {
                return true;
            }
        }
        batch.add(number, origin, SqsJob { id: format!("{prefix}{id}"), payload, terms: terms.clone() });
        false
    });
    // Nobody listens any more if it was told to stop.
    if !batch.jobs.is_empty() {
        let _ = batches.blocking_send(Read::Batch(batch));
    }
    if let Err(why) = ended {
        let _ = batches.blocking_send(Read::End(why));
    }
}

impl Batch {
    fn takes(&self, number: usize, bytes: usize) -> bool {
        let follows = number == self.first + self.jobs.len();
        self.jobs.is_empty() || (follows && self.jobs.len() < JOBS && self.bytes + bytes <= BYTES)
    }

    fn add(&mut self, number: usize, origin: String, job: SqsJob) {
        if self.jobs.is_empty() {
            self.first = number;
        }
        self.bytes += job.payload.len();
        self.origins.push(origin);
        self.jobs.push(job);
    }
}

impl Sending {
    async fn run(&mut self, batches: &mut mpsc::Receiver<Read>) -> Result<()> {
        let mut stop = Stop::listen()?;
        let mut goes_on = true;
        while goes_on || !self.on_their_way.is_empty() {
            tokio::select! {
                biased;
                how = stop.told() => match how {
                    Told::AtOnce => {
                        return Err(Error::failed("stopped at once: the jobs on their way are in doubt"));
                    }
                    Told::Gently => goes_on = self.interrupt(),
                },
                Some(back) = self.on_their_way.join_next() => self.take(back.context("sending a batch")?)?,
                read = batches.recv(), if goes_on && self.on_their_way.len() < AT_ONCE => match read {
                    Some(Read::Batch(batch)) => self.begin(batch)?,
                    Some(Read::Bad(why)) => self.report.refuse(why),
                    Some(Read::End(why)) => self.report.stop(why),
                    None => goes_on = false,
                },
            }
            goes_on &= self.report.stopped_by.is_none();
        }
        Ok(())
    }

    /// Whether it goes on now.
    fn interrupt(&mut self) -> bool {
        if !self.report.interrupted {
            self.report.interrupted = true;
            let say = "waiting for the jobs on their way; a second signal stops at once";
            // Where parent and terminal have gone nobody reads it, which is no reason to stop.
            self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{say}")));
        }
        false
    }

    fn begin(&mut self, batch: Batch) -> Result<()> {
        let ids = batch.jobs.iter().map(|job| job.id.clone()).collect();
        let number = self.journal.intend(batch.first, ids)?;
        let queue = self.queue.clone();
        self.on_their_way.spawn(async move {
            let outcomes = queue.push_all(&batch.jobs).await;
            Back { number, batch, outcomes }
        });
        Ok(())
    }

    fn take(&mut self, Back { number, batch, outcomes }: Back) -> Result<()> {
        let (mut unsent, mut unclear) = (Vec::new(), Vec::new());
        let sent_before = self.report.sent;
        for ((job, origin), outcome) in (batch.first..).zip(&batch.origins).zip(outcomes) {
            match outcome {
                Pushed::Once => self.report.sent += 1,
                Pushed::MaybeTwice => {
                    self.report.sent += 1;
                    self.report.maybe_twice += 1;
                }
                Pushed::Refused(why) => {
                    unsent.push(job);
                    self.report.refuse(why.context(origin));
                }
                Pushed::Failed(why) => {
                    unsent.push(job);
                    self.report.stop(why);
                }
                Pushed::Unclear(why) => {
                    unclear.push(job);
                    self.report.stop(why);
                }
            }
        }
        self.report.unclear += unclear.len();
        self.bar.inc((self.report.sent - sent_before) as u64);
        self.journal.done(number, unsent, unclear)
    }
}

impl Report {
    fn refuse(&mut self, why: Error) {
        self.refused_count += 1;
        if self.refused.len() < SHOWN {
            self.refused.push(why.to_string());
        }
    }

    /// The first reason is the one that counts.
    fn stop(&mut self, why: Error) {
        self.stopped_by.get_or_insert(why);
    }
}

/// What the signals of the parent, and those of others, tell this process.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    at_once: Signal,
}

enum Told {
    /// However often: SIGTERM, of the parent's end too, SIGINT and SIGHUP.
    Gently,
    AtOnce,
}

impl Stop {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Stop {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            at_once: listen(SignalKind::from_raw(STOP_AT_ONCE.as_raw()))?,
        })
    }

    async fn told(&mut self) -> Told {
        tokio::select! {
            _ = self.at_once.recv() => Told::AtOnce,
            _ = self.terminate.recv() => Told::Gently,
            _ = self.interrupt.recv() => Told::Gently,
            _ = self.hangup.recv() => Told::Gently,
        }
    }
}
