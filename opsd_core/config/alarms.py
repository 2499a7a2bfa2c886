"""When training has to stop, and what happens then."""

from typing import Literal

from pydantic import Field

from opsd_core.config.base import Section

Remedy = Literal["warn", "refresh_teacher", "raise_temperature", "lower_rate", "end"]


class AlarmConfig(Section):
    """Limits on the monitors; null switches one off. `start` is the campaign's first iteration."""

    remedy: Remedy = Field(
        "warn",
        description="warn = report and continue; otherwise the iteration stops, keeps its artifacts, and the campaign continues "
        "from the champion with the champion as teacher, a higher sampling temperature or a lower learning rate, or ends.",
    )
    max_recoveries: int = Field(3, ge=0, le=1000, description="Stopped iterations after which the campaign ends anyway.")
    temperature_factor: float = Field(1.2, gt=1, le=5, description="raise_temperature: factor of rollout.temperature.")
    rate_factor: float = Field(0.5, gt=0, lt=1, description="lower_rate: factor of optimizer.learning_rate.")
    max_truncation: float | None = Field(0.2, gt=0, le=1, description="Largest share of truncated completions.")
    max_truncation_growth: float | None = Field(
        2.0, gt=1, le=1000, description="Largest share of truncated completions as a multiple of the start's (at least 0.02)."
    )
    min_entropy_ratio: float | None = Field(0.5, ge=0, lt=1, description="Smallest mean token entropy over the start's.")
    max_entropy_ratio: float | None = Field(2.0, gt=1, le=1000, description="Largest mean token entropy over the start's.")
    max_kl_p99: float | None = Field(2.0, gt=0, le=1000, description="Largest 99th percentile of the divergence, in nats.")
    kl_steps: int = Field(3, ge=1, le=10_000, description="Optimiser steps in a row above max_kl_p99 that raise the alarm.")
    max_accuracy_drop: float | None = Field(
        1.0, ge=0, le=100, description="Held-out accuracy below the start's champion, in its standard errors."
    )
    slope_level: float | None = Field(
        0.01, gt=0, lt=0.5, description="One-sided level at which a monitor's slope over iterations is outside its noise."
    )
    slope_window: int = Field(8, ge=4, le=1000, description="Iterations that the slope is taken over, at least four.")
    slope_change: float = Field(
        0.25, ge=0, le=100, description="Least change along the slope within these, as a share of its start, that is an alarm."
    )
    leak_rises: int | None = Field(
        3, ge=1, le=1000, description="Iterations in a row in which the share of leaking completions rose."
    )
