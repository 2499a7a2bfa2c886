"""Filters: which graded completions are trained on, each drop with its reason.

Order: empty -> truncated -> repetitive -> leak -> low_score -> no_majority, (dis)agrees -> route -> (no context, no peer) ->
the choice among a prompt's completions (`groups`) -> teacher probe. The first filter that a completion fails gives the reason;
nothing is deleted. The teacher probe is last: it costs a forward pass.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opsd_core.config import FilterConfig
from opsd_core.graders.agreement import Agreement
from opsd_core.records.grades import GradedRollout

REPETITION_WINDOW = 10_000
"""Characters at the end of a completion that are compressed."""


@dataclass(frozen=True)
class GradedCompletion:
    """What the filters look at."""

    text: str
    num_tokens: int
    truncated: bool
    """True when max_completion_length ended it, not an end-of-sequence token."""
    correct: bool | None
    """None when there is no label to grade against."""
    score: float | None = None
    """The grader's, in [0, 1]; None without a label."""
    leaks: bool = False
    """Refers to, or copies, what only the teacher saw; see `leaks.leaks_text`."""
    agreement: Agreement | None = None
    """Place in the prompt's vote; None where nobody votes."""
    pass_rate: float | None = None
    """Of the prompt, as known after these completions; see `curriculum.pass_rate`."""


@dataclass(frozen=True)
class Decision:
    """Trained on or not, and why not ("" when kept)."""

    keep: bool
    reason: str
    weight: float = 1.0
    """Factor of all its tokens."""


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


def _leaking(completion: GradedCompletion, config: FilterConfig) -> str:
    return "leak" if config.drop_leaks and completion.leaks else ""


def _low_score(completion: GradedCompletion, config: FilterConfig) -> str:
    if config.min_score is None:
        return ""
    if completion.score is None:
        return "not_graded"
    return "low_score" if completion.score < config.min_score else ""


def _outvoted(completion: GradedCompletion, config: FilterConfig) -> str:
    agreement = completion.agreement
    if agreement is None or (config.min_agreement == 0.0 and config.majority_route == "all"):
        return ""
    if agreement.share < config.min_agreement or agreement.share == 0.0:
        return "no_majority"
    if config.majority_route == "all" or agreement.agrees == (config.majority_route == "agreeing"):
        return ""
    return "agrees" if agreement.agrees else "disagrees"


def _routed_away(completion: GradedCompletion, config: FilterConfig) -> str:
    if config.route == "all":
        return ""
    if completion.correct is None:
        return "not_graded"
    if config.route == "pass_rate":
        return ""
    if config.route == "incorrect_only":
        return "correct" if completion.correct else ""
    return "" if completion.correct else "incorrect"


FILTERS: tuple[Callable[[GradedCompletion, FilterConfig], str], ...] = (
    _empty,
    _truncated,
    _repetitive,
    _leaking,
    _low_score,
    _outvoted,
    _routed_away,
)


def routing_weight(completion: GradedCompletion, config: FilterConfig) -> float:
    """route=pass_rate: 4 p (1 - p), which is 1 for a prompt solved half of the time and 0 at both ends; else 1.

    Source: PACED, arXiv:2603.11178, with exponents 1; the factor 4 only sets the scale.
    """
    if config.route != "pass_rate" or completion.pass_rate is None:
        return 1.0
    return 4.0 * completion.pass_rate * (1.0 - completion.pass_rate)


def teacher_probe_reason(gain: float, answers_itself: bool, config: FilterConfig) -> str:
    """The last filter, per prompt: why the teacher is not trusted with it, or "".

    gain = mean over the reference answer's tokens of log T(token | teacher's prompt) - log S(token | student's prompt), in
    nats; answers_itself: each of these tokens is the teacher's most likely one. Source: TGOPD, arXiv:2609.02998.
    """
    if config.teacher_probe == "gain" and gain <= config.min_gain:
        return "teacher_no_gain"
    if config.teacher_probe == "answer" and not answers_itself:
        return "teacher_wrong"
    return ""


def filter_rollouts(completions: Iterable[GradedCompletion], config: FilterConfig) -> list[Decision]:
    """One decision per completion, in the same order."""
    return [_decide(completion, config) for completion in completions]


def count_reasons(decisions: Iterable[Decision | GradedRollout]) -> dict[str, int]:
    """How often each reason occurs; kept completions are counted under "kept"."""
    return dict(Counter(decision.reason or "kept" for decision in decisions))


def _decide(completion: GradedCompletion, config: FilterConfig) -> Decision:
    for check in FILTERS:
        if reason := check(completion, config):
            return Decision(keep=False, reason=reason)
    return Decision(keep=True, reason="", weight=routing_weight(completion, config))
