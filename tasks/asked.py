"""Records of what prompts were asked and answered."""

from typing import Literal

from pydantic import Field

from tasks.record import Record, Ref


class PromptSet(Ref):
    """The training prompts of one iteration, cut into shards."""

    num_prompts: int
    num_shards: int

    @property
    def round_name(self) -> str:
        """Of the round in which they are asked again; empty the first time."""
        return ""


class AskedAgain(PromptSet):
    """Prompts without a right completion after so many rounds, which are asked in the next one (rollout.refill)."""

    shards: list[int]
    """Those that hold any."""
    round: int
    """Counted from 1."""
    first_sample: int
    """Index of a prompt's next completion."""
    group_size: int
    """Completions that each is asked for."""

    @property
    def round_name(self) -> str:
        return f"-round{self.round}"

    @property
    def samples(self) -> range:
        """Indices of the completions that each is asked for."""
        return range(self.first_sample, self.first_sample + self.group_size)


class ShardRef(Ref):
    """One shard of rollouts."""

    iteration: int
    """The one that began with the policy that sampled."""
    shard: int
    digest: str
    num_rollouts: int
    num_references: int = 0
    """Of the rollouts, those that are reference texts."""
    num_tokens: int
    seconds: float = Field(description="Model compute; 0 when an existing shard was reused.")
    mismatch: dict[str, float] = Field({}, description="Sums of `Mismatch`; empty where transformers sampled.")


class Refilled(Record):
    """What it came to that prompts were asked again."""

    prompts: int
    """That an answer is known of and the policy answers itself."""
    right_at_first: int
    """Of these, with a right completion before any was asked again."""
    right: int
    """The same after the last round."""
    wanted: int
    rounds: int = 0
    completions: int = 0
    """Of all rounds together."""
    tokens: int = 0
    ended: Literal["", "reached", "rounds", "completions"] = ""
    """By what: enough prompts have a right completion, or the budget of rounds, or of completions, is spent."""
