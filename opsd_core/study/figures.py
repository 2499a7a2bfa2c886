"""Figures of a study's report, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.use("Agg")
_COLOURS = matplotlib.colormaps["tab20"].colors


def learning_curves(arms: Sequence[Mapping[str, Any]], start: float) -> bytes:
    """Validation accuracy after each iteration: the seeds' mean, and a band over their range."""
    figure, axes = _axes((7.5, 4.0))
    for index, arm in enumerate(a for a in arms if a["curves"]):
        length = min(map(len, arm["curves"].values()))
        curves = np.array([[start, *curve[:length]] for curve in arm["curves"].values()])
        x, colour = np.arange(curves.shape[1]), _COLOURS[index % len(_COLOURS)]
        axes.plot(x, curves.mean(0), marker="o", markersize=3, color=colour, label=arm["name"])
        axes.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="iteration", ylabel="accuracy on validation", ylim=(0, None))
    _legend(axes)
    return _png(figure)


def forest(rows: Sequence[Mapping[str, Any]], title: str, scale: float = 100.0, unit: str = "points") -> bytes:
    """Differences with their intervals, one line each; filled where outside noise."""
    figure, axes = _axes((7.5, 0.7 + 0.3 * len(rows)))
    for y, row in enumerate(reversed(rows)):
        mean, low, high = (scale * row[name] for name in ("mean", "low", "high"))
        axes.plot([low, high], [y, y], color="tab:blue")
        axes.plot([mean], [y], "o", color="tab:blue", fillstyle="full" if row["outside_noise"] else "none")
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    axes.set(xlabel=unit, title=title)
    return _png(figure)


def along_positions(curves: Mapping[str, Sequence[float]], title: str, unit: str) -> bytes:
    """A mean per completion position, one line per arm."""
    figure, axes = _axes((6.0, 3.2))
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(range(1, len(values) + 1), values, marker=".", color=_COLOURS[index % len(_COLOURS)], label=name)
    axes.set(xlabel="position in the completion (tokens)", ylabel=unit, title=title)
    _legend(axes)
    return _png(figure)


def lengths(by_arm: Mapping[str, Sequence[int]]) -> bytes:
    """Box plots of completion lengths on the test split."""
    figure, axes = _axes((7.5, 3.2))
    axes.boxplot(list(by_arm.values()), showfliers=False)
    axes.set_xticks(range(1, len(by_arm) + 1), list(by_arm), rotation=30, ha="right")
    axes.set(ylabel="tokens", title="completion length on the test split")
    return _png(figure)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]], xlabel: str, ylabel: str, log_x: bool = False
) -> bytes:
    """Lines of (x, mean, low, high) with bands, one per name."""
    figure, axes = _axes((6.5, 4.0))
    for index, (name, points) in enumerate(series.items()):
        x, mean, low, high = zip(*points, strict=True)
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(x, mean, marker="o", color=colour, label=name)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for points in series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _legend(axes)
    return _png(figure)


def bars(groups: Mapping[str, Mapping[str, float]]) -> bytes:
    """One panel of horizontal bars per group, the same names in each."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = Figure(figsize=(2.4 + 2.2 * len(groups), 0.9 + 0.28 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, group) in zip(panels, groups.items(), strict=True):
        axes.barh(range(len(names)), [group.get(name, 0.0) for name in names], color="tab:blue")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.25)
    panels[0].invert_yaxis()
    return _png(figure)


def _axes(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    return figure, axes


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, ncols=2)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
