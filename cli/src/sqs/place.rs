//! Which queue is meant: the same settings as a worker's, by option or by environment.

use forebay::source::sqs::{Sqs, SqsAdmin};

#[derive(clap::Args)]
pub struct Place {
    /// The queue, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/jobs`.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_QUEUE")]
    pub queue: String,
    /// Its region, where the URL does not say it.
    #[arg(long, env = "FOREBAY_SQS_REGION")]
    region: Option<String>,
    /// Where the service is, if not where the URL says.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_ENDPOINT")]
    endpoint: Option<String>,
}

/// A queue with its dead-letter queue.
#[derive(clap::Args)]
pub struct Both {
    #[command(flatten)]
    place: Place,
    /// Its dead-letter queue, if not the one of its redrive policy.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_DEAD_LETTERS")]
    dead_letters: Option<String>,
}

impl Place {
    pub fn sqs(&self) -> Sqs {
        let mut sqs = Sqs::new(&self.queue);
        if let Some(region) = set(&self.region) {
            sqs = sqs.region(region);
        }
        if let Some(endpoint) = set(&self.endpoint) {
            sqs = sqs.endpoint(endpoint);
        }
        sqs
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match set(&self.endpoint) {
            Some(endpoint) => write!(f, "{} at {endpoint}", self.queue),
            None => f.write_str(&self.queue),
        }
    }
}

impl Both {
    pub fn admin(&self) -> SqsAdmin {
        let sqs = self.place.sqs();
        match set(&self.dead_letters) {
            Some("none") => sqs.drop_rejected().admin(),
            Some(url) => sqs.dead_letters(url).admin(),
            None => sqs.admin(),
        }
    }

    pub fn queue(&self) -> &str {
        &self.place.queue
    }
}

/// An empty variable is as good as none.
fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
