"""Generated sources: reasoning-gym tasks and the built-in addition task."""

import difflib
import json
import warnings
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.data.addition import addition_examples
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.errors import DataError

COLUMNS = ColumnMapping(question="question", answer="answer", solution="")
GENERATION_FACTOR = 20
"""At most 20 x size entries are drawn; a task with few different items then gives fewer than asked for."""
_GENERATION_CHUNK = 1000
_ACCEPTED = 0.99


def addition(asked: Asked) -> Opened:
    """The source `tiny:addition`. DataError for another name."""
    config = asked.config
    if config.source != "tiny:addition":
        raise DataError(f"data.source={config.source} does not exist. The built-in task is tiny:addition.")

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        for index, example in enumerate(addition_examples(config.num_generated, config.seed)):
            yield RawRow(index, {"question": example.question, "answer": example.answer})

    return Opened(rows, columns=COLUMNS)


def reasoning_gym(asked: Asked) -> Opened:
    """The source `reasoning_gym:<task>`. A task may have no answer to an entry. DataError as `create_task`."""
    return Opened(lambda columns: reasoning_gym_rows(asked.config), columns=COLUMNS, labels_required=False)


def reasoning_gym_rows(config: DataConfig) -> Iterator[RawRow]:
    """Rows of `reasoning_gym:<task>` until `size` different ones are found or 20 x size entries are drawn.

    Each row's metadata holds what the task's verifier needs: {"task", "options", "entry"}. An entry whose own answer the verifier
    does not accept after a passage through JSON is unusable.
    """
    task = config.source.partition(":")[2]
    found: set[str] = set()
    for chunk in range(0, config.num_generated * GENERATION_FACTOR, _GENERATION_CHUNK):
        length = min(_GENERATION_CHUNK, config.num_generated * GENERATION_FACTOR - chunk)
        dataset = create_task(task, config.options, size=chunk + length, seed=config.seed)
        for index in range(chunk, chunk + length):
            row = _row(task, config.options, dataset, index)
            yield row
            found.add(json.dumps([row.values, row.unreadable], sort_keys=True))
            if len(found) >= config.num_generated:
                return


def create_task(task: str, options: dict[str, Any], size: int = 1, seed: int = 0) -> Any:
    """The reasoning-gym dataset `task`.

    Raises DataError for a task or an option that does not exist, or a value that the task refuses.
    """
    with warnings.catch_warnings():  # a dependency of reasoning-gym compares strings with `is`
        warnings.simplefilter("ignore", SyntaxWarning)
        from reasoning_gym.factory import DATASETS, create_dataset

    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=5, cutoff=0.5) or sorted(DATASETS)[:10]
        raise DataError(
            f"data.source=reasoning_gym:{task}: there is no such task among the {len(DATASETS)} of reasoning-gym. "
            f"Near names: {', '.join(near)}."
        )
    names = {field.name for field in fields(DATASETS[task][1])} - {"size", "seed"}
    if unknown := sorted(set(options) - names):
        raise DataError(
            f"data.options has {', '.join(unknown)}, which reasoning_gym:{task} does not know. "
            f"Its options: {', '.join(sorted(names))}. (size and seed are data.size and data.seed.)"
        )
    try:
        return create_dataset(task, size=size, seed=seed, **options)
    except Exception as error:  # a task checks its options with assert, ValueError, TypeError, ...
        raise DataError(
            f"reasoning_gym:{task} refuses data.options={options!r}: {error or type(error).__name__}. "
            "Change data.options."
        ) from error


def _row(task: str, options: dict[str, Any], dataset: Any, index: int) -> RawRow:
    try:
        entry = dataset[index]
    except Exception as error:  # third-party generators fail in many ways; one entry is one unusable row
        return RawRow(index, unreadable=f"the task failed to generate: {type(error).__name__}: {error}"[:300])
    question, answer = entry.get("question"), entry.get("answer")
    stored = json.loads(json.dumps({"answer": answer, "metadata": entry.get("metadata", {})}, default=str))
    if answer is not None and not _accepts(dataset, answer, stored):
        return RawRow(index, unreadable="the verifier refuses the task's own answer after storing it as JSON")
    return RawRow(index, {"question": question, "answer": answer}, {"task": task, "options": options, "entry": stored})


def _accepts(dataset: Any, answer: Any, entry: dict[str, Any]) -> bool:
    try:
        return float(dataset.score_answer(answer, entry)) >= _ACCEPTED
    except Exception:  # a verifier that raises on its own answer cannot judge
        return False
