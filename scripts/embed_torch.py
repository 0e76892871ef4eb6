#!/usr/bin/env python3
"""The other side of the bench `embed_vs_torch`: embeds a list of texts with sentence-transformers when told to.

usage: embed_torch.py --model DIR --texts FILE [--batch 32] [--threads N]

FILE holds one JSON value a line: a string, or an object with a "text". After loading and a warm-up one line
{"ready": true, ...} is printed. Each line "run" on stdin then embeds all texts once, tokenising included, and prints
{"seconds": S, "passages": N}. The end of stdin ends the program, so another program can interleave its own blocks
with these. Needs the Python packages torch and sentence-transformers; nothing is downloaded.
"""

import argparse
import json
import os
import sys
import time


def read_texts(path):
    texts = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            value = json.loads(line)
            text = value.get("text") if isinstance(value, dict) else value
            if not isinstance(text, str):
                sys.exit(f"{path}:{number}: neither a string nor an object with a \"text\"")
            texts.append(text)
    if not texts:
        sys.exit(f"{path}: holds no texts")
    return texts


def say(value):
    print(json.dumps(value), flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True, help="directory of the model, as sentence-transformers reads it")
    args.add_argument("--texts", required=True, help="JSON lines, one text each")
    args.add_argument("--batch", type=int, default=32, help="batch size (default 32, the library's own)")
    args.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch threads (default: the cores)")
    args = args.parse_args()
    texts = read_texts(args.texts)

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.threads)
    model = SentenceTransformer(args.model, device="cpu")
    model.max_seq_length = 256
    model = model.float()

    def run():
        model.encode(texts, batch_size=args.batch, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True)

    model.encode(texts[: args.batch], batch_size=args.batch, show_progress_bar=False)
    say({"ready": True, "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": args.batch})
    for line in sys.stdin:
        if line.strip() != "run":
            sys.exit(f"expected the line \"run\", found {line!r}")
        started = time.perf_counter()
        run()
        say({"seconds": time.perf_counter() - started, "passages": len(texts)})


if __name__ == "__main__":
    main()
