"""PyTorch's side of scripts/gpu-check: sentence-transformers that embeds when it is told to.

usage: gpu_check_torch.py --model DIR --length L [--compile]

Speaks the protocol of `gpu-check serve`: after loading it prints {"ready": true, ...}; each line `go SECONDS BATCH MODE`
has it embed for so long in batches of BATCH and print {"items": N, "seconds": S}. MODE is `texts` (the whole of
`SentenceTransformer.encode`) or `ids` (token ids in host memory to vectors in host memory). Half precision, on the card.
What had begun when the time was over is finished and counted. Nothing is downloaded.
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def say(value):
    print(json.dumps(value), flush=True)


def load(directory, compiled):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_grad_enabled(False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SentenceTransformer(directory, device=device)
    if device == "cuda":
        model = model.half()
    model.eval()
    model.max_seq_length = 512
    network = getattr(model[0], "auto_model", None) or model[0].model
    if compiled:
        # Every batch has one shape, so each is compiled for what it is.
        network.compile(dynamic=False)
    return torch, model, network


def batches(texts, size):
    """Whole batches for ever: one text comes again and again, and none is left over."""
    at = 0
    while True:
        yield [texts[(at + i) % len(texts)] for i in range(size)]
        at = (at + size) % len(texts)


def embed_texts(model, batch, size):
    vectors = model.encode(batch, batch_size=size, show_progress_bar=False, convert_to_numpy=True)
    return len(vectors)


def tokenize(torch, model, batch):
    # Which of the two there is depends on the version.
    made = (getattr(model, "preprocess", None) or model.tokenize)(batch)
    return {name: value for name, value in made.items() if torch.is_tensor(value)}


def tokenized(torch, model, texts, size):
    """The batches of ids, pinned where there is a card, made before the clock runs."""
    made = []
    source = batches(texts, size)
    for _ in range(max(1, min(8, 4096 // size))):
        features = tokenize(torch, model, next(source))
        if torch.cuda.is_available():
            features = {name: value.pin_memory() for name, value in features.items()}
        made.append(features)
    return made


def embed_ids(torch, model, features):
    with torch.inference_mode():
        moved = {name: value.to(model.device, non_blocking=True) for name, value in features.items()}
        vectors = model(moved)["sentence_embedding"].float().cpu().numpy()
    return len(vectors)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--length", type=int, required=True)
    arguments.add_argument("--compile", action="store_true")
    arguments = arguments.parse_args()
    with open(os.path.join(arguments.model, f"texts-{arguments.length}.txt"), encoding="utf-8") as lines:
        texts = lines.read().splitlines()
    torch, model, network = load(arguments.model, arguments.compile)
    import sentence_transformers
    import transformers

    tokens = tokenize(torch, model, texts[:1])["input_ids"].shape[1]
    if tokens != arguments.length:
        sys.exit(f"the tokenizer makes {tokens} tokens of a text of {arguments.length}")
    say({
        "ready": True,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "dtype": str(next(network.parameters()).dtype),
        "attention": getattr(network.config, "_attn_implementation", "unknown"),
        "device": str(model.device),
    })

    ids = {}
    for line in sys.stdin:
        word, seconds, size, mode = line.split()
        if word != "go" or mode not in ("texts", "ids"):
            sys.exit(f"expected `go SECONDS BATCH texts|ids`, found {line!r}")
        seconds, size, items = float(seconds), int(size), 0
        if mode == "ids" and size not in ids:
            ids[size] = tokenized(torch, model, texts, size)
        source = batches(texts, size)
        started = time.perf_counter()
        turn = 0
        while True:
            if mode == "texts":
                # Several batches a call, as a user would.
                call = [text for _ in range(max(1, 1024 // size)) for text in next(source)]
                items += embed_texts(model, call, size)
            else:
                items += embed_ids(torch, model, ids[size][turn % len(ids[size])])
            turn += 1
            if time.perf_counter() - started >= seconds:
                break
        answer = {"items": items, "seconds": time.perf_counter() - started}
        if torch.cuda.is_available():
            answer["vram_mib"] = torch.cuda.max_memory_reserved() / 2**20
        say(answer)


if __name__ == "__main__":
    main()
