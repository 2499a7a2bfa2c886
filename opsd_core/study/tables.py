"""From outcomes to the numbers of a study's report, as plain JSON values.

S = seeds, P = problems
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from opsd_core.digest import derive_seed
from opsd_core.judgement.metrics import group_by_item
from opsd_core.judgement.statistics import holm
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.study.bites import bite_rows, finish_rows, opposed
from opsd_core.study.compare import Comparison, compare, stacked
from opsd_core.study.steps import reasoning_steps

REFERENCES = ("base", "sft")
"""What every other arm is compared with, where it is part of the study; opsd:64 with sft:64 and so on."""


@dataclass(frozen=True)
class ArmData:
    """One arm's measurements; every mapping is by seed."""

    name: str
    title: str
    role: str
    outcomes: Mapping[int, Sequence[ItemOutcome]]
    """Of the test split; empty when the arm could not be trained."""
    metrics: Mapping[int, Mapping[str, float]]
    sets: Mapping[int, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Seed -> set -> a value per item, items in the same order for every arm."""
    costs: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    curves: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Validation accuracy after each iteration."""
    rates: Mapping[int, float] = field(default_factory=dict)
    chosen: Mapping[int, int] = field(default_factory=dict)
    """Iteration that validation chose."""
    failed: Mapping[int, str] = field(default_factory=dict)
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Setting that the arm changes -> its value in the study's recipe, and in the arm."""
    bites: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """What settings altered: bite/*, means over the iterations."""


@dataclass(frozen=True)
class StudyData:
    """Everything that the report is made of; `arms` begins with base."""

    arms: Mapping[str, ArmData]
    examples: Sequence[Example]
    """The test split's measured items."""
    set_titles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Set -> (title, role)."""
    confidence: float = 0.95
    start_accuracy: float = 0.0
    """The base model's accuracy on validation: where every curve starts."""


def study_numbers(data: StudyData) -> dict[str, Any]:
    """arms, differences, sets: every figure of the report."""
    differences = _differences(data)
    sets = _sets(data)
    alpha = 1.0 - data.confidence
    for family in (differences, sets):
        rejected = holm({_name(row): row["p_value"] for row in family if row["metric"] in _TESTED}, alpha)
        for row in family:
            outside = row["low"] > 0.0 or row["high"] < 0.0
            row["outside_noise"] = bool(rejected.get(_name(row), False) and outside)
            row["num_tests"] = len(rejected)
    return {
        "confidence": data.confidence,
        "constant_accuracy": constant_share(data.examples),
        "num_items": len(data.examples),
        "arms": [_arm(arm) for arm in data.arms.values()],
        "differences": differences,
        "sets": sets,
        "by_steps": _by_steps(data),
        "bites": [row for arm in data.arms.values() for row in bite_rows(arm.name, arm.changes, list(arm.bites.values()))],
        "finish": [row for arm in data.arms.values() for row in finish_rows(arm.name, list(arm.outcomes.values()))],
        "opposed": opposed(differences),
    }


_TESTED = ("accuracy", "set")


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']} - {row['reference']} on {row['metric']} {row.get('set', '')}"


def constant_share(examples: Sequence[Example]) -> float:
    """What the commonest answer alone would score."""
    return Counter(e.answer for e in examples).most_common(1)[0][1] / len(examples) if examples else 0.0


def _arm(arm: ArmData) -> dict[str, Any]:
    names = sorted({name for metrics in arm.metrics.values() for name in metrics if name.startswith("eval/")})
    return {
        "name": arm.name,
        "title": arm.title,
        "role": arm.role,
        "seeds": sorted(arm.metrics),
        "metrics": {n: _mean(m[n] for m in arm.metrics.values() if n in m) for n in names},
        "accuracy_by_seed": {str(s): m.get("eval/accuracy") for s, m in sorted(arm.metrics.items())},
        "costs": {
            name: _mean(cost[name] for cost in arm.costs.values())
            for name in sorted({name for cost in arm.costs.values() for name in cost})
        },
        "curves": {str(seed): list(curve) for seed, curve in sorted(arm.curves.items())},
        "rates": {str(seed): rate for seed, rate in sorted(arm.rates.items())},
        "chosen": {str(seed): iteration for seed, iteration in sorted(arm.chosen.items())},
        "failed": {str(seed): reason for seed, reason in sorted(arm.failed.items()) if reason},
    }


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _differences(data: StudyData) -> list[dict[str, Any]]:
    common = Counter(e.answer for e in data.examples).most_common(1)
    rare = {e.id for e in data.examples if not common or e.answer != common[0][0]}
    rows = []
    pairs = [(reference_of(kind, name), name) for kind in REFERENCES for name in data.arms]
    for reference, name in pairs:
        if reference in data.arms and name not in (reference, "base"):
            arm = data.arms[name]
            for metric, keep, mode in (
                ("accuracy", None, "greedy"),
                ("accuracy beyond the commonest answer", rare, "greedy"),
                ("avg@k", None, "sampled"),
            ):
                found = _compare_outcomes(data, arm, data.arms[reference], mode, keep)
                if found is not None:
                    rows.append({"arm": name, "reference": reference, "metric": metric, **_row(found)})
    return rows


def reference_of(kind: str, name: str) -> str:
    """The arm that `name` is compared with: base, or the arm of this kind with as many labelled examples."""
    return kind if kind == "base" else kind + "".join(name.partition(":")[1:])


def _compare_outcomes(
    data: StudyData, arm: ArmData, reference: ArmData, mode: str, keep: set[str] | None
) -> Comparison | None:
    def scores(source: ArmData, seed: int) -> dict[str, float]:
        outcomes = source.outcomes[seed] if seed in source.outcomes else next(iter(source.outcomes.values()))
        groups = group_by_item(outcomes, mode)
        return {key: _mean(o.correct for o in group) for key, group in groups.items() if keep is None or key in keep}

    seeds = _shared_seeds(arm, reference)
    arms, references = [scores(arm, seed) for seed in seeds], [scores(reference, seed) for seed in seeds]
    if not seeds or not arms[0]:
        return None
    return _compared(data, arm, reference, [list(a.values()) for a in arms], [list(r.values()) for r in references])


def _shared_seeds(arm: ArmData, reference: ArmData) -> list[int]:
    """Seeds of both; the base model is the same for every seed."""
    return sorted(s for s in arm.outcomes if reference.role == "base" or s in reference.outcomes)


def _compared(
    data: StudyData, arm: ArmData, reference: ArmData, rows: list[list[float]], others: list[list[float]]
) -> Comparison:
    seed = derive_seed("study", arm.name, reference.name) % 2**32
    return compare(stacked(rows), stacked(others), seed=seed, confidence=data.confidence)


def _by_steps(data: StudyData) -> dict[str, list[list[float]]]:
    """Arm -> [steps, mean accuracy, lowest and highest seed's, items] where items differ in their number of steps."""
    steps = {example.id: reasoning_steps(example) for example in data.examples}
    sizes = Counter(count for count in steps.values() if count is not None)
    table: dict[str, list[list[float]]] = {}
    for name, arm in data.arms.items() if len(sizes) > 1 else ():
        for count in sorted(sizes):
            means = [
                _mean(o.correct for o in outcomes if o.mode == "greedy" and steps[o.example_id] == count)
                for outcomes in arm.outcomes.values()
            ]
            if means:
                table.setdefault(name, []).append([count, _mean(means), min(means), max(means), sizes[count]])
    return table


def _sets(data: StudyData) -> list[dict[str, Any]]:
    rows = []
    base = data.arms["base"]
    at_base = next(iter(base.sets.values()), {})
    for name, (title, role) in data.set_titles.items():
        for arm in data.arms.values():
            seeds = sorted(seed for seed in arm.sets if name in arm.sets[seed])
            if arm.role == "base" or not seeds:
                continue
            values = [list(arm.sets[seed][name]) for seed in seeds]
            found = _compared(data, arm, base, values, [list(at_base[name])] * len(seeds))
            rows.append(
                {
                    "set": name,
                    "title": title,
                    "role": role,
                    "arm": arm.name,
                    "reference": "base",
                    "metric": "set",
                    "base_value": _mean(at_base[name]),
                    "value": float(np.mean(values)),
                    **_row(found),
                }
            )
    return rows


def _row(found: Comparison) -> dict[str, Any]:
    row = asdict(found)
    row["within_seeds"] = [[part.mean, part.low, part.high] for part in found.within_seeds]
    return row
