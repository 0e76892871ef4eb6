//! What a node can do in figures, what is wanted of it, and what is said where the one falls short of the other.
//!
//! Each finding names the figure, the threshold and the variable that sets it, and who could mend it. It measures
//! nothing.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::gpu::dotted;
use super::machine::{Cpus, Memory};
use crate::error::{Error, Fault};

/// What a node can do, as it was measured. `None`: it was not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// How long the bucket takes to answer a small request: the median.
    pub latency: Option<Duration>,
    /// To the bucket, in Mbit/s.
    pub upload: Option<f64>,
    /// From the bucket, in Mbit/s.
    pub download: Option<f64>,
    /// Free disk, in bytes.
    pub disk: Option<u64>,
    /// Free memory, in bytes: what the machine has, or what the container's limit leaves if that is less.
    pub memory: Option<u64>,
    /// CPUs that the process may use at once: what the machine has, or the container's quota if that is less.
    pub cpus: Option<f64>,
    /// The version of the cards' driver, as in `580.65.06`.
    pub gpu_driver: Option<String>,
    /// The compute capability, major and minor, of the card that has the least.
    pub gpu_capability: Option<(u32, u32)>,
    /// Free memory of the card that has the least, in bytes.
    pub gpu_memory: Option<u64>,
    /// A matrix product on the device, in TFLOP/s.
    pub gpu_tflops: Option<f64>,
    /// A copy from the host to the device, in GB/s.
    pub gpu_copy: Option<f64>,
}

/// For the log.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.latency.map(|latency| format!("latency {} ms", latency.as_millis())),
            self.upload.map(|rate| format!("upload {rate:.1} Mbit/s")),
            self.download.map(|rate| format!("download {rate:.1} Mbit/s")),
            self.disk.map(|bytes| format!("free disk {bytes} bytes")),
            self.memory.map(|bytes| format!("free memory {bytes} bytes")),
            self.cpus.map(|cpus| format!("CPUs {cpus}")),
            self.gpu_driver.as_ref().map(|driver| format!("driver {driver}")),
            self.gpu_capability.map(|capability| format!("compute capability {}", dotted(capability))),
            self.gpu_memory.map(|bytes| format!("free device memory {bytes} bytes")),
            self.gpu_tflops.map(|rate| format!("matrix product {rate:.1} TFLOP/s")),
            self.gpu_copy.map(|rate| format!("copy to the device {rate:.1} GB/s")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Whether the bucket answers at all.
    Bucket,
    Latency,
    Upload,
    Download,
    /// Of the uploads at work, those that fail.
    FailedUploads,
    FailedDownloads,
    Disk,
    Memory,
    Cpus,
    GpuDriver,
    GpuCapability,
    GpuMemory,
    GpuTflops,
    GpuCopy,
}

impl Figure {
    pub(super) const ALL: [Figure; 14] = [
        Figure::Bucket,
        Figure::Latency,
        Figure::Upload,
        Figure::Download,
        Figure::FailedUploads,
        Figure::FailedDownloads,
        Figure::Disk,
        Figure::Memory,
        Figure::Cpus,
        Figure::GpuDriver,
        Figure::GpuCapability,
        Figure::GpuMemory,
        Figure::GpuTflops,
        Figure::GpuCopy,
    ];

    /// The label of the metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Figure::Bucket => "bucket",
            Figure::Latency => "latency",
            Figure::Upload => "upload",
            Figure::Download => "download",
            Figure::FailedUploads => "failed_uploads",
            Figure::FailedDownloads => "failed_downloads",
            Figure::Disk => "disk",
            Figure::Memory => "memory",
            Figure::Cpus => "cpus",
            Figure::GpuDriver => "gpu_driver",
            Figure::GpuCapability => "gpu_capability",
            Figure::GpuMemory => "gpu_memory",
            Figure::GpuTflops => "gpu_tflops",
            Figure::GpuCopy => "gpu_copy",
        }
    }
}

/// Who could mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Another node would do better.
    Node,
    /// It would be the same on every node: keys, or the container's own limits.
    Operator,
    /// From here nobody can tell this node's network from a bucket that is away for all.
    Anyone,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) figure: Figure,
    pub(super) blame: Blame,
    pub(super) text: String,
}

impl Finding {
    fn new(figure: Figure, blame: Blame, text: String) -> Self {
        Finding { figure, blame, text }
    }

    /// The bucket, or what stands for it, has answered with an error or not at all.
    pub(super) fn bucket(why: &Error) -> Self {
        let (blame, text) = match why.fault() {
            Fault::Invalid => (Blame::Operator, "the bucket refuses this worker's keys or settings"),
            Fault::Fatal => (Blame::Node, "the bucket cannot be used from this node"),
            Fault::Transient | Fault::Failed => (Blame::Anyone, "the bucket cannot be reached"),
        };
        Finding::new(Figure::Bucket, blame, format!("{text}: {why}"))
    }
}

/// All findings in one error, under the worst blame: what the operator has to mend comes first, then the node.
pub(super) fn together(findings: &[Finding]) -> Option<Error> {
    let has = |blame| findings.iter().any(|finding| finding.blame == blame);
    let fault = match () {
        () if findings.is_empty() => return None,
        () if has(Blame::Operator) => Fault::Invalid,
        () if has(Blame::Node) => Fault::Fatal,
        () => Fault::Transient,
    };
    let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
    Some(Error::failed(texts.join("; ")).with_fault(fault))
}

/// The thresholds. `None`: anything will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) latency: Option<Duration>,
    /// Mbit/s.
    pub(crate) upload: Option<f64>,
    pub(crate) download: Option<f64>,
    pub(crate) disk: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Option<f64>,
    /// The driver's branch: the first number of its version.
    pub(crate) gpu_driver: Option<u32>,
    pub(crate) gpu_capability: Option<(u32, u32)>,
    pub(crate) gpu_memory: Option<u64>,
    /// TFLOP/s.
    pub(crate) gpu_tflops: Option<f64>,
    /// GB/s.
    pub(crate) gpu_copy: Option<f64>,
}

impl Wanted {
    /// How good the bucket's figures are: below 1 is too little. `None` where nothing is wanted, or known.
    pub(super) fn score(&self, figure: Figure, seen: &Figures) -> Option<f64> {
        let over = |seen: Option<f64>, wanted: Option<f64>| Some(seen? / wanted?.max(f64::MIN_POSITIVE));
        match figure {
            Figure::Latency => {
                over(self.latency.map(|wanted| wanted.as_secs_f64()), seen.latency.map(|latency| latency.as_secs_f64()))
            }
            Figure::Upload => over(seen.upload, self.upload),
            Figure::Download => over(seen.download, self.download),
            _ => None,
        }
    }

    /// What is said of a figure of the bucket that is too low.
    pub(super) fn of_bucket(&self, figure: Figure, seen: &Figures) -> Option<Finding> {
        if self.score(figure, seen)? >= 1.0 {
            return None;
        }
        let text = match figure {
            Figure::Latency => format!(
                "latency of the bucket: {} ms, wanted at most {} (FOREBAY_NODE_LATENCY)",
                seen.latency?.as_millis(),
                self.latency?.as_millis()
            ),
            Figure::Upload => format!(
                "upload to the bucket: {:.1} Mbit/s, wanted at least {} (FOREBAY_NODE_UPLOAD)",
                seen.upload?, self.upload?
            ),
            _ => format!(
                "download from the bucket: {:.1} Mbit/s, wanted at least {} (FOREBAY_NODE_DOWNLOAD)",
                seen.download?, self.download?
            ),
        };
        Some(Finding::new(figure, Blame::Node, text))
    }

    /// What is said of too little free disk, or of one that cannot be looked at.
    pub(super) fn of_disk(&self, folder: &Path, free: &std::io::Result<u64>) -> Option<Finding> {
        let wanted = self.disk?;
        let (blame, seen) = match free {
            Ok(free) if *free >= wanted => return None,
            Ok(free) => (Blame::Node, format!("{free} bytes")),
            Err(why) => (Blame::Operator, format!("unknown, since {why}")),
        };
        let at = folder.display();
        let text = format!("free disk at {at}: {seen}, wanted at least {wanted} (FOREBAY_NODE_DISK)");
        Some(Finding::new(Figure::Disk, blame, text))
    }

    /// What is said of too little memory.
    pub(super) fn of_memory(&self, memory: Memory) -> Option<Finding> {
        let wanted = self.memory?;
        let (blame, where_, seen) = match memory {
            Memory { container: Some(left), .. } if left < wanted => {
                (Blame::Operator, "that the container's limit leaves", left)
            }
            Memory { machine: Some(left), .. } if left < wanted => (Blame::Node, "of this node", left),
            _ => return None,
        };
        let text = format!("free memory {where_}: {seen} bytes, wanted at least {wanted} (FOREBAY_NODE_MEMORY)");
        Some(Finding::new(Figure::Memory, blame, text))
    }

    /// What is said of too few CPUs.
    pub(super) fn of_cpus(&self, cpus: Cpus) -> Option<Finding> {
        let wanted = self.cpus?;
        let (blame, where_, seen) = match cpus {
            Cpus { container: Some(quota), .. } if quota < wanted => {
                (Blame::Operator, "by the container's quota", quota)
            }
            Cpus { machine, .. } if machine < wanted => (Blame::Node, "of this node", machine),
            _ => return None,
        };
        let text = format!("CPUs {where_}: {seen}, wanted at least {wanted} (FOREBAY_NODE_CPUS)");
        Some(Finding::new(Figure::Cpus, blame, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_that_no_node_could_give_is_for_the_operator_to_mend() {
        let wanted = Wanted { memory: Some(4 * GIB), ..Wanted::default() };
        let found = |machine, container| wanted.of_memory(Memory { machine, container });
        assert_eq!(found(Some(4 * GIB), Some(4 * GIB)), None);
        assert_eq!(found(None, None), None);
        let node = found(Some(3 * GIB), Some(6 * GIB)).unwrap();
        assert_eq!(node.blame, Blame::Node);
        assert_eq!(
            node.text,
            "free memory of this node: 3221225472 bytes, wanted at least 4294967296 (FOREBAY_NODE_MEMORY)"
        );
        let limit = found(Some(GIB), Some(2 * GIB)).unwrap();
        assert_eq!(limit.blame, Blame::Operator);
        assert!(limit.text.starts_with("free memory that the container's limit leaves: 2147483648 bytes"));
    }

    #[test]
    fn so_are_cpus() {
        let wanted = Wanted { cpus: Some(4.0), ..Wanted::default() };
        let found = |machine, container| wanted.of_cpus(Cpus { machine, container });
        assert_eq!(found(4.0, None), None);
        assert_eq!(found(8.0, Some(4.0)), None);
        let node = found(2.0, Some(8.0)).unwrap();
        assert_eq!((node.blame, node.figure), (Blame::Node, Figure::Cpus));
        let quota = found(16.0, Some(1.5)).unwrap();
        assert_eq!(quota.blame, Blame::Operator);
        assert_eq!(quota.text, "CPUs by the container's quota: 1.5, wanted at least 4 (FOREBAY_NODE_CPUS)");
    }

    #[test]
    fn all_is_said_at_once_and_the_operator_comes_first() {
        let finding = |blame, text: &str| Finding::new(Figure::Bucket, blame, text.to_owned());
        assert!(together(&[]).is_none());
        let away = together(&[finding(Blame::Anyone, "a")]).unwrap();
        assert_eq!((away.fault(), away.to_string().as_str()), (Fault::Transient, "a"));
        let node = together(&[finding(Blame::Anyone, "a"), finding(Blame::Node, "b")]).unwrap();
        assert_eq!((node.fault(), node.to_string().as_str()), (Fault::Fatal, "a; b"));
        let keys = together(&[finding(Blame::Node, "b"), finding(Blame::Operator, "c")]).unwrap();
        assert_eq!((keys.fault(), keys.to_string().as_str()), (Fault::Invalid, "b; c"));
    }

    #[test]
    fn figures_in_a_line() {
        let figures = Figures {
            latency: Some(Duration::from_millis(23)),
            upload: Some(81.25),
            cpus: Some(1.5),
            ..Figures::default()
        };
        assert_eq!(figures.to_string(), "latency 23 ms, upload 81.2 Mbit/s, CPUs 1.5");
        let of_cards = Figures {
            gpu_driver: Some("580.65.06".to_owned()),
            gpu_capability: Some((8, 9)),
            gpu_memory: Some(24 * GIB),
            gpu_tflops: Some(81.25),
            gpu_copy: Some(24.96),
            ..Figures::default()
        };
        let said = "driver 580.65.06, compute capability 8.9, free device memory 25769803776 bytes, \
                    matrix product 81.2 TFLOP/s, copy to the device 25.0 GB/s";
        assert_eq!(of_cards.to_string(), said);
    }
}
