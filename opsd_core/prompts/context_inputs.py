"""What a privileged context may be made of, and what it is: template variables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opsd_core.config import TeacherConfig
from opsd_core.records.examples import Example

Variables = dict[str, str]


@dataclass(frozen=True)
class Attempt:
    """One completion of a prompt in this iteration, graded where there is a label."""

    sample_index: int
    text: str
    answer: str | None = None
    """The final answer found without looking at the reference; equal answers are equal strings."""
    correct: bool | None = None
    """None without a label."""
    report: str = ""
    """The grader's own words, of one that has some (`GraderKind.reports`)."""
    num_tokens: int = 0
    """Of the completion that the policy wrote, its end included."""


@dataclass(frozen=True)
class ContextInputs:
    """What a context may be made of."""

    example: Example
    config: TeacherConfig
    pool: Sequence[Example] = ()
    """Training items, for contexts that show another one."""
    group: Sequence[Attempt] = ()
    """All completions of the prompt in this iteration, for contexts made from rollouts."""
    sample_index: int = 0
    """The completion that the teacher is about to score."""
    peers: Sequence[Attempt] = ()
    """One answer per other model to the prompt, `sample_index` the model's place in teacher.peers."""

    @property
    def own(self) -> Attempt:
        """The completion that the teacher is about to score."""
        return next(attempt for attempt in self.group if attempt.sample_index == self.sample_index)


Context = Callable[[ContextInputs], Variables | None]
