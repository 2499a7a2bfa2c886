"""A study's measurements item by item, for analyses of one's own: one JSON object a line.

    {"arm", "seed", "item", "greedy", "sampled", "tokens", "truncated"}   an item of the test split, by its id
    {"arm", "seed", "set", "values"}                                      a further set, a value per item

`greedy`: whether the greedy completion is right; `tokens` and `truncated` are of it. `sampled`: the share of its sampled
completions that are right, null without any. Items and values are in the same order for every arm and seed.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from opsd_core.records.outcomes import ItemOutcome
from opsd_core.study.tables import StudyData


def items_text(data: StudyData) -> str:
    """The lines of all arms and seeds."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in _rows(data))


def _rows(data: StudyData) -> Iterator[dict[str, Any]]:
    for arm in data.arms.values():
        for seed, outcomes in sorted(arm.outcomes.items()):
            for row in _items(outcomes):
                yield {"arm": arm.name, "seed": seed} | row
        for seed, sets in sorted(arm.sets.items()):
            for name, values in sets.items():
                yield {"arm": arm.name, "seed": seed, "set": name, "values": list(values)}


def _items(outcomes: Sequence[ItemOutcome]) -> Iterator[dict[str, Any]]:
    sampled: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.mode == "sampled":
            sampled[outcome.example_id].append(outcome.correct)
    for outcome in outcomes:
        if outcome.mode == "greedy":
            drawn = sampled[outcome.example_id]
            yield {
                "item": outcome.example_id,
                "greedy": outcome.correct,
                "sampled": sum(drawn) / len(drawn) if drawn else None,
                "tokens": outcome.num_tokens,
                "truncated": outcome.truncated,
            }
