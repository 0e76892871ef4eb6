//! Pairs of texts, as they are written down and as they are trained on.
//!
//! Owns how pairs are read ([`Pair`]) and tokenised ([`Pairs`]), and how many there may be. It promises that a text which
//! stands in several pairs is kept, and later embedded, once. It does not say which pairs are trained on.

use std::collections::HashMap;
use std::sync::Arc;

use forebay::{Classify, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::{TokenIds, Tokens};

/// Pairs that a training may have: their vectors, two of 384 values each, then take 768 MB of the host's memory.
const PAIRS_MAX: usize = 250_000;

/// Two texts that belong together: a line of a JSON-lines file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// What is asked with.
    pub anchor: String,
    /// What should be found.
    pub positive: String,
}

impl Pair {
    /// Reads JSON lines such as `{"anchor": "...", "positive": "..."}`. Empty lines are left out.
    ///
    /// # Errors
    /// `Invalid`, with the number of the line, where one is not a pair; or where there are more than 250,000.
    pub fn lines(text: &str) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            pairs.push(serde_json::from_str(line).or_invalid().with_context(|| format!("line {}", number + 1))?);
            few(pairs.len())?;
        }
        Ok(pairs)
    }
}

/// Pairs of tokenised texts. A cheap handle.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    /// Each text once, in the order in which they first appear.
    texts: Vec<TokenIds>,
    /// Anchor and positive of each pair, by their places in `texts`.
    pairs: Vec<(u32, u32)>,
}

impl Pairs {
    /// Tokenises pairs; for a CPU stage. Long texts are cut off as [`Tokens`] says.
    ///
    /// # Errors
    /// `Invalid`: no pairs, more than 250,000, an empty text (with the pair's number, the first being 1), or a text that
    /// the tokenizer refuses.
    pub fn tokenize(tokens: &Tokens, pairs: &[Pair]) -> Result<Self> {
        few(pairs.len())?;
        if pairs.is_empty() {
            return Err(Error::invalid("there are no pairs to train on"));
        }
        let mut places: HashMap<&str, u32> = HashMap::new();
        let mut texts = Vec::new();
        let mut place = |text| {
            // Fits: there are at most two texts a pair.
            *places.entry(text).or_insert_with(|| {
                texts.push(text);
                (texts.len() - 1) as u32
            })
        };
        let mut numbered = Vec::with_capacity(pairs.len());
        for (at, Pair { anchor, positive }) in pairs.iter().enumerate() {
            for (name, text) in [("anchor", anchor), ("positive", positive)] {
                if text.trim().is_empty() {
                    return Err(Error::invalid(format!("the {name} of pair {} is empty", at + 1)));
                }
            }
            numbered.push((place(anchor), place(positive)));
        }
        Ok(Self(Arc::new(Inner { texts: tokens.encode(&texts)?, pairs: numbered })))
    }

    /// How many pairs there are: one at least.
    #[allow(clippy::len_without_is_empty, reason = "there are always some")]
    pub fn len(&self) -> usize {
        self.0.pairs.len()
    }

    /// The texts, each once.
    pub(super) fn texts(&self) -> &[TokenIds] {
        &self.0.texts
    }

    /// Anchor and positive of each pair, by their places among the texts.
    pub(super) fn numbered(&self) -> &[(u32, u32)] {
        &self.0.pairs
    }

    /// A number that other pairs do not have, but by a chance of one in 2^64.
    pub(super) fn fingerprint(&self) -> u64 {
        let ids = |text: &TokenIds| text.as_slice().to_vec();
        let texts = self.0.texts.iter().flat_map(|text| std::iter::once(text.len() as u32).chain(ids(text)));
        let pairs = self.0.pairs.iter().flat_map(|(anchor, positive)| [*anchor, *positive]);
        fingerprint(texts.chain(pairs).flat_map(u32::to_le_bytes))
    }
}

/// The FNV-1a hash: it tells apart what was changed by accident, and nothing more is asked of it.
pub(super) fn fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn few(pairs: usize) -> Result<()> {
    if pairs <= PAIRS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("there are more than {PAIRS_MAX} pairs: train on a part of them")))
}
