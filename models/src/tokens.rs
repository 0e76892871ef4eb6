//! Text to token ids, for a CPU stage before a model.
//!
//! Owns a tokenizer as `tokenizer.json` describes it, except for two things that the file must not decide: it never pads
//! (padding is the model's business, and computing none is best) and it truncates where it is told to. It promises ids
//! that fit the model's length; cutting a long text into passages is [`Passages`](crate::Passages).

use std::path::Path;

use forebay::{Error, Result};
use tokenizers::{Encoding, Tokenizer};

use crate::{Passages, Weights};

/// Tokens of an input at most, special tokens included, unless told otherwise: what sentence-transformers takes for
/// all-MiniLM-L6-v2.
const LONGEST: usize = 256;

/// The ids of one input, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenIds(Vec<u32>);

impl TokenIds {
    /// These ids, as they are.
    pub fn new(ids: Vec<u32>) -> Self {
        Self(ids)
    }

    /// The ids.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none; what [`Tokens::encode`] gives has at least the special tokens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A model's tokenizer. Cheap to share behind an `Arc`, encodes on the calling thread.
pub struct Tokens {
    tokenizer: Tokenizer,
    /// The special tokens before and after an input.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    longest: usize,
}

impl Tokens {
    /// Reads the tokenizer that came with `weights`; inputs are truncated at 256 tokens.
    ///
    /// # Errors
    /// As [`Tokens::file`].
    pub fn open(weights: &Weights) -> Result<Self> {
        Self::file(weights.tokenizer())
    }

    /// Reads a `tokenizer.json`; inputs are truncated at 256 tokens.
    ///
    /// # Errors
    /// `Failed`, naming the file, if it cannot be read or is no tokenizer.
    pub fn file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |cause: String| {
            Error::failed(format!("{}: {cause}: copy or download the model's tokenizer.json again", path.display()))
        };
        let bytes = std::fs::read(path).map_err(|cause| wrong(cause.to_string()))?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|cause| wrong(format!("not a tokenizer ({cause})")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|cause| wrong(cause.to_string()))?;

        let bare = tokenizer.encode_fast("a", false).map_err(|cause| wrong(cause.to_string()))?;
        let whole = tokenizer.encode_fast("a", true).map_err(|cause| wrong(cause.to_string()))?;
        let (bare, whole) = (bare.get_ids(), whole.get_ids());
        let at = whole.windows(bare.len().max(1)).position(|ids| ids == bare);
        let at = at.ok_or_else(|| wrong("its special tokens do not surround the text".to_owned()))?;
        let (prefix, suffix) = (whole[..at].to_vec(), whole[at + bare.len()..].to_vec());
        Ok(Self { tokenizer, prefix, suffix, longest: LONGEST })
    }

    /// Truncates inputs at `tokens` tokens, special tokens included, instead of 256.
    ///
    /// # Errors
    /// `Failed` if that leaves no room for text.
    pub fn longest(self, tokens: usize) -> Result<Self> {
        let special = self.prefix.len() + self.suffix.len();
        if tokens <= special {
            return Err(Error::failed(format!(
                "inputs of at most {tokens} tokens hold no text: {special} of them are special; allow more, 256 is usual"
            )));
        }
        Ok(Self { longest: tokens, ..self })
    }

    /// The ids of every text, in order: special tokens around the text's own, cut off at the longest length. An empty
    /// text has its special tokens.
    ///
    /// The whole of each text is tokenised before it is cut: give long documents to [`Tokens::passages`].
    ///
    /// # Errors
    /// `Invalid` if the tokenizer refuses a text.
    pub fn encode<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<TokenIds>> {
        texts.iter().map(|text| self.fit(text.as_ref()).map(|(ids, _)| ids)).collect()
    }

    /// Cuts a document into passages that each fit the model; see [`Passages`].
    pub fn passages<'a>(&'a self, text: &'a str) -> Passages<'a> {
        Passages::new(self, text)
    }

    /// The ids of one text, and whether all of it is in them.
    pub(crate) fn fit(&self, text: &str) -> Result<(TokenIds, bool)> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(refused)?;
        let (own, room) = (encoding.get_ids(), self.room());
        let kept = &own[..own.len().min(room)];
        let mut ids = Vec::with_capacity(self.prefix.len() + kept.len() + self.suffix.len());
        ids.extend_from_slice(&self.prefix);
        ids.extend_from_slice(kept);
        ids.extend_from_slice(&self.suffix);
        Ok((TokenIds(ids), own.len() <= room))
    }

    /// The tokens of a text with their places in it, in bytes, uncut and without special tokens.
    pub(crate) fn places(&self, text: &str) -> Result<Encoding> {
        self.tokenizer.encode(text, false).map_err(refused)
    }

    /// How many tokens of text fit an input.
    pub(crate) fn room(&self) -> usize {
        self.longest - self.prefix.len() - self.suffix.len()
    }
}

fn refused(cause: tokenizers::Error) -> Error {
    Error::invalid(format!("the tokenizer refuses the text: {cause}"))
}
