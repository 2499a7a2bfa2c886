"""The claim's data and tables: problems are turned into rows as they are meant, runs of one study add up."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.claim.merged import table
from benchmarks.claim.tasks import SPLITS, gsm8k, svamp

PROBLEMS = [
    ("Dan had $ 3 left.", "How much was it?", "( 4.0 - 3.0 )", 1.0, "Dan had $ 3 left. How much was it?", "4 - 3 = 1"),
    ("If a box has 2 pens", "how many do 3 have?", "( 2.0 * 3.0 )", 6.0, "If a box has 2 pens, how many do 3 have?", "2 * 3 = 6"),
    ("A tree had 4", "How many now?", "( ( 4.0 - 2.0 ) / 4.0 )", 0.5, "A tree had 4. How many now?", "( ( 4 - 2 ) / 4 ) = 0.5"),
    ("Wrong", "why?", "( 4.0 - 2.0 )", 1.0, None, None),
]


def test_svamp_is_read_with_its_equation_and_what_contradicts_itself_is_left_out(tmp_path):
    names = ("Body", "Question", "Equation", "Answer")
    (tmp_path / "SVAMP.json").write_text(json.dumps([dict(zip(names, row, strict=False)) for row in PROBLEMS]))
    found = [(row["question"], row["solution"]) for row in svamp(tmp_path / "SVAMP.json")]
    assert found == [(question, solution) for *_, question, solution in PROBLEMS[:3]]


def test_gsm8k_is_read_without_the_calculators_marks(tmp_path):
    answer = "She sold 48/2 = <<48/2=24>>24 clips.\n#### 1,024"
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "How many?", "answer": answer}) + "\n")
    (row,) = gsm8k(tmp_path / "train.jsonl")
    assert row == {"question": "How many?", "solution": "She sold 48/2 = 24 clips.", "answer": "1024"}


def test_what_is_probed_is_never_tested():
    """Items are drawn into splits by their content, so equal shares keep the probe's among those that the study trains on."""
    study = yaml.safe_load((Path(__file__).parents[1] / "benchmarks/claim/svamp.yaml").read_text())
    assert {name: study["data"][name] for name in SPLITS} == SPLITS


def lines(arm, seed, right):
    of = [{"item": str(i), "greedy": bool(r), "sampled": r / 2, "tokens": 4, "truncated": False} for i, r in enumerate(right)]
    return [{"arm": arm, "seed": seed} | row for row in (*of, {"set": "english", "values": [-1.0, -2.0]})]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for part in rows for row in part))
    return path


def test_two_runs_of_a_study_make_one_table(tmp_path):
    base = lines("base", 0, [0, 1, 0, 1])
    first = written(tmp_path / "a.jsonl", base, lines("opsd", 0, [1, 1, 0, 1]))
    second = written(tmp_path / "b.jsonl", base, lines("opsd", 1, [1, 1, 1, 1]))
    *_, alone, both = table([first, second]).splitlines()
    assert alone.startswith("| `base` |  | 50.0 |  | 25.0 |") and alone.endswith("| -1.500 |")
    assert both.startswith("| `opsd` | 0, 1 | 87.5 | +37.5 [") and "| 43.8 | +18.8 [" in both


def test_runs_that_contradict_each_other_are_not_added_up(tmp_path):
    files = [written(tmp_path / name, lines("base", 0, right)) for name, right in (("a", [0, 1]), ("b", [1, 1]))]
    with pytest.raises(SystemExit, match="Merge runs of one study"):
        table(files)
