"""Sets that a study measures besides its test split: what training may have damaged, and what may have come along.

A set is data. `tiny_*` belong to the tiny model (the skills it was pretrained in); the others to models that read English.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from opsd_core.data.addition import addition_examples
from opsd_core.data.examples import make_example
from opsd_core.digest import derive_seed
from opsd_core.records.examples import Example
from opsd_core.study.english import PASSAGES
from opsd_core.study.instructions import instruction_examples

Items = Callable[[int], list[Example]]


class EvaluationSet(NamedTuple):
    """One set: `items(n)` or a data source, and how an item is scored."""

    title: str
    role: Literal["forgetting", "shifted", "other"]
    """forgetting = unrelated to the training task; shifted = the same task, harder; other = another reasoning family."""
    score: Literal["grader", "instruction", "likelihood"]
    """grader = greedy completion judged as right or wrong; instruction = by the item's own check; likelihood = mean
    log-likelihood of the item's `answer` per token, given its `question`, in nats."""
    items: Items | None = None
    data: dict[str, Any] | None = None
    """Configuration section `data` of another source, when there is no `items`."""
    prompts: dict[str, Any] | None = None
    """Configuration section `prompts`; None = the campaign's own."""
    grader: str = "exact"
    max_completion_length: int = 24


def _tiny_copying(count: int) -> list[Example]:
    """The hint is to be written down; hint and sum have nothing to do with each other."""
    items = []
    for example in addition_examples(count, seed=1):
        hint = f"{derive_seed('study hint', example.question) % 1000:03d}"
        items.append(make_example(question=f"{hint}|{example.question}", answer=hint))
    return items


def _sum(a: int, b: int, digits: int) -> Example:
    """The tiny model's notation: the sum with `digits` digits, last one first."""
    return make_example(question=f"{a}+{b}=", answer=f"{a + b:0{digits}d}"[::-1])


def _tiny_facts(count: int) -> list[Example]:
    """Sums of two digits, which the model was pretrained on: all one hundred."""
    return [_sum(*divmod(number, 10), digits=3) for number in range(100)][:count]


def _tiny_unpadded(count: int) -> list[Example]:
    """One- and two-digit numbers as people write them: 7+95= where training has 07+95=."""
    pairs = [divmod(derive_seed("unpadded", number) % 1000, 100) for number in range(4 * count)]
    return [_sum(a, b, digits=3) for a, b in dict.fromkeys(pairs) if b >= 10][:count]


def _tiny_three_digits(count: int) -> list[Example]:
    """Sums of three-digit numbers, a column more than in training."""
    pairs = [divmod(derive_seed("three digits", number) % 810_000, 900) for number in range(count)]
    return [_sum(a + 100, b + 100, digits=4) for a, b in dict.fromkeys(pairs)]


def _english(count: int) -> list[Example]:
    return [make_example(question=passage[0], answer=passage[1]) for passage in PASSAGES][:count]


def _family(title: str, role: Literal["shifted", "other"], source: str, **options: Any) -> EvaluationSet:
    """Problems of a family of reasoning_gym, made with `options`; those of another family are asked as they stand."""
    data = {"source": f"reasoning_gym:{source}", "options": options, "size": 400, "grader": "auto", "seed": 7}
    prompts = {"system": "Answer with the final result only.", "student": "{{ question }}"} if role == "other" else None
    return EvaluationSet(title, role, "grader", data=data, prompts=prompts, grader="reasoning_gym", max_completion_length=32)


SETS: dict[str, EvaluationSet] = {
    "tiny_copying": EvaluationSet("copying a hint", "forgetting", "grader", _tiny_copying, max_completion_length=4),
    "tiny_facts": EvaluationSet("sums of two digits", "forgetting", "grader", _tiny_facts, max_completion_length=4),
    "tiny_text": EvaluationSet("likelihood of pretraining text", "forgetting", "likelihood", _tiny_copying),
    "tiny_unpadded": EvaluationSet(
        "sums written without the leading zero", "shifted", "grader", _tiny_unpadded, max_completion_length=4
    ),
    "tiny_three_digits": EvaluationSet(
        "sums of three-digit numbers", "shifted", "grader", _tiny_three_digits, max_completion_length=5
    ),
    "family_chain_sum": _family(
        "another family: sums of one digit", "other", "chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1
    ),
    "family_products": _family(
        "another family: products of one digit", "other", "products", min_terms=2, max_terms=2, min_digits=1, max_digits=1
    ),
    "family_longer_sums": _family(
        "another family: sums of one or two digits", "other", "chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=2
    ),
    "family_longer_products": _family(
        "another family: products of one or two digits", "other", "products", min_terms=2, max_terms=2, min_digits=1, max_digits=2
    ),
    "family_letter_counting": _family(
        "another family: counting letters", "other", "letter_counting", min_words=1, max_words=3
    ),
    "shifted_letter_counting": _family(
        "harder: letters in four to six words", "shifted", "letter_counting", min_words=4, max_words=6
    ),
    "shifted_chain_sum": _family(
        "harder: sums of three numbers", "shifted", "chain_sum", min_terms=3, max_terms=3, min_digits=1, max_digits=2
    ),
    "shifted_number_format": _family(
        "harder: the largest of four to six numbers",
        "shifted",
        "number_format",
        min_num_candidates=4,
        max_num_candidates=6,
        min_n=1,
        max_n=1000,
    ),
    "instructions": EvaluationSet(
        "instructions that a program can check",
        "forgetting",
        "instruction",
        instruction_examples,
        prompts={"system": None, "student": "{{ question }}"},
        max_completion_length=32,
    ),
    "english": EvaluationSet("likelihood of plain English", "forgetting", "likelihood", _english),
}
