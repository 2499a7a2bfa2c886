"""Sample gates: which graded completions are trained on, each drop with its reason.

Order: empty -> truncated -> repetitive -> route. The first gate that closes gives the reason; nothing is deleted.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opsd_core.config import FilterConfig

REPETITION_WINDOW = 10_000
"""Characters at the end of a completion that are compressed."""


@dataclass(frozen=True)
class GradedCompletion:
    """What the gates look at."""

    text: str
    num_tokens: int
    truncated: bool
    """True when max_completion_length ended it, not an end-of-sequence token."""
    correct: bool | None
    """None when there is no label to grade against."""


@dataclass(frozen=True)
class Decision:
    """Trained on or not, and why not ("" when kept)."""

    keep: bool
    reason: str


def repetition_factor(text: str) -> float:
    """Bytes of the last 10,000 characters over their zlib-compressed bytes; ordinary prose gives 1 to 3.

    zlib's fixed cost of about 10 bytes keeps texts under about 120 characters below 10, however repetitive.
    """
    data = text[-REPETITION_WINDOW:].encode("utf-8", errors="replace")
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _empty(completion: GradedCompletion, config: FilterConfig) -> str:
    return "" if completion.num_tokens > 0 and completion.text.strip() else "empty"


def _truncated(completion: GradedCompletion, config: FilterConfig) -> str:
    return "truncated" if config.drop_truncated and completion.truncated else ""


def _repetitive(completion: GradedCompletion, config: FilterConfig) -> str:
    return "repetitive" if repetition_factor(completion.text) > config.max_repetition else ""


def _routed_away(completion: GradedCompletion, config: FilterConfig) -> str:
    if config.route == "all":
        return ""
    if completion.correct is None:
        return "not_graded"
    if config.route == "incorrect_only":
        return "correct" if completion.correct else ""
    return "" if completion.correct else "incorrect"


GATES: tuple[Callable[[GradedCompletion, FilterConfig], str], ...] = (_empty, _truncated, _repetitive, _routed_away)


def filter_rollouts(completions: Iterable[GradedCompletion], config: FilterConfig) -> list[Decision]:
    """One decision per completion, in the same order."""
    return [_decide(completion, config) for completion in completions]


def count_reasons(decisions: Iterable[Decision]) -> dict[str, int]:
    """How often each reason occurs; kept completions are counted under "kept"."""
    return dict(Counter(decision.reason or "kept" for decision in decisions))


def _decide(completion: GradedCompletion, config: FilterConfig) -> Decision:
    for gate in GATES:
        if reason := gate(completion, config):
            return Decision(keep=False, reason=reason)
    return Decision(keep=True, reason="")
