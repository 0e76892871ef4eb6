//! The journal of one process: which jobs came and went, one line each, written so that what is read after a crash
//! names every job that was there and every job that was on a thread.
//!
//! A line is a letter and the job's id in JSON. What makes a job a suspect is written before it happens; what takes
//! it off the list may be late, and goes along with the next write. A job named in excess is suspected for nothing,
//! which costs it a run alone; a job not named would go free. Nothing is synced: a process's death loses no write, and
//! the machine's death is a loss anyway.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How large a journal grows before it is written anew, in bytes.
const LARGEST: usize = 1 << 20;

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Entry {
    Came,
    Left,
    Works,
    Rests,
}

impl Entry {
    fn letter(self) -> char {
        match self {
            Entry::Came => '+',
            Entry::Left => '-',
            Entry::Works => 'w',
            Entry::Rests => 'r',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        [Entry::Came, Entry::Left, Entry::Works, Entry::Rests].into_iter().find(|entry| entry.letter() as u8 == letter)
    }
}

/// A job that is in the process: how often it was delivered, and on how many threads it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Presence {
    deliveries: u32,
    threads: u32,
}

impl Presence {
    pub(super) fn is_at_work(self) -> bool {
        self.threads > 0
    }
}

#[derive(Default)]
struct Present(BTreeMap<String, Presence>);

impl Present {
    /// Whether that changes what is to be known of the job.
    fn note(&mut self, entry: Entry, id: &str) -> bool {
        if entry == Entry::Came {
            let presence = self.0.entry(id.to_owned()).or_default();
            presence.deliveries += 1;
            return presence.deliveries == 1;
        }
        let Some(presence) = self.0.get_mut(id) else {
            return false;
        };
        match entry {
            Entry::Came => false,
            Entry::Works => {
                presence.threads += 1;
                presence.threads == 1
            }
            Entry::Rests => {
                presence.threads = presence.threads.saturating_sub(1);
                presence.threads == 0
            }
            Entry::Left => {
                presence.deliveries = presence.deliveries.saturating_sub(1);
                let gone = presence.deliveries == 0;
                if gone {
                    self.0.remove(id);
                }
                gone
            }
        }
    }
}

/// A journal that is being written.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    written: usize,
    present: Present,
    /// Not written yet: what may be late.
    late: Vec<u8>,
}

impl Journal {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("journal");
        let file = File::options().append(true).open(&path)?;
        Ok(Journal { path, file, written: 0, present: Present::default(), late: Vec::new() })
    }

    pub(super) fn note(&mut self, entry: Entry, id: &str) -> io::Result<()> {
        if !self.present.note(entry, id) {
            return Ok(());
        }
        line(&mut self.late, entry, id);
        if matches!(entry, Entry::Left | Entry::Rests) && self.late.len() < LARGEST {
            return Ok(());
        }
        // One write: what is torn off at its end is the newest line only.
        let written = self.file.write_all(&self.late);
        self.written += self.late.len();
        self.late.clear();
        written?;
        if self.written > LARGEST { self.begin_anew() } else { Ok(()) }
    }

    /// Only what is present now, in a file that takes the other's place.
    fn begin_anew(&mut self) -> io::Result<()> {
        let mut lines = Vec::new();
        for (id, presence) in &self.present.0 {
            line(&mut lines, Entry::Came, id);
            if presence.is_at_work() {
                line(&mut lines, Entry::Works, id);
            }
        }
        let new = self.path.with_extension("new");
        fs::write(&new, &lines)?;
        let file = File::options().append(true).open(&new)?;
        fs::rename(&new, &self.path)?;
        (self.file, self.written) = (file, 0);
        Ok(())
    }
}

fn line(lines: &mut Vec<u8>, entry: Entry, id: &str) {
    let id = serde_json::Value::from(id);
    lines.extend(format!("{}{id}\n", entry.letter()).into_bytes());
}

/// Who was there at the end of a journal.
pub(super) fn replay(journal: &str) -> Vec<(String, Presence)> {
    let mut present = Present::default();
    for line in journal.lines() {
        // A line that was torn off tells nothing.
        let Some((&letter, id)) = line.as_bytes().split_first() else { continue };
        if let (Some(entry), Ok(id)) = (Entry::of(letter), serde_json::from_slice::<String>(id)) {
            present.note(entry, &id);
        }
    }
    present.0.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("journal")).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        (folder, journal)
    }

    fn read(folder: &tempfile::TempDir) -> Vec<(String, bool)> {
        let journal = fs::read_to_string(folder.path().join("journal")).unwrap();
        replay(&journal).into_iter().map(|(id, presence)| (id, presence.is_at_work())).collect()
    }

    #[test]
    fn what_makes_a_suspect_is_written_at_once() {
        let (folder, mut journal) = open();
        journal.note(Entry::Came, "a").unwrap();
        assert_eq!(read(&folder), [("a".to_owned(), false)]);
        journal.note(Entry::Works, "a").unwrap();
        assert_eq!(read(&folder), [("a".to_owned(), true)]);
        // Of two threads, one rests.
        journal.note(Entry::Works, "a").unwrap();
        journal.note(Entry::Rests, "a").unwrap();
        journal.note(Entry::Came, "b").unwrap();
        assert_eq!(read(&folder), [("a".to_owned(), true), ("b".to_owned(), false)]);
        journal.note(Entry::Rests, "a").unwrap();
        journal.note(Entry::Left, "a").unwrap();
        journal.note(Entry::Works, "b").unwrap();
        assert_eq!(read(&folder), [("b".to_owned(), true)]);
    }

    #[test]
    fn a_torn_line_harms_no_other() {
        let journal = "+\"a\"\n+\"b\"\nw\"a\"\n+\"c";
        let ids: Vec<_> = replay(journal).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (folder, mut journal) = open();
        journal.note(Entry::Came, "stays").unwrap();
        journal.note(Entry::Works, "stays").unwrap();
        for number in 0..60_000 {
            let id = format!("job-{number:020}");
            journal.note(Entry::Came, &id).unwrap();
            journal.note(Entry::Left, &id).unwrap();
        }
        let length = fs::metadata(folder.path().join("journal")).unwrap().len();
        assert!(length < 2 * LARGEST as u64, "{length} bytes");
        journal.note(Entry::Came, "last").unwrap();
        assert_eq!(read(&folder), [("last".to_owned(), false), ("stays".to_owned(), true)]);
    }
}
