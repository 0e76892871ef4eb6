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
    if compiled:
        compile_model(torch, model)
    return torch, model


def compile_model(torch, model):
    # Every text of a race has one length, so each batch size is one shape, compiled for what it is.
    import sentence_transformers

    if int(sentence_transformers.__version__.split(".")[0]) >= 6:
        model.compile(dynamic=False)
    else:
        # Before, `encode` passed by what the whole model's `compile` does.
        model[0].auto_model = torch.compile(model[0].auto_model, dynamic=False)


def compiled_graphs():
    import torch._dynamo.utils

    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def batches(texts, size):
    """Whole batches for ever: one text comes again and again, and none is left over."""
    at = 0
    while True:
        yield [texts[(at + i) % len(texts)] for i in range(size)]
        at = (at + size) % len(texts)


def embed_texts(model, batch, size):
    vectors = model.encode(batch, batch_size=size, show_progress_bar=False, convert_to_numpy=True)
    return len(vectors)


def tokenize(model, batch):
    # Which of the two there is depends on the version.
    return (getattr(model, "preprocess", None) or model.tokenize)(batch)


def tensors(torch, features, change):
    return {name: change(value) if torch.is_tensor(value) else value for name, value in features.items()}


def tokenized(torch, model, texts, size):
    """The batches of ids, pinned where there is a card, made before the clock runs."""
    made = []
    source = batches(texts, size)
    for _ in range(max(1, min(8, 4096 // size))):
        features = tokenize(model, next(source))
        if torch.cuda.is_available():
            features = tensors(torch, features, lambda value: value.pin_memory())
        made.append(features)
    return made


def embed_ids(torch, model, features):
    with torch.inference_mode():
        moved = tensors(torch, features, lambda value: value.to(model.device, non_blocking=True))
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
    torch, model = load(arguments.model, arguments.compile)
    import sentence_transformers
    import transformers

    tokens = tokenize(model, texts[:1])["input_ids"].shape[1]
    if tokens != arguments.length:
        sys.exit(f"the tokenizer makes {tokens} tokens of a text of {arguments.length}")
    say({
        "ready": True,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "dtype": str(next(model.parameters()).dtype),
        "attention": getattr(model[0].auto_model.config, "_attn_implementation", "unknown"),
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
        if arguments.compile and not compiled_graphs():
            sys.exit("nothing was compiled: this version of sentence-transformers wants another way")
        if torch.cuda.is_available():
            answer["vram_mib"] = torch.cuda.max_memory_reserved() / 2**20
        say(answer)


if __name__ == "__main__":
    main()
