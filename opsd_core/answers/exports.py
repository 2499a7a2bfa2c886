"""Answers in formats of others: JSON lines, a folder for a data set hub, and a log for Inspect's viewer.

The rows of the first two are an iteration's completions with both sides' log-probabilities; Inspect's log is one evaluation.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsd_core.answers.tokens import Sampled
from opsd_core.digest import digest
from opsd_core.judgement.statistics import clustered_standard_error
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.records.rollouts import light_of
from opsd_core.records.tables import parts_of
from opsd_core.records.views import views_in_words

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sample_index", pa.int32()),
        ("messages", pa.list_(_MESSAGE)),
        ("answer", pa.string()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
        ("trained_on", pa.bool_()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("truncated", pa.bool_()),
        ("prompt", pa.string()),
        ("privileged_prompt", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("student_logprobs", pa.list_(pa.float32())),
        ("teacher_logprobs", pa.list_(pa.float32())),
    ]
)
_ROWS_PER_GROUP = 1024
_INSPECT_VERSION = 2
"""Of Inspect's log format."""


def completion_rows(sampled: Sampled) -> Iterable[dict[str, Any]]:
    """One row per completion, in the order of the rollouts.

    `messages`: the question and what the policy wrote. `prompt`, `privileged_prompt`: what student and teacher read, the chat
    template applied. `student_logprobs`, `teacher_logprobs`: one number in nats per entry of `token_ids`; the teacher's is None
    where it was not recorded, and a number that is not finite, or of a token that an environment wrote, is None as well.
    """
    for rollout in light_of(sampled.rollouts):
        grade, target = sampled.grades.get(rollout.key), sampled.targets.get(rollout.key)
        example, privileged = sampled.examples.get(rollout.example_id), sampled.privileged.get(rollout.key)
        yield {
            "id": rollout.example_id,
            "sample_index": rollout.sample_index,
            "messages": [
                {"role": "user", "content": _clean(example.question if example else "")},
                {"role": "assistant", "content": _clean(rollout.completion_text)},
            ],
            "answer": _clean(example.answer if example else ""),
            "extracted": None if grade is None or grade.extracted is None else _clean(grade.extracted),
            "correct": None if grade is None else grade.correct,
            "trained_on": None if grade is None else grade.keep,
            "reason": "" if grade is None else grade.reason,
            "source": rollout.source,
            "truncated": rollout.truncated,
            "prompt": _clean(sampled.prompt_text(rollout.prompt_ids)),
            "privileged_prompt": None if privileged is None else _clean(views_in_words(privileged, sampled.prompt_text)),
            "token_ids": [int(token) for token in rollout.completion_ids],
            "student_logprobs": _finite(rollout.logprobs_T, rollout.sampled_T),
            "teacher_logprobs": None if target is None else _finite(target.sampled_logprob_T, rollout.sampled_T),
        }


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """One JSON object per line; returns how many. Lines are divided by line feeds alone, whatever the texts hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n")
            count += 1
    return count


def write_dataset(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """A folder that `datasets.load_dataset(folder)` reads and a hub takes as it is: Parquet and a card; returns the rows."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    count = 0
    with pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", _SCHEMA, compression="zstd") as writer:
        for part in parts_of(rows, _ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist([dict(row) for row in part], schema=_SCHEMA))
            count += len(part)
    (folder / "README.md").write_text(_card(name, count), encoding="utf-8")
    return count


def _card(name: str, num_rows: int) -> str:
    title = re.sub(r"[^\w .:@/-]", "", name)[:200] or "completions"
    columns = "\n".join(f"- `{column.name}`: {column.type}" for column in _SCHEMA)
    return f"""---
pretty_name: {json.dumps(title)}
task_categories:
- text-generation
tags:
- opsd
- on-policy-self-distillation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# {title}

{num_rows} completions that a model sampled for its own training by on-policy self-distillation, each with the log-probability
of every token under the student (`student_logprobs`) and under the same model that also saw `privileged_prompt`
(`teacher_logprobs`; null where it was not recorded). `trained_on` and `reason` say what became of a completion. Choose a licence
that the questions' own allows before you publish this.

{columns}
"""


def inspect_log(
    name: str, model: str, examples: Sequence[Example], outcomes: Sequence[ItemOutcome], created: datetime | None = None
) -> dict[str, Any]:
    """One evaluation as Inspect's log (format version 2), which `inspect view` shows; `model` names what was measured.

    A sample per completion, scored C or I; the n sampled completions of an item are its epochs. Items that `examples` does not
    hold are left out.
    """
    known = {example.id: example for example in examples}
    shown = [outcome for outcome in outcomes if outcome.example_id in known]
    mode = "greedy" if any(outcome.mode == "greedy" for outcome in shown) else "sampled"
    shown = [outcome for outcome in shown if outcome.mode == mode]
    at = (created or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    identity = digest([name, model, at])
    dataset = {"name": name, "samples": len({o.example_id for o in shown}), "shuffled": False}
    spec = {
        "eval_id": identity[:22],
        "run_id": identity[22:44],
        "created": at,
        "task": name,
        "task_id": identity[44:],
        "task_version": 0,
        "dataset": dataset | {"sample_ids": sorted({o.example_id for o in shown})},
        "model": f"opsd/{model}",
        "config": {"epochs": max((o.sample_index for o in shown), default=0) + 1},
    }
    return {
        "version": _INSPECT_VERSION,
        "status": "success",
        "eval": spec,
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {"temperature": mode}}]},
        "results": _results(shown),
        "stats": {"started_at": at, "completed_at": at, "model_usage": {}},
        "samples": [_sample(known[o.example_id], o, f"opsd/{model}") for o in shown],
    }


def write_inspect_log(path: Path, log: Mapping[str, Any]) -> None:
    """As JSON; Inspect wants the name to end in .json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(log, ensure_ascii=True, allow_nan=False, indent=1), encoding="utf-8")


def _results(outcomes: Sequence[ItemOutcome]) -> dict[str, Any]:
    by_item: dict[str, list[float]] = {}
    for outcome in outcomes:
        by_item.setdefault(outcome.example_id, []).append(float(outcome.correct))
    means = [sum(values) / len(values) for values in by_item.values()]
    metrics = {"accuracy": {"name": "accuracy", "value": sum(means) / len(means) if means else 0.0, "params": {}}}
    if error := clustered_standard_error(means):
        metrics["stderr"] = {"name": "stderr", "value": error, "params": {}}
    score = {"name": "grader", "scorer": "grader", "params": {}, "metrics": metrics}
    return {"total_samples": len(outcomes), "completed_samples": len(outcomes), "scores": [score]}


def _sample(example: Example, outcome: ItemOutcome, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": _clean(outcome.text), "source": "generate", "model": model}
    reason = "max_tokens" if outcome.truncated else "stop"
    return {
        "id": example.id,
        "epoch": outcome.sample_index + 1,
        "input": _clean(example.question),
        "target": _clean(example.answer),
        "messages": [{"role": "user", "content": _clean(example.question), "source": "input"}, message],
        "output": {"model": model, "choices": [{"message": message, "stop_reason": reason}]},
        "scores": {
            "grader": {
                "value": "C" if outcome.correct else "I",
                "answer": None if outcome.extracted is None else _clean(outcome.extracted),
                "explanation": _clean(outcome.text),
            }
        },
        "metadata": {"mode": outcome.mode, "num_tokens": outcome.num_tokens, "mean_entropy": outcome.mean_entropy},
        "store": {},
        "events": [],
        "model_usage": {},
    }


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which neither Parquet nor UTF-8 holds."""
    return text.encode("utf-8", "replace").decode()


def _finite(values_T: np.ndarray, sampled_T: np.ndarray | None) -> list[float | None]:
    own_T = np.isfinite(values_T) if sampled_T is None else np.isfinite(values_T) & sampled_T
    return [float(value) if own else None for value, own in zip(values_T, own_T, strict=True)]
