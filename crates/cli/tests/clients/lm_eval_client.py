"""The `local-completions` client of lm-evaluation-harness: its log-likelihoods are those of `farthing trace`.

Usage: lm_eval_client.py BASE_URL FARTHING MODEL_DIRECTORY, the server with a cache in f32, as trace has it.

The harness is installed without what its tasks need (data sets, metrics): its client is what talks to a server. The
server is the tokenizer too. Prompts go as token ids, several a request, and come back with log-probabilities.
"""

import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy

os.environ["TQDM_DISABLE"] = "1"
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

base, farthing, model = sys.argv[1:]
logging.disable(logging.WARNING)
ITEMS = [
    ("The cat sat on the", [" mat.", " idea."]),
    ("Once upon a time,", [" there was a little girl named Lily.", " blue under."]),
    ("The sun is", [" hot", " shoe"]),
    ("Tom has a red ", ["ball.", "run."]),
    ("The bird can", [" fly high in the sky", " chair"]),
    ("Lily went to the", [" park with her mom.", " sad"]),
    ("The dog likes to", [" play", " yellow"]),
    ("They were good friends. They", [" played together every day", " cup"]),
    ("He ate an", [" apple", " house"]),
    ("Mom said, \"", ["No, Tim. You must share.\"", "zebra"]),
    ("The boat was in the", [" water", " book"]),
    ("It was time to go", [" home", " spoon"]),
    ("The fish swam in the", [" pond", " oven"]),
    ("Max opened the", [" door", " happy"]),
    ("The baby was very", [" sleepy and", " quickly"]),
    ("Sam and Ben love to", [" run.", " cow."]),
    ("The frog jumped over the", [" log", " sing"]),
    ("\"Thank you,\" said", [" Lily", " stone"]),
    ("Das Mädchen sagte:", [" „Schön, 漢字 und 😀“", " no"]),
    ("", ["Once upon a time", "Zebras"]),
]


def traced(ids):
    """Log-probabilities [T, vocab] of the tokens after each position, from a forward without any server."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "trace.safetensors"
        tokens = ",".join(map(str, ids))
        subprocess.run([farthing, "trace", model, "--quiet", "--tokens", tokens, "-o", out], check=True, stdout=subprocess.DEVNULL)
        data = out.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])["logits"]
    begin, end = (8 + size + at for at in entry["data_offsets"])
    logits = numpy.frombuffer(data[begin:end], "<f4").reshape(entry["shape"]).astype("f8")
    top = logits.max(-1, keepdims=True)
    return logits - top - numpy.log(numpy.exp(logits - top).sum(-1, keepdims=True))


def likelihood(context, continuation):
    """Log-likelihood of a continuation, and whether it is what greedy decoding gives."""
    rows = traced(context + continuation)[len(context) - 1 : -1]
    return sum(row[t] for row, t in zip(rows, continuation)), all(row.argmax() == t for row, t in zip(rows, continuation))


def request(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


lm = LocalCompletionsAPI(
    base_url=base + "/completions",
    tokenizer_backend="remote",
    batch_size=3,
    num_concurrent=1,
    max_length=1024,
    # It takes id 0 of the tokenizer's beginning of a text for none.
    custom_prefix_token_id=0,
)
assert lm.tokenizer.bos_token_id == 0 and lm.tok_encode("Once upon a time") == [655, 561, 267, 468]
pairs = [(context, continuation) for context, continuations in ITEMS for continuation in continuations]
answers = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
worst, greedy = 0, 0
for (context, continuation), (got, is_greedy) in zip(pairs, answers, strict=True):
    split = lm._encode_pair(context, continuation) if context else ([lm.prefix_token_id], lm.tok_encode(continuation))
    wanted, wanted_greedy = likelihood(*split)
    worst, greedy = max(worst, abs(got - wanted)), greedy + is_greedy
    assert abs(got - wanted) < 1e-4 and is_greedy == wanted_greedy, (context, continuation, got, wanted, is_greedy)
assert 0 < greedy < len(pairs)

text = " ".join(context + continuations[0] for context, continuations in ITEMS)
(got,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)], disable_tqdm=True)
wanted, _ = likelihood([lm.prefix_token_id], lm.tok_encode(text))
assert abs(got - wanted) < 1e-4 * len(text), (got, wanted)

(said,) = lm.generate_until([request("generate_until", "Once upon a time", {"until": [" named"], "max_gen_toks": 50})], disable_tqdm=True)
assert said == ", there was a little girl", said
print(f"lm-evaluation-harness is content: {len(pairs)} log-likelihoods within {worst:.1e}, {len(lm.tok_encode(text))} tokens within {abs(got - wanted):.1e}")
