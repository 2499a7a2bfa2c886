"""Figures of an iteration and of a campaign, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.use("Agg")
_SIZE = (7.0, 3.2)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#000000")
"""Told apart by colour-blind people too (Okabe and Ito 2008)."""
BLUE, ORANGE = COLOURS[0], COLOURS[1]


def plot_steps(steps: Sequence[dict[str, float]], path: Path) -> None:
    """Loss and per-token divergence, or -log p without a teacher (mean, median, 99th percentile), by optimiser step."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [row["step"] for row in steps]
    left.plot(x, [row["distillation/loss"] for row in steps], color=BLUE)
    left.set(xlabel="optimiser step", ylabel="nats per token", title="distillation loss")
    kind, title = ("kl", "divergence") if "kl/mean" in steps[0] else ("nll", "-log p(completion)")
    for name, label in (("mean", "mean"), ("p50", "median"), ("p99", "99th percentile")):
        right.plot(x, [row[f"{kind}/{name}"] for row in steps], label=label)
    right.set(xlabel="optimiser step", title=title)
    right.set_yscale("symlog", linthresh=0.01)
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def plot_completions(lengths: np.ndarray, entropies: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    """Histograms of completion lengths (tokens) and of entropies along them (nats): counts and edges."""
    counts, edges = entropies
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    shortest, longest = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(longest - shortest + 1) // 40))  # whole tokens, at most 40 bars
    left.hist(lengths, bins=np.arange(shortest, longest + width + 1, width) - 0.5, color=BLUE)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="completion length (tokens)", ylabel="completions")
    right.hist(edges[:-1], bins=edges, weights=counts, color=ORANGE)
    right.set(xlabel="entropy (nats)", ylabel="positions", yscale="log")
    figure.savefig(path, dpi=110)


def plot_accuracy(rows: Sequence[tuple[str, float, tuple[float, float], bool]], path: Path) -> None:
    """Held-out accuracy with its interval; `rows` are (label, accuracy, (low, high), whether it became champion)."""
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    axes = figure.subplots()
    x = range(len(rows))
    below, above = [row[1] - row[2][0] for row in rows], [row[2][1] - row[1] for row in rows]
    axes.errorbar(x, [row[1] for row in rows], yerr=[below, above], color=BLUE, capsize=3)
    for champion, face, label in ((True, BLUE, "champion"), (False, "white", "not promoted")):
        marked = [(at, row[1]) for at, row in enumerate(rows) if row[3] is champion]
        if marked:
            axes.plot(*zip(*marked, strict=True), "o", color=BLUE, markerfacecolor=face, label=label, zorder=3)
    axes.legend(frameon=False)
    axes.set_xticks(list(x), [row[0] for row in rows], rotation=30, ha="right")
    axes.set(ylabel="held-out accuracy (95 % interval)", ylim=(0, None))
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
