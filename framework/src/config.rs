//! What an operator may set: every key, its default and its range, in one table. Only this file reads the
//! environment, and what an operator sets there comes before what the program sets in code.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `FOREBAY_IN_FLIGHT` | the stages' places | jobs received and not yet settled, at least 1 |
//! | `FOREBAY_GRACE` | 30 | seconds that a drain waits for jobs, 0 to 86400 |
//! | `FOREBAY_MAX_ATTEMPTS` | 5 | failures before a job is rejected, at least 1 |
//! | `FOREBAY_MEMORY` | no bound | bytes that jobs may hold together in a pipeline, at least 1 |
//! | `FOREBAY_DEVICE_MEMORY` | no bound | bytes that the models of one device may keep on it together, at least 1 |
//! | `FOREBAY_STAGES` | none | stage sizes, as in `fetch.limit=32 embed.items=16` |
//! | `FOREBAY_SUPERVISE` | as process 1 | `1` or `0`: whether `Worker::run` works in a child and watches over it |
//! | `FOREBAY_WITNESS` | `forebay` among the temporary files | the folder in which a process keeps which jobs it has |
//! | `PORT` | 8080 | where `Http` listens |
//! | `FOREBAY_HTTP_DEADLINE` | 95 | seconds within which a request is answered, 1 to 86400 |
//! | `FOREBAY_HTTP_BODY` | 10485760 | the largest body in bytes, up to 1 GiB |
//! | `FOREBAY_HTTP_KEYS` | none | keys that callers must know one of, with commas between |
//! | `FOREBAY_SQS_QUEUE` | must be set for `Sqs` | the queue's URL |
//! | `FOREBAY_SQS_REGION` | that of the URL, or AWS's own | the queue's region |
//! | `FOREBAY_SQS_ENDPOINT` | where the URL says | where the service is, as a URL |
//! | `FOREBAY_SQS_LEASE` | 300 | seconds that a message is hidden unless it is extended, 1 to 3600 |
//! | `FOREBAY_SQS_WAIT` | 20 | seconds that the queue waits for messages, 0 to 20 |
//! | `FOREBAY_SQS_DEAD_LETTERS` | as the queue's redrive policy says | where rejected jobs go, as a URL; `none` drops them |
//! | `FOREBAY_S3` | must be set for `S3::from_env` | the bucket and a prefix, as in `s3://bucket/prefix` |
//! | `FOREBAY_S3_ENDPOINT` | as AWS's own settings say | where the store is, as a URL |
//! | `FOREBAY_S3_REGION` | as AWS's own settings say, or the provider's | the bucket's region |
//! | `FOREBAY_S3_PROVIDER` | told by the endpoint | `aws`, `r2`, `b2`, `gcs`, `minio`, `garage` or `other` |
//! | `FOREBAY_S3_UPLOADS` | `forebay-uploads` among the temporary files | the folder in which open uploads are noted |
//! | `FOREBAY_JOB_INPUT` | must be set for `Single` | the reference of the one job's input |
//! | `FOREBAY_JOB_OUTPUT` | must be set for `Single` | the reference of its output |
//! | `FOREBAY_JOB_STATE` | none | the folder of a bucket for its states, as in `s3://bucket/jobs/7/state/` |
//! | `FOREBAY_JOB_ID` | the output's reference | what the job is called |
//! | `FOREBAY_JOB_THEN` | `exit` | what the worker does after the job's end: `exit` or `idle` |
//! | `FOREBAY_WEBHOOK_SECRETS` | none | secrets that webhooks are signed with, `whsec_...`, with commas between |
//! | `FOREBAY_NODE_LATENCY` | anything will do | milliseconds that the bucket may take to answer, 1 to 60000 |
//! | `FOREBAY_NODE_UPLOAD` | anything will do | least throughput to the bucket in Mbit/s, 1 to 100000 |
//! | `FOREBAY_NODE_DOWNLOAD` | anything will do | least throughput from the bucket in Mbit/s, 1 to 100000 |
//! | `FOREBAY_NODE_DISK` | anything will do | least free disk in bytes, at least 1 |
//! | `FOREBAY_NODE_MEMORY` | anything will do | least free memory in bytes, at least 1 |
//! | `FOREBAY_NODE_CPUS` | anything will do | fewest CPUs, 1 to 1024 |
//! | `FOREBAY_NODE_GPU_DRIVER` | anything will do | least branch of the NVIDIA driver, as in `580`, 1 to 100000 |
//! | `FOREBAY_NODE_GPU_CAPABILITY` | anything will do | least compute capability of the cards, as in `8.6` |
//! | `FOREBAY_NODE_GPU_MEMORY` | anything will do | least free memory of the cards in bytes, at least 1 |
//! | `FOREBAY_NODE_GPU_TFLOPS` | anything will do | least matrix product on the device in TFLOP/s, 1 to 100000 |
//! | `FOREBAY_NODE_GPU_COPY` | anything will do | slowest copy from the host to the device in GB/s, 1 to 100000 |
//! | `FOREBAY_NODE_UNFIT` | `reallocate` | what a worker does on a node below that: `reallocate`, `exit` or `warn` |
//! | `FOREBAY_NODE_TRIES` | 3 | how often a node is measured before it is found unfit, 1 to 100 |
//! | `FOREBAY_NODE_LEAVES` | 60 | workers that may leave their nodes within an hour, 0 to 10000 |
//! | `FOREBAY_NODE_PATIENCE` | 1800 | seconds before a worker leaves that cannot see how many have left, 60 to 86400 |
//! | `FOREBAY_NODE_WATCH` | `off` | what is done if the bucket becomes slow while working: `reallocate`, `exit`, `off` |
//! | `FOREBAY_NODE_METADATA` | where SaladCloud has it, on SaladCloud | the metadata service, as a URL |

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
#[cfg(feature = "node")]
use crate::node::{Unfit, Wanted};

/// The settings of a worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) in_flight: Option<usize>,
    pub(crate) grace: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) memory: Option<usize>,
    pub(crate) device_memory: Option<u64>,
    pub(crate) stages: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            in_flight: None,
            grace: Duration::from_secs(30),
            max_attempts: 5,
            memory: None,
            device_memory: None,
            stages: String::new(),
        }
    }
}

impl Config {
    /// These settings with those of the environment put over them.
    pub(crate) fn with_env(self) -> Result<Self> {
        self.with(|key| std::env::var(key).ok())
    }

    fn with(mut self, get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |key: &str, least: u64, most: u64| number(&get, key, least, most);
        if let Some(jobs) = number("FOREBAY_IN_FLIGHT", 1, u64::MAX)? {
            self.in_flight = Some(jobs as usize);
        }
        if let Some(bytes) = number("FOREBAY_MEMORY", 1, u64::MAX)? {
            self.memory = Some(bytes as usize);
        }
        if let Some(bytes) = number("FOREBAY_DEVICE_MEMORY", 1, u64::MAX)? {
            self.device_memory = Some(bytes);
        }
        if let Some(stages) = get("FOREBAY_STAGES") {
            self.stages = stages;
        }
        if let Some(seconds) = number("FOREBAY_GRACE", 0, 86_400)? {
            self.grace = Duration::from_secs(seconds);
        }
        if let Some(attempts) = number("FOREBAY_MAX_ATTEMPTS", 1, u32::MAX.into())? {
            self.max_attempts = attempts as u32;
        }
        // Read where it is needed, before there are settings; here it is only checked.
        number("FOREBAY_SUPERVISE", 0, 1)?;
        Ok(self)
    }
}

/// Where a process keeps which jobs it has, for whoever finds it dead.
pub(crate) fn witness() -> PathBuf {
    let set = std::env::var_os("FOREBAY_WITNESS").filter(|folder| !folder.is_empty());
    set.map_or_else(|| std::env::temp_dir().join("forebay"), PathBuf::from)
}

/// What a supervisor sets for its child: its own process number, so that no grandchild takes it for its own.
pub(crate) const SUPERVISOR: &str = "FOREBAY_SUPERVISOR";

/// The number of the supervisor whose child this process is.
pub(crate) fn supervisor() -> Option<u32> {
    let parent = std::os::unix::process::parent_id();
    let set = std::env::var(SUPERVISOR).ok()?;
    (set == parent.to_string()).then_some(parent)
}

/// Whether this process is to be a supervisor: as it is told, or as the first process of a container.
pub(crate) fn supervises() -> Result<bool> {
    let told = number(|key| std::env::var(key).ok(), "FOREBAY_SUPERVISE", 0, 1)?;
    Ok(supervisor().is_none() && told.map_or(std::process::id() == 1, |told| told == 1))
}

/// The settings of the source `Http`.
#[cfg(feature = "http")]
pub(crate) struct HttpConfig {
    pub(crate) port: u16,
    pub(crate) deadline: Duration,
    pub(crate) body: usize,
    pub(crate) keys: Vec<String>,
}

#[cfg(feature = "http")]
impl HttpConfig {
    pub(crate) fn from_env() -> Result<Self> {
        Self::from(|key| std::env::var(key).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let or = |key: &str, least: u64, most: u64, default: u64| -> Result<u64> {
            Ok(number(&get, key, least, most)?.unwrap_or(default))
        };
        let keys = get("FOREBAY_HTTP_KEYS").unwrap_or_default();
        Ok(HttpConfig {
            port: or("PORT", 0, u16::MAX.into(), 8080)? as u16,
            deadline: Duration::from_secs(or("FOREBAY_HTTP_DEADLINE", 1, 86_400, 95)?),
            body: or("FOREBAY_HTTP_BODY", 1, 1 << 30, 10 << 20)? as usize,
            keys: list(&keys),
        })
    }
}

/// The settings of the source `Sqs`.
#[cfg(feature = "sqs")]
pub(crate) struct SqsConfig {
    pub(crate) queue: String,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) lease: Duration,
    pub(crate) wait: Duration,
    pub(crate) dead_letters: Option<String>,
}

#[cfg(feature = "sqs")]
impl SqsConfig {
    pub(crate) fn from_env() -> Result<Self> {
        Self::from(|key| std::env::var(key).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |key: &str| get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let seconds = |key: &str, least: u64, most: u64, default: u64| -> Result<Duration> {
            Ok(Duration::from_secs(number(&get, key, least, most)?.unwrap_or(default)))
        };
        let missing = || Error::invalid("FOREBAY_SQS_QUEUE is not set; it should be the URL of the queue of jobs");
        Ok(SqsConfig {
            queue: text("FOREBAY_SQS_QUEUE").ok_or_else(missing)?,
            region: text("FOREBAY_SQS_REGION"),
            endpoint: text("FOREBAY_SQS_ENDPOINT"),
            lease: seconds("FOREBAY_SQS_LEASE", 1, 3600, 300)?,
            wait: seconds("FOREBAY_SQS_WAIT", 0, 20, 20)?,
            dead_letters: text("FOREBAY_SQS_DEAD_LETTERS"),
        })
    }
}

/// The settings of the source `Single`.
pub(crate) struct JobConfig {
    pub(crate) id: Option<String>,
    pub(crate) input: String,
    pub(crate) state: Option<String>,
    pub(crate) output: String,
    pub(crate) idle: bool,
}

impl JobConfig {
    pub(crate) fn from_env() -> Result<Self> {
        Self::from(|key| std::env::var(key).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |key: &str| get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let needed = |key: &str| {
            let missing = || format!("{key} is not set; it should be a reference, as in s3://bucket/jobs/7/...");
            text(key).ok_or_else(|| Error::invalid(missing()))
        };
        let idle = match text("FOREBAY_JOB_THEN").as_deref() {
            None | Some("exit") => false,
            Some("idle") => true,
            Some(other) => {
                let wrong = format_args!("FOREBAY_JOB_THEN is `{other}`, but should be `exit` or `idle`");
                return Err(Error::invalid(wrong));
            }
        };
        Ok(JobConfig {
            id: text("FOREBAY_JOB_ID"),
            input: needed("FOREBAY_JOB_INPUT")?,
            state: text("FOREBAY_JOB_STATE"),
            output: needed("FOREBAY_JOB_OUTPUT")?,
            idle,
        })
    }
}

/// The settings of the store `S3`.
#[cfg(feature = "s3")]
pub(crate) struct S3Config {
    pub(crate) url: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) provider: Option<String>,
    pub(crate) uploads: Option<PathBuf>,
}

#[cfg(feature = "s3")]
impl S3Config {
    pub(crate) fn from_env() -> Self {
        let text = |key: &str| {
            let set = std::env::var(key).ok().map(|text| text.trim().to_owned());
            set.filter(|text| !text.is_empty())
        };
        S3Config {
            url: text("FOREBAY_S3"),
            endpoint: text("FOREBAY_S3_ENDPOINT"),
            region: text("FOREBAY_S3_REGION"),
            provider: text("FOREBAY_S3_PROVIDER"),
            uploads: text("FOREBAY_S3_UPLOADS").map(PathBuf::from),
        }
    }
}

/// The settings of `Fitness`.
#[cfg(feature = "node")]
pub(crate) struct NodeConfig {
    pub(crate) wanted: Wanted,
    pub(crate) unfit: Unfit,
    pub(crate) tries: u32,
    pub(crate) leaves: usize,
    pub(crate) patience: Duration,
    pub(crate) watch: Unfit,
    pub(crate) metadata: Option<String>,
}

#[cfg(feature = "node")]
impl NodeConfig {
    pub(crate) fn from_env() -> Result<Self> {
        Self::from(|key| std::env::var(key).ok())
    }

    pub(crate) fn from(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |key: &str, least: u64, most: u64| number(&get, key, least, most);
        let text = |key: &str| get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let one_of = |key: &str, known: [(&str, Unfit); 3], default| {
            let Some(text) = text(key) else {
                return Ok(default);
            };
            let [(a, _), (b, _), (c, _)] = known;
            let wrong = || Error::invalid(format_args!("{key} is `{text}`, but should be `{a}`, `{b}` or `{c}`"));
            known.iter().find(|(name, _)| *name == text).map(|(_, unfit)| *unfit).ok_or_else(wrong)
        };
        let (reallocate, exit) = (("reallocate", Unfit::Reallocate), ("exit", Unfit::Exit));
        // The platform sets it in each of its containers.
        let on_saladcloud = text("SALAD_MACHINE_ID").map(|_| crate::node::METADATA.to_owned());
        Ok(NodeConfig {
            wanted: Wanted {
                latency: number("FOREBAY_NODE_LATENCY", 1, 60_000)?.map(Duration::from_millis),
                upload: number("FOREBAY_NODE_UPLOAD", 1, 100_000)?.map(|mbit| mbit as f64),
                download: number("FOREBAY_NODE_DOWNLOAD", 1, 100_000)?.map(|mbit| mbit as f64),
                disk: number("FOREBAY_NODE_DISK", 1, u64::MAX)?,
                memory: number("FOREBAY_NODE_MEMORY", 1, u64::MAX)?,
                cpus: number("FOREBAY_NODE_CPUS", 1, 1024)?.map(|cpus| cpus as f64),
                gpu_driver: number("FOREBAY_NODE_GPU_DRIVER", 1, 100_000)?.map(|branch| branch as u32),
                gpu_capability: capability(&get, "FOREBAY_NODE_GPU_CAPABILITY")?,
                gpu_memory: number("FOREBAY_NODE_GPU_MEMORY", 1, u64::MAX)?,
                gpu_tflops: number("FOREBAY_NODE_GPU_TFLOPS", 1, 100_000)?.map(|tflops| tflops as f64),
                gpu_copy: number("FOREBAY_NODE_GPU_COPY", 1, 100_000)?.map(|rate| rate as f64),
            },
            unfit: one_of("FOREBAY_NODE_UNFIT", [reallocate, exit, ("warn", Unfit::Warn)], Unfit::Reallocate)?,
            tries: number("FOREBAY_NODE_TRIES", 1, 100)?.unwrap_or(3) as u32,
            leaves: number("FOREBAY_NODE_LEAVES", 0, 10_000)?.unwrap_or(60) as usize,
            patience: Duration::from_secs(number("FOREBAY_NODE_PATIENCE", 60, 86_400)?.unwrap_or(1800)),
            watch: one_of("FOREBAY_NODE_WATCH", [reallocate, exit, ("off", Unfit::Warn)], Unfit::Warn)?,
            metadata: text("FOREBAY_NODE_METADATA").or(on_saladcloud),
        })
    }
}

/// A compute capability, major and minor; `None` where it is not set.
#[cfg(feature = "node")]
fn capability(get: impl Fn(&str) -> Option<String>, key: &str) -> Result<Option<(u32, u32)>> {
    let Some(text) = get(key).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let parts = text.trim().split_once('.');
    let parsed = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let wrong = || Error::invalid(format_args!("{key} is `{text}`, but should be a compute capability, as in 8.6"));
    parsed.ok_or_else(wrong).map(Some)
}

/// The secrets that webhooks are signed with.
#[cfg(feature = "webhook")]
pub(crate) fn webhook_secrets() -> Vec<String> {
    list(&std::env::var("FOREBAY_WEBHOOK_SECRETS").unwrap_or_default())
}

#[cfg(feature = "webhook")]
fn list(text: &str) -> Vec<String> {
    text.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// A whole number of the environment; `None` where it is not set.
fn number(get: impl Fn(&str) -> Option<String>, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
    let Some(text) = get(key).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    let wrong = || {
        let range = if most == u64::MAX { format!("from {least}") } else { format!("{least} to {most}") };
        Error::invalid(format_args!("{key} is `{text}`, but should be a whole number, {range}"))
    };
    number.ok_or_else(wrong).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_key() {
        let config = Config::default().with(|key| {
            Some(match key {
                "FOREBAY_IN_FLIGHT" => "7".to_owned(),
                "FOREBAY_GRACE" => " 9 ".to_owned(),
                "FOREBAY_MAX_ATTEMPTS" => "2".to_owned(),
                "FOREBAY_MEMORY" => "1000".to_owned(),
                "FOREBAY_DEVICE_MEMORY" => "25769803776".to_owned(),
                "FOREBAY_SUPERVISE" => "1".to_owned(),
                _ => "a.limit=3".to_owned(),
            })
        });
        let expected = Config {
            in_flight: Some(7),
            grace: Duration::from_secs(9),
            max_attempts: 2,
            memory: Some(1000),
            device_memory: Some(24 << 30),
            stages: "a.limit=3".to_owned(),
        };
        assert_eq!(config.unwrap(), expected);
        assert_eq!(Config::default().with(|_| None).unwrap(), Config::default());
    }

    #[cfg(feature = "sqs")]
    #[test]
    fn a_queue_must_be_named() {
        let why = SqsConfig::from(|_| None).err().unwrap().to_string();
        assert_eq!(why, "FOREBAY_SQS_QUEUE is not set; it should be the URL of the queue of jobs");
        let named = |key: &str| (key == "FOREBAY_SQS_QUEUE").then(|| " http://localhost/1/q ".to_owned());
        let config = SqsConfig::from(named).unwrap();
        assert_eq!((config.queue.as_str(), config.region), ("http://localhost/1/q", None));
        assert_eq!((config.lease, config.wait), (Duration::from_secs(300), Duration::from_secs(20)));
    }

    #[cfg(feature = "node")]
    #[test]
    fn what_is_wanted_of_a_node() {
        let config = NodeConfig::from(|_| None).unwrap();
        assert_eq!((config.wanted, config.unfit, config.watch), (Wanted::default(), Unfit::Reallocate, Unfit::Warn));
        assert_eq!((config.tries, config.leaves, config.patience), (3, 60, Duration::from_secs(1800)));
        assert_eq!(config.metadata, None);

        let set = [
            ("FOREBAY_NODE_LATENCY", "500"),
            ("FOREBAY_NODE_UPLOAD", "10"),
            ("FOREBAY_NODE_DOWNLOAD", "50"),
            ("FOREBAY_NODE_DISK", "1000"),
            ("FOREBAY_NODE_MEMORY", "2000"),
            ("FOREBAY_NODE_CPUS", "4"),
            ("FOREBAY_NODE_GPU_DRIVER", "580"),
            ("FOREBAY_NODE_GPU_CAPABILITY", " 8.6 "),
            ("FOREBAY_NODE_GPU_MEMORY", "3000"),
            ("FOREBAY_NODE_GPU_TFLOPS", "50"),
            ("FOREBAY_NODE_GPU_COPY", "12"),
            ("FOREBAY_NODE_UNFIT", " exit "),
            ("FOREBAY_NODE_TRIES", "1"),
            ("FOREBAY_NODE_LEAVES", "0"),
            ("FOREBAY_NODE_PATIENCE", "60"),
            ("FOREBAY_NODE_WATCH", "reallocate"),
            ("SALAD_MACHINE_ID", "8dd3"),
        ];
        let get = |key: &str| set.iter().find(|(known, _)| *known == key).map(|(_, text)| (*text).to_owned());
        let config = NodeConfig::from(get).unwrap();
        let wanted = Wanted {
            latency: Some(Duration::from_millis(500)),
            upload: Some(10.0),
            download: Some(50.0),
            disk: Some(1000),
            memory: Some(2000),
            cpus: Some(4.0),
            gpu_driver: Some(580),
            gpu_capability: Some((8, 6)),
            gpu_memory: Some(3000),
            gpu_tflops: Some(50.0),
            gpu_copy: Some(12.0),
        };
        assert_eq!((config.wanted, config.unfit, config.watch), (wanted, Unfit::Exit, Unfit::Reallocate));
        assert_eq!((config.tries, config.leaves, config.patience), (1, 0, Duration::from_secs(60)));
        assert_eq!(config.metadata.as_deref(), Some("http://169.254.169.254"));

        let fake = NodeConfig::from(|key| match key {
            "FOREBAY_NODE_METADATA" => Some("http://127.0.0.1:1".to_owned()),
            key => get(key),
        });
        assert_eq!(fake.unwrap().metadata.as_deref(), Some("http://127.0.0.1:1"));
        let wrong = NodeConfig::from(|key| (key == "FOREBAY_NODE_WATCH").then(|| "warn".to_owned())).err().unwrap();
        assert_eq!(wrong.to_string(), "FOREBAY_NODE_WATCH is `warn`, but should be `reallocate`, `exit` or `off`");
        for text in ["8", "8.x", "sm_86", "-8.6", "8.6.1"] {
            let set = |key: &str| (key == "FOREBAY_NODE_GPU_CAPABILITY").then(|| text.to_owned());
            let why = NodeConfig::from(set).err().unwrap().to_string();
            let said = "but should be a compute capability, as in 8.6";
            assert_eq!(why, format!("FOREBAY_NODE_GPU_CAPABILITY is `{text}`, {said}"));
        }
    }

    #[test]
    fn the_one_job() {
        let why = JobConfig::from(|_| None).err().unwrap().to_string();
        assert!(why.starts_with("FOREBAY_JOB_INPUT is not set"), "{why}");
        let set = |key: &str| match key {
            "FOREBAY_JOB_INPUT" | "FOREBAY_JOB_OUTPUT" => Some(format!("s3://b/{key}")),
            "FOREBAY_JOB_THEN" => Some("idle".to_owned()),
            _ => None,
        };
        let config = JobConfig::from(set).unwrap();
        assert_eq!((config.input.as_str(), config.idle, config.id), ("s3://b/FOREBAY_JOB_INPUT", true, None));
        let why = JobConfig::from(|key| (key == "FOREBAY_JOB_THEN").then(|| "nap".to_owned())).err().unwrap();
        assert_eq!(why.to_string(), "FOREBAY_JOB_THEN is `nap`, but should be `exit` or `idle`");
    }

    #[test]
    fn says_which_key_is_wrong() {
        for text in ["many", "-1", "100000"] {
            let read = Config::default().with(|key| (key == "FOREBAY_GRACE").then(|| text.to_owned()));
            let why = read.unwrap_err().to_string();
            assert_eq!(why, format!("FOREBAY_GRACE is `{text}`, but should be a whole number, 0 to 86400"));
        }
    }
}
