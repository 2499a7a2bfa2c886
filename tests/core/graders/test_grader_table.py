"""The table of references, completions and verdicts: every judgement that a careful human calls clear is made."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from opsd_core.data import make_example
from opsd_core.graders import get_grader
from opsd_core.graders.agreement import final_answer

TABLE = Path(__file__).with_name("grader_table.txt")
NEWLINE = "⏎"


class Judgement(NamedTuple):
    line: int
    grader: str
    dialect: str
    verdict: str
    gold: str
    text: str


def read_table() -> list[Judgement]:
    judgements, graders, dialect = [], [], ""
    for number, line in enumerate(TABLE.read_text().splitlines(), 1):
        if line.startswith("["):
            names, _, dialect = line.strip("[]").partition(" : ")
            graders = names.split()
        elif line and not line.startswith("#"):
            verdict, gold, text = (part.strip().replace(NEWLINE, "\n") for part in line.split(" | ", 2))
            judgements += [Judgement(number, name, dialect, verdict, gold, text) for name in graders]
    return judgements


JUDGEMENTS = read_table()


def says(item: Judgement) -> str:
    if item.grader == "vote":
        return "same" if final_answer(item.gold) == final_answer(item.text) is not None else "other"
    return "right" if get_grader(item.grader)(make_example("question", item.gold), item.text).correct else "wrong"


def test_the_table_is_large_and_asks_for_both_verdicts_in_every_dialect():
    lines = {item.line for item in JUDGEMENTS}
    assert len(lines) >= 700 and len({(i.grader, i.verdict, i.gold, i.text) for i in JUDGEMENTS}) == len(JUDGEMENTS)
    verdicts = Counter((item.grader, item.dialect, item.verdict.rstrip("?")) for item in JUDGEMENTS)
    for grader, dialect in {(item.grader, item.dialect) for item in JUDGEMENTS}:
        pair = ("same", "other") if grader == "vote" else ("right", "wrong")
        assert all(verdicts[grader, dialect, verdict] >= 2 for verdict in pair), (grader, dialect)


@pytest.mark.parametrize("grader", sorted({item.grader for item in JUDGEMENTS}))
def test_every_clear_judgement_of_the_table_is_made(grader):
    clear = [item for item in JUDGEMENTS if item.grader == grader and not item.verdict.endswith("?")]
    failures = [
        f"line {item.line}: {item.verdict} | {item.gold} | {item.text!r}"
        for item in clear
        if says(item) != item.verdict
    ]
    assert not failures, f"{len(failures)} of {len(clear)}:\n" + "\n".join(failures)
