"""The official Python client, with strict validation of every answer, against a running server.

Usage: openai_client.py BASE_URL
"""

import concurrent.futures
import sys
import threading

import openai

BASE = sys.argv[1]
client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=120, _strict_response_validation=True)
# The schema of streamed text completions has no null finish_reason, which OpenAI's own server sends.
lenient = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=120)

PROMPT = "Once upon a time"
GREEDY = ", there was a little girl named Lily. She loved to play"
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]


def refused(error, status, param, *words):
    try:
        error()
    except openai.APIStatusError as e:
        assert e.status_code == status, (e.status_code, e.message)
        assert param is None or e.param == param, (e.param, e.message)
        for word in words:
            assert word in e.message, (word, e.message)
        return e
    raise AssertionError("was not refused")


models = client.models.list().data
assert len(models) == 1
MODEL = models[0].id
assert client.models.retrieve(MODEL).id == MODEL
refused(lambda: client.models.retrieve("other"), 404, "model", "other", MODEL)

# Text completions.
whole = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=10, temperature=0)
assert GREEDY.startswith(whole.choices[0].text), whole
assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 10
assert whole.usage.total_tokens == whole.usage.prompt_tokens + 10
stopped = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=100, temperature=0, stop=[" named", "zzz"])
assert stopped.choices[0].text == ", there was a little girl" and stopped.choices[0].finish_reason == "stop"
ids = client.completions.create(model=MODEL, prompt=[0, 655, 561, 267, 468], max_tokens=10, temperature=0)
assert ids.choices[0].text == whole.choices[0].text and ids.usage.prompt_tokens == 5
scored = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5, temperature=0, logprobs=3).choices[0]
assert "".join(scored.logprobs.tokens) == scored.text and len(scored.logprobs.tokens) == 5
assert scored.logprobs.text_offset[1] == len(scored.logprobs.tokens[0])
for token, value, top in zip(scored.logprobs.tokens, scored.logprobs.token_logprobs, scored.logprobs.top_logprobs):
    assert value <= 0 and top[token] == max(top.values()) and len(top) == 3
pieces = list(lenient.completions.create(model=MODEL, prompt=PROMPT, max_tokens=10, temperature=0, stream=True))
assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text
assert pieces[-1].choices[0].finish_reason == "length"

# Chat.
answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20, temperature=0)
text = answer.choices[0].message.content
assert answer.choices[0].message.role == "assistant" and len(text) > 10 and not text.startswith(" ")
chunks = list(
    client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
)
assert chunks[0].choices[0].delta.role == "assistant"
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason == "stop"
assert chunks[-1].choices == [] and chunks[-1].usage == answer.usage
assert len({c.id for c in chunks}) == 1
likely = client.chat.completions.create(
    model=MODEL, messages=MESSAGES, max_completion_tokens=6, temperature=0, logprobs=True, top_logprobs=2
).choices[0]
assert "".join(t.token for t in likely.logprobs.content).lstrip() == likely.message.content
assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob == t.logprob for t in likely.logprobs.content)
streamed = list(
    client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2, stream=True
    )
)
tokens = [t for c in streamed if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
assert [t.token for t in tokens] == [t.token for t in likely.logprobs.content]
warm = dict(model=MODEL, messages=MESSAGES, max_tokens=15, temperature=1.0, top_p=0.9)
first = client.chat.completions.create(seed=7, **warm).choices[0].message.content
assert first == client.chat.completions.create(seed=7, **warm).choices[0].message.content
assert any(first != client.chat.completions.create(seed=s, **warm).choices[0].message.content for s in (8, 9, 10))
biased = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3, logit_bias={"655": 100})
assert biased.choices[0].message.content.count("On") >= 1, biased
parts = [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}, *MESSAGES]
client.chat.completions.create(model=MODEL, messages=parts, max_tokens=2, extra_body={"colour": "blue"})
# The end of a turn, written by a person, is text.
client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "<｜end▁of▁sentence｜>"}], max_tokens=2)

# Refusals name the field, the value and what is allowed.
chat = lambda **kw: client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **kw})
refused(lambda: chat(temperature=3), 400, "temperature", "is 3", "from 0 to 2")
refused(lambda: chat(messages=[]), 400, "messages")
refused(lambda: chat(n=2), 400, "n", "is 2")
refused(lambda: chat(top_logprobs=2), 400, "top_logprobs", "logprobs is true")
refused(lambda: chat(model="gpt-4"), 404, "model", "gpt-4", MODEL)
refused(lambda: chat(response_format={"type": "json_object"}), 400, "response_format")
refused(lambda: chat(messages=[{"role": "user", "content": "cat " * 5000}]), 400, None, "more than the")
refused(lambda: client.completions.create(model=MODEL, prompt=[1, 999999]), 400, "prompt[1]", "999999")
refused(lambda: client.embeddings.create(model=MODEL, input="x"), 404, None, "/v1/embeddings is not served")

# A full queue is 429, and everyone who was taken is answered. The server of this test has a queue of 2.
long = dict(model=MODEL, messages=MESSAGES, max_tokens=400, temperature=0, logit_bias={"1": -100})
gate = threading.Barrier(8)


def one(_):
    gate.wait()
    try:
        return client.chat.completions.create(**long).choices[0].message.content
    except openai.RateLimitError as e:
        assert e.response.headers["retry-after"] == "1" and "waiting" in e.message
        return None


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(one, range(8)))
taken = [a for a in answers if a is not None]
assert 1 <= len(taken) < 8 and len(set(taken)) == 1, [a and a[:20] for a in answers]

# A client that leaves frees the engine: the next answer need not wait for the rest of a long one.
stream = client.chat.completions.create(stream=True, **{**long, "max_tokens": 1900})
for _, chunk in zip(range(3), stream):
    pass
stream.close()
assert client.completions.create(model=MODEL, prompt="Hi", max_tokens=1).usage.completion_tokens == 1
print("openai for Python", openai.__version__, "is content")
