//! `forebay store cp`: one file or object, a stream, or everything in a folder.

use std::io::{ErrorKind, Read, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use forebay::store::{Content, Key, Progress, Put, S3, Store, Transfers};
use forebay::{Context, Error, Result};
use futures_util::stream;
use tokio::sync::mpsc;

use super::bar::Bar;
use super::place::{InBucket, Place, Where, parted};
use super::sync::{copy_all, neither};
use super::tree::Mode;
use super::{Summary, cat, reader};

/// Bytes of standard input that are read at once, and how often as much waits.
const PIECE: usize = 1 << 20;
const AHEAD: usize = 4;

#[derive(clap::Args)]
pub struct Arguments {
    /// A file, `s3://bucket/key`, or `-` for standard input; with -r a folder or `s3://bucket/folder`.
    #[arg(value_name = "FROM")]
    from: Place,
    /// The same, `-` being standard output. A folder, or what ends with a slash, gets the file under its own name; with -r
    /// it gets what is in FROM.
    #[arg(value_name = "TO")]
    to: Place,
    #[command(flatten)]
    at: Where,
    /// Everything in a folder. What is there already and the same is left as it is.
    #[arg(short, long)]
    recursive: bool,
}

impl Arguments {
    /// Whether what was interrupted is of use to the same command: a stream begins anew.
    pub fn goes_on(&self) -> bool {
        let is_stream = |place: &Place| *place == Place::Pipe;
        let between = matches!((&self.from, &self.to), (Place::Bucket(_), Place::Bucket(_)));
        self.recursive || !(is_stream(&self.from) || is_stream(&self.to) || between)
    }

    pub async fn run(self) -> Result<ExitCode> {
        let Arguments { from, to, at, recursive } = self;
        if recursive {
            return copy_all(&from, &to, &at, Mode::Copy).await;
        }
        let (progress, begun) = (Progress::new(), Instant::now());
        match (&from, &to) {
            (Place::Bucket(from), Place::Pipe) => return cat::show(from, &at).await,
            (Place::Pipe, Place::Bucket(to)) => {
                upload(Content::stream(standard_input()), &target(to, None)?, to, &at, &progress).await?;
            }
            (Place::Local(from), Place::Bucket(to)) => {
                let name = from.file_name().and_then(|name| name.to_str());
                if from.is_dir() {
                    return Err(Error::invalid(format_args!("`{}` is a folder: say -r", from.display())));
                }
                upload(Content::file(from), &target(to, name)?, to, &at, &progress).await?;
            }
            (Place::Bucket(from), Place::Local(to)) => {
                let key = from.key()?;
                let to = local(to, &key)?;
                let transfers = Transfers::new(at.reading(from).await?).counted_in(&progress);
                let _bar = Bar::show(&progress);
                let fetched = transfers.fetch(&key, to).await?;
                if !fetched.verified {
                    eprintln!("the store keeps no checksum of it: only its length was compared");
                }
            }
            (Place::Bucket(from), Place::Bucket(to)) => {
                let key = from.key()?;
                let to_key = target(to, Some(parted(&key).1))?;
                if from.bucket == to.bucket && key == to_key {
                    return Err(Error::invalid("both are the same object"));
                }
                let (_, body) = reader::open(at.reading(from).await?, key).await?;
                upload(Content::stream(body), &to_key, to, &at, &progress).await?;
            }
            (Place::Local(_) | Place::Pipe, Place::Local(_) | Place::Pipe) => return Err(neither()),
        }
        println!("copied 1 file{}", Summary::of(&progress, begun.elapsed()));
        Ok(ExitCode::SUCCESS)
    }
}

async fn upload(content: Content, key: &Key, to: &InBucket, at: &Where, progress: &Progress) -> Result<()> {
    let (folder, name) = parted(key);
    let store: S3 = at.writing(to, folder).await?;
    let _bar = Bar::show(progress);
    let _ = store.write(&Key::new(name)?, content.counted_in(progress), Put::Overwrite).await?;
    Ok(())
}

/// The key that a file of this name gets.
fn target(to: &InBucket, name: Option<&str>) -> Result<Key> {
    match name {
        Some(name) if to.is_folder() => Key::new(format!("{}{name}", to.folder()?)),
        _ => to.key(),
    }
}

/// The path that an object gets.
fn local(to: &Path, key: &Key) -> Result<PathBuf> {
    let is_folder = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder {
        return Ok(to.to_owned());
    }
    std::fs::create_dir_all(to).with_context(|| format!("making the folder `{}`", to.display()))?;
    Ok(to.join(parted(key).1))
}

/// Read by a thread of its own, which nobody waits for: it may never come to an end.
fn standard_input() -> impl stream::Stream<Item = Result<Bytes>> + Send + 'static {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match stdin().read(&mut piece) {
                Ok(0) => return,
                Ok(len) => {
                    piece.truncate(len);
                    Ok(Bytes::from(piece))
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) => Err(Error::from(why).context("standard input")),
            };
            let failed = read.is_err();
            if pieces.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}
