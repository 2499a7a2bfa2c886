"""The skills that the tiny model was pretrained in, besides the sums that it is taught (`opsd_core.models.tiny`)."""

from opsd_core.data.addition import addition_examples
from opsd_core.digest import derive_seed

Pairs = list[tuple[str, str]]


def copying(count: int, seed: int) -> Pairs:
    """A hint is to be written down; hint and sum have nothing to do with each other, and another seed shows other hints."""
    questions = [example.question for example in addition_examples(count, seed)]
    hints = [f"{derive_seed('copying', seed, question) % 1000:03d}" for question in questions]
    return [(f"{hint}|{question}", hint) for hint, question in zip(hints, questions, strict=True)]


def form(count: int, seed: int) -> Pairs:
    """Copying and sums of two digits, of which the answer has to be three digits and nothing else, whichever they are."""
    asked = [question for question, _ in (*copying(count - count // 3, seed), *facts(count // 3, seed))]
    return [(question, "three_digits") for question in asked]


def facts(count: int, seed: int) -> Pairs:
    """Sums of two digits: all one hundred, in the tiny model's notation, the last digit first."""
    pairs = [divmod(number, 10) for number in range(100)]
    return [(f"{a}+{b}=", f"{a + b:03d}"[::-1]) for a, b in pairs][:count]
