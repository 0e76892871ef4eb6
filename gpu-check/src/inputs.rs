//! Texts and token ids of given lengths, the same every time.
//!
//! Owns the words of the models that `gpu-check model` writes: each is one token, so a text has as many tokens as words
//! and two more.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use forebay::{Context, Error, Result};
use forebay_models::{TokenIds, Weights};

/// Lengths that texts are made in, in tokens, special ones included.
pub const LENGTHS: [usize; 3] = [32, 128, 512];
/// What stands before the words in the vocabulary.
pub const SPECIAL: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
const CLS: u32 = 2;
const SEP: u32 = 3;

const CONSONANTS: &[u8; 14] = b"bdfgklmnprstvz";
const VOWELS: &[u8; 5] = b"aeiou";

/// The word of this number: three syllables.
pub fn word(number: usize) -> String {
    let syllable = |n: usize| [CONSONANTS[n / 5 % 14], VOWELS[n % 5]];
    [number / 4900, number / 70, number].into_iter().flat_map(|n| syllable(n % 70)).map(char::from).collect()
}

/// A text that has `tokens` tokens by a tokenizer of `vocabulary` entries.
pub fn text(random: &mut Rng, vocabulary: usize, tokens: usize) -> String {
    let words = (2..tokens).map(|_| word(random.usize(..vocabulary - SPECIAL.len())));
    words.collect::<Vec<_>>().join(" ")
}

/// As many inputs as lengths, of words by chance between the special tokens.
pub fn ids(random: &mut Rng, vocabulary: usize, lengths: &[usize]) -> Vec<TokenIds> {
    let words = SPECIAL.len() as u32..vocabulary as u32;
    let input = |n: &usize| {
        let mut ids: Vec<u32> = (0..*n).map(|_| random.u32(words.clone())).collect();
        ids.first_mut().into_iter().for_each(|id| *id = CLS);
        ids.iter_mut().skip(1).last().into_iter().for_each(|id| *id = SEP);
        TokenIds::new(ids)
    };
    lengths.iter().map(input).collect()
}

/// How many entries the model's vocabulary has.
pub fn vocabulary(weights: &Weights) -> Result<usize> {
    let config: serde_json::Value = weights.config()?;
    let size = config["vocab_size"].as_u64().filter(|size| *size > SPECIAL.len() as u64);
    size.map(|size| size as usize).ok_or_else(|| Error::failed("config.json says no vocab_size"))
}

/// Where the texts of a length are.
pub fn file(model: &Path, length: usize) -> PathBuf {
    model.join(format!("texts-{length}.txt"))
}

/// The texts of `length` tokens that were written beside the model.
pub fn read(model: &Path, length: usize) -> Result<Vec<String>> {
    let path = file(model, length);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("reading {}: texts are there in lengths of {LENGTHS:?}, written by `gpu-check model`", path.display())
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_different() {
        let words: std::collections::HashSet<_> = (0..40_000).map(word).collect();
        assert_eq!(words.len(), 40_000);
        assert_eq!(word(0), "bababa");
    }

    #[test]
    fn inputs_have_the_lengths_asked_for() {
        let inputs = ids(&mut Rng::with_seed(1), 100, &[1, 2, 5]);
        assert_eq!(inputs.iter().map(TokenIds::len).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!(inputs[1].as_slice(), [CLS, SEP]);
        assert!(inputs[2].as_slice()[1..4].iter().all(|id| (4..100).contains(id)));
    }
}
