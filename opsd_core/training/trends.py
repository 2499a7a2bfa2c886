"""Monitors by their slope: is a number on its way, or does it only scatter?

A level says little: healthy runs cross P(stop) < .3, entropy < .2 and truncation > .6 (SimOPD), and what tells a collapse
apart is that it goes on. So the trend of the last points is fitted by least squares and judged against its own noise.

    slope  b = sum (x - mean x)(y - mean y) / sum (x - mean x)^2,   x = 0 .. n - 1
    error  sqrt(sum of squared residuals / (n - 2) / sum (x - mean x)^2),   Student's t with n - 2 degrees of freedom

Points are taken for independent; a number that wanders has smoother residuals than that, hence also a least size of the change.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from opsd_core.selection.monitors import Metrics

WATCHED: dict[str, int] = {
    "completions/mean_length": 1,
    "rollout/entropy": -1,
    "stop/p_at_stop": -1,
    "teacher/accuracy_with_context": -1,
    "policy/privilege_gain": -1,
}
"""Per iteration -> the direction in which it goes wrong: ever longer, surer, unwilling to stop, a teacher that knows less, a
policy that no longer uses the context."""
LEAST_POINTS = 4
_EXACT = 1e-9
"""Residuals below this share of the values are rounding."""


class Trend(NamedTuple):
    """A straight line through the last points."""

    slope: float
    """Per point."""
    error: float
    """Standard error of the slope."""
    start: float
    """The line at the first of the points."""
    points: int

    @property
    def change(self) -> float:
        """What the line gained from the first to the last point."""
        return self.slope * (self.points - 1)

    def p_value(self, direction: int) -> float:
        """One-sided: of a slope as large in this direction where there is none."""
        signed = direction * self.slope
        if self.error == 0.0:
            return 0.0 if signed > 0 else 1.0
        return float(stdtr(self.points - 2, -signed / self.error))


def trend(values: Sequence[float]) -> Trend | None:
    """The line through `values`; None of fewer than LEAST_POINTS, or where one is not finite."""
    y, n = np.asarray(values, float), len(values)
    if n < LEAST_POINTS or not np.isfinite(y).all():
        return None
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (n - 2) / float(x @ x))
    if error < _EXACT * float(np.abs(y).max(initial=0.0)):
        error = 0.0
    return Trend(slope, error, float(y.mean() - slope * (n - 1) / 2), n)


def trends(history: Sequence[Metrics], window: int) -> dict[str, Trend]:
    """Of every watched number that each of the last `window` iterations has (fewer at the start): its trend."""
    found = {}
    for name in WATCHED:
        values = [metrics[name] for metrics in history if name in metrics][-window:]
        if name in history[-1] and (line := trend(values)) is not None:
            found[name] = line
    return found


def trend_metrics(history: Sequence[Metrics], window: int) -> Metrics:
    """trend/NAME/slope and /error of every watched number, per iteration."""
    return {
        f"trend/{name}/{part}": getattr(line, part)
        for name, line in (trends(history, window) if history else {}).items()
        for part in ("slope", "error")
    }
