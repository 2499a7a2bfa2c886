"""What a trainer asks of the processes that train together. One process, the usual case, answers here and costs nothing.

`opsd_core.training.parallel.together` holds those of several; this file knows no torch.distributed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch

from opsd_core.errors import TrainingError
from opsd_core.models.forward import microbatches
from opsd_core.models.policy import Policy
from opsd_core.teacher.teachers import TeacherWeights
from opsd_core.training.scored import Scored

Result = TypeVar("Result")


class Round(NamedTuple):
    """One forward and backward pass: rows of a batch, and whether they count or only keep this process in step."""

    rows: list[int]
    counts: bool = True


class Ranks:
    """One process: it has every weight and every row."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.most_tokens: int | None = None
        """Padded tokens of a microbatch that the memory allows; None until it did not suffice."""

    def prepare(self, student: Policy, *scorers: TeacherWeights) -> None:
        """Lay the weights out over the processes, in place, before an optimiser or a state is made of them."""

    def call(self, function: Callable[[], Result]) -> Result:
        """`function()`, in which output heads and embeddings are whole. All processes call it together."""
        return function()

    def mine(self, lengths: Sequence[int], max_tokens: int) -> list[Round]:
        """This process' part of a batch whose items have `lengths`, in microbatches; every process knows all lengths."""
        return [Round(rows) for rows in microbatches(lengths, self.limit(max_tokens))]

    def sum(self, value: float) -> float:
        """Over all processes."""
        return value

    def sync(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Make the gradients those of the whole batch, after its last microbatch."""

    def gather(self, scored: list[Scored], lengths: Sequence[int], batch: Sequence) -> list[Scored]:
        """What all processes scored of the batch: the numbers alone, without gradient."""
        return scored

    def limit(self, max_tokens: int) -> int:
        """Padded tokens of a microbatch: as configured, or fewer where these did not fit."""
        return max_tokens if self.most_tokens is None else min(max_tokens, self.most_tokens)

    def lower(self, lengths: Iterable[int], max_tokens: int) -> None:
        """Halve the microbatches. TrainingError when each holds one completion already."""
        lengths = list(lengths)
        groups = microbatches(lengths, self.limit(max_tokens))
        shared = [len(group) * max(lengths[row] for row in group) for group in groups if len(group) > 1]
        if not shared:
            raise TrainingError(
                f"out of memory: a forward pass over one completion of {max(lengths)} tokens (prompt included) does not fit "
                "beside the weights. Set execution.gradient_checkpointing=true, lower rollout.max_completion_length or "
                "prompts.max_teacher_prompt_length, train adapters (model.lora.rank), or shard the weights over more devices "
                "(execution.ranks with execution.parallel=fsdp)."
            )
        self.most_tokens = max(shared) // 2  # less than a completion that stands alone anyway may be long


class DoesNotFit(torch.OutOfMemoryError):
    """A microbatch did not fit, and all processes have to begin again with fewer tokens in each."""

    def __init__(self, tokens: int, fewer: int) -> None:
        super().__init__(f"a microbatch of at most {tokens} padded tokens does not fit the memory")
        self.fewer = fewer
        """Padded tokens of a microbatch, of which the largest that held several completions is cut in halves."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: torch's own on a device, on a CPU the allocator's words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "not enough memory" in str(error))
