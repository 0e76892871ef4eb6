//! Copies everything that one side has and the other has not: several files at once, each compared first, so that what
//! an interrupted copy has done is not done again.
//!
//! Files are the same if they are as long and their checksum is the same, where a store tells one; else if the copy is not
//! older. One that fails does not stop the others, unless too many do.

use std::cmp::Ordering;
use std::io::{Write, stdout};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Instant;

use forebay::store::{Checksum, Content, Key, Progress, Put, Store, Transfers};
use forebay::{Context, Error, Result};
use tokio::task::JoinSet;

use super::bar::Bar;
use super::side::{Item, Side, Walk, holds, inside, key, place};
use super::{Summary, reader};
use crate::say::count;

/// Files on their way at once; how much moves at once is the transfers' matter.
const AT_ONCE: usize = 16;
/// After so many failures it stops.
const FAILURES: usize = 100;
/// Failures that are said.
const SHOWN: usize = 10;

/// What to copy where.
pub struct Tree {
    from: Arc<Side>,
    to: Arc<Side>,
    /// Of the source, where it is a bucket.
    transfers: Option<Transfers>,
    progress: Progress,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Asks for each file whether it is there.
    Copy,
    /// Looks through both sides.
    Sync { delete: bool, dry_run: bool },
}

/// What became of a file.
enum Did {
    Copied,
    WasThere,
    Deleted,
}

#[derive(Default)]
struct Report {
    copied: usize,
    there: usize,
    deleted: usize,
    failed: usize,
}

impl Report {
    fn is_nothing(&self) -> bool {
        self.copied + self.there + self.deleted + self.failed == 0
    }
}

impl Tree {
    pub fn new(from: Side, to: Side, mode: Mode) -> Self {
        let progress = Progress::new();
        let transfers = match &from {
            Side::Bucket { store, .. } => Some(Transfers::new(store.clone()).counted_in(&progress)),
            Side::Folder(_) => None,
        };
        Tree { from: Arc::new(from), to: Arc::new(to), transfers, progress, mode }
    }

    /// Whether all was done. `nothing` is the error where the source has nothing.
    pub async fn copy(self, nothing: Error) -> Result<bool> {
        let begun = Instant::now();
        let mut running = Running {
            bar: Bar::show(&self.progress),
            jobs: JoinSet::new(),
            report: Report::default(),
            dry_run: matches!(self.mode, Mode::Sync { dry_run: true, .. }),
        };
        let tree = Arc::new(self);
        let mut from = tree.from.walk();
        let ended = match tree.mode {
            Mode::Copy => tree.each(&mut from, &mut running, nothing).await,
            Mode::Sync { delete, .. } => tree.merge(&mut from, delete, &mut running, nothing).await,
        };
        let ended = match ended {
            Ok(()) => running.take_all().await,
            failed => failed,
        };
        running.jobs.shutdown().await;
        let Running { bar, report, dry_run, .. } = running;
        drop(bar);
        if let Err(why) = &ended {
            if report.is_nothing() {
                return Err(why.clone());
            }
            eprintln!("forebay: {why}");
        }
        let (left_out, names) = from.left_out;
        for name in names {
            eprintln!("left out: {name}");
        }
        let Report { copied, there, deleted, failed } = report;
        let did = if dry_run { "would copy" } else { "copied" };
        let mut line = format!("{did} {}", count(copied, "file"));
        if !dry_run {
            line += &Summary::of(&tree.progress, begun.elapsed()).to_string();
        }
        let deletes = if dry_run { "would be deleted" } else { "deleted" };
        let others = [(there, "there already"), (deleted, deletes), (left_out, "left out"), (failed, "failed")];
        for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
            line += &format!("; {number} {what}");
        }
        println!("{line}");
        Ok(ended.is_ok() && failed + left_out == 0)
    }

    async fn each(self: &Arc<Self>, from: &mut Walk, running: &mut Running, nothing: Error) -> Result<()> {
        let mut nothing = Some(nothing);
        while let Some(item) = from.next().await? {
            nothing = None;
            let (tree, name) = (Arc::clone(self), item.name.clone());
            let job = async move {
                let there = tree.to.look(&item.name).await?;
                tree.update(&item, there.as_ref()).await
            };
            running.begin(name, job).await?;
        }
        nothing.map_or(Ok(()), Err)
    }

    async fn merge(
        self: &Arc<Self>,
        from: &mut Walk,
        delete: bool,
        running: &mut Running,
        nothing: Error,
    ) -> Result<()> {
        let mut to = self.to.walk();
        let (mut source, mut copy) = (from.next().await?, to.next().await?);
        if source.is_none() && (delete || copy.is_none()) {
            return Err(nothing);
        }
        loop {
            let order = match (&source, &copy) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(source), Some(copy)) => source.name.cmp(&copy.name),
            };
            let wanted = if order.is_le() { source.take() } else { None };
            let there = if order.is_ge() { copy.take() } else { None };
            let tree = Arc::clone(self);
            match (wanted, there) {
                (Some(item), there) => {
                    let name = item.name.clone();
                    running.begin(name, async move { tree.update(&item, there.as_ref()).await }).await?;
                }
                (None, Some(old)) if delete => {
                    let name = old.name.clone();
                    running.begin(name, async move { tree.remove(&old).await }).await?;
                }
                (None, _) => {}
            }
            if order.is_le() {
                source = from.next().await?;
            }
            if order.is_ge() {
                copy = to.next().await?;
            }
        }
    }

    async fn update(&self, item: &Item, there: Option<&Item>) -> Result<Did> {
        if let Some(there) = there
            && self.same(item, there).await?
        {
            return Ok(Did::WasThere);
        }
        if !matches!(self.mode, Mode::Sync { dry_run: true, .. }) {
            self.send(&item.name).await?;
        }
        Ok(Did::Copied)
    }

    async fn remove(&self, old: &Item) -> Result<Did> {
        if !matches!(self.mode, Mode::Sync { dry_run: true, .. }) {
            self.to.delete(&old.name).await?;
        }
        Ok(Did::Deleted)
    }

    async fn same(&self, item: &Item, there: &Item) -> Result<bool> {
        if item.len != there.len {
            return Ok(false);
        }
        let name = &item.name;
        let (source, copy) = (self.from.checksum(name).await?, self.to.checksum(name).await?);
        match (&*self.from, &*self.to, source, copy) {
            (Side::Folder(root), _, _, Some(says)) | (_, Side::Folder(root), Some(says), _) => {
                // A link in the way is told of when the file is copied.
                match inside(root, name) {
                    Ok(path) => holds(path, says).await,
                    Err(_) => Ok(false),
                }
            }
            (_, _, Some(source), Some(copy)) if comparable(&source, &copy) => Ok(source == copy),
            _ => Ok(there.modified >= item.modified),
        }
    }

    async fn send(&self, name: &Key) -> Result<()> {
        match (&*self.from, &*self.to) {
            (Side::Folder(root), Side::Bucket { store, prefix }) => {
                let content = Content::file(inside(root, name)?).counted_in(&self.progress);
                let _ = store.write(&key(prefix, name)?, content, Put::Overwrite).await?;
            }
            (Side::Bucket { prefix, .. }, Side::Folder(root)) => {
                let transfers = self.transfers.as_ref().ok_or_else(|| Error::failed("no bucket to copy from"))?;
                transfers.fetch(&key(prefix, name)?, place(root, name)?).await?;
            }
            (Side::Bucket { store: source, prefix: below }, Side::Bucket { store, prefix }) => {
                let (_, body) = reader::open(source.clone(), key(below, name)?).await?;
                let content = Content::stream(body).counted_in(&self.progress);
                let _ = store.write(&key(prefix, name)?, content, Put::Overwrite).await?;
            }
            (Side::Folder(_), Side::Folder(_)) => return Err(Error::invalid("neither side is a bucket")),
        }
        Ok(())
    }
}

/// Whether two checksums of the same bytes would be the same.
fn comparable(one: &Checksum, other: &Checksum) -> bool {
    let part = |checksum: &Checksum| match checksum {
        Checksum::OfParts { part, .. } => *part,
        Checksum::Whole { .. } => 0,
    };
    discriminant(one) == discriminant(other) && one.algorithm() == other.algorithm() && part(one) == part(other)
}

struct Running {
    bar: Bar,
    jobs: JoinSet<(Key, Result<Did>)>,
    report: Report,
    dry_run: bool,
}

impl Running {
    async fn begin(&mut self, name: Key, job: impl Future<Output = Result<Did>> + Send + 'static) -> Result<()> {
        while self.jobs.len() >= AT_ONCE {
            self.take_one().await?;
        }
        self.jobs.spawn(async move { (name, job.await) });
        Ok(())
    }

    async fn take_all(&mut self) -> Result<()> {
        while !self.jobs.is_empty() {
            self.take_one().await?;
        }
        Ok(())
    }

    async fn take_one(&mut self) -> Result<()> {
        let Some(ended) = self.jobs.join_next().await else { return Ok(()) };
        let (name, did) = ended.context("copying")?;
        let report = &mut self.report;
        let (counter, would) = match did {
            Ok(Did::Copied) => (&mut report.copied, Some("copy")),
            Ok(Did::WasThere) => (&mut report.there, None),
            Ok(Did::Deleted) => (&mut report.deleted, Some("delete")),
            Err(why) => {
                report.failed += 1;
                if report.failed <= SHOWN {
                    self.bar.say(&format!("forebay: `{name}`: {why}"));
                }
                if report.failed >= FAILURES {
                    return Err(Error::failed(format_args!("{FAILURES} files failed: stopped")));
                }
                return Ok(());
            }
        };
        *counter += 1;
        if let Some(would) = would.filter(|_| self.dry_run) {
            // Who reads it may have seen enough.
            let _ = writeln!(stdout(), "{would}\t{name}");
        }
        Ok(())
    }
}
