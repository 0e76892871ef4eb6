//! What was sent, as a file of JSON lines that is only ever added to.
//!
//! | line | written |
//! |---|---|
//! | `{"forebay": "submit", ...}` | first: the queue and the input that it is about |
//! | `{"batch": 7, "at": MS, "first": 60, "ids": [...]}` | before jobs are sent, which follow each other in the input |
//! | `{"done": 7, "unsent": [...], "unclear": [...]}` | when it is known what became of them, with the exceptions |
//!
//! A sending process that is killed leaves batches without a second line: their jobs are in doubt. Nothing is synced to
//! the disk, since a dead process loses no write; after a loss of power the last lines may be missing, and their jobs
//! are sent again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forebay::source::sqs::Terms;
use forebay::{Classify, Context, Error, Result};
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::lock::{LOCKED, open_locked};

/// How every journal begins.
const BEGINNING: &[u8] = br#"{"forebay":"submit","#;

/// What a journal is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    forebay: String,
    version: u32,
    queue: String,
    input: String,
    fingerprint: String,
    jobs: usize,
    /// What else makes a job what it is: its prefix, its terms.
    options: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Intent(Intent),
    Outcome(Outcome),
}

#[derive(Serialize, Deserialize)]
struct Intent {
    batch: u64,
    /// Milliseconds since 1970.
    at: u64,
    first: usize,
    ids: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    done: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unsent: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unclear: Vec<usize>,
}

/// What is known of the jobs of an input.
pub struct Journal {
    /// `None` if nothing is to be remembered.
    file: Option<(PathBuf, File)>,
    sent: Vec<bool>,
    /// When jobs were sent first of which nobody knows whether they are on the queue.
    doubts: BTreeMap<usize, u64>,
    next: u64,
}

impl Header {
    pub fn new(queue: &str, input: &Input, prefix: &str, terms: &Terms) -> Self {
        Header {
            forebay: "submit".to_owned(),
            version: 1,
            queue: queue.to_owned(),
            input: input.path().map_or("standard input".to_owned(), |path| path.display().to_string()),
            fingerprint: input.fingerprint().to_owned(),
            jobs: input.count(),
            options: format!("{prefix:?} {:?} {terms:?}", input.id_field()),
        }
    }

    /// What is different in what is to be sent now.
    fn check(&self, now: &Header) -> Result<()> {
        let (queue, input) = (&self.queue, &self.input);
        let what = match now {
            _ if self.queue != now.queue => format!("is about the queue {queue}"),
            _ if self.input != now.input => format!("is about `{input}`"),
            _ if (&self.fingerprint, self.jobs) != (&now.fingerprint, now.jobs) => {
                format!("was begun before `{input}` was changed")
            }
            _ if self.options != now.options => {
                "was begun with another --prefix or --id-field, or other labels or terms".to_owned()
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(format_args!("it {what}: name another with --journal, or begin anew with --restart")))
    }
}

impl Journal {
    /// The journal in a file, which is made if it is not there.
    pub fn open(path: &Path, header: Header, restart: bool) -> Result<Self> {
        Self::open_file(path, header, restart).with_context(|| format!("the journal `{}`", path.display()))
    }

    fn open_file(path: &Path, header: Header, restart: bool) -> Result<Self> {
        let mut file = open_locked(path, LOCKED)?;
        let mut journal = Journal::none(header.clone());
        // Looked at in any case: what is no journal is somebody's file, and stays as it is.
        let whole = match begin(&mut file)? {
            Some((before, mut lines)) if !restart => {
                before.check(&header)?;
                journal.read(&mut lines)?
            }
            _ => 0,
        };
        // What a kill has torn was not acted upon.
        file.set_len(whole)?;
        if whole == 0 {
            write(&mut file, &header)?;
        }
        journal.file = Some((path.to_owned(), file));
        Ok(journal)
    }

    /// Remembers nothing beyond this process.
    pub fn none(header: Header) -> Self {
        Journal { file: None, sent: vec![false; header.jobs], doubts: BTreeMap::new(), next: 0 }
    }

    /// Reads all whole lines; where the last one ends.
    fn read(&mut self, lines: &mut Reader) -> Result<u64> {
        let mut open: HashMap<u64, Intent> = HashMap::new();
        while let Some(line) = lines.next()? {
            match line {
                Line::Intent(intent) => {
                    self.next = self.next.max(intent.batch + 1);
                    open.insert(intent.batch, intent);
                }
                Line::Outcome(outcome) => {
                    if let Some(intent) = open.remove(&outcome.done) {
                        self.settle(&intent, &outcome);
                    }
                }
            }
        }
        for intent in open.into_values() {
            for number in intent.numbers() {
                self.doubt(number, intent.at);
            }
        }
        Ok(lines.whole)
    }

    fn settle(&mut self, intent: &Intent, outcome: &Outcome) {
        for number in intent.numbers() {
            if outcome.unclear.contains(&number) {
                self.doubt(number, intent.at);
            } else if !outcome.unsent.contains(&number) {
                self.doubts.remove(&number);
                if let Some(sent) = self.sent.get_mut(number) {
                    *sent = true;
                }
            }
        }
    }

    fn doubt(&mut self, number: usize, at: u64) {
        if self.sent.get(number) == Some(&false) {
            let first = self.doubts.entry(number).or_insert(at);
            *first = at.min(*first);
        }
    }

    /// Jobs that are on the queue.
    pub fn sent(&self) -> usize {
        self.sent.iter().filter(|sent| **sent).count()
    }

    /// Which of the jobs are on the queue.
    pub fn is_sent(&self) -> Vec<bool> {
        self.sent.clone()
    }

    /// Jobs of which nobody knows whether they are on the queue.
    pub fn doubts(&self) -> usize {
        self.doubts.len()
    }

    /// Those of them that were sent first before a time.
    pub fn doubts_before(&self, time: SystemTime) -> usize {
        self.doubts.values().filter(|at| **at < millis(time)).count()
    }

    /// Writes down that jobs which follow each other will be sent. Gives the number of their batch.
    pub fn intend(&mut self, first: usize, ids: Vec<String>) -> Result<u64> {
        let batch = self.next;
        self.next += 1;
        self.write(&Line::Intent(Intent { batch, at: millis(SystemTime::now()), first, ids }))?;
        Ok(batch)
    }

    /// Writes down what became of a batch: all were sent but these.
    pub fn done(&mut self, batch: u64, unsent: Vec<usize>, unclear: Vec<usize>) -> Result<()> {
        self.write(&Line::Outcome(Outcome { done: batch, unsent, unclear }))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        match &mut self.file {
            Some((path, file)) => {
                write(file, line).with_context(|| format!("writing the journal `{}`", path.display()))
            }
            None => Ok(()),
        }
    }

    /// Removes it, as where nothing was sent: it would bind the input to a queue that was mistyped.
    pub fn remove(self) -> Result<()> {
        if let Some((path, _locked)) = &self.file {
            fs::remove_file(path).with_context(|| format!("removing the journal `{}`", path.display()))?;
        }
        Ok(())
    }

    /// The ids of all jobs that were sent or tried, in the order of the input, and how many others there are.
    pub fn ids(path: &Path) -> Result<(Vec<String>, usize)> {
        let read = || -> Result<_> {
            let mut file = File::open(path)?;
            let Some((header, mut lines)) = begin(&mut file)? else {
                return Ok((Vec::new(), 0));
            };
            let mut ids = BTreeMap::new();
            while let Some(line) = lines.next()? {
                if let Line::Intent(intent) = line {
                    ids.extend((intent.first..).zip(intent.ids));
                }
            }
            let others = header.jobs.saturating_sub(ids.len());
            Ok((ids.into_values().collect(), others))
        };
        read().with_context(|| format!("the journal `{}`", path.display()))
    }
}

impl Intent {
    fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        self.first..self.first + self.ids.len()
    }
}

/// The lines of a journal, as far as they are whole.
struct Reader {
    file: BufReader<File>,
    /// Where the last whole line ends.
    whole: u64,
    number: usize,
}

/// The header and what follows it; `None` for a journal that was not begun.
fn begin(file: &mut File) -> Result<Option<(Header, Reader)>> {
    file.rewind()?;
    let mut reader = Reader { file: BufReader::new(file.try_clone()?), whole: 0, number: 0 };
    let Some(line) = reader.line()? else {
        file.rewind()?;
        let mut torn = [0; BEGINNING.len()];
        let read = file.read(&mut torn)?;
        return if BEGINNING.starts_with(&torn[..read]) { Ok(None) } else { Err(no_journal()) };
    };
    let header: Header = reader.parse(&line)?;
    if (header.forebay.as_str(), header.version) != ("submit", 1) {
        return Err(no_journal());
    }
    Ok(Some((header, reader)))
}

fn no_journal() -> Error {
    Error::invalid("it is no journal, or that of another version of forebay: name another with --journal")
}

impl Reader {
    fn next(&mut self) -> Result<Option<Line>> {
        match self.line()? {
            Some(line) => self.parse(&line).map(Some),
            None => Ok(None),
        }
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.file.by_ref().read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        self.whole += line.len() as u64 + 1;
        self.number += 1;
        Ok(Some(line))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, line: &[u8]) -> Result<T> {
        serde_json::from_slice(line)
            .or_invalid()
            .with_context(|| format!("it is no journal, or was changed by others: line {}", self.number))
    }
}

/// In one write, so that a kill tears none in two but for a full disk.
fn write(file: &mut File, line: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(file.write_all(&bytes)?)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
