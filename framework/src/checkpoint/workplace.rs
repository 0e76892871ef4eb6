//! A job's place at the device: who it is, and a folder on the local disk.
//!
//! It owns the folder, which goes with its last handle. What of it is saved is said by each snapshot.

use std::env;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::job::Job;
use crate::places::scratch::Scratch;

/// Where a job of a [`Stepper`](crate::Stepper) is worked on: its handle, and a folder of its own for files. A cheap
/// handle; the folder is removed with the last of them, so an output that names files in it should hold one.
#[derive(Clone, Debug)]
pub struct Workplace {
    job: Job,
    folder: Arc<Scratch>,
}

impl Workplace {
    /// A workplace below `scratch`, or below the system's folder for temporary files. Blocks.
    pub fn new(job: &Job, scratch: Option<&Path>) -> Result<Self> {
        let folder = match scratch {
            Some(root) => Scratch::below(root)?,
            None => Scratch::below(&env::temp_dir())?,
        };
        Ok(Workplace { job: job.clone(), folder: Arc::new(folder) })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// A local folder for its files. Empty when the job begins; with the files that were saved when it goes on.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
