//! `forebay store rm`: objects, all objects of a folder, or uploads that nobody finishes.

use std::process::ExitCode;
use std::time::Duration;

use forebay::store::{Key, S3, Store};
use forebay::{Context, Result};
use tokio::task::JoinSet;

use super::place::{InBucket, Where, parted};
use crate::say::{confirmed, count, whether};

/// Objects in one request of a list.
const PAGE: usize = 1000;
/// Objects that are deleted at once.
const AT_ONCE: usize = 32;

#[derive(clap::Args)]
pub struct Arguments {
    /// The object; with -r the folder, all of whose objects are removed; with --uploads the folder that they are below.
    #[arg(value_name = "s3://BUCKET/KEY")]
    place: InBucket,
    #[command(flatten)]
    at: Where,
    /// Everything in this folder.
    #[arg(short, long, conflicts_with = "uploads")]
    recursive: bool,
    /// Ends uploads in parts that were begun longer ago than this, such as `2days`, whoever began them.
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    uploads: Option<Duration>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        if let Some(age) = self.uploads {
            let ended = self.at.writing(&self.place, &self.place.folder()?).await?.abort_uploads(age).await?;
            println!("ended {}", count(ended, "upload"));
            return Ok(ExitCode::SUCCESS);
        }
        match self.recursive {
            true => self.remove_all().await,
            false => self.remove_one().await,
        }
    }

    async fn remove_one(&self) -> Result<ExitCode> {
        let key = self.place.key()?;
        let (folder, name) = parted(&key);
        let (store, name) = (self.at.writing(&self.place, folder).await?, Key::new(name)?);
        if store.head(&name).await?.is_none() {
            eprintln!("forebay: there is no object `{}`", self.place);
            return Ok(whether(false));
        }
        store.delete(&name).await?;
        println!("removed {}", self.place);
        Ok(ExitCode::SUCCESS)
    }

    async fn remove_all(&self) -> Result<ExitCode> {
        let folder = self.place.folder()?;
        let what = format!("all objects below s3://{}/{folder}", self.place.bucket);
        if !self.yes && !confirmed(&what)? {
            println!("nothing was removed");
            return Ok(whether(false));
        }
        let store = self.at.writing(&self.place, &folder).await?;
        let removed = remove_all(&store).await?;
        println!("removed {}", count(removed, "object"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Removes whatever is in the store, and says how much.
async fn remove_all(store: &S3) -> Result<usize> {
    let (mut removed, mut after) = (0, None);
    let mut jobs = JoinSet::new();
    loop {
        let page = store.list("", after.as_ref(), PAGE).await?;
        for meta in page.objects {
            while jobs.len() >= AT_ONCE {
                removed += one(&mut jobs).await?;
            }
            let store = store.clone();
            jobs.spawn(async move { store.delete(&meta.key).await });
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    while !jobs.is_empty() {
        removed += one(&mut jobs).await?;
    }
    Ok(removed)
}

async fn one(jobs: &mut JoinSet<Result<()>>) -> Result<usize> {
    let Some(ended) = jobs.join_next().await else { return Ok(0) };
    ended.context("deleting")??;
    Ok(1)
}
