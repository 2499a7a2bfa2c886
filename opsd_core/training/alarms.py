"""Signs that a campaign is going wrong, and what is changed then. Pure functions: metrics in, names and messages out.

`history` holds one dictionary of metrics per iteration, the campaign's first one at the front, the current one at the
end; for the stage `step` it holds the current iteration's optimiser steps instead. A check whose metrics are missing
says nothing. Source of the levels: arXiv:2604.08527 (truncation), arXiv:2604.03128 (leaks); the others are ours.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from opsd_core.config import AlarmConfig, CampaignConfig
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.selection.monitors import Metrics
from opsd_core.training.trends import WATCHED, trends

Stage = Literal["rollout", "step", "evaluation"]
Check = Callable[[AlarmConfig, Sequence[Metrics]], str | None]

_TRUNCATION_FLOOR = 0.02
"""Start below which growth is measured from here: twice almost nothing is still almost nothing."""


class Alarm(NamedTuple):
    """One limit that was passed."""

    name: str
    message: str


def truncation(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """Share of truncated completions above max_truncation, or above max_truncation_growth times the start's."""
    name = "completions/clipped_ratio"
    start, now = _start(history, name), history[-1][name]
    if config.max_truncation is not None and now > config.max_truncation:
        return f"{name}={now:.3f} is above alarms.max_truncation={config.max_truncation}"
    growth = config.max_truncation_growth
    if growth is not None and now > growth * max(start, _TRUNCATION_FLOOR):
        return f"{name} rose from {start:.3f} to {now:.3f}, more than alarms.max_truncation_growth={growth} times"
    return None


def entropy(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """Mean token entropy of the rollouts outside [min_entropy_ratio, max_entropy_ratio] times the start's."""
    return _entropy_ratio(config, "rollout/entropy", history)


def step_entropy(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """The same for the policy's entropy within an iteration, against its first step."""
    return _entropy_ratio(config, "actor/entropy", history)


def _entropy_ratio(config: AlarmConfig, name: str, history: Sequence[Metrics]) -> str | None:
    start, now = _start(history, name), history[-1][name]
    if config.min_entropy_ratio is not None and now < config.min_entropy_ratio * start:
        return f"{name} fell from {start:.4g} to {now:.4g} nats, below alarms.min_entropy_ratio={config.min_entropy_ratio}"
    if config.max_entropy_ratio is not None and now > config.max_entropy_ratio * start:
        return f"{name} rose from {start:.4g} to {now:.4g} nats, above alarms.max_entropy_ratio={config.max_entropy_ratio}"
    return None


def kl_p99(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """99th percentile of the divergence above max_kl_p99 in kl_steps optimiser steps in a row."""
    last = [step["kl/p99"] for step in history[-config.kl_steps :]]
    if config.max_kl_p99 is None or len(last) < config.kl_steps or min(last) <= config.max_kl_p99:
        return None
    return f"kl/p99 was {min(last):.3g} nats or more in {len(last)} steps, above alarms.max_kl_p99={config.max_kl_p99}"


def accuracy(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """Held-out accuracy more than max_accuracy_drop standard errors below that of the start's champion."""
    base, error = _start(history, "champion/eval/accuracy"), _start(history, "champion/eval/accuracy_se")
    now, limit = history[-1]["eval/accuracy"], config.max_accuracy_drop
    if limit is None or now >= base - limit * error:
        return None
    return f"eval/accuracy={now:.4f} is more than alarms.max_accuracy_drop={limit} x {error:.4f} below the start's {base:.4f}"


def leak(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """The share of completions that leak privileged text rose leak_rises iterations in a row."""
    if config.leak_rises is None or len(history) <= config.leak_rises:
        return None
    last = [metrics["leak_rate"] for metrics in history[-config.leak_rises - 1 :]]
    if any(later <= earlier for earlier, later in pairwise(last)):
        return None
    return f"leak_rate rose {config.leak_rises} iterations in a row, from {last[0]:.4f} to {last[-1]:.4f}"


def slope(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """A watched number goes the wrong way over the last slope_window iterations, by more than its noise and slope_change."""
    if config.slope_level is None:
        return None
    said = []
    for name, line in trends(history, config.slope_window).items():
        direction, size = WATCHED[name], config.slope_change * abs(line.start)
        if direction * line.change > size and line.p_value(direction) < config.slope_level:
            said.append(
                f"{name} {'rises' if direction > 0 else 'falls'} by {abs(line.slope):.4g} +- {line.error:.2g} per iteration, "
                f"{line.start:.4g} to {line.start + line.change:.4g} in {line.points} (alarms.slope_level={config.slope_level})"
            )
    return "; ".join(said) or None


def empty_batch(config: AlarmConfig, history: Sequence[Metrics]) -> str | None:
    """No completion has a target: filtered out, or without a context for the teacher. Training would be refused."""
    if history[-1]["self_distillation/empty_target_batch"]:
        return "no completion is left to train on: all were filtered out or have no context; see the filter's reasons"
    return None


def _start(history: Sequence[Metrics], name: str) -> float:
    """The first value that was recorded; an iteration that an alarm stopped early has no later metrics."""
    values = [metrics[name] for metrics in history if name in metrics]
    return values[0] if values else history[0][name]


ALARMS: dict[str, tuple[Stage, Check]] = {
    "truncation": ("rollout", truncation),
    "entropy": ("rollout", entropy),
    "leak": ("rollout", leak),
    "empty_batch": ("rollout", empty_batch),
    "kl_p99": ("step", kl_p99),
    "step_entropy": ("step", step_entropy),
    "accuracy": ("evaluation", accuracy),
    "slope": ("evaluation", slope),
}


def find_alarms(config: AlarmConfig, stage: Stage, history: Sequence[Metrics]) -> list[Alarm]:
    """The alarms of `stage` that the latest metrics raise."""
    found = []
    for name, (where, check) in ALARMS.items():
        try:
            message = check(config, history) if where == stage else None
        except KeyError:  # a metric that this campaign does not record
            continue
        if message:
            found.append(Alarm(name, message))
    return found


def remedied(config: CampaignConfig) -> CampaignConfig | None:
    """The configuration after the remedy; None when the campaign ends.

    refresh_teacher    the champion teaches (teacher.weights=previous) in place of the first or the live policy; an average
                       starts again from the champion's, for the trainer goes back to the champion's state
    raise_temperature  rollout.temperature, scheduled values included, times temperature_factor, at most 5
    lower_rate         optimizer.learning_rate times rate_factor
    """
    remedy = config.alarms.remedy
    return None if remedy == "end" else REMEDIES[remedy](config)


def _refresh_teacher(config: CampaignConfig) -> CampaignConfig:
    teacher = config.teacher

    def refreshed(weights: str) -> str:
        kind = TEACHER_KINDS[weights]
        return "previous" if kind.is_initial or kind.is_student else weights

    members = tuple(
        member.model_copy(update={"weights": refreshed(member.weights)}) if member.weights else member
        for member in teacher.members
    )
    return _with(config, "teacher", weights=refreshed(teacher.weights), members=members)


def _raise_temperature(config: CampaignConfig) -> CampaignConfig:
    factor, path = config.alarms.temperature_factor, "rollout.temperature"
    schedules = config.curriculum.schedules
    if path in schedules:
        schedules = schedules | {path: tuple(min(5.0, value * factor) for value in schedules[path])}
        config = _with(config, "curriculum", schedules=schedules)
    return _with(config, "rollout", temperature=min(5.0, config.rollout.temperature * factor))


def _lower_rate(config: CampaignConfig) -> CampaignConfig:
    return _with(config, "optimizer", learning_rate=config.optimizer.learning_rate * config.alarms.rate_factor)


REMEDIES: dict[str, Callable[[CampaignConfig], CampaignConfig]] = {
    "warn": lambda config: config,
    "refresh_teacher": _refresh_teacher,
    "raise_temperature": _raise_temperature,
    "lower_rate": _lower_rate,
}


def _with(config: CampaignConfig, section: str, **changes: Any) -> CampaignConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})
