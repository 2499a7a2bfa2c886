"""Which tokens end the completions of policy and teacher, and whether these are compared as one event.

distillation.merge_stop=auto merges wherever more than one token ends some side: also where both sides have the same two, for
then each may still write its own (a base model <|endoftext|>, its instruct version <|im_end|>, both in either's generation
config), and which one it is says nothing about the text. Where one token ends both sides nothing is merged.
"""

from collections.abc import Sequence
from typing import Protocol

from opsd_core.config import DistillationConfig
from opsd_core.models.policy import Policy
from opsd_core.models.tokenizers import known_ids
from opsd_core.objective.stops import Stops


class HasPolicies(Protocol):
    """A teacher, of which only its models are asked."""

    policies: tuple[Policy, ...]


def ends_of(policy: Policy) -> tuple[int, ...]:
    """Its end tokens (tokenizer, generation config and chat template) that its tokenizer knows: no other is ever written."""
    return known_ids(policy.tokenizer, policy.eos_ids)


def stops_between(
    student: Sequence[int], members: Sequence[Sequence[int]], config: DistillationConfig
) -> Stops | None:
    """The end tokens that are merged, from those of policy and models that teach; None where nothing is."""
    return None if config.merge_stop == "off" or config.teacher_free else Stops.of(student, members)


def stops_of(student: Policy, teacher: HasPolicies, config: DistillationConfig) -> Stops | None:
    """The same from the models themselves; None without a teacher."""
    if not teacher.policies:
        return None
    return stops_between(ends_of(student), [ends_of(policy) for policy in teacher.policies], config)


def ends_in_words(student: Policy, other: Policy, name: str, merge_stop: str) -> str:
    """What a log says where `other` (called `name`) ends its completions with other tokens than the policy; else empty."""
    own, others = ends_of(student), ends_of(other)
    if own == others:
        return ""
    named = [", ".join(f"{token} {policy.tokenizer.convert_ids_to_tokens(token)!r}" for token in ends) for policy, ends in
             ((other, others), (student, own))]  # fmt: skip
    differ = f"{name} ends its completions with {named[0]}, the policy with {named[1]}"
    if merge_stop == "off":
        return (
            f"{differ}, and distillation.merge_stop=off compares each token by itself: the policy unlearns its own stop, its "
            "completions grow until they are cut. Set distillation.merge_stop=auto unless that is what you study."
        )
    return f"{differ}: they are compared as one stop event (distillation.merge_stop=auto)."
