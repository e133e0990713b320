"""A real model, as a person and a program use it. Usage: check.py FARTHING MODEL REFERENCE

The reference holds the 10 most likely tokens after each token of a text and the text's loss, by a forward pass in f32 with NumPy over the weights as
the Python package `gguf` dequantizes them. Farthing multiplies quantized weights by activations in 8 bits, so the two differ by a little."""

import json
import math
import struct
import subprocess
import sys
import tempfile
import urllib.request

farthing, model, reference = sys.argv[1:4]
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def run(*arguments, stdin=""):
    done = subprocess.run([farthing, *arguments], input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def logits():
    """The reference's ids and a row of log-probabilities after each."""
    wanted = json.load(open(reference))
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        run("trace", model, "--tokens", ",".join(map(str, wanted["ids"])), "-o", file.name, "--quiet")
        data = open(file.name, "rb").read()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    start = 8 + struct.unpack("<Q", data[:8])[0] + header["logits"]["data_offsets"][0]
    rows, vocab = header["logits"]["shape"]
    assert rows == len(wanted["ids"])
    for t in range(rows):
        row = struct.unpack_from(f"<{vocab}f", data, start + 4 * vocab * t)
        most = max(row)
        total = most + math.log(sum(math.exp(x - most) for x in row))
        yield wanted, t, lambda token: row[token] - total


def against_the_reference():
    divergences, loss = [], 0.0
    for wanted, t, ours in logits():
        # Of the whole divergence the terms of the likeliest tokens, which hold nearly all of it.
        divergences.append(sum(math.exp(theirs) * (theirs - ours(token)) for token, theirs in wanted["top"][t]))
        if t + 1 < len(wanted["ids"]):
            loss -= ours(wanted["ids"][t + 1])
    loss /= len(divergences) - 1
    mean = sum(divergences) / len(divergences)
    print(f"real model: loss {loss:.4f}, the reference's is {wanted['loss']}; divergence {mean:.4f} nats a token, at most {max(divergences):.4f}")
    assert abs(loss - wanted["loss"]) < 0.05, loss
    assert abs(mean) < 0.02 and max(divergences) < 0.15, divergences


def as_a_person():
    settings = run("chat", model, "--quiet", stdin="/set\n")
    assert settings.startswith("temperature 0.8, top_k 40, top_p 0.95, min_p 0.05,"), settings
    for seed in ("1", "2", "3"):
        answer = run("generate", model, "--chat", "--quiet", "--seed", seed, "-n", "60", "-p", "What is the capital of France?")
        assert "Paris" in answer or "France" in answer, answer
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("The sun rose over the hills, and the birds began to sing. Farmers went out to their fields to work.\n" * 4)
        text.flush()
        loss = json.loads(run("perplexity", model, "--text", text.name, "--json", "--quiet"))
    assert 0.2 < loss["loss"] < 2.5, loss


def as_a_program():
    server = subprocess.Popen(
        [farthing, "serve", model, "--port", "0", "--name", "smol,gpt-4o-mini", "--disk-cache", "off"], stderr=subprocess.PIPE, text=True
    )
    try:
        for line in server.stderr:
            if " at http://" in line:
                url = line.split(" at ")[1].split("/v1")[0]
                break

        def post(path, body):
            request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            return json.load(urllib.request.urlopen(request, timeout=300))

        asked = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "model": "gpt-4o-mini"}
        prompt = post("/apply-template", asked)["prompt"]
        assert prompt == SYSTEM + "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", prompt
        for question, word in [("What is 2 + 2?", "4"), ("What color is the sky?", "blue")]:
            simple = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 100}
            choice = post("/v1/chat/completions", simple)["choices"][0]
            text = choice["message"]["content"]
            assert word in text and choice["finish_reason"] == "stop" and "<|" not in text, choice
        properties = {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "minimum": 0, "maximum": 100000000}}
        schema = {"type": "object", "properties": properties, "required": ["city", "people"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
        text = post("/v1/chat/completions", asked | {"response_format": form, "temperature": 0, "max_tokens": 60})["choices"][0]["message"]["content"]
        city = json.loads(text)
        assert set(city) == {"city", "people"} and isinstance(city["people"], int), text
        print(f"real model: {text}")
    finally:
        server.terminate()
        server.wait()


against_the_reference()
as_a_person()
as_a_program()
print("real model: fine")
