"""Programs and libraries that people have, as they set them up for a server of their own: llm, LiteLLM, LangChain.

Usage: programs.py BASE_URL
"""

import os
import pathlib
import subprocess
import sys
import tempfile

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}

import litellm
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

V1 = sys.argv[1]
ROOT = V1.removesuffix("/v1")
MODEL = "seed-5.7m"
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]
LONG = "cat " * 5000
SCHEMA = {"type": "object", "properties": {"place": {"enum": ["park", "house"]}}, "required": ["place"], "additionalProperties": False}


def refused(kind, call):
    try:
        call()
    except kind as e:
        return str(e)
    raise AssertionError("was not refused")


def with_llm():
    """Simon Willison's llm: a model of its file extra-openai-models.yaml, streamed and whole, and a conversation that goes on."""
    with tempfile.TemporaryDirectory() as home:
        entry = f"- model_id: farthing\n  model_name: {MODEL}\n  api_base: {V1}\n"
        pathlib.Path(home, "extra-openai-models.yaml").write_text(entry)
        program = pathlib.Path(sys.executable).with_name("llm")

        def asked(*args):
            limits = ["-o", "temperature", "0", "-o", "max_tokens", "20"]
            environment = {**os.environ, "LLM_USER_PATH": home}
            return subprocess.run([program, *args, *limits], env=environment, check=True, capture_output=True, text=True).stdout.strip()

        streamed = asked("-m", "farthing", MESSAGES[0]["content"])
        assert streamed and streamed == asked("-m", "farthing", "--no-stream", MESSAGES[0]["content"])
        assert asked("-c", "And then?")


def with_litellm():
    litellm.suppress_debug_info = True
    tools = [{"type": "function", "function": {"name": "go", "parameters": SCHEMA, "strict": True}}]
    forced = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "go"}}, "parallel_tool_calls": False}
    for provider, base in (("openai", V1), ("hosted_vllm", V1), ("anthropic", ROOT), ("ollama_chat", ROOT)):
        common = dict(model=f"{provider}/{MODEL}", api_base=base, api_key="none", temperature=0, max_tokens=20)
        whole = litellm.completion(messages=MESSAGES, **common).choices[0].message.content
        chunks = litellm.completion(messages=MESSAGES, stream=True, **common)
        assert whole and whole == "".join(c.choices[0].delta.content or "" for c in chunks), provider
        if provider == "ollama_chat":
            continue
        called = litellm.completion(messages=MESSAGES, **forced, **{**common, "max_tokens": 300}).choices[0].message.tool_calls[0]
        turn = {"role": "assistant", "content": None, "tool_calls": [called.model_dump()]}
        result = {"role": "tool", "tool_call_id": called.id, "content": "It rains."}
        litellm.completion(messages=[*MESSAGES, turn, result], tools=tools, **common)
        refused(litellm.ContextWindowExceededError, lambda: litellm.completion(messages=[{"role": "user", "content": LONG}], **common))


def with_langchain():
    @tool(args_schema=SCHEMA)
    def go(place):
        """Go there."""
        return f"It rains in the {place}."

    models = {
        "chat": ChatOpenAI(model=MODEL, base_url=V1, api_key="none", max_tokens=300, temperature=0),
        "responses": ChatOpenAI(model=MODEL, base_url=V1, api_key="none", max_tokens=300, temperature=0, use_responses_api=True),
        "anthropic": ChatAnthropic(model=MODEL, base_url=ROOT, api_key="none", max_tokens=300, temperature=0),
        "ollama": ChatOllama(model=MODEL, base_url=ROOT, num_predict=300, temperature=0),
    }
    question = HumanMessage("Go to the park.")
    for name, model in models.items():
        assert model.invoke([question]).text == "".join(part.text for part in model.stream([question])), name
        shaped = model.with_structured_output(SCHEMA | {"title": "Go", "description": "A place."}, method="json_schema")
        assert shaped.invoke([question])["place"] in ("park", "house"), name
        if name == "ollama":  # it has no choice of tools
            continue
        call = None
        for part in model.bind_tools([go], tool_choice="go", parallel_tool_calls=False).stream([question]):
            call = part if call is None else call + part
        assert call.tool_calls[0]["args"]["place"] in ("park", "house"), (name, call)
        result = go.invoke(call.tool_calls[0])
        assert model.bind_tools([go]).invoke([question, call, result]).usage_metadata["output_tokens"] > 0, name
        refused(ContextOverflowError, lambda: model.invoke(LONG))


with_llm()
with_litellm()
with_langchain()
print("llm, LiteLLM and LangChain are content")
