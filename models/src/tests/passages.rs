//! No text is lost, every passage fits, and the overlap is what was asked for.

use proptest::prelude::*;

use super::tiny;
use crate::{Passage, Tokens, Weights};

fn tokens() -> Tokens {
    let dir = tiny::model();
    Tokens::open(&Weights::dir(dir.path()).unwrap()).unwrap()
}

fn cut<'a>(tokens: &'a Tokens, text: &'a str, overlap: usize) -> Vec<Passage<'a>> {
    tokens.passages(text).overlap(overlap).map(|passage| passage.unwrap()).collect()
}

/// What must hold for the passages of any text.
fn check(tokens: &Tokens, longest: usize, text: &str, passages: &[Passage<'_>]) {
    let mut covered = 0;
    let mut last_start = None;
    for passage in passages {
        assert_eq!(passage.text, &text[passage.range.clone()]);
        assert_eq!(passage.text, passage.text.trim());
        assert!(!passage.text.is_empty());
        assert!(passage.ids.len() <= longest, "{} tokens", passage.ids.len());
        assert_eq!(tokens.encode(&[passage.text]).unwrap()[0], passage.ids);
        let (_, whole) = tokens.fit(passage.text).unwrap();
        assert!(whole, "tokens of {:?} were cut off", passage.text);
        if passage.range.start > covered {
            assert!(text[covered..passage.range.start].trim().is_empty(), "text lost before {:?}", passage.range);
        }
        assert!(last_start.is_none_or(|last| passage.range.start > last), "no progress");
        assert!(passage.range.end > covered, "a passage within the one before");
        last_start = Some(passage.range.start);
        covered = passage.range.end;
    }
    assert!(text[covered..].trim().is_empty(), "text lost at the end");
}

#[test]
fn the_file_decides_neither_padding_nor_truncation() {
    let tokens = tokens();
    let ids = tokens.encode(&["", "the", &"the ".repeat(200), &"the ".repeat(400)]).unwrap();
    let lengths: Vec<usize> = ids.iter().map(|ids| ids.len()).collect();
    assert_eq!(lengths, [2, 3, 202, 256]);
    assert_eq!(ids[1].as_slice(), [2, 4, 3]);
    assert_eq!((ids[3].as_slice()[0], ids[3].as_slice()[255]), (2, 3));
    let short = tokens.longest(5).unwrap();
    assert_eq!(short.encode(&["the the the the"]).unwrap()[0].as_slice(), [2, 4, 4, 4, 3]);
    assert!(short.longest(2).is_err());
}

#[test]
fn short_texts_are_one_passage_and_empty_ones_none() {
    let tokens = tokens();
    for text in ["", " ", " \n\t\u{a0} "] {
        assert!(cut(&tokens, text, 32).is_empty());
    }
    let text = "  the long thing \n";
    let passages = cut(&tokens, text, 32);
    assert_eq!((passages.len(), passages[0].range.clone(), passages[0].text), (1, 2..16, "the long thing"));
}

#[test]
fn words_are_kept_whole_and_the_overlap_is_right() {
    let tokens = tokens();
    let text = "the long, the king. ".repeat(400); // 9 tokens each, some words of several tokens
    let passages = cut(&tokens, &text, 32);
    check(&tokens, 256, &text, &passages);
    for passage in &passages {
        assert!(text[..passage.range.start].is_empty() || text[..passage.range.start].ends_with(' '));
        assert!(text[passage.range.end..].starts_with(' ') || passage.range.end == text.trim_end().len());
    }
    for pair in passages.windows(2) {
        let shared = &text[pair[1].range.start..pair[0].range.end];
        let count = tokens.encode(&[shared]).unwrap()[0].len() - 2;
        assert!((28..=32).contains(&count), "{count} tokens shared");
        assert!(pair[0].ids.len() > 250, "{} tokens", pair[0].ids.len());
    }
    let apart = cut(&tokens, &text, 0);
    check(&tokens, 256, &text, &apart);
    assert!(apart.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
}

#[test]
fn text_without_spaces_is_cut_between_tokens_and_bounded() {
    let tokens = tokens();
    let long_word = "a".repeat(300_000);
    let dashes = "a-".repeat(20_000);
    let wide = "東".repeat(5_000);
    let dropped = "\u{1}".repeat(40_000) + "the";
    for text in [&long_word, &dashes, &wide] {
        let passages = cut(&tokens, text, 32);
        check(&tokens, 256, text, &passages);
        assert!(passages.iter().all(|passage| passage.text.len() <= 254 * 64));
    }
    // Characters that the tokenizer drops give no passages, what follows them does.
    assert!(cut(&tokens, &dropped, 32).last().unwrap().text.ends_with("the"));
}

#[test]
fn a_large_document_is_cut_lazily() {
    let tokens = tokens();
    let text = "the long thing ".repeat(4_000_000); // 60 MB
    let started = std::time::Instant::now();
    assert_eq!(tokens.passages(&text).take(10).count(), 10);
    assert!(started.elapsed().as_secs() < 5, "took {:?}: more than the start was tokenised", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_is_lost(
        words in prop::collection::vec("[a-z]{1,12}|the|[.,!-]{1,3}|[a-z]{95,110}|é{1,4}|東{1,9}|e\u{301}|🚀|\n| ", 0..300),
        glue in prop::sample::select(vec![" ", "", "  \n"]),
        longest in 4usize..40,
        overlap in 0usize..40,
    ) {
        let tokens = tokens().longest(longest).unwrap();
        let text = words.join(glue);
        let passages = cut(&tokens, &text, overlap);
        check(&tokens, longest, &text, &passages);
    }
}
