"""Texts with the decisions of datatrove's quality filters, which `tests/rules.rs` compares with ours: writes rules.json beside this file.

    pip install datatrove==0.10.1 spacy==3.8.18 numpy regex loguru fasteners
    python make_rules.py
"""

import json
import pathlib

from rules_by_datatrove import decide

SENTENCES = """
The miller had three sons, and the youngest of them was thought to be a fool.
When the old man died, the eldest took the mill and the second took the donkey.
Nothing was left for the youngest but a grey cat that slept beside the oven.
"What shall I do with a cat?" he asked, and he sat down on the step.
The cat looked at him for a while with her yellow eyes.
Then she said that he should buy her a pair of boots, for she had work to do.
He laughed, but he spent his last coin on the boots and pulled them on her feet.
On the next morning she walked into the woods with a sack over her shoulder.
Rabbits came to smell the clover in the sack, and she pulled the string tight.
She carried them to the palace and bowed so low that her whiskers touched the floor.
"My master sends you these," she told the king, who was fond of rabbits.
The king asked for the name of so kind a neighbour.
She made up a name on the spot, and it was a long and noble one.
All summer she brought partridges, trout and wild honey to the kitchen door.
People in the town began to speak about the rich young lord beyond the hills.
One evening the cat heard that the king would drive along the river with his daughter.
She ran home and told her master to bathe in the cold water and to ask no questions.
While he stood there shivering, she hid his patched coat under a stone.
"Help!" she cried when the coach came near, "robbers have taken everything he owns!"
The king stopped the horses and sent for a suit of blue velvet.
Nobody would have known the miller's boy, and the princess made room on her bench.
Far ahead the cat met mowers in a meadow that belonged to an ogre.
She warned them to give the right answer to whoever might ask them.
At the end of the road stood a castle with a hundred windows and no smoke above it.
The ogre could change into any beast, and he was proud of that.
"A lion is easy," said the cat, though her fur stood on end, "but a mouse must be hard."
He turned into a mouse at once, and that was the last thing he ever did.
So the coach rolled into the yard, and the table was already laid for five.
""".strip().split("\n")

STORY = " ".join(SENTENCES)
LINES = "\n".join(SENTENCES)


def unlike(count, start=0):
    """Words of which no two are equal, with some stop words among them."""
    return " ".join(f"word{i} and the" if i % 9 == 0 else f"word{i}" for i in range(start, start + count))


def grams(n, share):
    """N-grams that are there twice, so that the second times are this share of the text."""
    gram = [" ".join(f"word{i}x{j}" for j in range(n)) for i in range(8)]
    filler = int((len(gram[0]) - n + 1) / share / 2 - len(gram[0])) - 4
    return " ".join(gram[i % 8] + f" {i:02}" + "x" * filler for i in range(16))


TEXTS = {
    "a story on one line": STORY,
    "a story by lines": LINES,
    "a story by paragraphs": "\n\n".join(" ".join(SENTENCES[i : i + 4]) for i in range(0, 28, 4)),
    "short": " ".join(SENTENCES[:2]),
    "a word short of fifty": "and the " * 24 + "and",
    "fifty words": "and the " * 25,
    "short words": "I am so to be of it. " * 30,
    "long words": "internationalization of misunderstanding with responsibilities " * 20,
    "hash tags": STORY + " #boots #cat" * 60,
    "ellipses": " ".join(word + " ..." if i % 7 == 0 else word for i, word in enumerate(STORY.replace(",", "").split())),
    "ellipsis signs": " ".join(word + " \u2026" if i % 7 == 0 else word for i, word in enumerate(STORY.replace(",", "").split())),
    "bullets": "\n".join("- " + line for line in SENTENCES),
    "bullets with a title": "The cat in boots\nA story in three parts\nRead it aloud\n" + "\n".join("\u2022 " + line for line in SENTENCES[:18]),
    "lines that end in ellipses": "\n".join(line.rstrip('."!?') + "..." if i % 2 else line for i, line in enumerate(SENTENCES)),
    "numbers": STORY + " 12 + 30 = 42" * 40,
    "no stop words": "Several people walked slowly down this narrow street. " * 8,
    "paragraphs twice": "\n\n".join(SENTENCES[:8] + SENTENCES[:8]),
    "one long paragraph twice": "\n\n".join([STORY, "a", "b", "c", "d", STORY]),
    "lines twice": "\n".join(SENTENCES[:8] + SENTENCES[:8]),
    "one long line twice": "\n".join([STORY, "a", "b", "c", "d", STORY]),
    "one line of thirty twice": "\n".join(SENTENCES + [SENTENCES[4]]),
    "two words again and again": " ".join(f"sausages, mustard {'x' * (i + 40)}" for i in range(20)),
    "three words again and again": " ".join(f"longer words here {i:02}{'x' * 61}" for i in range(20)),
    "four words again and again": " ".join(f"four longer words here {i:02}{'x' * 80}" for i in range(20)),
    **{f"{n} words twice": grams(n, share) for n, share in zip(range(5, 11), (0.162, 0.152, 0.142, 0.132, 0.122, 0.112))},
    "words of which none repeat": unlike(300),
    "white space": " \n\t\n ",
    "line feeds of Windows": LINES.replace("\n", "\r\n"),
    "four sentences": " ".join(SENTENCES[:3] + SENTENCES[4:5]),
    "five sentences": " ".join(SENTENCES[:3] + SENTENCES[4:6]),
    "a menu around the story": "Home\nAbout us\nContact\n" + LINES + "\nNext page\nPrevious page",
    "boilerplate in the story": LINES + "\nThis site uses cookies to improve your visit.\nPlease enable JavaScript to read the comments.\nRead our terms of use before that.",
    "placeholder": LINES + "\nLorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "a curly bracket": LINES + "\nfor each cat { put on the boots }.",
    "a curly bracket in a line about JavaScript": LINES + "\nThis javascript { does nothing at all }.",
    "differs: brackets are part of a word there": LINES.replace(",", "[12],").replace(" cat ", " cat[citation needed] ").replace("king", "king[edit]"),
    "a word of a thousand and one characters": LINES + "\nIt said " + "a" * 1001 + " and no more.",
    "abbreviations": "Mr. J. Smith and Mrs. Jones of St. Mary met at 5 p.m. in the U.S. with Dr. Brown, e.g. for tea.\n" + "\n".join(SENTENCES[:3]),
    "no line ends in punctuation": "\n".join(line.rstrip('."!?') for line in SENTENCES),
    "one line in nine ends in punctuation": "\n".join(line if i % 9 == 0 else line.rstrip('."!?') for i, line in enumerate(SENTENCES[:27])),
    "short lines": "\n".join(line[:25] + "." for line in SENTENCES),
    "lines of thirty characters": "\n".join(line[:29] + "." for line in SENTENCES),
    "lines of thirty-one characters": "\n".join(line[:30] + "." for line in SENTENCES),
    "many line feeds": LINES.replace("\n", "\n" * 8),
    "curled quotation marks and dashes": LINES.replace('"', "\u201d").replace("'", "\u2019").replace(",", " \u2014"),
    "letters with accents": LINES.replace("e", "\u00e9").replace("th\u00e9", "the"),
    "Japanese": "\u732b\u306f\u9577\u3044\u9774\u3092\u5c65\u3044\u3066\u68ee\u3078\u884c\u304d\u307e\u3057\u305f\u3002\n" * 3,
    # Where the words of the two differ so much that the decisions do.
    "differs: addresses are one word there": " ".join(SENTENCES[:9]) + "\n" + " ".join(f"https://www.example.com/a{i}/b/c.html?d={i}" for i in range(5)),
    "differs: a title has its full stop there": " ".join(f"Mr. Ben{i} and Mrs. Ann{i} and Dr. May, of course." for i in range(12)),
}


def main():
    documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
    records = [{**document, **decision} for document, decision in zip(documents, decide(documents))]
    for record in records:
        if record.get("c4_text") == record["text"]:
            del record["c4_text"]
    file = pathlib.Path(__file__).with_name("rules.json")
    file.write_text(json.dumps(records, indent=1, ensure_ascii=True) + "\n")


main()
