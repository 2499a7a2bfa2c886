"""Sets that a study measures besides its test split: what training may have damaged, and what may have come along.

A set is data. `tiny_*` belong to the tiny model (the skills it was pretrained in); the others to models that read English.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from opsd_core.config.kinds.suites import AS_IT_STANDS, FAMILIES, RESULT_ONLY, family_data
from opsd_core.data.suites import instructions, plain_text
from opsd_core.digest import derive_seed

if TYPE_CHECKING:
    from opsd_core.records.examples import Example

Items = Callable[[int], list["Example"]]


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


_INSTRUCTIONS = 80
"""Those that the tables of studies are about; a guard has more."""


def _pairs(pairs: list[tuple[str, str]]) -> "list[Example]":
    from opsd_core.data.examples import make_example  # the names of sets are asked for far more often than their items

    return [make_example(question=question, answer=answer) for question, answer in pairs]


def _tiny_copying(count: int) -> "list[Example]":
    from opsd_core.data.suites import tiny

    return _pairs(tiny.copying(count, seed=1))


def _sum(a: int, b: int, digits: int) -> tuple[str, str]:
    """The tiny model's notation: the sum with `digits` digits, last one first."""
    return f"{a}+{b}=", f"{a + b:0{digits}d}"[::-1]


def _tiny_facts(count: int) -> "list[Example]":
    from opsd_core.data.suites import tiny

    return _pairs(tiny.facts(count, seed=0))


def _instructions(count: int) -> "list[Example]":
    return _pairs(instructions.items(min(count, _INSTRUCTIONS), seed=0))


def _tiny_unpadded(count: int) -> "list[Example]":
    """One- and two-digit numbers as people write them: 7+95= where training has 07+95=."""
    pairs = [divmod(derive_seed("unpadded", number) % 1000, 100) for number in range(4 * count)]
    return _pairs([_sum(a, b, digits=3) for a, b in dict.fromkeys(pairs) if b >= 10])[:count]


def _tiny_three_digits(count: int) -> "list[Example]":
    """Sums of three-digit numbers, a column more than in training."""
    pairs = [divmod(derive_seed("three digits", number) % 810_000, 900) for number in range(count)]
    return _pairs([_sum(a + 100, b + 100, digits=4) for a, b in dict.fromkeys(pairs)])


def _english(count: int) -> "list[Example]":
    return _pairs(list(plain_text.PASSAGES))[:count]


def _family(title: str, data: dict[str, Any]) -> EvaluationSet:
    """Problems of another family of reasoning_gym, asked as they stand."""
    title = f"another family: {title}"
    return EvaluationSet(title, "other", "grader", None, data, dict(RESULT_ONLY), "reasoning_gym", max_completion_length=32)


def _shifted(title: str, task: str, **options: int) -> EvaluationSet:
    """Harder problems of the campaign's own family, asked with its prompts."""
    data = family_data(task, **options)
    return EvaluationSet(f"harder: {title}", "shifted", "grader", data=data, grader="reasoning_gym", max_completion_length=32)


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
    "family_chain_sum": _family(*FAMILIES["sums"]),
    "family_products": _family(*FAMILIES["products"]),
    "family_longer_sums": _family(
        "sums of one or two digits", family_data("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    ),
    "family_longer_products": _family(
        "products of one or two digits", family_data("products", min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    ),
    "family_letter_counting": _family(*FAMILIES["letters"]),
    "shifted_letter_counting": _shifted("letters in four to six words", "letter_counting", min_words=4, max_words=6),
    "shifted_chain_sum": _shifted(
        "sums of three numbers", "chain_sum", min_terms=3, max_terms=3, min_digits=1, max_digits=2
    ),
    "shifted_number_format": _shifted(
        "the largest of four to six numbers", "number_format", min_num_candidates=4, max_num_candidates=6, min_n=1, max_n=1000
    ),
    "instructions": EvaluationSet(
        "instructions that a program can check",
        "forgetting",
        "instruction",
        _instructions,
        prompts=dict(AS_IT_STANDS),
        max_completion_length=32,
    ),
    "english": EvaluationSet("likelihood of plain English", "forgetting", "likelihood", _english),
}
