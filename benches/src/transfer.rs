//! One transfer with forebay as a process of its own, so that its seconds, its CPU time and its memory are its own, and
//! so that it can be killed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forebay::store::{Content, Key, Provider, Put, S3, Transfers};
use forebay::{Context, Error, Result};
use forebay_tests::{S3_BUCKET, S3_KEYS, S3_REGION};
use futures_util::{TryStreamExt, stream};

/// The first argument of such a process.
const NAME: &str = "forebay";
/// Small files at once.
const AT_ONCE: usize = 32;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Uploads a file.
    Up,
    /// Downloads into a file.
    Down,
    /// Uploads all files of a folder, to keys below one.
    UpAll,
    /// Downloads all that is below a key, into a folder.
    DownAll,
}

impl Direction {
    const ALL: [Direction; 4] = [Direction::Up, Direction::Down, Direction::UpAll, Direction::DownAll];

    fn name(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
            Direction::UpAll => "up-all",
            Direction::DownAll => "down-all",
        }
    }
}

/// This program once more, to be started as such a process; `program` is its path. Journals of uploads are in `uploads`.
pub fn command(
    program: &Path,
    direction: Direction,
    endpoint: &str,
    key: &str,
    file: &Path,
    uploads: &Path,
) -> Command {
    let mut command = Command::new(program);
    command.args([NAME, direction.name(), endpoint, key]).args([file, uploads]);
    credentials(&mut command);
    command
}

/// Whose requests a process makes, and where, as all tools read it.
pub fn credentials(command: &mut Command) {
    command.env("AWS_ACCESS_KEY_ID", S3_KEYS.0).env("AWS_SECRET_ACCESS_KEY", S3_KEYS.1);
    // boto3 and the others have two names for it.
    command.env("AWS_REGION", S3_REGION).env("AWS_DEFAULT_REGION", S3_REGION);
    command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null()).stdout(Stdio::null());
}

/// Is that process, where the arguments ask for it; whether they did.
pub fn serve(arguments: &[String]) -> Result<bool> {
    let [name, direction, endpoint, key, file, uploads] = arguments else { return Ok(false) };
    if name != NAME {
        return Ok(false);
    }
    let known = Direction::ALL.into_iter().find(|known| known.name() == direction);
    let direction = known.ok_or_else(|| Error::invalid(format_args!("`{direction}` is no direction")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).provider(Provider::Garage);
        let transfers = Transfers::new(store.uploads(uploads).open().await?);
        transfer(&transfers, direction, key, Path::new(file)).await
    })?;
    Ok(true)
}

async fn transfer(transfers: &Transfers, direction: Direction, key: &str, file: &Path) -> Result<()> {
    match direction {
        Direction::Up => up(transfers, Key::new(key)?, file.to_owned()).await,
        Direction::Down => down(transfers, Key::new(key)?, file.to_owned()).await,
        Direction::UpAll => {
            let files = std::fs::read_dir(file)?.map(|entry| Ok::<_, Error>(entry?.path()));
            let send = |path: PathBuf| async move {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                up(transfers, Key::new(format!("{key}/{name}"))?, path).await
            };
            stream::iter(files).try_for_each_concurrent(AT_ONCE, send).await
        }
        Direction::DownAll => {
            let prefix = format!("{key}/");
            let mut after = None;
            loop {
                let page = transfers.store().list(&prefix, after.as_ref(), 1000).await?;
                let fetch = |name: Key| async {
                    let path = file.join(name.as_str().strip_prefix(&prefix).unwrap_or_default());
                    down(transfers, name, path).await
                };
                let names = page.objects.into_iter().map(|object| Ok::<_, Error>(object.key));
                stream::iter(names).try_for_each_concurrent(AT_ONCE, fetch).await?;
                after = page.next;
                if after.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

async fn up(transfers: &Transfers, key: Key, file: PathBuf) -> Result<()> {
    transfers.send(&key, Content::file(&file), Put::Overwrite).await.map(drop).context(file.display())
}

async fn down(transfers: &Transfers, key: Key, file: PathBuf) -> Result<()> {
    transfers.fetch(&key, &file).await.map(drop)
}
