"""What a rollout engine is: it samples with one policy's weights, and its record is held against transformers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Policy
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.sampling import Completion, Sampling

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Weights:
    """What an engine samples with."""

    policy: Policy
    """In transformers: the tokenizer, and what every record is held against."""
    folder: Path | None = None
    """The same as safetensors, every byte verified; None where they are in memory alone. Nobody changes it."""
    digest: str = ""
    """Of the folder: the name under which an engine serves them."""


class Engine(ABC):
    """Samples with one policy's weights until it is closed; another policy is another engine.

    Completions come out the same whatever their order and neighbours, up to the rounding of the engine's kernels.
    """

    name: ClassVar[str]
    weights: Weights

    @classmethod
    @abstractmethod
    def start(cls, weights: Weights, config: CampaignConfig, environments: Path) -> Self:
        """Ready to sample as `config` says. `environments` is the folder in which environments of engines' own lie.

        ConfigError by field for what this engine or this machine cannot do, ServiceError when it does not start.
        """

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the library that samples."""

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return True

    @abstractmethod
    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, on_progress: Progress | None = None
    ) -> list[Completion]:
        """One completion per prompt, in their order, of `policy.eos_ids` or the length limit; each draws by its own seed.

        DataError as `check_lengths`.
        """

    @abstractmethod
    def checked(self, rollouts: Sequence[Rollout], config: CampaignConfig) -> tuple[list[Rollout], dict[str, Any]]:
        """The rollouts, sampled as `config` says, with every column; and how far their record is from what transformers gives.

        `recorded_error` is the mean |difference| of a token's log-probability in nats. ModelError when it is too large.
        """

    def close(self) -> None:  # noqa: B027  (an engine in this process has nothing to do)
        """Leave nothing in memory that the policy does not hold itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
