//! Which queue is meant: the same settings as a worker's, by option or by environment.

use forebay::source::sqs::Sqs;

#[derive(clap::Args)]
pub struct Place {
    /// The queue, such as https://sqs.eu-central-1.amazonaws.com/123456789012/jobs.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_QUEUE")]
    pub queue: String,
    /// Its region, where the URL does not say it.
    #[arg(long, env = "FOREBAY_SQS_REGION")]
    region: Option<String>,
    /// Where the service is, if not where the URL says.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_ENDPOINT")]
    endpoint: Option<String>,
    /// Its dead-letter queue, if not the one of its redrive policy.
    #[arg(long, value_name = "URL", env = "FOREBAY_SQS_DEAD_LETTERS")]
    dead_letters: Option<String>,
}

impl Place {
    pub fn sqs(&self) -> Sqs {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut sqs = Sqs::new(&self.queue);
        if let Some(region) = set(&self.region) {
            sqs = sqs.region(region);
        }
        if let Some(endpoint) = set(&self.endpoint) {
            sqs = sqs.endpoint(endpoint);
        }
        match set(&self.dead_letters).as_deref() {
            Some("none") => sqs.drop_rejected(),
            Some(url) => sqs.dead_letters(url),
            None => sqs,
        }
    }
}
