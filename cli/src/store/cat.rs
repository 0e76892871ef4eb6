//! `forebay store cat`: an object's bytes on standard output.

use std::io::{Write, stdout};
use std::process::ExitCode;

use bytes::Bytes;
use forebay::{Context, Result};
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use tokio::task::spawn_blocking;

use super::list::heard;
use super::place::{InBucket, Where};
use super::reader;
use crate::say::whether;

#[derive(clap::Args)]
pub struct Arguments {
    /// The object.
    #[arg(value_name = "s3://BUCKET/KEY")]
    place: InBucket,
    #[command(flatten)]
    at: Where,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        show(&self.place, &self.at).await
    }
}

/// Writes the object to standard output. What fails after the first bytes is said here: a part was done.
pub async fn show(place: &InBucket, at: &Where) -> Result<ExitCode> {
    let key = place.key()?;
    let (_, body) = reader::open(at.reading(place).await?, key).await?;
    match write(body).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            eprintln!("forebay: {why}");
            Ok(whether(false))
        }
    }
}

/// Until the end, or until nobody reads any more.
async fn write(mut body: BoxStream<'static, Result<Bytes>>) -> Result<()> {
    while let Some(bytes) = body.try_next().await? {
        let write = move || stdout().write_all(&bytes);
        if !heard(spawn_blocking(write).await.context("standard output")?)? {
            return Ok(());
        }
    }
    let flush = spawn_blocking(|| stdout().flush());
    heard(flush.await.context("standard output")?).map(|_| ())
}
