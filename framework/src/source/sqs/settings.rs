//! What a source of SQS was told: the queue, its times, and where else things go.
//!
//! Nothing here is asked of the network; what is wrong is found before the worker starts.

use std::time::Duration;

use http::Uri;

use super::objects::Objects;
use crate::error::{Error, Result};

/// How long a message is hidden by default.
pub(super) const LEASE: Duration = Duration::from_secs(300);
/// The longest lease: with it the last extension still fits into the 12 h.
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
/// How long the queue waits for messages by default, and at most.
pub(super) const WAIT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) queue: String,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) lease: Duration,
    pub(super) wait: Duration,
    pub(super) dead_letters: DeadLetters,
    pub(super) objects: Objects,
}

#[derive(Clone, PartialEq)]
pub(super) enum DeadLetters {
    /// Where its redrive policy says.
    OfQueue,
    At(String),
    Dropped,
}

/// Where a queue is.
#[derive(Debug, PartialEq)]
pub(super) struct Site {
    pub(super) endpoint: String,
    /// Where its URL or a setting tells.
    pub(super) region: Option<String>,
}

impl Settings {
    pub(super) fn new(queue: String) -> Self {
        Settings {
            queue,
            region: None,
            endpoint: None,
            lease: LEASE,
            wait: WAIT,
            dead_letters: DeadLetters::OfQueue,
            objects: Objects::default(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if let DeadLetters::At(url) = &self.dead_letters {
            origin(url)?;
        }
        let whole = |time: Duration| time.subsec_nanos() == 0;
        if self.wait > WAIT || !whole(self.wait) {
            let wait = self.wait;
            return Err(Error::invalid(format_args!(
                "the wait is {wait:?}, but should be 0 to 20 s, in whole seconds"
            )));
        }
        let least = (2 * self.wait).max(Duration::from_secs(1));
        if !(least..=LONGEST_LEASE).contains(&self.lease) || !whole(self.lease) {
            let lease = self.lease;
            return Err(Error::invalid(format_args!(
                "the lease is {lease:?}, but should be {least:?} (twice the wait) to 3600 s, in whole seconds"
            )));
        }
        self.site().map(drop)
    }

    /// Where the queue is, as its URL tells unless it was said otherwise.
    pub(super) fn site(&self) -> Result<Site> {
        let (origin, host) = origin(&self.queue)?;
        let endpoint = self.endpoint.clone().unwrap_or(origin);
        let region = self.region.clone().or_else(|| region(&host).map(str::to_owned));
        Ok(Site { endpoint, region })
    }
}

/// The part of a queue's URL before the account and the name, and its host.
fn origin(url: &str) -> Result<(String, String)> {
    let wrong = || {
        Error::invalid(format_args!(
            "`{url}` is not the URL of a queue, such as https://sqs.eu-central-1.amazonaws.com/123456789012/jobs"
        ))
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    let named = uri.path().trim_matches('/').contains('/');
    if !matches!(scheme, "http" | "https") || !named {
        return Err(wrong());
    }
    Ok((format!("{scheme}://{authority}"), authority.host().to_owned()))
}

/// The region in a host name of AWS.
fn region(host: &str) -> Option<&str> {
    let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        // As in `vpce-1.sqs.eu-central-1.vpce` too.
        ["sqs", region] | [_, "sqs", region, "vpce"] | [region, "queue"] => Some(region),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(url: &str) -> Result<Site> {
        Settings::new(url.to_owned()).site()
    }

    #[test]
    fn a_queues_url_tells_where_it_is() {
        let cases = [
            (
                "https://sqs.eu-central-1.amazonaws.com/1/q",
                "https://sqs.eu-central-1.amazonaws.com",
                Some("eu-central-1"),
            ),
            ("https://eu-west-1.queue.amazonaws.com/1/q", "https://eu-west-1.queue.amazonaws.com", Some("eu-west-1")),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
                "https://sqs.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            ("http://127.0.0.1:5500/1/q.fifo", "http://127.0.0.1:5500", None),
        ];
        for (url, endpoint, region) in cases {
            let expected = Site { endpoint: endpoint.to_owned(), region: region.map(str::to_owned) };
            assert_eq!(site(url).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn what_is_no_queues_url_is_said_to_be_none() {
        for url in
            ["", "jobs", "sqs.eu-central-1.amazonaws.com/1/q", "ftp://host/1/q", "https://host/", "https://host/q"]
        {
            let why = site(url).unwrap_err().to_string();
            assert!(why.contains("is not the URL of a queue"), "{url}: {why}");
        }
    }

    #[test]
    fn times_that_cannot_be_kept_are_refused() {
        let check = |lease, wait| {
            let mut settings = Settings::new("http://localhost/1/q".to_owned());
            (settings.lease, settings.wait) = (Duration::from_millis(lease), Duration::from_millis(wait));
            settings.check().err().map(|why| why.to_string()).unwrap_or_default()
        };
        assert_eq!(check(300_000, 20_000), "");
        assert_eq!(check(1_000, 0), "");
        for (lease, wait, says) in [
            (300_000, 21_000, "the wait"),
            (300_000, 500, "the wait"),
            (39_000, 20_000, "twice the wait"),
            (0, 0, "the lease"),
            (1_500, 0, "whole seconds"),
            (3_601_000, 0, "3600 s"),
        ] {
            assert!(check(lease, wait).contains(says), "{lease}, {wait}: {}", check(lease, wait));
        }
    }
}
