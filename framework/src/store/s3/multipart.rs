//! One upload in parts, several at a time, each watched and tried again.
//!
//! It owns an upload that is open at the store, from its beginning, or from where it was cut off, to its end either way.
//! At the end, when lanes are free and the link has room, parts that are far behind the others are sent a second time
//! beside the first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::Inner;
use super::bucket::{CHECK, Label, Part};
use super::fault::{self, Means};
use super::feed::{Feed, Next};
use super::journal::{FileId, Head, Journal};
use super::part::{self, Source};
use super::provider::Integrity;
use super::send::To;
use super::watch::LOOK;
use crate::error::{Error, Fault, Result};
use crate::store::checksum::joined;
use crate::store::progress::Share;
use crate::store::transfer::Budget;
use crate::store::{Crc, Outcome, Progress, Put, blocking};

/// How often an upload begins anew: because its parts or the upload itself were lost at the store.
const BEGINNINGS: u32 = 3;
/// A part that takes this many times what the others took is behind.
const BEHIND: u32 = 3;
/// To clean up after a failure.
const ABORT_WITHIN: Duration = Duration::from_secs(10);

/// How one beginning ended.
enum Attempt {
    Ended(Outcome),
    Lost(Error),
}

impl Inner {
    /// In parts that can be read again.
    pub(super) async fn parts(
        self: &Arc<Self>,
        key: &str,
        file: Option<FileId>,
        feed: impl Fn() -> Feed,
        part: u64,
        mode: &Put,
        progress: &Progress,
    ) -> Result<Outcome> {
        let mut lost = Error::failed("no attempt was made");
        for beginning in 1..=BEGINNINGS {
            let share = Arc::new(progress.share());
            let mut fed = feed();
            let own_check = match self.integrity {
                Integrity::Md5 => Some(self.check(feed()).await?),
                _ => None,
            };
            let resumed = file.as_ref().filter(|_| beginning == 1);
            let mut upload = match self.cut_off(key, resumed.cloned()).await? {
                Some((journal, parts)) => Upload::resumed(self, key, journal, parts, own_check),
                None => Upload::begin(self, key, file.clone(), part, own_check).await?,
            };
            let ended = upload.run(&mut fed, None, mode, &share).await;
            match upload.settle(ended).await? {
                Attempt::Ended(outcome) => return Ok(outcome),
                Attempt::Lost(why) => {
                    warn!(key, beginning, %why, "an upload was lost: it begins anew");
                    share.take_back();
                    lost = why;
                }
            }
        }
        Err(lost.context(format_args!("lost {BEGINNINGS} times")))
    }

    /// In parts that can be read only once: an upload that is lost cannot begin anew.
    pub(super) async fn streamed(
        self: &Arc<Self>,
        key: &str,
        mut feed: Feed,
        first: Option<Next>,
        mode: &Put,
        progress: &Progress,
    ) -> Result<Outcome> {
        let share = Arc::new(progress.share());
        let mut upload = Upload::begin(self, key, None, 0, None).await?;
        let ended = upload.run(&mut feed, first, mode, &share).await;
        match upload.settle(ended).await? {
            Attempt::Ended(outcome) => Ok(outcome),
            Attempt::Lost(why) => Err(why),
        }
    }

    /// The upload of this file to there that was cut off.
    async fn cut_off(&self, key: &str, file: Option<FileId>) -> Result<Option<(Journal, Vec<Part>)>> {
        let Some(file) = file else { return Ok(None) };
        let (folder, place, key) = (self.journals.clone(), self.place.clone(), key.to_owned());
        blocking(move || Ok(Journal::resume(&folder, &place, &key, &file))).await
    }

    /// The check of all that is fed.
    async fn check(&self, mut feed: Feed) -> Result<Crc> {
        let mut pieces = Vec::new();
        while let Some(Next { source, range, .. }) = feed.next().await? {
            pieces.push(part::count(source, range, CHECK).await?);
        }
        Ok(joined(CHECK, &pieces))
    }
}

/// An upload that is open at the store.
struct Upload {
    inner: Arc<Inner>,
    to: Arc<To>,
    label: Label,
    journal: Journal,
    done: HashMap<u32, Part>,
    /// How long before this upload others may have begun whose answers were lost.
    lost: Option<Duration>,
    settled: bool,
    resumed: bool,
    /// Parts that were sent twice: the store may have kept either.
    hedged: HashSet<u32>,
}

impl Drop for Upload {
    /// Given up in the middle: what can be resumed is left to be, all else is ended.
    fn drop(&mut self) {
        if self.settled || self.journal.head.file.is_some() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (inner, to, journal) = (Arc::clone(&self.inner), Arc::clone(&self.to), self.journal.clone());
            runtime.spawn(async move {
                if inner.bucket.abort(&to.key, &to.id).await.is_ok() {
                    journal.forget();
                }
            });
        }
    }
}

/// A part that is under way.
struct Flight {
    part: Arc<Next>,
    began: Instant,
    tasks: Vec<AbortHandle>,
    /// Those of them that have not ended.
    senders: usize,
}

/// A part's number, and how sending it ended.
type Sent = (u32, Result<Part>);

impl Upload {
    async fn begin(
        inner: &Arc<Inner>,
        key: &str,
        file: Option<FileId>,
        part: u64,
        own_check: Option<Crc>,
    ) -> Result<Self> {
        let label = inner.label(own_check);
        let (mut budget, began) = (Budget::default(), Instant::now());
        let mut lost = None;
        let id = loop {
            match inner.bucket.begin(key, &label).await {
                Ok(id) => break id,
                Err(why) => {
                    if fault::said(&why).is_none_or(|said| !said.is_sure()) {
                        lost = Some(began);
                    }
                    sleep(budget.spend(why, 0)?).await;
                }
            }
        };
        let lost = lost.map(|began| began.elapsed());
        let lost_ms = lost.map(|lost| lost.as_millis() as u64);
        let (key, place, write_id) = (key.to_owned(), inner.place.clone(), label.write_id.clone());
        let head = Head { place, key: key.clone(), id: id.clone(), write_id, part, lost_ms, file };
        let folder = inner.journals.clone();
        let journal = match blocking(move || Journal::begin(&folder, head)).await {
            Ok(journal) => journal,
            Err(why) => {
                let _ = inner.bucket.abort(&key, &id).await;
                return Err(why);
            }
        };
        let to = Arc::new(To { key, id });
        Ok(Upload {
            inner: Arc::clone(inner),
            to,
            label,
            journal,
            done: HashMap::new(),
            lost,
            settled: false,
            resumed: false,
            hedged: HashSet::new(),
        })
    }

    fn resumed(inner: &Arc<Inner>, key: &str, journal: Journal, parts: Vec<Part>, own_check: Option<Crc>) -> Self {
        let label = Label { write_id: journal.head.write_id.clone(), own_check, integrity: inner.integrity };
        let to = Arc::new(To { key: key.to_owned(), id: journal.head.id.clone() });
        let done = parts.into_iter().map(|part| (part.number, part)).collect();
        let lost = journal.head.lost_ms.map(Duration::from_millis);
        Upload {
            inner: Arc::clone(inner),
            to,
            label,
            journal,
            done,
            lost,
            settled: false,
            resumed: true,
            hedged: HashSet::new(),
        }
    }

    async fn run(&mut self, feed: &mut Feed, first: Option<Next>, mode: &Put, share: &Arc<Share>) -> Result<Outcome> {
        if self.resumed
            && let Some(outcome) = self.compare(feed.source()).await?
        {
            return Ok(outcome);
        }
        if let Feed::Ranges { part, .. } = feed {
            // A resumed upload goes on in the parts that it began with.
            *part = self.journal.head.part;
        }
        self.send(feed, first, share).await?;
        self.sweep().await;
        if let Some(file) = self.journal.head.file.clone()
            && !blocking(move || Ok(file.is_there())).await?
        {
            return Err(Error::failed("the file was changed while it was uploaded: nothing was written"));
        }
        self.complete(mode).await
    }

    /// Forgets the parts that the store has not, or that the file has not any more. The outcome, if the upload had come to
    /// its end before it was cut off.
    async fn compare(&mut self, source: Option<Source>) -> Result<Option<Outcome>> {
        let (To { key, id }, inner) = (&*self.to, &self.inner);
        let asked = inner.asked(|| async {
            match inner.bucket.parts(key, id).await {
                Err(why) if fault::said(&why).is_some_and(|said| said.status < 500) => Ok(Err(why)),
                there => there.map(Ok),
            }
        });
        let there = match asked.await? {
            Ok(there) => there,
            Err(why) if fault::means(&why) == Some(Means::NoUpload) => {
                return match inner.lost_race(key, &self.label, true).await? {
                    Outcome::Stored(version) => Ok(Some(Outcome::Stored(version))),
                    Outcome::Conflict => Err(why),
                };
            }
            Err(why) => {
                // Some stores cannot say which parts they have: then all are sent, as if none had been.
                debug!(key, %why, "the parts of an upload that was cut off are not known");
                Vec::new()
            }
        };
        self.done.retain(|number, part| {
            there.iter().any(|(n, tag, len)| n == number && *tag == part.tag && *len == part.crc.len)
        });
        if let Some(source) = source {
            for part in self.done.values().cloned().collect::<Vec<_>>() {
                let start = u64::from(part.number - 1) * self.journal.head.part;
                if part::count(source.clone(), start..start + part.crc.len, CHECK).await? != part.crc {
                    self.done.remove(&part.number);
                }
            }
        }
        debug!(key, parts = self.done.len(), "an upload goes on where it was cut off");
        Ok(None)
    }

    async fn send(&mut self, feed: &mut Feed, first: Option<Next>, share: &Arc<Share>) -> Result<()> {
        let mut tasks = JoinSet::new();
        let sent = self.send_all(&mut tasks, feed, first, share).await;
        // A part that comes after its upload was ended would be left there.
        tasks.shutdown().await;
        sent
    }

    async fn send_all(
        &mut self,
        tasks: &mut JoinSet<Sent>,
        feed: &mut Feed,
        first: Option<Next>,
        share: &Arc<Share>,
    ) -> Result<()> {
        let mut flights: HashMap<u32, Flight> = HashMap::new();
        let mut took: Vec<Duration> = Vec::new();
        let mut first = first;
        let mut fed = false;
        loop {
            let room = tasks.len() < 2 * self.inner.lanes.count();
            tokio::select! {
                biased;
                Some(ended) = tasks.join_next() => {
                    let (number, sent) = match ended {
                        Ok(sent) => sent,
                        Err(why) if why.is_cancelled() => continue,
                        Err(why) => return Err(why.into()),
                    };
                    let Some(flight) = flights.get_mut(&number) else { continue };
                    flight.senders -= 1;
                    if sent.is_err() && flight.senders > 0 {
                        // Its twin is still at it.
                        continue;
                    }
                    let part = sent?;
                    took.push(flight.began.elapsed());
                    flight.tasks.iter().for_each(AbortHandle::abort);
                    flights.remove(&number);
                    let (journal, noted) = (self.journal.clone(), part.clone());
                    blocking(move || journal.note(&noted)).await?;
                    self.done.insert(number, part);
                }
                next = next(&mut first, feed), if !fed && room => {
                    let Some(part) = next? else {
                        fed = true;
                        continue;
                    };
                    if self.done.contains_key(&part.number) {
                        share.keep(part.range.end - part.range.start);
                        continue;
                    }
                    let part = Arc::new(part);
                    let task = self.spawn(tasks, &part, share);
                    flights.insert(part.number, Flight { part, began: Instant::now(), tasks: vec![task], senders: 1 });
                }
                () = sleep(LOOK), if fed && !tasks.is_empty() => self.hedge(tasks, &mut flights, &mut took, share),
                else => return Ok(()),
            }
        }
    }

    fn spawn(&self, tasks: &mut JoinSet<Sent>, part: &Arc<Next>, share: &Arc<Share>) -> AbortHandle {
        let number = part.number;
        let sending = Arc::clone(&self.inner).send_part(Arc::clone(&self.to), Arc::clone(part), Arc::clone(share));
        tasks.spawn(async move { (number, sending.await) })
    }

    /// Sends a second time what is far behind, where the link has room for it.
    fn hedge(
        &mut self,
        tasks: &mut JoinSet<Sent>,
        flights: &mut HashMap<u32, Flight>,
        took: &mut [Duration],
        share: &Arc<Share>,
    ) {
        if took.len() < 4 || !self.inner.lanes.has_room() {
            return;
        }
        took.sort_unstable();
        let late = took[took.len() / 2] * BEHIND;
        for flight in flights.values_mut() {
            if flight.tasks.len() == 1 && flight.began.elapsed() > late.max(2 * LOOK) {
                debug!(
                    key = self.to.key,
                    number = flight.part.number,
                    "a part is far behind: it is sent a second time"
                );
                let task = self.spawn(tasks, &flight.part, share);
                flight.tasks.push(task);
                flight.senders += 1;
                self.hedged.insert(flight.part.number);
            }
        }
    }

    /// Ends uploads to this key whose beginning was answered to nobody: begun by tries of this one, and without parts.
    async fn sweep(&mut self) {
        let Some(before) = self.lost.take() else { return };
        let sweep = async {
            let open = self.inner.bucket.uploads(&self.to.key).await?;
            let own = open.iter().find(|upload| upload.id == self.to.id).map(|upload| upload.begun);
            let Some(own) = own else { return Ok(()) };
            // Some stores tell the time in whole seconds.
            let since = own - before - Duration::from_secs(2);
            for upload in open {
                let same = upload.key == self.to.key && upload.id != self.to.id;
                if same
                    && (since..=own).contains(&upload.begun)
                    && self.inner.bucket.parts(&upload.key, &upload.id).await?.is_empty()
                {
                    self.inner.bucket.abort(&upload.key, &upload.id).await?;
                }
            }
            Ok::<_, Error>(())
        };
        if let Ok(Err(why)) | Err(why) = timeout(ABORT_WITHIN, sweep).await.map_err(Error::from) {
            debug!(key = self.to.key, %why, "an upload whose beginning was not answered may be left open");
        }
    }

    async fn complete(&mut self, mode: &Put) -> Result<Outcome> {
        let mut parts: Vec<Part> = self.done.values().cloned().collect();
        parts.sort_unstable_by_key(|part| part.number);
        let crcs: Vec<Crc> = parts.iter().map(|part| part.crc).collect();
        let whole = joined(CHECK, &crcs);
        let (To { key, id }, bucket) = (&*self.to, &self.inner.bucket);
        // Of one that was resumed, the process before may have done it.
        let (mut budget, mut unsure) = (Budget::default(), self.resumed);
        loop {
            let why = match bucket.complete(key, id, &parts, whole, self.inner.integrity, mode).await {
                Ok(version) => return Ok(Outcome::Stored(version)),
                Err(why) => why,
            };
            match fault::means(&why) {
                Some(Means::Condition) => return self.inner.lost_race(key, &self.label, unsure).await,
                Some(Means::Missing) if matches!(mode, Put::Match(_)) => return Ok(Outcome::Conflict),
                Some(Means::NoUpload) => {
                    return match self.inner.lost_race(key, &self.label, true).await? {
                        Outcome::Stored(version) => Ok(Outcome::Stored(version)),
                        // Somebody ended it. Whether the object is somebody else's makes no difference.
                        Outcome::Conflict => Err(why),
                    };
                }
                Some(Means::WrongPart) if !self.hedged.is_empty() => {
                    // Not every store can say what it has: then all begins anew.
                    if self.name_twins(&mut parts).await.is_err() {
                        return Err(why);
                    }
                    self.hedged.clear();
                    continue;
                }
                // After a race, says Amazon, all parts have to be sent again.
                Some(Means::WrongPart | Means::Race) => return Err(why),
                _ => {}
            }
            unsure |= fault::said(&why).is_none_or(|said| !said.is_sure());
            debug!(key, %why, "completing an upload failed");
            sleep(budget.spend(why, 0)?).await;
        }
    }

    /// Takes the tags that the store has for what was sent twice: which of the two came last is its matter, and both had
    /// the same bytes.
    async fn name_twins(&self, parts: &mut [Part]) -> Result<()> {
        let To { key, id } = &*self.to;
        for (number, tag, len) in self.inner.asked(|| self.inner.bucket.parts(key, id)).await? {
            let twin = parts.iter_mut().find(|part| part.number == number && self.hedged.contains(&number));
            if let Some(twin) = twin.filter(|twin| twin.crc.len == len) {
                twin.tag = tag;
            }
        }
        Ok(())
    }

    /// Cleans up, and says whether it is worth beginning anew.
    async fn settle(mut self, ended: Result<Outcome>) -> Result<Attempt> {
        self.settled = true;
        if let Ok(Outcome::Stored(_)) = ended {
            self.journal.forget();
            return ended.map(Attempt::Ended);
        }
        if let (Err(why), Some(_)) = (&ended, &self.journal.head.file)
            && fault::means(why).is_none()
            && why.fault() == Fault::Transient
        {
            // The link is away: the next upload of this file goes on from here.
            return Err(why.clone());
        }
        self.sweep().await;
        let gone = matches!(&ended, Err(why) if fault::means(why) == Some(Means::NoUpload));
        let aborting = timeout(ABORT_WITHIN, self.inner.asked(|| self.inner.bucket.abort(&self.to.key, &self.to.id)));
        if gone || aborting.await.is_ok_and(|aborted| aborted.is_ok()) {
            self.journal.forget();
        }
        match ended {
            Ok(outcome) => Ok(Attempt::Ended(outcome)),
            Err(why) if matches!(fault::means(&why), Some(Means::NoUpload | Means::WrongPart | Means::Race)) => {
                Ok(Attempt::Lost(why))
            }
            Err(why) => Err(why),
        }
    }
}

/// The part that was read already, or the next.
async fn next(first: &mut Option<Next>, feed: &mut Feed) -> Result<Option<Next>> {
    match first.take() {
        Some(first) => Ok(Some(first)),
        None => feed.next().await,
    }
}
