#!/usr/bin/env python3
"""Asks embed_http with the openai client, and compares with the vectors that sentence-transformers made.

usage: openai_client.py BASE_URL

Every text of tests/data/minilm_reference.json, in every way that the client has: one list, one request a text from 16
threads, as floats and as the base64 that the client asks for by itself, as token ids, with and without asyncio; and
what must fail. Needs the Python package openai. The last line is JSON: how many vectors were compared, and the largest
1 - cosine among them. Ends with an error if that is 1e-5 or more, or if anything else is not as OpenAI's API says.
"""

import asyncio
import concurrent.futures
import json
import math
import pathlib
import sys

import openai

LIMIT = 1e-5
MODEL = "all-MiniLM-L6-v2"
# What the model's vocabulary makes of "hello world".
HELLO_WORLD = [101, 7592, 2088, 102]

base = sys.argv[1].rstrip("/") + "/v1"
client = openai.OpenAI(base_url=base, api_key="none is needed", max_retries=0, timeout=60)
here = pathlib.Path(__file__).resolve().parent
reference = json.loads((here.parent / "tests/data/minilm_reference.json").read_text())
texts, vectors = reference["texts"], reference["vectors"]
compared, worst = 0, 0.0


def compare(vector, expected):
    global compared, worst
    assert len(vector) == len(expected), f"{len(vector)} numbers instead of {len(expected)}"
    dot = math.fsum(a * b for a, b in zip(vector, expected))
    norms = math.sqrt(math.fsum(a * a for a in vector) * math.fsum(b * b for b in expected))
    compared, worst = compared + 1, max(worst, 1 - dot / norms)


def check(answer, expected):
    assert answer.object == "list" and answer.model == MODEL, answer
    assert [item.index for item in answer.data] == list(range(len(expected)))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0, answer.usage
    for item, vector in zip(answer.data, expected):
        assert item.object == "embedding"
        compare(item.embedding, vector)


def fails(status, **request):
    try:
        client.embeddings.create(**request)
    except openai.APIStatusError as why:
        assert why.status_code == status, f"{request}: {why.status_code} instead of {status}"
        return
    raise AssertionError(f"{request}: it was answered")


def embed(**request):
    return client.embeddings.create(model=MODEL, **request)


# The client asks for base64 by itself, and decodes it.
check(embed(input=texts), vectors)
check(embed(input=texts, encoding_format="float"), vectors)
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    for answer, vector in zip(pool.map(lambda text: embed(input=text), texts), vectors):
        check(answer, [vector])

hello = vectors[texts.index("hello world")]
answer = embed(input=HELLO_WORLD)
check(answer, [hello])
assert answer.usage.prompt_tokens == len(HELLO_WORLD), answer.usage
assert embed(input="hello world").usage.prompt_tokens == len(HELLO_WORLD)
check(embed(input=[HELLO_WORLD] * 3, encoding_format="float"), [hello] * 3)


async def without_threads():
    async with openai.AsyncOpenAI(base_url=base, api_key="none is needed", max_retries=0, timeout=60) as one:
        requests = [one.embeddings.create(model=MODEL, input=[text]) for text in texts]
        for answer, vector in zip(await asyncio.gather(*requests), vectors):
            check(answer, [vector])


asyncio.run(without_threads())

fails(422, model=MODEL, input=[])
fails(422, model=MODEL, input="a", dimensions=7)
fails(422, model=MODEL, input=["a"] * 2049)
fails(422, model=MODEL, input=[[1, 2], "a"])
fails(422, model=MODEL, input="a", encoding_format="hex")

print(json.dumps({"vectors": compared, "worst": worst, "client": openai.__version__}))
sys.exit(f"1 - cosine is up to {worst:.1e}; it should be under {LIMIT:.0e}" if worst >= LIMIT else 0)
