"""Figures of interleaved runs as a Markdown table: medians, and the ratio to opsd run by run with its spread."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.peers.arms import Case

Runs = Mapping[str, Sequence[Mapping[str, float]]]
"""Of each arm, the figures of its runs, in the order in which they were made."""

_COLUMNS = ("wall s", "CPU s", "tokens / wall s", "tokens / CPU s", "extra MiB", "peak MiB", "opsd : it (spread)")
"""The last is the ratio of tokens a CPU second."""


def table(case: Case, runs: Runs) -> list[str]:
    """Lines of one case's table; what could not run says so."""
    own = runs[case.arms[0].name]
    lines = [f"### {case.name}", "", "| | " + " | ".join(_COLUMNS) + " |", "|---|" + "---|" * len(_COLUMNS)]
    for arm in case.arms:
        made = runs.get(arm.name, ())
        lines.append(f"| {arm.name} | " + " | ".join(_row(made, own) if made else ["not installed", *[""] * 6]) + " |")
    values = [runs[arm.name][0]["value"] for arm in case.arms if arm.value and runs.get(arm.name)]
    if len(values) > 1:
        apart = max(values) - min(values)
        within = apart <= case.tolerance * abs(values[0])
        said = " and ".join(f"{value:.4f}" for value in values)
        lines += ["", f"Values: {said}" + ("." if within else ": **they differ, so the arms do not compute the same.**")]
    return [*lines, ""]


def _row(made: Sequence[Mapping[str, float]], own: Sequence[Mapping[str, float]]) -> list[str]:
    wall, cpu, tokens = (statistics.median(run[name] for run in made) for name in ("wall", "cpu", "tokens"))
    extra, peak = (max(run[name] for run in made) for name in ("extra_mib", "peak_mib"))
    ratios = [ours["tokens"] / ours["cpu"] / (its["tokens"] / its["cpu"]) for ours, its in zip(own, made, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    speeds = [f"{tokens / seconds:,.1f}" for seconds in (wall, cpu)]
    return [f"{wall:.2f}", f"{cpu:.2f}", *speeds, f"{extra:,.0f}", f"{peak:,.0f}", "" if made is own else spread]
