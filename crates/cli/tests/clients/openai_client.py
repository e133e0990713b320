"""The official Python client, with strict validation of every answer, against a running server.

Usage: openai_client.py BASE_URL
"""

import concurrent.futures
import json
import sys
import threading
import time

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

# Several answers, the best of several, several prompts, the prompt given back.
several = client.chat.completions.create(seed=7, n=3, **warm)
assert [c.index for c in several.choices] == [0, 1, 2] and several.choices[0].message.content == first
assert len({c.message.content for c in several.choices}) > 1 and several.usage.prompt_tokens == answer.usage.prompt_tokens
assert several.usage.prompt_tokens_details.cached_tokens + several.usage.prompt_cache_miss_tokens == several.usage.prompt_tokens
together = {}
for chunk in client.chat.completions.create(seed=7, n=3, stream=True, **warm):
    for choice in chunk.choices:
        together[choice.index] = together.get(choice.index, "") + (choice.delta.content or "")
assert together == {c.index: c.message.content for c in several.choices}
best = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=1.5, seed=1, n=2, best_of=6, logprobs=0)
means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in best.choices]
assert len(best.choices) == 2 and means[0] >= means[1] and best.usage.completion_tokens > 24
batch = client.completions.create(model=MODEL, prompt=[PROMPT, "Hello", [0, 655]], max_tokens=10, temperature=0)
assert [c.index for c in batch.choices] == [0, 1, 2] and batch.choices[0].text == whole.choices[0].text
echo = lenient.completions.create(model=MODEL, prompt=[0, 655, 561, 267, 468], max_tokens=1, temperature=0, echo=True, logprobs=1)
lp = echo.choices[0].logprobs
assert echo.choices[0].text.startswith("Once upon a time") and len(lp.tokens) == 6
assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None and lp.text_offset[:4] == [0, 0, 4, 9]
assert all(v < 0 and max(t.values()) >= v for v, t in zip(lp.token_logprobs[1:], lp.top_logprobs[1:]))
assert lp.token_logprobs[-1] == scored.logprobs.token_logprobs[0]
only = lenient.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1).choices[0]
assert only.text == "Once upon a time" and only.logprobs.token_logprobs[:5] == lp.token_logprobs[:5]

# The answer goes on from its beginning.
begun = [*MESSAGES, {"role": "assistant", "content": "The cat", "prefix": True}]
assert not client.chat.completions.create(model=MODEL, messages=begun, max_tokens=4, temperature=0).choices[0].message.content.startswith("The cat")
refused(lambda: client.chat.completions.create(model=MODEL, messages=[{**MESSAGES[0], "prefix": True}]), 400, "messages[0].prefix")

# Calls, forced by a grammar: the small model was never taught any.
SCHEMA = {"type": "object", "properties": {"place": {"enum": ["park", "house"]}}, "required": ["place"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "go", "description": "Go there.", "parameters": SCHEMA, "strict": True}}]
calling = dict(model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=0)
called = client.chat.completions.create(**calling).choices[0]
assert called.finish_reason == "tool_calls" and len(called.message.tool_calls) == 1, called
call = called.message.tool_calls[0]
assert call.function.name == "go" and json.loads(call.function.arguments)["place"] in ("park", "house")
chunks = [c for c in client.chat.completions.create(stream=True, **calling)]
deltas = [d for c in chunks for d in (c.choices[0].delta.tool_calls or [])]
assert deltas[0].id.startswith("call_") and deltas[0].function.name == "go" and {d.index for d in deltas} == {0}
assert "".join(d.function.arguments for d in deltas) == call.function.arguments and chunks[-1].choices[0].finish_reason == "tool_calls"
named = client.chat.completions.create(**{**calling, "tool_choice": {"type": "function", "function": {"name": "go"}}})
assert named.choices[0].message.tool_calls[0].function.name == "go"
result = [*MESSAGES, called.message, {"role": "tool", "tool_call_id": call.id, "content": "It rains."}]
client.chat.completions.create(model=MODEL, messages=result, tools=TOOLS, max_tokens=5, n=2, service_tier="flex", reasoning_effort="low")
old = client.chat.completions.create(
    model=MODEL, messages=MESSAGES, functions=[TOOLS[0]["function"]], function_call={"name": "go"}, temperature=0
).choices[0]
assert old.finish_reason == "function_call" and json.loads(old.message.function_call.arguments)
form = {"type": "json_schema", "json_schema": {"name": "trip", "strict": True, "schema": SCHEMA}}
shaped = client.chat.completions.create(model=MODEL, messages=MESSAGES, response_format=form, temperature=1)
assert json.loads(shaped.choices[0].message.content)["place"] in ("park", "house")
choice = client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
assert choice.choices[0].message.content in ("yes", "no")

# Responses.
made = client.responses.create(model=MODEL, input="Tell me a story about a cat.", max_output_tokens=200, temperature=0)
assert made.status == "completed" and made.output_text.strip() == text.strip() and made.usage.input_tokens == answer.usage.prompt_tokens
events = list(client.responses.create(model=MODEL, input="Tell me a story about a cat.", max_output_tokens=200, temperature=0, stream=True))
assert [e.sequence_number for e in events] == list(range(len(events))) and events[-1].type == "response.completed"
assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == events[-1].response.output_text == made.output_text
flat = [{"type": "function", "name": "go", "parameters": SCHEMA, "strict": True}]
asked = dict(model=MODEL, input=[{"role": "user", "content": "Go."}], tools=flat, tool_choice="required", parallel_tool_calls=False, temperature=0)
item = client.responses.create(**asked).output[0]
assert item.type == "function_call" and json.loads(item.arguments)["place"] in ("park", "house")
with client.responses.stream(**asked) as stream:
    assert stream.get_final_response().output[0].arguments == item.arguments
history = [{"role": "user", "content": "Go."}, item.model_dump(), {"type": "function_call_output", "call_id": item.call_id, "output": "Done."}]
client.responses.create(model=MODEL, input=history, tools=flat, max_output_tokens=5, instructions="Be brief.", metadata={"a": "b"})
shape = client.responses.create(model=MODEL, input="Hi", text={"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA}})
assert json.loads(shape.output_text)

# Batches: files up, lines answered, results down.
def batch_line(name, **changes):
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 20, "temperature": 0, **changes}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"


def begun(lines):
    file = client.files.create(file=("in.jsonl", "".join(lines).encode()), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert client.files.retrieve(file.id) == file and file.bytes == len("".join(lines)) and file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).text == "".join(lines)
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "tests"})


def ended(batch):
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


batch = ended(begun([batch_line("one"), batch_line("wrong", temperature=3), batch_line("two")]))
assert batch.status == "completed" and batch.metadata == {"for": "tests"}, batch
assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
results = {line["custom_id"]: line for line in map(json.loads, client.files.content(batch.output_file_id).text.splitlines())}
assert sorted(results) == ["one", "two"] and results["one"]["error"] is None
assert results["two"]["response"]["body"]["choices"][0]["message"]["content"] == text
wrong = json.loads(client.files.content(batch.error_file_id).text)
assert wrong["response"]["status_code"] == 400 and wrong["response"]["body"]["error"]["param"] == "temperature"
mixed = ended(begun([batch_line("one"), batch_line("one")]))
assert mixed.status == "failed" and mixed.errors.data[0].code == "duplicate_custom_id" and mixed.errors.data[0].line == 2
stopped = begun([batch_line(str(n), max_tokens=1500, logit_bias={"1": -100}) for n in range(100)])
assert client.batches.cancel(stopped.id).status == "cancelling"
assert ended(stopped).status == "cancelled"
assert [b.id for b in client.batches.list(limit=1)][:3] == [stopped.id, mixed.id, batch.id]
assert batch.output_file_id in [f.id for f in client.files.list(purpose="batch_output", limit=1)]
for file in client.files.list():
    assert client.files.delete(file.id).deleted
assert client.files.list().data == []
refused(lambda: client.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"), 404, "input_file_id")
refused(lambda: client.batches.cancel(batch.id), 409, None, "has ended")
refused(lambda: client.files.create(file=b"{}", purpose="assistants"), 400, "purpose", "batch")

# Refusals name the field, the value and what is allowed.
chat = lambda **kw: client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **kw})
refused(lambda: chat(temperature=3), 400, "temperature", "is 3", "from 0 to 2")
refused(lambda: chat(messages=[]), 400, "messages")
refused(lambda: chat(n=17), 400, "n", "is 17", "from 1 to 16")
refused(lambda: chat(top_logprobs=2), 400, "top_logprobs", "logprobs is true")
refused(lambda: chat(model="gpt-4"), 404, "model", "gpt-4", MODEL)
refused(lambda: chat(response_format={"type": "xml"}), 400, "response_format.type")
refused(lambda: chat(tool_choice="required"), 400, "tool_choice", "without tools")
refused(lambda: chat(extra_headers={"x-request-timeout": "soon"}), 400, "x-request-timeout", "soon")
refused(lambda: chat(messages=[{"role": "user", "content": "cat " * 5000}]), 400, None, "maximum context length is")
refused(lambda: client.completions.create(model=MODEL, prompt=[1, 999999]), 400, "prompt[1]", "999999")
refused(lambda: client.embeddings.create(model=MODEL, input="x"), 400, None, "makes no embeddings")
refused(lambda: client.responses.create(model=MODEL, input="x", previous_response_id="r"), 400, "previous_response_id", "stored")
refused(lambda: client.responses.retrieve("resp_1"), 404, None, "not served")
deepseek = openai.OpenAI(base_url=BASE.removesuffix("/v1"), api_key="none", max_retries=0, _strict_response_validation=True)
try:
    deepseek.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    raise AssertionError("was not refused")
except openai.UnprocessableEntityError as e:
    assert e.param == "temperature"

# A full queue is 429, and everyone who was taken is answered. The server of this test runs 32 and has a queue of 2.
long = dict(model=MODEL, messages=MESSAGES, max_tokens=400, temperature=0, logit_bias={"1": -100})
gate = threading.Barrier(64)


def one(_):
    gate.wait()
    try:
        return client.chat.completions.create(**long).choices[0].message.content
    except openai.RateLimitError as e:
        assert int(e.response.headers["retry-after"]) >= 1 and "waiting" in e.message
        return None


with concurrent.futures.ThreadPoolExecutor(64) as pool:
    answers = list(pool.map(one, range(64)))
taken = [a for a in answers if a is not None]
assert 1 <= len(taken) < 64 and len(set(taken)) == 1, [a and a[:20] for a in answers]

# A client that leaves frees the engine: the next answer need not wait for the rest of a long one.
stream = client.chat.completions.create(stream=True, **{**long, "max_tokens": 1900})
for _, chunk in zip(range(3), stream):
    pass
stream.close()
assert client.completions.create(model=MODEL, prompt="Hi", max_tokens=1).usage.completion_tokens == 1
print("openai for Python", openai.__version__, "is content")
