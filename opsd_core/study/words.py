"""A study's numbers in sentences: which differences are outside noise, and which gains are not what they look like."""

from collections.abc import Mapping
from typing import Any

from opsd_core.study.bites import bite_sentences
from opsd_core.study.tables import reference_of

BEYOND = "accuracy beyond the commonest answer"


def sentences(numbers: Mapping[str, Any]) -> list[str]:
    """One sentence per arm, one on its damage, one on multiplicity; the arms in their order."""
    by = {(row["arm"], row["reference"], row["metric"]): row for row in numbers["differences"]}
    lines = []
    for arm in numbers["arms"]:
        name = arm["name"]
        if arm["role"] == "base":
            lines.append(
                f"The base model answers {_percent(arm['metrics'].get('eval/accuracy'))} of {numbers['num_items']} test items; "
                f"the commonest answer alone would score {_percent(numbers['constant_accuracy'])}."
            )
            continue
        if arm["failed"]:
            lines.append(
                f"{name} ended early for seeds {', '.join(arm['failed'])}: {next(iter(arm['failed'].values()))}"
            )
        row = by.get((name, "base", "accuracy"))
        if row is None:
            continue
        text = f"{name}: {_percent(arm['metrics']['eval/accuracy'])}, {difference(row, 'base')}"
        supervised = reference_of("sft", name)
        if other := by.get((name, supervised, "accuracy")):
            text += f"; {difference(other, supervised)}"
        lines.append(text + "." + _prior(row, by.get((name, "base", BEYOND)), arm, numbers))
    lines += bite_sentences(numbers) + _damage(numbers)
    tests = max((row["num_tests"] for row in numbers["differences"]), default=0)
    lines.append(
        f"Outside noise = the {numbers['confidence']:.0%} interval excludes 0 and Holm's procedure over all {tests} "
        f"accuracy comparisons rejects at {1 - numbers['confidence']:.2g}; the further sets are a family of their own."
    )
    seeds = {len(arm["seeds"]) for arm in numbers["arms"] if arm["role"] != "base" and arm["seeds"]}
    if seeds and min(seeds) < 3:
        lines.append(f"With {min(seeds)} seed(s) the intervals say little about what another seed would give.")
    return lines


def difference(row: Mapping[str, Any], reference: str) -> str:
    """Such as: +12.0 points against base [+8.1, +15.9], outside noise."""
    why = outside(row)
    verdict = "outside noise" if row["outside_noise"] else "inside noise" + (f" ({why[4:]})" if why.startswith("no: ") else "")
    return (
        f"{_points(row['mean'])} points against {reference} [{_points(row['low'])}, {_points(row['high'])}], {verdict}"
    )


def outside(row: Mapping[str, Any]) -> str:
    """Whether a difference is outside noise, and why not where its interval and its p-value point to different sides."""
    if row["outside_noise"]:
        return "yes"
    if row["metric"] not in ("accuracy", "set"):
        return "not tested"
    excludes = row["low"] > 0.0 or row["high"] < 0.0
    if excludes:
        return f"no: the interval excludes 0, but p = {row['p_value']:.2g} is not small enough for {row['num_tests']} comparisons"
    return "no: p is small, but the interval includes 0" if row["p_value"] < 0.05 else "no"


def _prior(
    row: Mapping[str, Any], beyond: Mapping[str, Any] | None, arm: Mapping[str, Any], numbers: Mapping[str, Any]
) -> str:
    """What a gain is worth where one answer is common."""
    if not row["outside_noise"] or row["mean"] <= 0 or beyond is None:
        return ""
    if beyond["low"] > 0:
        return ""
    return (
        f" This gain is only the answer prior: on the items whose answer is not the commonest one, which alone scores "
        f"{_percent(numbers['constant_accuracy'])}, the difference is {_points(beyond['mean'])} points "
        f"[{_points(beyond['low'])}, {_points(beyond['high'])}]."
    )


def _damage(numbers: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in numbers["sets"]:
        if row["outside_noise"]:
            verb = "lost" if row["mean"] < 0 else "gained"
            size = abs(row["mean"])
            lines.append(
                f"{row['arm']} {verb} {size:.3f} on {row['title']} ({row['role']}; base {row['base_value']:.3f}) "
                f"[{row['low']:+.3f}, {row['high']:+.3f}]."
            )
    if numbers["sets"] and not lines:
        lines.append("No arm differs from base on any further set by more than noise.")
    return lines


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
