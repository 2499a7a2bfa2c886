"""`tiny:addition`: all sums of two 2-digit numbers, the answer's least significant digit first.

    question "07+95="    answer "201"    (7 + 95 = 102, three digits, reversed)

Every question has 6 characters and every answer 3, so a batch needs no padding. Written in this order a digit of the
answer depends only on digits already written and one column of the question.
"""

import random

from opsd_core.data.examples import make_example
from opsd_core.digest import derive_seed
from opsd_core.records.examples import Example

NUM_PAIRS = 100 * 100


def addition_example(a: int, b: int) -> Example:
    """The item for a + b, with a and b in 0..99."""
    return make_example(question=f"{a:02d}+{b:02d}=", answer=f"{a + b:03d}"[::-1])


def addition_examples(size: int = NUM_PAIRS, seed: int = 0) -> list[Example]:
    """`size` different items in an order drawn from `seed`; all 10,000 when `size` is larger."""
    generator = random.Random(derive_seed("tiny:addition", seed))
    pairs = generator.sample(range(NUM_PAIRS), min(size, NUM_PAIRS))
    return [addition_example(*divmod(pair, 100)) for pair in pairs]
