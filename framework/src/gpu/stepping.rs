//! How a stage of steps works, as the user describes it.

use std::fmt;

use super::memory::Size;
use crate::checkpoint::Saving;

/// How a stage of steps works. Only the number of jobs must be said.
///
/// ```
/// # use forebay::Stepping;
/// assert_eq!(Stepping::jobs(4).to_string(), "4 jobs");
/// assert_eq!(Stepping::jobs(1).memory(3 << 29).to_string(), "1 job, 1.5 GiB");
/// ```
#[derive(Clone, Debug)]
pub struct Stepping {
    pub(crate) jobs: usize,
    pub(crate) share: u32,
    pub(crate) device: usize,
    pub(crate) memory: u64,
    pub(crate) saving: Option<Saving>,
}

impl Stepping {
    /// The states of up to `jobs` jobs are on the device at once and advance together (0 is taken as 1). Others wait.
    pub fn jobs(jobs: usize) -> Self {
        Stepping { jobs: jobs.max(1), share: 1, device: 0, memory: 0, saving: None }
    }

    /// Saves the jobs' states, so that other workers can go on with them. Default: a job whose node goes begins anew.
    pub fn saving(mut self, saving: Saving) -> Self {
        self.saving = Some(saving);
        self
    }

    /// This stage's share of the device's time beside other models on it, when all are busy. Default 1.
    pub fn share(mut self, share: u32) -> Self {
        self.share = share.max(1);
        self
    }

    /// The device whose thread runs it. Default 0.
    pub fn device(mut self, device: usize) -> Self {
        self.device = device;
        self
    }

    /// What the stepper keeps on its device with the states of so many jobs, in bytes. Default 0: it counts nothing and
    /// always stays.
    ///
    /// As for [`Batching::memory`](crate::Batching::memory), it may be dropped for another model that has work, but only
    /// while it holds no job. From when it was worth its loading until then it takes no new one, so others wait for its
    /// longest job: better leave room for those beside it.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
}

impl fmt::Display for Stepping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.jobs == 1 { "" } else { "s" };
        write!(f, "{} job{s}", self.jobs)?;
        if self.saving.is_some() {
            f.write_str(", saved")?;
        }
        if self.memory > 0 {
            write!(f, ", {}", Size(self.memory))?;
        }
        Ok(())
    }
}
