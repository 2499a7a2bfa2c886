"""Figures of a study's report, as PNG bytes."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opsd_core.plots import COLOURS

matplotlib.use("Agg")
_DASHES = ("-", "--", ":", "-.")
Bar = float | tuple[float, float, float]
"""A value, or (value, low, high)."""


class Styles:
    """One colour and line for each arm, the same in every figure; told apart by colour-blind people too.

    Seven colours, then the same ones dashed. A name with a number of labels that is none of the arms' looks like its kind.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._place = {name: index for index, name in enumerate(dict.fromkeys(names))}

    def of(self, name: str) -> dict[str, Any]:
        """Keywords of a line."""
        kind = name.partition(":")[0]
        near = next((place for other, place in self._place.items() if other.partition(":")[0] == kind), len(self._place))
        place = self._place.get(name, near)
        return {"color": COLOURS[place % len(COLOURS)], "linestyle": _DASHES[place // len(COLOURS) % len(_DASHES)]}


def learning_curves(arms: Sequence[Mapping[str, Any]], start: float, styles: Styles) -> bytes:
    """Validation accuracy after each iteration: the seeds' mean, and a band over their range."""
    figure, axes = _axes((7.5, 4.0))
    for arm in (a for a in arms if a["curves"]):
        length = min(map(len, arm["curves"].values()))
        curves = np.array([[start, *curve[:length]] for curve in arm["curves"].values()])
        x, style = np.arange(curves.shape[1]), styles.of(arm["name"])
        axes.plot(x, curves.mean(0), marker="o", markersize=3, label=arm["name"], **style)
        axes.fill_between(x, curves.min(0), curves.max(0), color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="iteration", ylabel="accuracy on validation", ylim=(0, None))
    _legend(axes)
    return _png(figure)


def forest(rows: Sequence[Mapping[str, Any]], title: str, styles: Styles, scale: float = 100.0) -> bytes:
    """Differences with their intervals in points, one line each; filled where outside noise."""
    figure, axes = _axes((7.5, 0.7 + 0.3 * len(rows)))
    for y, row in enumerate(reversed(rows)):
        mean, low, high = (scale * row[name] for name in ("mean", "low", "high"))
        colour = styles.of(row["label"])["color"]
        axes.plot([low, high], [y, y], color=colour)
        axes.plot([mean], [y], "o", color=colour, fillstyle="full" if row["outside_noise"] else "none")
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    axes.set(xlabel="points", title=title)
    return _png(figure)


def along_positions(curves: Mapping[str, Sequence[float]], title: str, styles: Styles) -> bytes:
    """A mean per completion position in nats, one line per arm."""
    figure, axes = _axes((6.0, 3.2))
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker=".", label=name, **styles.of(name))
    axes.set(xlabel="position in the completion (tokens)", ylabel="nats", title=title)
    _legend(axes)
    return _png(figure)


def lengths(by_arm: Mapping[str, Sequence[int]], styles: Styles) -> bytes:
    """Box plots of completion lengths on the test split."""
    figure, axes = _axes((7.5, 3.2))
    drawn = axes.boxplot(list(by_arm.values()), showfliers=False, patch_artist=True, medianprops={"color": "black"})
    for box, name in zip(drawn["boxes"], by_arm, strict=True):
        box.set(facecolor=styles.of(name)["color"], alpha=0.75)
    axes.set_xticks(range(1, len(by_arm) + 1), list(by_arm), rotation=30, ha="right")
    axes.set(ylabel="tokens", title="completion length on the test split")
    return _png(figure)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]], xlabel: str, styles: Styles, log_x: bool = False
) -> bytes:
    """Lines of (x, mean, low, high) with bands, one per name: accuracy on test."""
    figure, axes = _axes((6.5, 4.0))
    for name, points in series.items():
        x, mean, low, high = zip(*points, strict=True)
        style = styles.of(name)
        axes.plot(x, mean, marker="o", label=name, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for points in series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=xlabel, ylabel="accuracy on test")
    _legend(axes)
    return _png(figure)


def bars(groups: Mapping[str, Mapping[str, Bar]], styles: Styles) -> bytes:
    """One panel of horizontal bars per group, the same names in each, with intervals where they are given."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = Figure(figsize=(2.4 + 2.2 * len(groups), 0.9 + 0.28 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, group) in zip(panels, groups.items(), strict=True):
        rows = [_with_interval(group.get(name, math.nan)) for name in names]  # no bar where nothing was measured
        colours = [styles.of(name)["color"] for name in names]
        spread = [[value - low for value, low, _ in rows], [high - value for value, _, high in rows]]
        axes.barh(range(len(names)), [value for value, _, _ in rows], color=colours, alpha=0.75)
        if any(map(any, spread)):
            axes.errorbar([row[0] for row in rows], range(len(names)), xerr=spread, fmt="none", ecolor="black", capsize=2)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.25)
    panels[0].invert_yaxis()
    return _png(figure)


def _with_interval(bar: Bar) -> tuple[float, float, float]:
    value, low, high = bar if isinstance(bar, tuple) else (bar, bar, bar)
    return value, min(value, low), max(value, high)


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
