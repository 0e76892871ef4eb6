//! One download: ranges of one version of an object, several at a time, put together, compared, and given their name.
//!
//! The first answer tells how long the object is and of which version; from then on every range asks for that version,
//! so ranges of two versions never mix: where the object has changed, the download begins anew. A range that breaks off
//! goes on at the byte where it was.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::lanes::{Lane, Lanes};
use super::origin::Origin;
use super::partial::{self, Left, Partial, Plan};
use super::retry::{Budget, MOVES_WITHIN};
use super::sink::{Sink, Unwritten, Writer, gather};
use super::tally::{Checks, Tally, seam};
use super::{Fetched, PART};
use crate::error::{Context, Error, Fault, Result};
use crate::flow::{Direction, Flow};
use crate::store::checksum::joined;
use crate::store::progress::Share;
use crate::store::{Crc, Opened, Progress, Reading, blocking};

/// How often a download begins anew because the object changed, or because what came was not what it should be.
const BEGINNINGS: u32 = 5;
/// No range is smaller, unless the object ends there.
const LEAST: u64 = 4 << 20;

pub(super) struct Download {
    pub(super) origin: Arc<dyn Origin>,
    pub(super) lanes: Lanes,
    pub(super) progress: Progress,
    /// Bytes that are taken at the most.
    pub(super) most: u64,
    pub(super) target: Target,
}

/// Where a download goes.
pub(super) enum Target {
    File(PathBuf),
    Memory,
}

/// How one beginning ended.
enum Attempt {
    Done(Fetched, Bytes),
    Changed,
    Wrong,
}

/// What the tasks of one beginning share.
struct Shared {
    origin: Arc<dyn Origin>,
    lanes: Lanes,
    progress: Arc<Share>,
    plan: Plan,
    sink: Sink,
}

/// The object is of another version by now.
#[derive(Debug)]
struct Changed;

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the object has changed")
    }
}

impl std::error::Error for Changed {}

impl Download {
    pub(super) async fn run(self) -> Result<(Fetched, Bytes)> {
        let name = self.origin.name();
        self.begin_until_done(&name).await.context(format_args!("downloading {name}"))
    }

    async fn begin_until_done(&self, name: &str) -> Result<(Fetched, Bytes)> {
        let mut why = "it changes all the time";
        for beginning in 1..=BEGINNINGS {
            let (sink, left) = self.open(name).await?;
            let share = Arc::new(self.progress.share());
            match self.begin(name, &sink, left, &share).await? {
                Attempt::Done(fetched, bytes) => return Ok((fetched, bytes)),
                Attempt::Changed => debug!(name, beginning, "the object has changed: downloading it anew"),
                Attempt::Wrong => {
                    why = "its bytes are not what the store says they should be";
                    warn!(name, beginning, "{why}: downloading it anew");
                }
            }
            share.take_back();
            // What is still being written goes where nobody looks: the next beginning has a file of its own.
            sink.discard();
        }
        Err(Error::transient(format_args!("{why}, {BEGINNINGS} times in a row")))
    }

    async fn open(&self, name: &str) -> Result<(Sink, Left)> {
        let Target::File(path) = &self.target else {
            return Ok((Sink::Memory(Arc::default()), Left::default()));
        };
        let (path, name) = (path.clone(), name.to_owned());
        let (partial, left) = blocking(move || Partial::open(&path, &name)).await?;
        Ok((Sink::File(Arc::new(partial)), left))
    }

    async fn begin(&self, name: &str, sink: &Sink, left: Left, progress: &Arc<Share>) -> Result<Attempt> {
        let asked = left.missing_first();
        let (reading, lane) = match self.first(&asked, &left).await? {
            (Opened::Found(reading), lane) => (reading, lane),
            (Opened::Changed, _) => return Ok(Attempt::Changed),
            (Opened::Missing, _) => return Err(Error::invalid("there is no such object")),
        };
        if reading.len > self.most {
            let (len, most) = (reading.len, self.most);
            return Err(Error::invalid(format_args!("it has {len} bytes, but at most {most} are taken")));
        }
        let mut plan = Plan { len: reading.len, version: reading.version.clone(), checksum: reading.checksum };
        let resumed = left.version.is_some();
        let mut queue = cut(&left, reading.range.clone(), plan.len, self.lanes.count()).into_iter();
        if plan.checksum.is_none() {
            let asking = with_budget(|| self.origin.checksum(&plan.version));
            plan.checksum = asking.await.context("asking what its bytes should be")?;
        }
        if !resumed && let Sink::File(partial) = sink {
            let (partial, name, plan) = (Arc::clone(partial), name.to_owned(), plan.clone());
            blocking(move || partial.begin(&name, &plan)).await?;
        }
        progress.expect(plan.len);
        let (origin, lanes, progress) = (Arc::clone(&self.origin), self.lanes.clone(), Arc::clone(progress));
        let shared = Arc::new(Shared { origin, lanes, progress, plan, sink: sink.clone() });
        let mut crcs = shared.count_left(&left.ranges).await?;
        let mut tasks = JoinSet::new();
        let first = reading.range.clone();
        tasks.spawn(Arc::clone(&shared).range(first, Some((reading, lane))));
        loop {
            // No more tasks than lanes can wait for one: an object may have very many ranges.
            while tasks.len() < 2 * self.lanes.count()
                && let Some(range) = queue.next()
            {
                tasks.spawn(Arc::clone(&shared).range(range, None));
            }
            let Some(ended) = tasks.join_next().await else { break };
            match ended.context("a range's task")? {
                Ok(pieces) => crcs.extend(pieces),
                Err(why) => {
                    tasks.shutdown().await;
                    return if why.find::<Changed>().is_some() { Ok(Attempt::Changed) } else { Err(why) };
                }
            }
        }
        crcs.sort_unstable_by_key(|(start, _)| *start);
        let crcs: Vec<Crc> = crcs.into_iter().map(|(_, crc)| crc).collect();
        shared.finish(&crcs).await
    }

    /// Opens the first range, as often as the budget allows.
    async fn first(&self, asked: &Range<u64>, left: &Left) -> Result<(Opened, Lane)> {
        let mut budget = Budget::default();
        loop {
            let lane = self.lanes.enter().await;
            match answer(self.origin.read(asked.clone(), left.version.as_ref())).await {
                Ok(opened) => return Ok((opened, lane)),
                Err(why) => {
                    drop(lane);
                    sleep(budget.spend(why, 0)?).await;
                }
            }
        }
    }
}

impl Left {
    /// The first range that is not there yet, as far as that is known: of a part's length.
    fn missing_first(&self) -> Range<u64> {
        let mut start = 0;
        for range in &self.ranges {
            if range.start > start {
                return start..range.start.min(start + PART);
            }
            start = range.end;
        }
        start..start + PART
    }
}

/// The ranges that are still to be asked for, besides those that are left and `first`, for so many lanes.
fn cut(left: &Left, first: Range<u64>, len: u64, lanes: usize) -> Vec<Range<u64>> {
    let mut there = left.ranges.clone();
    there.push(first);
    there.sort_unstable_by_key(|range| range.start);
    there.push(len..len);
    let mut gaps = Vec::new();
    let mut start = 0;
    for range in there {
        if range.start > start {
            gaps.push(start..range.start);
        }
        start = start.max(range.end);
    }
    let missing: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    let size = (missing / lanes.max(1) as u64).clamp(LEAST, PART);
    let mut ranges = Vec::new();
    for gap in gaps {
        let pieces = (gap.end - gap.start).div_ceil(size);
        ranges.extend((0..pieces).map(|i| gap.start + i * size..gap.end.min(gap.start + (i + 1) * size)));
    }
    ranges
}

impl Shared {
    /// Brings one range to where it belongs; the checks of its pieces.
    async fn range(self: Arc<Self>, range: Range<u64>, opened: Option<(Reading, Lane)>) -> Result<Checks> {
        let mut at = range.start;
        let mut opened = opened;
        let mut budget = Budget::default();
        let algorithm = self.plan.algorithm();
        let mut tally = Tally::new(range.start, algorithm, self.plan.checksum.map_or(0, |checksum| checksum.part()));
        loop {
            let began = at;
            let mut asked = Instant::now();
            let (reading, lane) = match opened.take() {
                Some((reading, lane)) => (Ok(Opened::Found(reading)), lane),
                None => {
                    let lane = self.lanes.enter().await;
                    asked = Instant::now();
                    (answer(self.origin.read(at..range.end, Some(&self.plan.version))).await, lane)
                }
            };
            let came = match reading {
                Ok(Opened::Found(reading)) => self.stream(reading, &mut at, range.end, &mut tally).await,
                Ok(Opened::Missing | Opened::Changed) => Err(Error::new(Fault::Transient, Changed)),
                Err(why) => Err(why),
            };
            drop(lane);
            match &came {
                Ok(()) => Flow::of_process().moved(Direction::Download, at - began, asked.elapsed()),
                Err(why) if why.fault() == Fault::Transient && why.find::<Changed>().is_none() => {
                    Flow::of_process().failed(Direction::Download);
                }
                Err(_) => {}
            }
            match came {
                Ok(()) => break,
                // What was counted is not in the file, so going on would leave a hole.
                Err(why) if why.find::<Changed>().is_some() || why.find::<Unwritten>().is_some() => return Err(why),
                Err(why) => {
                    debug!(at, end = range.end, %why, "a range broke off");
                    sleep(budget.spend(why, at - began)?).await;
                }
            }
        }
        let checks = tally.end();
        if let Sink::File(partial) = &self.sink {
            let crcs: Vec<Crc> = checks.iter().map(|(_, crc)| *crc).collect();
            let (partial, value) = (Arc::clone(partial), joined(algorithm, &crcs).value);
            blocking(move || partial.note(&range, value)).await?;
        }
        Ok(checks)
    }

    /// Takes what comes until `end`; `at` is where it has come to, whatever happens.
    async fn stream(&self, reading: Reading, at: &mut u64, end: u64, tally: &mut Tally) -> Result<()> {
        let Reading { len, version, range, mut body, .. } = reading;
        if len != self.plan.len || version != self.plan.version {
            return Err(Error::new(Fault::Transient, Changed));
        }
        if range.start > *at {
            return Err(Error::transient(format_args!("the answer begins at {}, not at {at}", range.start)));
        }
        // Of an answer that gives more than was asked for.
        let mut skip = *at - range.start;
        let mut writer = Writer::new(self.sink.clone(), *at);
        let mut came = Ok(());
        while *at < end {
            let mut some = match timeout(MOVES_WITHIN, body.next()).await {
                Ok(Some(Ok(some))) => some,
                Ok(Some(Err(why))) => {
                    came = Err(why);
                    break;
                }
                Ok(None) => {
                    came = Err(Error::transient(format_args!("the answer ended at {at}, before {end}")));
                    break;
                }
                Err(_) => {
                    came = Err(Error::transient(format_args!("nothing came for {MOVES_WITHIN:?}")));
                    break;
                }
            };
            let skipped = skip.min(some.len() as u64);
            skip -= skipped;
            let _ = some.split_to(skipped as usize);
            some.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let moved = some.len() as u64;
            tally.add(&some);
            *at += moved;
            self.progress.moved(moved);
            self.lanes.moved(moved);
            writer.take(some).await?;
        }
        writer.end().await?;
        came
    }

    /// The checks of what an earlier attempt left.
    async fn count_left(&self, ranges: &[Range<u64>]) -> Result<Checks> {
        let Sink::File(partial) = &self.sink else {
            return Ok(Checks::default());
        };
        let (file, ranges) = (partial.file(), ranges.to_vec());
        let (algorithm, part) = (self.plan.algorithm(), self.plan.checksum.map_or(0, |checksum| checksum.part()));
        let progress = Arc::clone(&self.progress);
        blocking(move || {
            let mut checks = Checks::default();
            for range in ranges {
                let mut start = range.start;
                while start < range.end {
                    let end = seam(start, part).min(range.end);
                    checks.push((start, partial::count(&file, &(start..end), algorithm)?));
                    start = end;
                }
                progress.keep(range.end - range.start);
            }
            Ok(checks)
        })
        .await
    }

    async fn finish(&self, crcs: &[Crc]) -> Result<Attempt> {
        let len: u64 = crcs.iter().map(|crc| crc.len).sum();
        if len != self.plan.len || self.plan.checksum.is_some_and(|checksum| !checksum.holds(crcs)) {
            return Ok(Attempt::Wrong);
        }
        let (len, version, verified) = (self.plan.len, self.plan.version.clone(), self.plan.checksum.is_some());
        let bytes = match &self.sink {
            Sink::File(partial) => {
                let partial = Arc::clone(partial);
                blocking(move || partial.finish()).await?;
                Bytes::new()
            }
            Sink::Memory(pieces) => {
                let mut pieces = std::mem::take(&mut *pieces.lock().unwrap_or_else(PoisonError::into_inner));
                pieces.sort_unstable_by_key(|(start, _)| *start);
                gather(pieces)
            }
        };
        Ok(Attempt::Done(Fetched { len, version, verified }, bytes))
    }
}

/// An answer, or an error after as long as nothing may move.
async fn answer<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::transient(format_args!("no answer within {MOVES_WITHIN:?}"));
    timeout(MOVES_WITHIN, asking).await.map_err(late)?
}

/// Asks as often as the budget allows.
async fn with_budget<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    let mut budget = Budget::default();
    loop {
        match answer(ask()).await {
            Ok(answer) => return Ok(answer),
            Err(why) => sleep(budget.spend(why, 0)?).await,
        }
    }
}

#[cfg(test)]
mod tests;
