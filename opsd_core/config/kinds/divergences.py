"""The divergences' names, functions and properties: data that configuration rules and the objective share."""

from collections.abc import Mapping
from typing import NamedTuple


class DivergenceKind(NamedTuple):
    """One divergence: what it is, and which settings it does not go with."""

    function: str
    """Where it is computed, below `opsd_core`; empty without a teacher (`opsd_core.objective.likelihood`)."""
    meaning: str
    """The equation in a few words."""
    teacher_free: bool = False
    """Reads nothing but the completion's own tokens: no teacher is loaded, probed or scored."""
    advantages: bool = False
    """Teacher-free: each token's factor comes from the policy's own samples and pushes unlikely tokens down (OPSA)."""
    sampled_only: bool = False
    """Compares the sampled token alone: there are no entries to choose or to clip."""
    student_weighted: bool = False
    """Is a mean over the student's own distribution or samples: on an older policy's completions another objective, unless
    token_weights.importance_correction weighs them."""
    infinite_at_zero: bool = False
    """Infinite where the student has mass and the target has none."""
    least_top_k: int = 1
    """Fewest recorded entries with which it sees enough of the student's distribution."""
    weak_near_limits: bool = False
    """Goes to 0 as distillation.beta nears 0 or 1, although at the limits it does not."""
    sampled_tail: str = ""
    """As `function`, for distillation.tail=sampled: the last entry is the sampled token, where it is not kept. Empty = none."""
    reads: tuple[str, ...] = ()
    """Settings of `distillation` that only divergences like this one read."""
    at_beta: Mapping[float, str] = {}
    """Values of distillation.beta at which it is another divergence, exactly."""


DIVERGENCE_KINDS: dict[str, DivergenceKind] = {
    "forward_kl": DivergenceKind("objective.divergences.forward_kl", "KL(teacher||student)"),
    "reverse_kl": DivergenceKind(
        "objective.divergences.reverse_kl",
        "KL(student||teacher)",
        student_weighted=True,
        infinite_at_zero=True,
        least_top_k=8,
        sampled_tail="objective.divergences.reverse_kl_sampled",
    ),
    "jsd": DivergenceKind(
        "objective.divergences.JSD",
        "generalised Jensen-Shannon",
        student_weighted=True,
        weak_near_limits=True,
        reads=("beta", "normalise_beta"),
        at_beta={0.0: "forward_kl", 1.0: "reverse_kl"},
    ),
    "skew_kl": DivergenceKind("objective.divergences.SKEW_KL", "KL(teacher||mixture)", reads=("skew",)),
    "entropy_mix": DivergenceKind(
        "objective.divergences.ENTROPY_MIX",
        "forward KL where the teacher hesitates, reverse KL where it is sure",
        student_weighted=True,
        infinite_at_zero=True,
        reads=("entropy_threshold", "entropy_width"),
    ),
    "sampled_token": DivergenceKind(
        "objective.divergences.sampled_token",
        "policy gradient on the sampled token",
        sampled_only=True,
        student_weighted=True,
        infinite_at_zero=True,
    ),
    "cross_entropy": DivergenceKind("", "-log p(completion)", teacher_free=True),
    "opsa": DivergenceKind(
        "",
        "unlikelihood of the least likely sampled tokens",
        teacher_free=True,
        advantages=True,
        student_weighted=True,
        reads=("opsa_fraction",),
    ),
}
TEACHER_FREE = tuple(name for name, kind in DIVERGENCE_KINDS.items() if kind.teacher_free)
"""Objectives that read nothing but the completion's own tokens."""
