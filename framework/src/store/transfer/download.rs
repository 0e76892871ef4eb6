//! One download: ranges of one version of an object, several at a time, put together, compared, and given their name.
//!
//! The first answer tells how long the object is and of which version; from then on every range asks for that version,
//! so ranges of two versions never mix: where the object has changed, the download begins anew. A range that breaks off
//! goes on at the byte where it was.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::SetOnce;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::lanes::{Lane, Lanes, NearlyFree};
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
use crate::store::{Checksum, Crc, Opened, Progress, Reading, Version, blocking};

/// How often a download begins anew because the object changed, or because what came was not what it should be.
const BEGINNINGS: u32 = 5;
/// How long an answer that is open waits until it is known what the bytes should be.
const HELD: Duration = Duration::from_secs(2);
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

/// How a range was opened, the lane that it comes along, and how long the answer took.
struct Answer {
    opened: Opened,
    lane: Lane,
    took: Duration,
}

/// What the tasks of one beginning share.
struct Shared {
    origin: Arc<dyn Origin>,
    lanes: Lanes,
    progress: Arc<Share>,
    len: u64,
    version: Version,
    plan: SetOnce<Plan>,
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
        let Answer { opened, lane, took } = self.first(&asked, &left).await?;
        let reading = match opened {
            Opened::Found(reading) => reading,
            Opened::Changed => return Ok(Attempt::Changed),
            Opened::Missing => return Err(Error::invalid("there is no such object")),
        };
        if reading.len > self.most {
            let (len, most) = (reading.len, self.most);
            return Err(Error::invalid(format_args!("it has {len} bytes, but at most {most} are taken")));
        }
        // Of an answer that gives more than was asked for, all is taken, unless some of it is there already.
        let first = match left.version {
            Some(_) => asked.start..asked.end.min(reading.range.end),
            None => reading.range.clone(),
        };
        let mut queue = cut(&left, first.clone(), reading.len, self.lanes.count()).into_iter();
        progress.expect(reading.len);
        let shared = Arc::new(Shared {
            origin: Arc::clone(&self.origin),
            lanes: self.lanes.clone(),
            progress: Arc::clone(progress),
            len: reading.len,
            version: reading.version.clone(),
            plan: SetOnce::new(),
            sink: sink.clone(),
        });
        let mut tasks = JoinSet::new();
        // While it is asked what the bytes should be, ranges are opened.
        tasks.spawn(Arc::clone(&shared).prepare(name.to_owned(), reading.checksum, left));
        let opened = Answer { opened: Opened::Found(reading), lane, took };
        tasks.spawn(Arc::clone(&shared).range(first, Some(opened)));
        let mut crcs = Checks::default();
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
    async fn first(&self, range: &Range<u64>, left: &Left) -> Result<Answer> {
        let mut budget = Budget::default();
        loop {
            match ask(&*self.origin, &self.lanes, range.clone(), left.version.as_ref()).await {
                Ok(answer) => return Ok(answer),
                Err(why) => sleep(budget.spend(why, 0)?).await,
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
    /// Finds out what the bytes should be, makes room for them, and gives the checks of what is `left`. `told`: by the
    /// first answer.
    async fn prepare(self: Arc<Self>, name: String, told: Option<Checksum>, left: Left) -> Result<Checks> {
        let checksum = match told {
            Some(told) => Some(told),
            None => {
                let asking = with_budget(|| self.origin.checksum(&self.version));
                asking.await.context("asking what its bytes should be")?
            }
        };
        let plan = Plan { len: self.len, version: self.version.clone(), checksum };
        if left.version.is_none()
            && let Sink::File(partial) = &self.sink
        {
            let (partial, plan) = (Arc::clone(partial), plan.clone());
            blocking(move || partial.begin(&name, &plan)).await?;
        }
        let checks = self.count_left(&left.ranges, &plan).await?;
        // Nobody else sets it.
        let _ = self.plan.set(plan);
        Ok(checks)
    }

    /// Brings one range to where it belongs; the checks of its pieces.
    async fn range(self: Arc<Self>, range: Range<u64>, opened: Option<Answer>) -> Result<Checks> {
        let mut at = range.start;
        let mut opened = opened;
        let mut budget = Budget::default();
        let mut tally = None;
        loop {
            let began = at;
            let answer = match opened.take() {
                Some(opened) => Ok(opened),
                None => ask(&*self.origin, &self.lanes, at..range.end, Some(&self.version)).await,
            };
            let Ok(plan) = timeout(HELD, self.plan.wait()).await else {
                // Others may want the lane.
                drop(answer);
                self.plan.wait().await;
                continue;
            };
            let tally = tally.get_or_insert_with(|| Tally::new(range.start, plan));
            let came = match answer {
                Ok(Answer { opened: Opened::Found(reading), lane, took }) => {
                    let lane = lane.until_nearly(range.end - at, took);
                    self.stream(reading, lane, &mut at, range.end, tally).await.map(|moving| took + moving)
                }
                Ok(_) => Err(Error::new(Fault::Transient, Changed)),
                Err(why) => Err(why),
            };
            match &came {
                Ok(network) => Flow::of_process().moved(Direction::Download, at - began, *network),
                Err(why) if why.fault() == Fault::Transient && why.find::<Changed>().is_none() => {
                    Flow::of_process().failed(Direction::Download);
                }
                Err(_) => {}
            }
            match came {
                Ok(_) => break,
                // What was counted is not in the file, so going on would leave a hole.
                Err(why) if why.find::<Changed>().is_some() || why.find::<Unwritten>().is_some() => return Err(why),
                Err(why) => {
                    debug!(at, end = range.end, %why, "a range broke off");
                    sleep(budget.spend(why, at - began)?).await;
                }
            }
        }
        let checks = tally.map_or_else(Checks::default, Tally::end);
        if let Sink::File(partial) = &self.sink {
            let algorithm = self.plan.wait().await.algorithm();
            let crcs: Vec<Crc> = checks.iter().map(|(_, crc)| *crc).collect();
            let (partial, value) = (Arc::clone(partial), joined(algorithm, &crcs).value);
            blocking(move || partial.note(&range, value)).await?;
        }
        Ok(checks)
    }

    /// Takes what comes until `end`; `at` is where it has come to, whatever happens. How long that took, but for waiting
    /// for the disk.
    async fn stream(
        &self,
        reading: Reading,
        mut lane: NearlyFree,
        at: &mut u64,
        end: u64,
        tally: &mut Tally,
    ) -> Result<Duration> {
        let began = Instant::now();
        let Reading { len, version, range, mut body, .. } = reading;
        if len != self.len || version != self.version {
            return Err(Error::new(Fault::Transient, Changed));
        }
        if range.start > *at {
            return Err(Error::transient(format_args!("the answer begins at {}, not at {at}", range.start)));
        }
        // Of an answer that gives more than was asked for.
        let mut skip = *at - range.start;
        let mut writer = Writer::new(self.sink.clone(), *at, self.lanes.count());
        let mut came = Ok(());
        let mut mark = self.lanes.mark();
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
                Err(_) if !self.lanes.stalled_since(mark) => continue,
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
            mark = self.lanes.moved(moved);
            lane.left(end - *at);
            writer.take(some).await?;
        }
        let disk = writer.end().await?;
        came.map(|()| began.elapsed().saturating_sub(disk))
    }

    /// The checks of what an earlier attempt left.
    async fn count_left(&self, ranges: &[Range<u64>], plan: &Plan) -> Result<Checks> {
        let Sink::File(partial) = &self.sink else {
            return Ok(Checks::default());
        };
        let (file, ranges) = (partial.file(), ranges.to_vec());
        let (algorithm, part) = (plan.algorithm(), plan.part());
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

    /// With all pieces there: compares, and gives them their name.
    async fn finish(&self, crcs: &[Crc]) -> Result<Attempt> {
        let plan = self.plan.wait().await;
        let len: u64 = crcs.iter().map(|crc| crc.len).sum();
        if len != plan.len || plan.checksum.is_some_and(|checksum| !checksum.holds(crcs)) {
            return Ok(Attempt::Wrong);
        }
        let (len, version, verified) = (plan.len, plan.version.clone(), plan.checksum.is_some());
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

/// Opens a range as soon as there is a lane for it.
async fn ask(origin: &dyn Origin, lanes: &Lanes, range: Range<u64>, of: Option<&Version>) -> Result<Answer> {
    let lane = lanes.enter().await;
    let asked = Instant::now();
    let opened = answer(origin.read(range, of)).await?;
    Ok(Answer { opened, lane, took: asked.elapsed() })
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
