"""Embeddings with the official Python clients of OpenAI and Ollama, and scores, against a running server of the reference's embedding model.

Usage: embeddings_client.py BASE_URL REFERENCE.json
"""

import json
import math
import sys

import ollama
import openai

BASE = sys.argv[1]
entries = json.load(open(sys.argv[2]))["embedded"]
client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=120, _strict_response_validation=True)
# It asks for Base64 unless it is told otherwise, and decodes it; its own schema has no such answer.
lenient = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=120)
local = ollama.Client(host=BASE.removesuffix("/v1"))
model = client.models.list().data[0].id


def close(ours, theirs):
    assert len(ours) == len(theirs) and all(abs(a - b) <= 1e-4 for a, b in zip(ours, theirs)), (ours, theirs)


def unit(numbers):
    length = math.sqrt(sum(x * x for x in numbers))
    return [x / length for x in numbers]


texts = [entry["text"] for entry in entries]
for of, options in [(lenient, {}), (client, {"encoding_format": "float"})]:
    answer = of.embeddings.create(model=model, input=texts, **options)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(entry["ids"]) for entry in entries)
    for entry, data in zip(entries, answer.data, strict=True):
        close(data.embedding, entry["last"])
answer = lenient.embeddings.create(model=model, input=[entry["ids"] for entry in entries], dimensions=8)
for entry, data in zip(entries, answer.data, strict=True):
    close(data.embedding, unit(entry["last"][:8]))
try:
    client.embeddings.create(model=model, input="word " * 10_000)
    raise AssertionError("was not refused")
except openai.BadRequestError as error:
    assert "maximum context length is" in error.message, error.message
try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    raise AssertionError("was not refused")
except openai.BadRequestError as error:
    assert error.code == "generation_unsupported", error

answer = local.embed(model=model, input=texts)
for entry, vector in zip(entries, answer.embeddings, strict=True):
    close(vector, entry["last"])
close(local.embeddings(model=model, prompt=texts[0]).embedding, entries[0]["last"])
assert len(local.embed(model=model, input="word " * 10_000, dimensions=4).embeddings[0]) == 4
assert local.show(model).capabilities == ["embedding"]
print(f"embeddings: openai {openai.__version__} and ollama accept every answer")
