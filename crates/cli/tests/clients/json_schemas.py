"""Answers under JSON Schemas, judged by Python's jsonschema: what ends by itself is valid.

Usage: json_schemas.py BASE_URL [DIRECTORY [COUNT [BIAS]]]

Without a directory, small schemas of our own: all must be taken, end, and be valid. With one (such as `data` of
JSONSchemaBench), COUNT schemas (300) out of the *.json files below it: those may be refused, with a reason, or be cut.
The small model knows no end of a string: BIAS (0) makes quotes and closing brackets likelier, so that more of them end.
"""

import collections
import concurrent.futures
import decimal
import hashlib
import json
import pathlib
import re
import sys
import urllib.error
import urllib.request

import jsonschema

WORD = {"type": "string", "pattern": "^[a-z]{1,8}$"}


def record(required=True, **properties):
    names = list(properties) if required is True else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


OWN = [
    record(answer={"type": "boolean"}),
    record(colour={"enum": ["red", "green", None, 3, {"r": 1}, ["x"]]}),
    record(kind={"const": {"a": [1, "two", None]}}),
    record(age={"type": "integer", "minimum": -7, "maximum": 123}),
    record(share={"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    record(even={"type": "integer", "multipleOf": 4, "minimum": 0, "maximum": 400}),
    record(code={"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"}),
    record(part={"type": "string", "pattern": "ab", "maxLength": 12}),
    record(word={"type": "string", "minLength": 3, "maxLength": 9}),
    record(day={"type": "string", "format": "date"}, at={"type": "string", "format": "time"}),
    record(id={"type": "string", "format": "uuid"}, host={"type": "string", "format": "ipv4"}),
    record(list={"type": "array", "items": WORD, "minItems": 2, "maxItems": 4}),
    record(pair={"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2}),
    record([], first=WORD, second={"type": "null"}, third={"type": "boolean"}),
    record(either={"anyOf": [record(a=WORD), record(b={"type": "boolean"})]}),
    record(one={"oneOf": [{"type": "boolean"}, {"type": "string", "const": "x"}, {"type": "null"}]}),
    record(both={"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 11}]}),
    {"$defs": {"node": record(["name"], name=WORD, left={"$ref": "#/$defs/leaf"}), "leaf": record(v={"type": "boolean"})}, "$ref": "#/$defs/node"},
    {"type": "object", "properties": {"a": WORD}, "additionalProperties": {"type": "boolean"}, "required": ["a", "b"], "maxProperties": 2},
    {"type": "array", "items": {"enum": ["do", "re", "mi"]}, "minItems": 3, "maxItems": 3},
    {"type": ["boolean", "null"]},
    {"type": "string", "enum": ["a \"quoted\" one", "ü, 漢 and \U0001f600", "line\nend", "\\"]},
    record(**{"a/b": WORD, "c~d": {"type": "null"}, "e\"f": {"type": "boolean"}}),
    record(deep=record(deeper=record(deepest={"type": "array", "items": record(x={"type": "integer", "minimum": 0, "maximum": 9}), "maxItems": 2}))),
]


def sample(directory, count):
    """Schemas of a directory, the same ones every time: those whose paths have the lowest hashes."""
    files = [(hashlib.sha256(str(p.relative_to(directory)).encode()).digest(), p) for p in pathlib.Path(directory).rglob("*.json")]
    return [(str(p.relative_to(directory)), json.loads(p.read_text())) for _, p in sorted(files)[:count]]


def ask(schema, seed):
    """Finish reason and content, or 400 and the message."""
    body = {
        "messages": [{"role": "user", "content": "Tell me of a cat, as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
        "max_tokens": 400,
        "temperature": 1,
        "seed": seed,
        "logit_bias": ENDS,
    }
    request = urllib.request.Request(BASE + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            choice = json.load(answer)["choices"][0]
            return choice["finish_reason"], choice["message"]["content"]
    except urllib.error.HTTPError as e:
        assert e.code == 400, (e.code, e.read())
        return 400, json.load(e)["error"]["message"]


def number(text):
    """A number as it is written; 4.0 is a whole one, as JSON Schema has it."""
    value = decimal.Decimal(text)
    return int(value) if value == value.to_integral_value() else value


def verdict(schema, content):
    """None where it is valid, else what is wrong."""
    # As they are written: in binary, 40016000.01 is no multiple of 0.01.
    schema = json.loads(json.dumps(schema), parse_float=number)
    try:
        instance = json.loads(content, parse_float=number)
    except json.JSONDecodeError as e:
        return f"no JSON: {e}"
    judge = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        error = jsonschema.exceptions.best_match(judge(schema, format_checker=judge.FORMAT_CHECKER).iter_errors(instance))
    except Exception as e:  # A schema that jsonschema itself cannot use.
        return ("unjudged", f"{type(e).__name__}: {e}")
    return error and f"{'/'.join(map(str, error.absolute_schema_path))}: {error.message}"


def run(schemas):
    """Counts of outcomes, reasons of refusals, and what was not valid."""
    counts, reasons, bad = collections.Counter(), collections.Counter(), []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda pair: ask(pair[1][1], pair[0]), enumerate(schemas))
        for (name, schema), (finish, content) in zip(schemas, answers):
            if finish == 400:
                counts["refused"] += 1
                reasons[re.sub(r'"[^"]*"|\d+', "_", content)[:110]] += 1
            elif finish == "length":
                counts["cut"] += 1
            else:
                assert finish == "stop", (name, finish)
                counts["finished"] += 1
                wrong = verdict(schema, content)
                if isinstance(wrong, tuple):
                    counts["unjudged"] += 1
                    reasons["not judged: " + wrong[1][:90]] += 1
                elif wrong is None:
                    counts["valid"] += 1
                else:
                    bad.append((name, wrong[:300], content[:300]))
    return counts, reasons, bad


def ends(bias):
    """Biases by token id: what ends strings, arrays and objects is likelier, what goes on with them less likely."""
    ids = {}
    for text in ['"', "}", "]", ","] if bias else []:
        body = json.dumps({"prompt": text, "add_special_tokens": False}).encode()
        request = urllib.request.Request(BASE.removesuffix("/v1") + "/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            (token,) = json.load(answer)["tokens"]
        ids[str(token)] = -bias if text == "," else bias
    return ids


decimal.getcontext().prec = 2000
BASE = sys.argv[1]
ENDS = ends(float(sys.argv[4]) if len(sys.argv) > 4 else 0)
if len(sys.argv) > 2:
    schemas = sample(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 300)
else:
    schemas = [(f"own {i}", schema) for i, schema in enumerate(OWN)]
counts, reasons, bad = run(schemas)
for reason, n in reasons.most_common(40):
    print(f"  {n:4} {reason}")
for name, wrong, content in bad:
    print(f"  INVALID {name}: {wrong}\n    {content}")
print(f"JSON schemas: {len(schemas)} tried,", ", ".join(f"{counts[k]} {k}" for k in ("refused", "cut", "finished", "valid", "unjudged")))
assert not bad and counts["valid"] + counts["unjudged"] == counts["finished"] > 0
assert len(sys.argv) > 2 or counts["valid"] == len(schemas)
