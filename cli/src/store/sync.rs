//! `forebay store sync`: makes a folder or bucket have what another has.

use std::path::Path;
use std::process::ExitCode;

use forebay::{Error, Result};

use super::place::{InBucket, Place, Where};
use super::side::Side;
use super::tree::{Mode, Tree};
use crate::say::whether;

#[derive(clap::Args)]
pub struct Arguments {
    /// A folder, or `s3://bucket/folder`.
    #[arg(value_name = "FROM")]
    from: Place,
    /// The same. At least one of the two is in a bucket.
    #[arg(value_name = "TO")]
    to: Place,
    #[command(flatten)]
    at: Where,
    /// Removes from TO what FROM has not.
    #[arg(long)]
    delete: bool,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        let Arguments { from, to, at, delete, dry_run } = self;
        copy_all(&from, &to, &at, Mode::Sync { delete, dry_run }).await
    }
}

/// Copies what is in one place into another.
pub async fn copy_all(from: &Place, to: &Place, at: &Where, mode: Mode) -> Result<ExitCode> {
    if let (Place::Bucket(one), Place::Bucket(other)) = (from, to) {
        apart(one, other)?;
    }
    let dry_run = matches!(mode, Mode::Sync { dry_run: true, .. });
    let (source, copy) = match (from, to) {
        (Place::Pipe, _) | (_, Place::Pipe) => {
            return Err(Error::invalid("`-` is one stream of bytes, not a folder"));
        }
        (Place::Local(_), Place::Local(_)) => return Err(neither()),
        (Place::Local(from), Place::Bucket(to)) => (folder(from)?, below(at, to, dry_run).await?),
        (Place::Bucket(from), Place::Local(to)) => {
            if to.exists() {
                folder(to)?;
            }
            (below(at, from, true).await?, Side::Folder(to.clone()))
        }
        (Place::Bucket(from), Place::Bucket(to)) => (below(at, from, true).await?, below(at, to, dry_run).await?),
    };
    if let Side::Folder(folder) = &copy
        && !dry_run
    {
        std::fs::create_dir_all(folder)?;
    }
    let shown = match from {
        Place::Bucket(place) => place.to_string(),
        Place::Local(path) => path.display().to_string(),
        Place::Pipe => "-".to_owned(),
    };
    let nothing = Error::invalid(match mode {
        Mode::Sync { delete: true, .. } => {
            format!("there is nothing in `{shown}`, and with --delete everything would be removed from the other side")
        }
        _ => format!("there is nothing in `{shown}`"),
    });
    Ok(whether(Tree::new(source, copy, mode).copy(nothing).await?))
}

async fn below(at: &Where, place: &InBucket, only_read: bool) -> Result<Side> {
    let prefix = place.folder()?;
    if only_read {
        return Ok(Side::Bucket { store: at.reading(place).await?, prefix });
    }
    Ok(Side::Bucket { store: at.writing(place, &prefix).await?, prefix: String::new() })
}

fn folder(path: &Path) -> Result<Side> {
    if !path.is_dir() {
        return Err(Error::invalid(format_args!("`{}` is no folder", path.display())));
    }
    Ok(Side::Folder(path.to_owned()))
}

/// One within the other would be copied without end.
fn apart(one: &InBucket, other: &InBucket) -> Result<()> {
    let (from, to) = (one.folder()?, other.folder()?);
    if one.bucket == other.bucket && (from.starts_with(&to) || to.starts_with(&from)) {
        return Err(Error::invalid(format_args!("`{one}` and `{other}` overlap: name two that do not")));
    }
    Ok(())
}

pub fn neither() -> Error {
    Error::invalid("neither side is in a bucket: one has to be s3://bucket/some/path")
}
