"""What the sequential test saves against the exact test of all items, at the sizes of the recipes.

    python benchmarks/sequential.py [--runs 4000]

Simulated items; no model. Prints Markdown: benchmarks/sequential.md. For every size and churn the fixed test's gain of 80 % power
is looked up; then the sequential test answers the same items at most, or as many more as give it the same power.
"""

import argparse
from collections.abc import Iterator

from opsd_core.config import resolve
from opsd_core.judgement.gate import level
from opsd_core.judgement.power import Design, sequential_operating, smallest_gain
from opsd_core.judgement.sequential import BET, FUTILE
from opsd_core.judgement.statistics import mcnemar_power

CHURNS = (0.02, 0.1, 0.2)
GAINS = (0.03, 0.05, 0.08, 0.10, 0.16)
BETS = (0.1, BET, 0.3, 0.5, 1.0)
BLOCK, STEP = 50, 5


_SHOWS = """\
**Shows:** at equal power a candidate without a gain costs 30 to 53 % fewer answers, one with twice the gain that the
fixed test sees 31 to 55 % fewer, one with just that gain up to 11 %; equal ones are promoted no more often than the level.
"""


def sizes() -> Iterator[tuple[str, int, float]]:
    """(name, held-out items, level of one decision)."""
    for recipe in ("demo", "tiny", "base"):
        config = resolve(recipe, {} if recipe != "base" else {"model": {"source": "x"}, "data": {"source": "x.jsonl"}})
        yield recipe, config.evaluation.num_items, level(config.promotion, config.iterations)
    for number in (500, 1000):
        yield f"{number} items", number, 0.0125


def same_power(num_items: int, gain: float, wrong: float, tested: float, block: int, runs: int) -> int:
    """The fewest items, in steps of 2 %, from which the sequential test's power is the fixed test's."""
    wanted, tried = mcnemar_power(num_items, gain, wrong, tested), num_items
    while sequential_operating(Design(tried, tested, block, STEP), gain, wrong, runs=runs).power < wanted - 0.002:
        tried += max(1, num_items // 50)
    return tried


def savings(runs: int) -> None:
    """Answers against the fixed test."""
    print("| size | items | level | churn | gain of 80 % power | power, same items | items for the same power | "
          "answered: no gain | half of it | that gain | twice | saved |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, number, tested in sizes():
        block = 25 if number < 200 else BLOCK
        for churn in CHURNS:
            wrong = churn / 2
            gain = smallest_gain(lambda g, n=number, w=wrong, t=tested: mcnemar_power(n, g, w, t), wrong)
            same = sequential_operating(Design(number, tested, block, STEP), gain, wrong, runs=runs).power
            larger = same_power(number, gain, wrong, tested, block, runs)
            used = [
                sequential_operating(Design(larger, tested, block, STEP), gain * factor, wrong, runs=runs).mean_items
                for factor in (0.0, 0.5, 1.0, 2.0)
            ]
            saved = ", ".join(f"{100 * (1 - items / number):.0f} %" for items in used)
            answered = " | ".join(f"{items:.0f}" for items in used)
            print(f"| {name} | {number} | {tested:.4f} | {churn} | {gain:.3f} | {same:.3f} | {larger} | {answered} | {saved} |",
                  flush=True)  # fmt: skip


def errors(runs: int) -> None:
    """Equal candidates that are promoted, with a look after every item and nobody giving up."""
    print("| size | items | level | churn | promoted, fixed | promoted, sequential, a look after every item | with blocks |")
    print("|---|---|---|---|---|---|---|")
    for name, number, tested in sizes():
        for churn in CHURNS:
            fixed = mcnemar_power(number, 0.0, churn / 2, tested)
            every = sequential_operating(Design(number, tested, 1, futile=0.0), 0.0, churn / 2, runs=runs).power
            blocks = sequential_operating(Design(number, tested, BLOCK, STEP), 0.0, churn / 2, runs=runs).power
            print(f"| {name} | {number} | {tested:.4f} | {churn} | {fixed:.4f} | {every:.4f} | {blocks:.4f} |", flush=True)


def powers(runs: int) -> None:
    """Chance of a promotion at the same most items."""
    print("| items | level | churn | " + " | ".join(f"+{100 * gain:.0f}" for gain in GAINS) + " |")
    print("|---|---|---|" + "---|" * len(GAINS))
    for _, number, tested in sizes():
        for churn in CHURNS:
            cells = []
            for gain in GAINS:
                found = sequential_operating(Design(number, tested, BLOCK, STEP), gain, churn / 2, runs=runs)
                cells.append(f"{mcnemar_power(number, gain, churn / 2, tested):.2f}, {found.power:.2f} ({found.mean_items:.0f})")
            print(f"| {number} | {tested:.4f} | {churn} | {' | '.join(cells)} |", flush=True)


def shares(runs: int) -> None:
    """Why a fifth of the level is bet."""
    print("| items | level | churn | gain | fixed | " + " | ".join(f"{100 * bet:.0f} % bet" for bet in BETS) + " |")
    print("|---|---|---|---|---|" + "---|" * len(BETS))
    for number, tested, churn, gain in ((150, 0.05, 0.2, 0.08), (150, 0.05, 0.1, 0.16), (250, 0.0083, 0.1, 0.1),
                                        (1000, 0.0125, 0.1, 0.05)):  # fmt: skip
        cells = []
        for bet in BETS:
            design = Design(number, tested, 25, STEP, bet=bet)
            better, equal = (sequential_operating(design, g, churn / 2, runs=runs) for g in (gain, 0.0))
            cells.append(f"{better.power:.2f} ({better.mean_items:.0f}, {equal.mean_items:.0f})")
        fixed = mcnemar_power(number, gain, churn / 2, tested)
        print(f"| {number} | {tested} | {churn} | {gain} | {fixed:.2f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args().runs
    print("# The sequential test against the exact test of all items\n")
    print(_SHOWS)
    print("Generated by `python benchmarks/sequential.py`; simulated, so it depends on no machine. "
          f"{BET:.0%} of the level is bet, an evaluation is given up below a chance of {FUTILE:.0%}, looks after {BLOCK} items "
          f"(25 below 200). {runs:,} runs a number: standard error at most {0.5 / runs**0.5:.3f}.\n")  # fmt: skip
    print("## Answers saved at equal power\n\nItems that the candidate answers on average; saved against `items`, in the order "
          "of the columns before.\n")  # fmt: skip
    savings(runs)
    print("\n## Equal candidates that are promoted\n\nAt most the level, whenever one looks.\n")
    errors(max(runs, 10_000))
    print("\n## Power at the same most items\n\nFixed test, sequential test (items answered on average).\n")
    powers(runs)
    print("\n## How much of the level is bet\n\nPower (items answered with that gain, with none). At 100 % there is no exact "
          "test of all items: evidence alone decides.\n")  # fmt: skip
    shares(runs)


if __name__ == "__main__":
    main()
