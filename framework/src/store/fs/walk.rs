//! The search for the keys of one page of a list.
//!
//! It keeps no more keys than it was asked for, and opens no object. The caller holds the lock of names while it goes on.

use std::collections::BinaryHeap;
use std::fs;
use std::path::PathBuf;

use super::Key;
use crate::error::Result;

/// One page's search: keeps the `most` smallest keys seen, and stays out of directories that cannot have any of them.
/// What it visits, for each page, is therefore up to all names under the prefix.
pub(super) struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a Key>,
    most: usize,
    found: BinaryHeap<Key>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(prefix: &'a str, after: Option<&'a Key>, most: usize) -> Self {
        Self { prefix, after, most, found: BinaryHeap::new() }
    }

    /// All of one tree, whose objects are `depth` names deep.
    pub(super) fn tree(&mut self, root: PathBuf, depth: usize) -> Result<()> {
        // Directories to read, each with the beginning that its names have as keys.
        let mut open = vec![(root, String::new(), 1)];
        while let Some((dir, base, level)) = open.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                // Names that are no keys, and things that are neither file nor directory, are not from here.
                let Some(mut name) = entry.file_name().to_str().map(|name| format!("{base}{name}")) else {
                    continue;
                };
                if level == depth && kind.is_file() {
                    self.offer(name);
                } else if level < depth && kind.is_dir() {
                    name.push('/');
                    if self.may_hold(&name) {
                        open.push((entry.path(), name, level + 1));
                    }
                }
            }
        }
        Ok(())
    }

    /// What it has found, in the order of keys.
    pub(super) fn into_keys(self) -> Vec<Key> {
        self.found.into_sorted_vec()
    }

    fn offer(&mut self, name: String) {
        let late = self.after.is_none_or(|after| name.as_str() > after.as_str());
        if late
            && name.starts_with(self.prefix)
            && let Ok(key) = Key::new(name)
        {
            self.found.push(key);
            if self.found.len() > self.most {
                self.found.pop();
            }
        }
    }

    /// Whether a key that begins with `base` can be wanted.
    fn may_hold(&self, base: &str) -> bool {
        let matches = base.starts_with(self.prefix) || self.prefix.starts_with(base);
        let late = self.after.is_none_or(|after| base > after.as_str() || after.as_str().starts_with(base));
        let full = self.found.len() == self.most;
        let early = !full || self.found.peek().is_none_or(|largest| base < largest.as_str());
        matches && late && early
    }
}
