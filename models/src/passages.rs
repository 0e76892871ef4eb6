//! A document cut into passages that fit a model, with overlap.
//!
//! Owns the choice of where to cut: between words where there are any, between tokens where not. It promises that all
//! of the text is in some passage, that a passage's ids are those of its text alone, and that a document of any size is
//! tokenised a few kilobytes at a time. It reads no files and knows no formats: sentences and headings are not looked for.

use std::ops::Range;

use forebay::Result;

use crate::{TokenIds, Tokens};

/// Tokens that a passage repeats from the one before, unless told otherwise.
const OVERLAP: usize = 32;
/// Bytes tokenised at first for every token that fits a passage: about what English takes. Doubled until it is enough.
const BYTES_A_TOKEN: usize = 6;
/// And the most that is tokenised at once, for text with next to no tokens in it (one word of 10 MB is one token).
const MOST_BYTES_A_TOKEN: usize = 64;

/// One passage of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage<'a> {
    /// Where it lies in the document, in bytes, without white space at the ends.
    pub range: Range<usize>,
    /// The document's text there.
    pub text: &'a str,
    /// Its token ids, special tokens included: what [`Tokens::encode`] gives for `text`.
    pub ids: TokenIds,
}

/// The passages of a document, in order; made by [`Tokens::passages`].
///
/// Every character but white space lies in at least one passage, except text that has no tokens at all (control
/// characters, as far as a tokenizer drops them). A document that is empty or only white space has no passages. An item
/// is an error, `Invalid`, if the tokenizer refuses the text; nothing follows it.
pub struct Passages<'a> {
    tokens: &'a Tokens,
    text: &'a str,
    /// Where the next passage starts; the length of the text when there is none.
    at: usize,
    /// Where the last passage ended.
    covered: usize,
    overlap: usize,
    /// How much text to tokenise for the next passage: somewhat more than the last one took.
    bytes: usize,
}

/// Where a passage ends and the next one starts, relative to its own start.
struct Cut {
    end: usize,
    next: usize,
}

impl<'a> Passages<'a> {
    pub(crate) fn new(tokens: &'a Tokens, text: &'a str) -> Self {
        Self { tokens, text, at: 0, covered: 0, overlap: OVERLAP, bytes: tokens.room() * BYTES_A_TOKEN }
    }

    /// Repeats up to `tokens` tokens of a passage at the start of the next one, instead of 32; whole words only, where
    /// there are words, and never more than half of a passage.
    pub fn overlap(self, tokens: usize) -> Self {
        Self { overlap: tokens, ..self }
    }

    /// The passage at the start of `rest`, which starts with something else than white space.
    fn passage(&mut self, rest: &'a str) -> Result<Option<Passage<'a>>> {
        let room = self.tokens.room();
        let limit = room * MOST_BYTES_A_TOKEN;
        let mut bytes = self.bytes.min(limit);
        let (window, starts) = loop {
            let window = head(rest, bytes);
            let encoding = self.tokens.places(window)?;
            let places = encoding.get_offsets();
            if places.len() > room || window.len() == rest.len() || bytes >= limit {
                break (window, starts(places));
            }
            bytes = (bytes * 2).min(limit);
        };
        let at = self.at;
        if starts.is_empty() {
            self.at = at + window.len();
            return Ok(None);
        }
        let mut most = room;
        loop {
            let cut = self.cut(window, &starts, most);
            let text = rest[..cut.end].trim_end();
            let (ids, whole) = self.tokens.fit(text)?;
            // Cut inside a word, text may have more tokens alone than it had in the word: take less of it then.
            if whole || most == 1 {
                if at + text.len() <= self.covered {
                    // Begun inside a word, the repeated text had more tokens than before and left no room for new text.
                    self.at = self.covered;
                    return Ok(None);
                }
                self.covered = at + text.len();
                // What follows may be nothing but white space: then the overlap is no passage of its own.
                let done = rest[cut.end..].trim_start().is_empty();
                self.bytes = (cut.end + cut.end / 4).max(room);
                self.at = if done { self.text.len() } else { at + cut.next };
                return Ok(Some(Passage { range: at..at + text.len(), text, ids }));
            }
            most = (most * 3 / 4).max(1);
        }
    }

    /// Cuts `window` so that at most `most` of the tokens that start at `starts` lie in the first part.
    fn cut(&self, window: &str, starts: &[usize], most: usize) -> Cut {
        if starts.len() <= most {
            let next = self.again(window, starts, starts.len()).unwrap_or(window.len());
            return Cut { end: window.len(), next };
        }
        let open = |k: &usize| starts[*k] > starts[*k - 1] && starts[*k] > 0;
        let words = (most / 2 + 1..=most).rev().find(|k| open(k) && after_space(window, starts[*k]));
        let Some(k) = words.or_else(|| (1..=most).rev().find(open)) else {
            // No place between two tokens: one character is the least that can be taken.
            let one = window.chars().next().map_or(window.len(), char::len_utf8);
            return Cut { end: one, next: one };
        };
        Cut { end: starts[k], next: self.again(window, starts, k).unwrap_or(starts[k]) }
    }

    /// Where to start again so that up to `overlap` of the first `k` tokens are repeated.
    fn again(&self, window: &str, starts: &[usize], k: usize) -> Option<usize> {
        let overlap = self.overlap.min(k / 2);
        let first = k - overlap;
        let open = |j: &usize| *j > 0 && starts[*j] > starts[*j - 1];
        let word = (first..k).find(|j| open(j) && after_space(window, starts[*j]));
        word.or_else(|| (first..k).find(open)).map(|j| starts[j])
    }
}

impl<'a> Iterator for Passages<'a> {
    type Item = Result<Passage<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.text[self.at..].trim_start();
            self.at = self.text.len() - rest.len();
            if rest.is_empty() {
                return None;
            }
            match self.passage(rest) {
                Ok(None) => {}
                Ok(Some(passage)) => return Some(Ok(passage)),
                Err(error) => {
                    self.at = self.text.len();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The first `bytes` bytes of a text, less if that spares a word.
fn head(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let head = &text[..text.floor_char_boundary(bytes)];
    match head.rfind(char::is_whitespace) {
        Some(space) if space > bytes / 2 => &head[..space],
        _ => head,
    }
}

/// Where tokens start; a token that starts before the one before has ended (several may stand for one character) counts
/// as starting with it.
fn starts(places: &[(usize, usize)]) -> Vec<usize> {
    let mut end = 0;
    let mut last = 0;
    let starts = places.iter().map(|(from, to)| {
        last = if *from >= end { *from } else { last };
        end = end.max(*to);
        last
    });
    starts.collect()
}

fn after_space(text: &str, at: usize) -> bool {
    text[..at].ends_with(char::is_whitespace)
}
