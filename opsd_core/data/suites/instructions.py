"""Instructions that a program can check: does a model still do what it is told, in the format it is told?

In the manner of IFEval (arXiv:2311.07911), small: a subject times a demand. Nothing here is about the answer's truth; the
grader `instruction` checks the demand that an item's answer names.
"""

import re
from collections.abc import Callable

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
    "What is the capital of Italy?",
    "Name a day of the week.",
    "What do cows give us?",
    "Name a bird that cannot fly.",
    "What is the opposite of big?",
    "Name a month of the year.",
    "What do we use to cut paper?",
    "Name a sport that is played with a ball.",
    "What shines in the sky at night?",
    "Name a vegetable that is green.",
    "What is the capital of Japan?",
    "Name a piece of furniture.",
    "What do we wear on our feet?",
    "Name an animal that has stripes.",
    "What is the opposite of old?",
    "Name a large river.",
    "What do plants need to grow?",
    "Name something that is made of wood.",
    "What falls from the sky in winter?",
    "Name a job in a hospital.",
)

DEMANDS: dict[str, tuple[str, Callable[[str], bool]]] = {
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
    "three_digits": ("Answer with three digits.", lambda text: re.fullmatch(r"[0-9]{3}", text) is not None),
}
"""Name -> (what is demanded, whether a stripped, non-empty text obeys)."""

_OTHERS = ("three_digits",)
"""Demands of other suites than this one."""


def items(count: int, seed: int) -> list[tuple[str, str]]:
    """(instruction, name of its demand): subjects times demands, demands first, so that a part of them still has every demand."""
    demands = {name: demand for name, (demand, _) in DEMANDS.items() if name not in _OTHERS}
    return [(f"{subject} {demand}", name) for subject in SUBJECTS for name, demand in demands.items()][:count]
