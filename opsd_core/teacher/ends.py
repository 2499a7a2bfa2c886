"""Which tokens end the completions of policy and teacher, and whether these are compared as one event.

distillation.merge_stop=auto merges wherever more than one token ends some side: also where both sides have the same two, for
then each may still write its own (a base model <|endoftext|>, its instruct version <|im_end|>, both in either's generation
config), and which one it is says nothing about the text. Where one token ends both sides nothing is merged.
"""

from collections.abc import Sequence
from typing import Protocol

from opsd_core.config import DistillationConfig
from opsd_core.models.policy import Policy
from opsd_core.objective.stops import Stops


class HasPolicies(Protocol):
    """A teacher, of which only its models are asked."""

    policies: tuple[Policy, ...]


def ends_of(policy: Policy) -> tuple[int, ...]:
    """Its end tokens (tokenizer, generation config and chat template) that its tokenizer knows: no other is ever written."""
    return known_ends(policy.tokenizer, policy.eos_ids)


def known_ends(tokenizer: object, ids: Sequence[int]) -> tuple[int, ...]:
    """Those ids for which the tokenizer has a token."""
    return tuple(token for token in ids if tokenizer.convert_ids_to_tokens(token) is not None)


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
