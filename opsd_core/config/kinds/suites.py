"""Shipped guard suites: abilities that training elsewhere may damage. A table that configuration, data and studies share.

A suite of items of its own is a file of opsd_core/data/suites with a function items(count, seed) -> [(question, answer)], a line
of ITEMS, and a line of SUITES.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

ITEMS: dict[str, str] = {
    "instructions": "instructions.items",
    "plain_text": "plain_text.items",
    "tiny_copying": "tiny.copying",
    "tiny_facts": "tiny.facts",
    "tiny_form": "tiny.form",
}
"""Name after `suite:` in data.source -> "module.function" of opsd_core.data.suites."""


class Suite(NamedTuple):
    """One suite: a guard's settings, which a user's own replace."""

    title: str
    guard: Mapping[str, Any]
    """Of the section of a guard: data, prompts, measure, num_items, max_completion_length."""


def family_data(task: str, **options: int) -> dict[str, Any]:
    """The section `data` of 400 problems of a family of reasoning_gym."""
    return {"source": f"reasoning_gym:{task}", "options": options, "size": 400, "grader": "auto", "seed": 7}


AS_IT_STANDS: Mapping[str, Any] = {"system": None, "student": "{{ question }}"}
"""Prompts of instructions: nothing around the question."""
RESULT_ONLY: Mapping[str, Any] = {"system": "Answer with the final result only.", "student": "{{ question }}"}
"""Prompts of the families."""
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sums": ("sums of one digit", family_data("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)),
    "products": ("products of one digit", family_data("products", min_terms=2, max_terms=2, min_digits=1, max_digits=1)),
    "letters": ("counting letters", family_data("letter_counting", min_words=1, max_words=3)),
}
"""Name -> title and items of another reasoning family."""


def _family(name: str) -> Suite:
    title, data = FAMILIES[name]
    return Suite(title, {"data": data, "prompts": RESULT_ONLY, "num_items": 200, "max_completion_length": 32})


def _tiny(name: str, title: str, num_items: int, grader: str = "exact") -> Suite:
    data = {"source": f"suite:{name}", "size": num_items, "grader": grader, "seed": 1}
    prompts = {"system": None, "student": "{{ question }}"}
    return Suite(title, {"data": data, "prompts": prompts, "num_items": num_items, "max_completion_length": 4})


SUITES: dict[str, Suite] = {
    "instructions": Suite(
        "instructions that a program can check",
        {
            "data": {"source": "suite:instructions", "grader": "instruction"},
            "prompts": AS_IT_STANDS,
            "num_items": 240,
            "max_completion_length": 32,
        },
    ),
    "plain_text": Suite(
        "likelihood of plain English", {"data": {"source": "suite:plain_text"}, "measure": "likelihood", "num_items": 64}
    ),
    **{name: _family(name) for name in FAMILIES},
    "tiny_copying": _tiny("tiny_copying", "copying a hint (the tiny model's skill)", 150),
    "tiny_facts": _tiny("tiny_facts", "sums of two digits (the tiny model's skill)", 100),
    "tiny_form": _tiny("tiny_form", "answers of three digits (the tiny model's form)", 150, "instruction"),
}
"""Name of promotion.guards[].suite -> what it is."""
