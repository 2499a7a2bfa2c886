"""The skills that the tiny model was pretrained in, besides the sums that it is taught (`opsd_core.models.tiny`)."""

from opsd_core.data.addition import addition_examples
from opsd_core.data.splits import position
from opsd_core.digest import derive_seed

Pairs = list[tuple[str, str]]
_TEST = 0.05
"""data.test_fraction of the recipe tiny: these sums are neither trained on nor measured."""


def copying(count: int, seed: int) -> Pairs:
    """A hint is to be written down; hint and sum have nothing to do with each other, and another seed shows other hints."""
    questions = [example.question for example in addition_examples(count, seed)]
    hints = [f"{derive_seed('copying', seed, question) % 1000:03d}" for question in questions]
    return [(f"{hint}|{question}", hint) for hint, question in zip(hints, questions, strict=True)]


def form(count: int, seed: int) -> Pairs:
    """Sums of the recipe's test split, of which the answer has to be three digits and nothing else, whichever they are."""
    unseen = [example.question for example in addition_examples(seed=seed) if position(example) < _TEST]
    return [(question, "three_digits") for question in unseen][:count]


def facts(count: int, seed: int) -> Pairs:
    """Sums of two digits: all one hundred, in the tiny model's notation, the last digit first."""
    pairs = [divmod(number, 10) for number in range(100)]
    return [(f"{a}+{b}=", f"{a + b:03d}"[::-1]) for a, b in pairs][:count]
