//! What a store in a bucket was told: which bucket, where it is, who runs it, and with whose keys.
//!
//! It owns how a bucket is named and found. Keys and tokens are in no text that it makes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use futures_util::future::BoxFuture;
use http::Uri;
use tokio::time::timeout;

use super::bucket::Bucket;
use super::provider::{Integrity, Provider};
use super::wire::Wire;
use super::{Inner, S3, probe};
use crate::config::S3Config;
use crate::error::{Context, Error, Result};
use crate::store::transfer::Lanes;
use crate::store::{Conditional, Key, blocking};

/// To find credentials, which may have to be asked for at several places.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(30);
/// To open a bucket, with all tries.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// A bucket that is not open yet.
#[derive(Clone)]
pub struct S3Settings {
    url: String,
    endpoint: Option<String>,
    region: Option<String>,
    provider: Option<Provider>,
    keys: Option<(String, String)>,
    uploads: Option<PathBuf>,
    read_only: bool,
    conditions: bool,
}

impl S3Settings {
    pub(super) fn new(url: String) -> Self {
        S3Settings {
            url,
            endpoint: None,
            region: None,
            provider: None,
            keys: None,
            uploads: None,
            read_only: false,
            conditions: true,
        }
    }

    pub(super) fn from_env() -> Result<Self> {
        let missing = || Error::invalid("FOREBAY_S3 is not set; it should name a bucket, as in s3://bucket/prefix");
        let settings = S3Settings::new(S3Config::from_env().url.ok_or_else(missing)?).with_env()?;
        settings.place()?;
        Ok(settings)
    }

    /// What the environment says of all but the URL, which comes before what was set here: `FOREBAY_S3_ENDPOINT`,
    /// `FOREBAY_S3_REGION`, `FOREBAY_S3_PROVIDER` and `FOREBAY_S3_UPLOADS`. For programs whose buckets are named elsewhere.
    ///
    /// # Errors
    /// A provider that is not known.
    pub fn with_env(self) -> Result<Self> {
        let S3Config { endpoint, region, provider, uploads, url: _ } = S3Config::from_env();
        let provider = provider.map(|name| name.parse().context("FOREBAY_S3_PROVIDER")).transpose()?;
        Ok(S3Settings {
            endpoint: endpoint.or(self.endpoint),
            region: region.or(self.region),
            provider: provider.or(self.provider),
            uploads: uploads.or(self.uploads),
            ..self
        })
    }

    /// Where the store is, as in `https://0123.r2.cloudflarestorage.com`. Default: as AWS's own settings say (among them
    /// `AWS_ENDPOINT_URL_S3`), or of Cloudflare's (`CLOUDFLARE_ENDPOINT_URL`, or `CLOUDFLARE_ACCOUNT_ID`) where these are
    /// set and AWS's keys are not; else Amazon S3.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The bucket's region. Default: as AWS's own settings say, or what the provider takes for one.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Who runs the store. Default: told by the endpoint; what is not told is found out when it is opened.
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Whose the requests are. Default: as AWS's own tools find them, in the environment, a profile or by the machine's
    /// role; of Cloudflare (`CLOUDFLARE_ACCESS_KEY_ID` and `CLOUDFLARE_SECRET_ACCESS_KEY`) where AWS's are not set.
    pub fn keys(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.keys = Some((id.into(), secret.into()));
        self
    }

    /// The folder in which this machine notes uploads that are open, so that those which are cut off can be resumed or
    /// cleaned up. Default: `forebay-uploads` among the temporary files.
    pub fn uploads(mut self, folder: impl Into<PathBuf>) -> Self {
        self.uploads = Some(folder.into());
        self
    }

    /// Writes and deletes nothing there, not even to find out what the store can do; who tries is refused.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Does without conditional writes, for a store that is known to take two writers for one winner now and then: that
    /// they seem to work when the bucket is opened does not show that they always do.
    pub fn without_conditions(mut self) -> Self {
        self.conditions = false;
        self
    }

    /// Opens the bucket: finds credentials, finds out what the store can do (see the [module](super)), and cleans up
    /// uploads that this machine was cut off in and that nobody will finish.
    ///
    /// # Errors
    /// `Invalid` for what an operator has to set right: the URL, keys, the bucket's name or region. `Transient` where the
    /// store does not answer within two minutes.
    pub async fn open(self) -> Result<S3> {
        let context = format!("opening {}", shown(&self.url));
        let late = |_| Error::transient(format_args!("the store did not answer within {OPEN_WITHIN:?}"));
        // Boxed, since the SDK's own futures are nested so deeply that the compiler would give up on some callers.
        let connecting: BoxFuture<'_, Result<S3>> = Box::pin(self.connect());
        timeout(OPEN_WITHIN, connecting).await.map_err(late).flatten().context(context)
    }

    async fn connect(self) -> Result<S3> {
        let (name, prefix) = self.place()?;
        let cloudflare = self.cloudflare();
        let found = |own: &Option<String>, theirs: Option<String>| own.clone().or(theirs);
        let endpoint = found(&self.endpoint, cloudflare.as_ref().and_then(|cloudflare| cloudflare.endpoint.clone()));
        let keys = self.keys.clone().or(cloudflare.and_then(|cloudflare| cloudflare.keys));
        let authorities = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let wire = blocking(move || Wire::new(authorities.as_deref())).await?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(wire.clone());
        if let Some((id, secret)) = keys {
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "forebay"));
        }
        let late = |_| Error::transient(format_args!("no AWS settings within {CREDENTIALS_WITHIN:?}"));
        let shared = timeout(CREDENTIALS_WITHIN, loader.load()).await.map_err(late)?;
        let mut config = Builder::from(&shared)
            // Who calls knows how long a call is worth trying, and watches what moves.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let told = shared.endpoint_url().map(str::to_owned);
        let told = endpoint.or(std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|url| !url.is_empty())).or(told);
        let provider = self.provider.unwrap_or_else(|| told.as_deref().map_or(Provider::Aws, Provider::of));
        let region = self.region.clone().map(Region::new).or_else(|| shared.region().cloned());
        config = config.region(region.unwrap_or_else(|| Region::new(provider.region())));
        let place = format!("{} {name}", told.as_deref().unwrap_or("aws"));
        if let Some(url) = told {
            check(&url)?;
            config = config.endpoint_url(url).force_path_style(provider.bucket_in_path());
        }
        let bucket = Bucket { sdk: Client::from_conf(config.build()), name };
        let can = match self.read_only {
            true => probe::Can { integrity: Integrity::Md5, conditional: Conditional::None, denied: false },
            false => probe::ask(&bucket, &prefix, provider, self.conditions).await?,
        };
        let journals = self.uploads.unwrap_or_else(|| std::env::temp_dir().join("forebay-uploads"));
        let (probe::Can { integrity, conditional, denied }, lanes) = (can, Lanes::new());
        let read_only = self.read_only;
        let inner = Inner { bucket, prefix, integrity, conditional, denied, read_only, lanes, journals, place };
        if !read_only {
            inner.clean_up().await;
        }
        Ok(S3 { inner: Arc::new(inner) })
    }

    /// The bucket, and what every key begins with.
    fn place(&self) -> Result<(String, String)> {
        let (url, shown) = (&self.url, shown(&self.url));
        let wrong =
            || Error::invalid(format_args!("`{shown}` names no bucket: want s3://bucket or s3://bucket/some/prefix"));
        let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(good) {
            return Err(wrong());
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Ok((name.to_owned(), String::new()));
        }
        Key::new(prefix).with_context(|| format!("the prefix of `{shown}`"))?;
        Ok((name.to_owned(), format!("{prefix}/")))
    }

    /// What the variables of Cloudflare say, where those of AWS say nothing.
    fn cloudflare(&self) -> Option<Cloudflare> {
        let get = |names: &[&str]| {
            let mut set = names.iter().filter_map(|name| std::env::var(name).ok());
            set.find(|text| !text.is_empty())
        };
        let (none, id) = (self.keys.is_none(), get(&["CLOUDFLARE_ACCESS_KEY_ID", "CLOUDFLARE_ID"])?);
        let secret = get(&["CLOUDFLARE_SECRET_ACCESS_KEY", "CLOUDFLARE_KEY"])?;
        let account = || get(&["CLOUDFLARE_ACCOUNT_ID"]).map(|id| format!("https://{id}.r2.cloudflarestorage.com"));
        let unset = get(&["AWS_ACCESS_KEY_ID"]).is_none();
        let endpoint = get(&["CLOUDFLARE_ENDPOINT_URL"]).or_else(account);
        (none && unset).then_some(Cloudflare { endpoint, keys: Some((id, secret)) })
    }
}

struct Cloudflare {
    endpoint: Option<String>,
    keys: Option<(String, String)>,
}

/// A URL without what could be a key in it.
fn shown(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        (None, Some((_, rest))) => format!("...@{rest}"),
        _ => url.to_owned(),
    }
}

fn check(endpoint: &str) -> Result<()> {
    let uri: Option<Uri> = endpoint.parse().ok();
    let whole = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if uri.as_ref().is_some_and(whole) && !endpoint.contains('@') {
        return Ok(());
    }
    Err(Error::invalid(
        "the endpoint is not what it should be: want a URL such as https://s3.eu-central-1.amazonaws.com",
    ))
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, endpoint, region, provider, keys, uploads, read_only, conditions } = self;
        f.debug_struct("S3Settings")
            .field("url", &shown(url))
            .field("endpoint", &endpoint.as_deref().map(shown))
            .field("region", region)
            .field("provider", provider)
            .field("keys", &keys.as_ref().map(|_| "given"))
            .field("uploads", uploads)
            .field("read_only", read_only)
            .field("conditions", conditions)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_and_a_prefix() {
        let place = |url: &str| S3::at(url).place().map_err(|why| why.to_string());
        assert_eq!(place("s3://bucket"), Ok(("bucket".to_owned(), String::new())));
        assert_eq!(place("s3://bucket/"), Ok(("bucket".to_owned(), String::new())));
        assert_eq!(place("s3://bucket/a/b/"), Ok(("bucket".to_owned(), "a/b/".to_owned())));
        for wrong in
            ["bucket", "s3:/bucket", "s3://", "s3:///key", "s3://bu cket", "s3://bucket/../x", "https://bucket"]
        {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_in_no_text() {
        let settings = S3::at("s3://bucket").keys("id", "very-secret");
        assert!(!format!("{settings:?}").contains("very-secret"));
        let why = check("https://user:very-secret@host").unwrap_err().to_string();
        assert!(!why.contains("very-secret"));
        let settings = S3::at("s3://id:very-secret@bucket").endpoint("https://host?key=very-secret");
        assert!(!format!("{settings:?}").contains("very-secret"));
        assert!(!settings.place().unwrap_err().to_string().contains("very-secret"));
    }
}
