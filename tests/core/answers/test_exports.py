"""pytest tests/core/answers/test_exports.py — answers as JSON lines, as a folder for a hub, and as a log for Inspect's viewer."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from datasets import load_dataset

from opsd_core.answers.exports import completion_rows, inspect_log, write_dataset, write_inspect_log, write_jsonl
from tests.core.answers.made import HOSTILE, examples, outcomes, sampled

AT = datetime(2026, 1, 2, tzinfo=UTC)


def test_every_completion_is_a_line_with_both_sides_log_probabilities(tmp_path):
    given = sampled(6)
    assert write_jsonl(tmp_path / "x" / "rows.jsonl", completion_rows(given)) == 6
    text = (tmp_path / "x" / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 6 and text.isascii()
    for row, rollout in zip(rows, given.rollouts, strict=True):
        target = given.targets[rollout.key]
        assert row["token_ids"] == rollout.completion_ids
        assert np.allclose(row["student_logprobs"], rollout.logprobs_T)
        assert np.allclose(row["teacher_logprobs"], target.sampled_logprob_T)
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert HOSTILE in rows[0]["messages"][1]["content"]


def test_what_is_not_recorded_is_null_and_never_a_number(tmp_path):
    given = sampled(2)
    first = given.rollouts[0]
    given.targets.pop(first.key)
    first.logprobs_T[0], first.logprobs_T[1] = math.nan, -math.inf
    write_jsonl(tmp_path / "rows.jsonl", completion_rows(given))
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert row["teacher_logprobs"] is None and row["student_logprobs"][:2] == [None, None]


def test_the_folder_loads_as_a_data_set_and_its_card_names_the_columns(tmp_path):
    assert write_dataset(tmp_path / "out", "demo\nversion: 2", completion_rows(sampled(5))) == 5
    loaded = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 5 and loaded[1]["messages"][0]["role"] == "user"
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"`{name}`" in card for name in loaded.column_names) and 'pretty_name: "demoversion: 2"' in card


def test_half_a_surrogate_pair_stops_no_export(tmp_path):
    given = sampled(1)
    object.__setattr__(given.rollouts[0], "completion_text", "half \ud800 pair")
    assert write_dataset(tmp_path / "out", "x", completion_rows(given)) == 1
    log = inspect_log("demo", "v1", examples(1), outcomes(1, {0}, text="half \ud800 pair"), AT)
    write_inspect_log(tmp_path / "log.json", log)
    assert "half" in (tmp_path / "log.json").read_text()


def test_inspects_log_has_a_sample_per_completion_and_the_accuracy(tmp_path):
    log = inspect_log("demo", "version 2", examples(10), outcomes(10, {0, 1, 2}), AT)
    write_inspect_log(tmp_path / "log.json", log)
    stored = json.loads((tmp_path / "log.json").read_text())
    assert (
        stored["version"] == 2
        and stored["status"] == "success"
        and stored["eval"]["created"].startswith("2026-01-02T00")
    )
    assert len(stored["samples"]) == stored["results"]["total_samples"] == 10
    assert stored["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(0.3)
    assert [s["scores"]["grader"]["value"] for s in stored["samples"][:4]] == ["C", "C", "C", "I"]
    # the fields that Inspect's EvalLog, EvalSpec and EvalSample cannot do without
    assert {"eval"} <= stored.keys() and {"created", "task", "dataset", "model", "config"} <= stored["eval"].keys()
    assert all({"id", "epoch", "input", "target"} <= sample.keys() for sample in stored["samples"])


def test_inspect_itself_reads_the_log(tmp_path):
    logs = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    log = inspect_log("demo", "version 2", examples(10), outcomes(10, {0, 1, 2}), AT)
    write_inspect_log(tmp_path / "log.json", log)
    read = logs.read_eval_log(str(tmp_path / "log.json"))
    assert read.status == "success" and len(read.samples) == 10
