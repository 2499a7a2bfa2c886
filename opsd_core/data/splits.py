"""Splits by content: an item's split follows from its question alone."""

import unicodedata

from opsd_core.digest import digest
from opsd_core.records.examples import Example

_TWO_64 = float(2**64)


def question_key(example: Example) -> str:
    """The question with its white space collapsed; examples with equal keys always share a split."""
    return " ".join(example.question.split())


def same_question(example: Example) -> str:
    """What two spellings of a question share: form of characters, case and white space do not count."""
    return unicodedata.normalize("NFKC", question_key(example)).casefold()


def position(example: Example) -> float:
    """A number in [0, 1) drawn from the question's digest."""
    return int(digest(["split", question_key(example)])[:16], 16) / _TWO_64


def split_name(example: Example, validation_fraction: float, test_fraction: float) -> str:
    """test | train | validation.

    [0, test_fraction) is test and [1 - validation_fraction, 1) is validation: changing one share never moves an item
    between those two. Neither the order of the rows nor the presence of other rows matters, and two solutions of the
    same question never stand on both sides.
    """
    place = position(example)
    if place < test_fraction:
        return "test"
    return "validation" if place >= 1.0 - validation_fraction else "train"


def split_examples(
    examples: list[Example], validation_fraction: float, test_fraction: float
) -> dict[str, list[Example]]:
    """Three disjoint lists, each sorted by id, so that the order of the source leaves no trace."""
    splits: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for example in sorted(examples, key=lambda example: example.id):
        splits[split_name(example, validation_fraction, test_fraction)].append(example)
    return splits
