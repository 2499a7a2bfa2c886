"""Instructions that a program can check: does a model still do what it is told, in the format it is told?

In the manner of IFEval (arXiv:2311.07911), small: a subject times a demand. Nothing here is about the answer's truth.
"""

import json
import re
from collections.abc import Callable

from opsd_core.data.examples import make_example
from opsd_core.graders import Grade
from opsd_core.records.examples import Example

SUBJECTS = (
    "What is the capital of France?",
    "Name a colour of the rainbow.",
    "What do bees make?",
    "Name an animal that lives in the sea.",
    "What is the opposite of cold?",
    "Name a season of the year.",
    "What do we drink when we are thirsty?",
    "Name a musical instrument.",
    "Which planet do we live on?",
    "Name a fruit that is yellow.",
)

CHECKS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "upper": ("Answer in capital letters only.", lambda text: text.isupper()),
    "lower": ("Answer in lower-case letters only, without any capital letter.", lambda text: text.islower()),
    "one_word": ("Answer with exactly one word.", lambda text: len(text.split()) == 1),
    "no_comma": (
        "Answer in one full sentence without any comma.",
        lambda text: "," not in text and len(text.split()) > 2,
    ),
    "question_mark": ("End your answer with a question mark.", lambda text: text.endswith("?")),
    "quotes": (
        "Put your whole answer into double quotation marks.",
        lambda text: len(text) > 2 and text[0] in '"“' and text[-1] in '"”',
    ),
    "begins": ('Begin your answer with the word "Well".', lambda text: re.match(r"\W*well\b", text, re.I) is not None),
    "bullet": (
        "Answer with a list in which every line begins with a hyphen.",
        lambda text: all(line.lstrip().startswith("-") for line in text.splitlines() if line.strip()),
    ),
}
"""Name -> (what is demanded, whether a stripped, non-empty text obeys)."""


def instruction_examples(count: int) -> list[Example]:
    """Subjects times demands, demands first, so that a part of them still has every demand."""
    items = []
    for subject in SUBJECTS:
        for name, (demand, _) in CHECKS.items():
            items.append(make_example(question=f"{subject} {demand}", answer=name))
    return items[:count]


def follows(example: Example, text: str) -> Grade:
    """Whether `text` obeys the demand that the example's answer names; the grade of `evaluation.evaluate_policy`."""
    text = text.strip()
    obeys = bool(text) and CHECKS[example.answer][1](text)
    return Grade(correct=obeys, extracted=json.dumps(text)[:80] if text else None, score=float(obeys))
