"""Anthropic's official Python client, with strict validation of every answer, against a running server.

Usage: anthropic_client.py BASE_URL
"""

import sys
import time

import anthropic

BASE = sys.argv[1].removesuffix("/v1")
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]
SCHEMA = {"type": "object", "properties": {"place": {"enum": ["park", "house"]}}, "required": ["place"], "additionalProperties": False}
TOOLS = [{"name": "go", "description": "Go there.", "input_schema": SCHEMA}]

for base in (BASE, BASE + "/anthropic"):
    client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, timeout=120, _strict_response_validation=True)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).display_name == model
    plain = dict(model=model, max_tokens=200, messages=MESSAGES, extra_body={"temperature": 0})

    whole = client.messages.create(**plain)
    assert whole.stop_reason == "end_turn" and whole.stop_sequence is None and whole.content[0].type == "text", whole
    count = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    used = whole.usage
    assert used.input_tokens + used.cache_creation_input_tokens + used.cache_read_input_tokens == count

    with client.messages.stream(**plain) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and final.content[0].text == whole.content[0].text, kinds
    assert final.usage.output_tokens == whole.usage.output_tokens and final.stop_reason == "end_turn"

    cut = client.messages.create(**{**plain, "max_tokens": 3})
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    word = whole.content[0].text.split()[2]
    stopped = client.messages.create(stop_sequences=["zzz", word], **plain)
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == word
    assert word not in stopped.content[0].text

    # Calls, forced by a grammar: the small model was never taught any.
    once = {"type": "any", "disable_parallel_tool_use": True}
    call = client.messages.create(tools=TOOLS, tool_choice=once, **plain)
    assert call.stop_reason == "tool_use" and call.content[0].name == "go" and call.content[0].input["place"] in ("park", "house")
    with client.messages.stream(tools=TOOLS, tool_choice={"type": "tool", "name": "go", "disable_parallel_tool_use": True}, **plain) as stream:
        assert stream.get_final_message().content[0].input == call.content[0].input
    result = [{"type": "tool_result", "tool_use_id": call.content[0].id, "content": [{"type": "text", "text": "It rains."}]}]
    client.messages.create(
        model=model,
        max_tokens=5,
        system=[{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        messages=[*MESSAGES, {"role": "assistant", "content": call.content}, {"role": "user", "content": result}],
        tools=TOOLS,
        tool_choice={"type": "none"},
        metadata={"user_id": "u"},
        thinking={"type": "disabled"},
        service_tier="auto",
        extra_body={"top_k": 5, "top_p": 0.9},
    )
    begun = client.messages.create(**{**plain, "messages": [*MESSAGES, {"role": "assistant", "content": "The cat"}], "max_tokens": 4})
    assert not begun.content[0].text.startswith("The cat")

    def refused(kind, words, **changes):
        try:
            client.messages.create(**{**plain, **changes})
        except kind as e:
            assert e.body["type"] == "error" and e.body["request_id"] and words in e.body["error"]["message"], e.body
            return e
        raise AssertionError("was not refused")

    refused(anthropic.BadRequestError, "temperature is 3", extra_body={"temperature": 3})
    refused(anthropic.NotFoundError, "model is \"other\"", model="other")
    refused(anthropic.BadRequestError, "prompt is too long: ", messages=[{"role": "user", "content": "cat " * 5000}])
    # Batches.
    def ended(batch):
        while batch.processing_status != "ended":
            time.sleep(0.05)
            batch = client.messages.batches.retrieve(batch.id)
        return batch

    asked = {"model": model, "max_tokens": 200, "messages": MESSAGES, "temperature": 0}
    made = client.messages.batches.create(requests=[{"custom_id": "one", "params": asked}, {"custom_id": "wrong", "params": {**asked, "temperature": 3}}])
    assert made.request_counts.processing == 2 and made.results_url is None
    batch = ended(made)
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (1, 1) and batch.ended_at is not None, batch
    results = {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}
    assert results["one"].type == "succeeded" and results["one"].message.content[0].text == whole.content[0].text
    assert results["wrong"].type == "errored" and "temperature is 3" in results["wrong"].error.error.message
    long = {**asked, "max_tokens": 1500, "temperature": 1}
    stopped = client.messages.batches.create(requests=[{"custom_id": str(n), "params": long} for n in range(200)])
    assert client.messages.batches.cancel(stopped.id).processing_status == "canceling"
    assert ended(stopped).request_counts.canceled > 0
    assert {line.result.type for line in client.messages.batches.results(stopped.id)} <= {"succeeded", "canceled"}
    assert [b.id for b in client.messages.batches.list(limit=1)][:2] == [stopped.id, batch.id]
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"

    search = {"type": "web_search_20250305", "name": "web_search"}
    refused(anthropic.BadRequestError, "tool_choice", tools=[search], tool_choice={"type": "tool", "name": "web_search"})

print("anthropic for Python", anthropic.__version__, "is content")
