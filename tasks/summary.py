"""One iteration in numbers, for the campaign's closing lines."""

from pydantic import Field

from tasks.refs import Record


class IterationSummary(Record):
    """The numbers of one iteration that the campaign's summary needs."""

    iteration: int
    version: int
    promoted: bool
    accuracy_before: float | None
    accuracy_after: float | None
    outcome: str
    """promoted, refused, or waits for a person."""
    items: int
    answers: str
    guards: str
    """Which guard rails failed, or that all hold, and what the guards found."""
    loss_first: float
    loss_last: float
    tokens_sampled: int = 0
    tokens_saved: int = 0
    """Of completions that were kept: those that were not sampled again."""
    seconds_saved: float = 0.0
    """That sampling them had taken, less what judging them took."""
    wall_seconds: float
    compute_seconds: float = Field(description="Sampling, grading, scoring, training and evaluation.")

    @property
    def overhead_seconds(self) -> float:
        return max(0.0, self.wall_seconds - self.compute_seconds)
