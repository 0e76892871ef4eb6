//! A job's place at the device: who it is, a folder on the local disk, and how its saving stands.
//!
//! It owns the folder, which is made when it is first asked for and goes with the last handle. What of it is saved is
//! said by each snapshot.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::saver::{Saves, Standing};
use crate::error::Result;
use crate::job::Job;
use crate::places::scratch::Scratch;

/// Where a job of a [`Stepper`](crate::Stepper) is worked on: its handle, and a folder of its own for files. A cheap
/// handle; the folder is removed with the last of them, so an output that names files in it should hold one.
#[derive(Clone)]
pub struct Workplace(Arc<Inner>);

struct Inner {
    job: Job,
    root: Option<PathBuf>,
    folder: OnceLock<Scratch>,
    saves: OnceLock<Saves>,
}

impl Workplace {
    /// A workplace whose folder is made below `scratch`, or below the system's folder for temporary files.
    pub fn new(job: &Job, scratch: Option<&Path>) -> Self {
        let root = scratch.map(Path::to_owned);
        Workplace(Arc::new(Inner { job: job.clone(), root, folder: OnceLock::new(), saves: OnceLock::new() }))
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.0.job
    }

    /// A local folder for its files. Empty when the job begins; with the files that were saved when it goes on.
    ///
    /// # Errors
    /// `Failed` where it cannot be made.
    pub fn folder(&self) -> Result<&Path> {
        if let Some(folder) = self.0.folder.get() {
            return Ok(folder.path());
        }
        let made = match &self.0.root {
            Some(root) => Scratch::below(root)?,
            None => Scratch::below(&env::temp_dir())?,
        };
        Ok(self.0.folder.get_or_init(|| made).path())
    }

    /// How the saving of this job's states stands; `None` where they are not saved.
    pub fn standing(&self) -> Option<Standing> {
        self.0.saves.get().map(Saves::standing)
    }

    pub(crate) fn set_saves(&self, saves: &Saves) {
        let _ = self.0.saves.set(saves.clone());
    }
}

impl fmt::Debug for Workplace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.0.folder.get().map(Scratch::path);
        f.debug_struct("Workplace").field("job", &self.0.job).field("folder", &folder).finish()
    }
}
