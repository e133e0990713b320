#!/usr/bin/env python3
"""Joins FairytaleQA's sections and questions, which lie in a CSV file each for every story, to two files of JSON lines.

python3 recipes/fairytaleqa.py CHECKOUT writes CHECKOUT/stories.jsonl {"id", "text"} and CHECKOUT/questions.jsonl {"passage", "question", "answer"}
from the training split. Questions about one section are taken, and of their answers the first.
"""

import csv
import json
import pathlib
import re
import sys


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def unwrapped(text):
    """A paragraph a line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())


def main(checkout):
    data = checkout / "data-by-train-split"
    with (checkout / "stories.jsonl").open("w") as stories, (checkout / "questions.jsonl").open("w") as questions:
        for file in sorted((data / "section-stories" / "train").glob("*-story.csv")):
            name = file.name.removesuffix("-story.csv")
            sections = {row["section"]: unwrapped(row["text"]) for row in rows(file)}
            print(json.dumps({"id": name, "text": "\n\n".join(sections.values())}), file=stories)
            for row in rows(data / "questions" / "train" / f"{name}-questions.csv"):
                passage = sections.get(row["cor_section"].strip())
                if row["local-or-sum"] == "local" and passage and row["question"].strip() and row["answer1"].strip():
                    record = {"passage": passage, "question": row["question"].strip(), "answer": row["answer1"].strip()}
                    print(json.dumps(record), file=questions)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
