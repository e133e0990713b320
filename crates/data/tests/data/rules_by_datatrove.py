"""Decisions of datatrove's quality filters on the documents of a JSON Lines file, a line each, and CPU-seconds of each filter.

    pip install datatrove==0.10.1 spacy==3.8.18 numpy regex loguru fasteners
    python rules_by_datatrove.py DOCUMENTS.jsonl > DECISIONS.jsonl

A document is {"id", "text"}. A decision is {"id", "gopher_quality", "gopher_repetition", "c4", "c4_lines", "c4_text", "fineweb"}: "" where the filter keeps it, else
its reason; "c4_lines" is C4 without its rule of punctuation, as FineWeb uses it, and "c4_text" what that leaves of the text.
"""

import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_words

FILTERS = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_repetition": GopherRepetitionFilter(),
    "c4": C4QualityFilter(),
    "c4_lines": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(),
}


def decide(documents):
    size = sum(len(document["text"].encode()) for document in documents)
    decisions = [{"id": document["id"]} for document in documents]
    split_into_words("Load the tokenizer.")
    for name, filter in FILTERS.items():
        copies = [Document(text=document["text"], id=document["id"]) for document in documents]
        start = time.process_time()
        verdicts = [filter.filter(document) for document in copies]
        seconds = time.process_time() - start
        print(f"{name}: {seconds:.1f} s, {size / seconds / 1e6:.3f} MB/s", file=sys.stderr)
        for decision, verdict, document in zip(decisions, verdicts, copies):
            decision[name] = "" if verdict is True else verdict[1]
            if name == "c4_lines" and verdict is True:
                decision["c4_text"] = document.text
    return decisions


if __name__ == "__main__":
    for decision in decide([json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]):
        print(json.dumps(decision))
