"""Datasets: every row is accounted for, splits are disjoint by content, bad input names its cause."""

import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_core.config import DataConfig
from opsd_core.data import load_examples, make_example, split_digest, split_examples, split_name
from opsd_core.errors import DataError


def rows(number: int, start: int = 0) -> list[dict]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, start + number)]


def write_jsonl(path, items) -> str:
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in items))
    return str(path)


def load(source: str, **settings):
    return load_examples(DataConfig(source=source, **settings))


def test_one_item_in_two_rows_never_stands_in_two_splits(tmp_path):
    items = rows(200)
    data = load(write_jsonl(tmp_path / "d.jsonl", items + items[:50]))
    ids = [{example.id for example in split} for split in (data.train, data.validation, data.test)]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    assert sum(map(len, ids)) == 200
    assert (data.report.num_duplicates, data.report.num_unusable, data.report.num_rows) == (50, 0, 250)


def test_a_question_with_two_solutions_stays_on_one_side():
    first = [make_example(f"q {i}", str(i), "one way") for i in range(300)]
    second = [make_example(f"q  {i}", str(i), "another way") for i in range(300)]  # differs by a space only
    splits = split_examples(first + second, 0.3, 0.3)
    numbers = {name: {example.answer for example in split} for name, split in splits.items()}
    assert not numbers["train"] & numbers["test"] and not numbers["train"] & numbers["validation"]
    assert all(len(splits[name]) == 2 * len(numbers[name]) for name in splits)


@given(st.permutations(list(range(40))), st.integers(0, 40))
def test_splits_depend_on_content_alone(order, dropped):
    examples = [make_example(f"q{i}", str(i)) for i in range(40)]
    reference = {example.id: split_name(example, 0.3, 0.2) for example in examples}
    splits = split_examples([examples[i] for i in order if i != dropped], 0.3, 0.2)
    for name, split in splits.items():
        assert all(reference[example.id] == name for example in split)
        assert [example.id for example in split] == sorted(example.id for example in split)


def test_shares_are_close_to_the_asked_ones():
    splits = split_examples([make_example(str(i)) for i in range(5000)], 0.2, 0.1)
    # binomial standard errors: sqrt(.2 * .8 / 5000) = .0057 and sqrt(.1 * .9 / 5000) = .0042; 4 of them allowed
    assert abs(len(splits["validation"]) / 5000 - 0.2) < 0.023
    assert abs(len(splits["test"]) / 5000 - 0.1) < 0.017


def test_a_larger_validation_share_takes_nothing_from_test():
    examples = [make_example(str(i)) for i in range(500)]
    small, large = split_examples(examples, 0.1, 0.2), split_examples(examples, 0.5, 0.2)
    assert split_digest(small["test"]) == split_digest(large["test"])
    assert {e.id for e in small["validation"]} < {e.id for e in large["validation"]}


def test_every_unusable_row_is_listed_with_its_reason(tmp_path):
    bad = [
        {"answer": "1"},
        {"question": "  ", "answer": "1"},
        {"question": ["a"], "answer": "1"},
        {"question": "no label"},
        "{broken",
        "[1, 2]",
        {"question": "half a pair \ud800", "answer": "1"},
    ]
    data = load(write_jsonl(tmp_path / "d.jsonl", rows(93) + bad), max_unusable_fraction=0.07)
    assert data.report.num_unusable == 7 == sum(data.report.reasons.values())
    assert [row.index for row in data.report.unusable] == list(range(93, 100))
    found = " | ".join(row.reason for row in data.report.unusable)
    for part in ("no value in column 'question'", "is empty", "is list, not text", "no value in column 'answer'",
                 "not JSON", "a JSON list, not an object", "half a surrogate"):  # fmt: skip
        assert part in found
    json.dumps(data.report.as_dict())


def test_too_many_unusable_rows_stop_with_counts_and_the_first_ones(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", rows(90) + [{"question": "", "answer": "1"}] * 10)
    with pytest.raises(DataError, match=r"10 of 100 rows \(10.0%\).*10 x column 'question' is empty.*row 90"):
        load(path, max_unusable_fraction=0.05)


def test_duplicates_are_not_unusable(tmp_path):
    report = load(write_jsonl(tmp_path / "d.jsonl", rows(50) * 4), max_unusable_fraction=0.0).report
    assert (report.num_examples, report.num_duplicates, report.num_unusable) == (50, 150, 0)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_all_file_formats_give_the_same_examples(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    items = rows(60)
    if suffix == ".json":
        path.write_text(json.dumps(items))
    elif suffix == ".jsonl":
        write_jsonl(path, items)
    elif suffix == ".csv":
        path.write_text("question,answer\n" + "".join(f'"{row["question"]}",{row["answer"]}\n' for row in items))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
    expected = {make_example(row["question"], row["answer"]).id for row in items}
    data = load(str(path))
    assert {example.id for example in data.train + data.validation + data.test} == expected


def test_numbers_are_accepted_as_labels(tmp_path):
    items = [{"question": f"q{i}", "answer": value} for i, value in enumerate([3, 3.0, 2.5, True] * 10)]
    data = load(write_jsonl(tmp_path / "d.jsonl", items))
    assert {e.answer for e in data.train + data.validation + data.test} == {"3", "2.5", "True"}


def test_gsm8k_answers_and_solutions(tmp_path):
    text = "She sells 48 / 2 = <<48/2=24>>24 clips.\n#### 1,{:03d}"
    items = [{"question": f"q{i}", "answer": text.format(i)} for i in range(40)]
    columns = {"question": "question", "answer": "answer", "solution": "answer"}
    example = load(write_jsonl(tmp_path / "d.jsonl", items), columns=columns).train[0]
    assert example.answer.startswith("1") and len(example.answer) == 4 and "####" in example.solution


def test_label_free_data(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"question": f"q{i}"} for i in range(40)])
    report = load(path, columns={"answer": ""}).report
    assert (report.num_unlabelled, report.num_examples) == (40, 40)


def test_size_limits_the_rows_that_are_read(tmp_path):
    assert load(write_jsonl(tmp_path / "d.jsonl", rows(100) + ["{broken"] * 100), size=100).report.num_rows == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.json", "[]", "has no rows"),
        ("a.json", "{}", "a list of objects is read"),
        ("a.json", '[{"question": 1', "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.parquet", "PAR1 no parquet", "cannot be read as Parquet"),
        ("a.csv", "prompt,target\n1,2\n", r"no column 'question', 'answer'. It has: 'prompt', 'target'"),
        ("a.jsonl", '{"q": "x", "a": "y"}\n' * 20, r"no column 'question', 'answer'. It has: 'q', 'a'"),
        ("a.txt", "text", "suffix '.txt' is not read"),
    ],
)
def test_bad_files_are_one_paragraph(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_absent_sources(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="needs an object store"):
        load("s3://bucket/d.jsonl")
    with pytest.raises(DataError, match="built-in task is tiny:addition"):
        load("tiny:subtraction")


def test_a_hub_that_is_not_reachable_is_one_paragraph():
    program = (
        "from opsd_core.config import DataConfig; from opsd_core.data import load_examples; "
        "load_examples(DataConfig(source='some-owner/some-data', subset='main'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    message = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and message.startswith("opsd_core.errors.DataError: data.source=some-owner/some-data")
    assert "data.subset=main" in message and "use a local .jsonl" in message


def test_an_s3_object_is_read_through_fetch(tmp_path):
    local = tmp_path / "downloaded"
    write_jsonl(local, rows(40))
    asked = []
    config = DataConfig(source="s3://bucket/folder/d.jsonl")
    data = load_examples(config, fetch=lambda uri: asked.append(uri) or local)
    assert asked == ["s3://bucket/folder/d.jsonl"] and data.report.num_examples == 40


def test_a_huge_line_costs_one_row(tmp_path):
    huge = '{"question": "' + "x" * 9_000_000 + '", "answer": "1"}'
    report = load(write_jsonl(tmp_path / "d.jsonl", [*rows(30), huge, *rows(30, 30)])).report
    assert (report.num_rows, report.num_unusable, report.num_examples) == (61, 1, 60)


def test_reasoning_gym_gives_unique_items_with_what_the_verifier_needs():
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    data = load("reasoning_gym:chain_sum", options=options, size=60)
    examples = data.train + data.validation + data.test
    assert len({example.question for example in examples}) == len(examples) == 60
    assert data.report.num_duplicates > 0
    entry = examples[0].metadata
    assert entry["task"] == "chain_sum" and entry["entry"]["answer"] == examples[0].answer
    assert load("reasoning_gym:chain_sum", options=options, size=60).report.digests == data.report.digests


def test_a_small_task_gives_what_it_has_and_says_so():
    data = load("reasoning_gym:gcd", options={"min_value": 1, "max_value": 4}, size=300, validation_fraction=0.4)
    assert 0 < data.report.num_examples < 300
    assert "different items exist" in data.report.notes[0]


def test_reasoning_gym_mistakes_are_named():
    with pytest.raises(DataError, match=r"no such task.*Near names:.*chain_sum"):
        load("reasoning_gym:chainsum")
    with pytest.raises(DataError, match=r"num_terms.*does not know.*min_terms"):
        load("reasoning_gym:chain_sum", options={"num_terms": 2})
    with pytest.raises(DataError, match=r"refuses data.options"):
        load("reasoning_gym:chain_sum", options={"min_terms": 9, "max_terms": 2})


def test_a_task_whose_verifier_cannot_judge_stored_entries_is_refused():
    with pytest.raises(DataError, match="refuses the task's own answer"):
        load("reasoning_gym:arc_agi", size=10)
