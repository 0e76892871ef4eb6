//! What there is to send: files or lines, always the same jobs in the same order under the same ids.
//!
//! All of it is looked at before anything is sent, so that a bad line is found first, and so that what is sent later
//! can be told from it if it has changed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use forebay::{Bytes, Context, Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a journal's name ends with. Such files are no jobs.
pub const JOURNAL: &str = ".forebay-journal";
/// Bad lines that are shown.
const SHOWN: usize = 5;

/// One job, or why it cannot be read.
pub struct Job {
    /// Counts all jobs of the input, from 0.
    pub number: usize,
    /// Without the prefix.
    pub id: String,
    /// Where it is, for people.
    pub origin: String,
    pub payload: Result<Bytes>,
}

/// Jobs to be sent.
pub struct Input {
    what: What,
    /// What is the same as long as the input is.
    fingerprint: String,
    count: usize,
    path: Option<PathBuf>,
}

enum What {
    /// With their ids.
    Files(Vec<(String, PathBuf)>),
    Lines(Lines),
}

struct Lines {
    file: File,
    /// In ids.
    name: String,
    id_field: Option<String>,
}

impl Input {
    /// A file, or all files of a folder.
    pub fn files(path: &Path) -> Result<Self> {
        let path = canonical(path)?;
        let files = match path.is_dir() {
            true => walk(&path)?,
            false => vec![(text(path.file_name().unwrap_or_default(), &path)?, path.clone())],
        };
        if files.is_empty() {
            return Err(Error::invalid(format_args!("there are no files in `{}`", path.display())));
        }
        let mut hash = Sha256::new();
        for (id, file) in &files {
            let meta = fs::metadata(file).with_context(|| format!("looking at `{}`", file.display()))?;
            let modified = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            hash.update(format!("{id}\0{}\0{}\n", meta.len(), modified.as_nanos()));
        }
        let count = files.len();
        Ok(Input { what: What::Files(files), fingerprint: hex(hash), count, path: Some(path) })
    }

    /// All lines of a file.
    pub fn lines(path: &Path, id_field: Option<String>) -> Result<Self> {
        let path = canonical(path)?;
        let file = File::open(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let name = text(path.file_name().unwrap_or_default(), &path)?;
        Input::of(Lines { file, name, id_field }, Some(path))
    }

    /// All lines of standard input, which is read to its end.
    pub fn stdin(id_field: Option<String>) -> Result<Self> {
        let mut file = tempfile::tempfile().context("making a temporary file")?;
        io::copy(&mut io::stdin().lock(), &mut file).context("reading standard input")?;
        file.flush()?;
        Input::of(Lines { file, name: "stdin".to_owned(), id_field }, None)
    }

    fn of(mut lines: Lines, path: Option<PathBuf>) -> Result<Self> {
        let (fingerprint, count) = lines.check()?;
        if count == 0 {
            return Err(Error::invalid(format_args!("there are no lines in `{}`", lines.name)));
        }
        Ok(Input { what: What::Lines(lines), fingerprint, count, path })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The field that names its jobs, if one does.
    pub fn id_field(&self) -> Option<&str> {
        match &self.what {
            What::Files(_) => None,
            What::Lines(lines) => lines.id_field.as_deref(),
        }
    }

    /// Where it is; standard input is nowhere.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Hands out the jobs that are wanted, until somebody has enough. An error ends the input itself.
    pub fn each(self, wanted: impl Fn(usize) -> bool, mut enough: impl FnMut(Job) -> bool) -> Result<()> {
        match self.what {
            What::Files(files) => {
                for (number, (id, path)) in files.into_iter().enumerate().filter(|(number, _)| wanted(*number)) {
                    let origin = path.display().to_string();
                    let payload = fs::read(&path).map(Bytes::from).with_context(|| format!("reading `{origin}`"));
                    if enough(Job { number, id, origin, payload }) {
                        break;
                    }
                }
                Ok(())
            }
            What::Lines(mut lines) => {
                let mut number = 0;
                lines.read(|lines, at, line| {
                    let this = number;
                    number += 1;
                    if !wanted(this) {
                        return Ok(true);
                    }
                    let origin = format!("{}:{at}", lines.name);
                    let id = lines.id(at, line).map_err(|why| Error::invalid(format_args!("{origin}: {why}")))?;
                    let payload = Ok(Bytes::copy_from_slice(line));
                    Ok(!enough(Job { number: this, id, origin, payload }))
                })
            }
        }
    }
}

impl Lines {
    /// Reads everything once: what tells it from other inputs, and how many jobs there are.
    fn check(&mut self) -> Result<(String, usize)> {
        let mut hash = Sha256::new();
        let (mut count, mut bad) = (0, Vec::new());
        // Ids made of line numbers are all different.
        let mut ids: HashMap<String, usize> = HashMap::new();
        self.read(|lines, at, line| {
            count += 1;
            hash.update(at.to_le_bytes());
            hash.update((line.len() as u64).to_le_bytes());
            hash.update(line);
            if lines.id_field.is_some() {
                match lines.id(at, line) {
                    Err(why) => bad.push(format!("{}:{at}: {why}", lines.name)),
                    Ok(id) => match ids.get(&id) {
                        Some(first) => bad.push(format!("{}:{at}: line {first} has the id `{id}` too", lines.name)),
                        None => drop(ids.insert(id, at)),
                    },
                }
            }
            Ok(true)
        })?;
        match bad.len() {
            0 => Ok((hex(hash), count)),
            all => {
                let more = if all > SHOWN { format!("\nand {} more", all - SHOWN) } else { String::new() };
                bad.truncate(SHOWN);
                Err(Error::invalid(format_args!(
                    "nothing was sent, since these lines are bad:\n{}{more}",
                    bad.join("\n")
                )))
            }
        }
    }

    /// Every line that is not empty, with its number from 1, until `go_on` says no.
    fn read(&mut self, mut go_on: impl FnMut(&Lines, usize, &[u8]) -> Result<bool>) -> Result<()> {
        self.file.rewind().with_context(|| format!("reading `{}`", self.name))?;
        let mut reader = BufReader::with_capacity(1 << 20, self.file.try_clone()?);
        let (mut line, mut at) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.by_ref().read_until(b'\n', &mut line);
            if read.with_context(|| format!("reading `{}`", self.name))? == 0 {
                return Ok(());
            }
            at += 1;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.trim_ascii().is_empty() && !go_on(self, at, text)? {
                return Ok(());
            }
        }
    }

    fn id(&self, at: usize, line: &[u8]) -> Result<String, String> {
        let Some(field) = &self.id_field else {
            return Ok(format!("{}:{at}", self.name));
        };
        let json: Value = serde_json::from_slice(line).map_err(|why| format!("it is not JSON: {why}"))?;
        match &json[field.as_str()] {
            Value::String(id) if !id.is_empty() => Ok(id.clone()),
            Value::Number(id) => Ok(id.to_string()),
            Value::Null => Err(format!("it has no field `{field}`, which should be the job's id")),
            _ => Err(format!("its field `{field}` should be the job's id, as text or a number")),
        }
    }
}

/// All files below a folder with their paths in it, in order, but for hidden ones and journals.
fn walk(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let reading = || format!("reading the folder `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = entry.path();
            let name = text(&entry.file_name(), &path)?;
            if name.starts_with('.') || name.ends_with(JOURNAL) {
                continue;
            }
            // A link to a folder is not followed: it may lead back.
            match entry.file_type().with_context(reading)?.is_dir() {
                true => folders.push(path),
                false if path.is_file() => {
                    let id = text(path.strip_prefix(root).unwrap_or(&path).as_os_str(), &path)?;
                    files.push((id, path));
                }
                false => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("opening `{}`", path.display()))
}

fn text(name: &std::ffi::OsStr, path: &Path) -> Result<String> {
    let wrong = || Error::invalid(format_args!("the name of `{}` is not UTF-8, and so no job's id", path.display()));
    name.to_str().map(str::to_owned).ok_or_else(wrong)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
