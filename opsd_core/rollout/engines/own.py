"""transformers: opsd's own sampler, in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import transformers

from opsd_core.config import CampaignConfig
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.engines.interface import Engine, Progress, Weights
from opsd_core.rollout.generation import generate
from opsd_core.rollout.recorded import recorded_error
from opsd_core.rollout.sampling import Completion, Sampling


class OwnEngine(Engine):
    """`rollout.generation`, with the policy that is in memory anyway."""

    name = "transformers"

    def __init__(self, weights: Weights, batch_size: int) -> None:
        self.weights, self.batch_size = weights, batch_size

    @classmethod
    def start(cls, weights: Weights, config: CampaignConfig, environments: Path) -> Self:
        """Nothing has to be started."""
        return cls(weights, config.execution.rollout_batch_size)

    @property
    def version(self) -> str:
        return transformers.__version__

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, on_progress: Progress | None = None
    ) -> list[Completion]:
        """As `Engine.generate`."""
        return generate(self.weights.policy, prompts, seeds, sampling, self.batch_size, on_progress)

    def checked(self, rollouts: Sequence[Rollout], config: CampaignConfig) -> tuple[list[Rollout], dict[str, Any]]:
        """The record is whole; a few rollouts are computed again (`recorded_error`)."""
        return list(rollouts), {"recorded_error": recorded_error(self.weights.policy, rollouts)}
