"""Which completion tokens count, and how much: one factor per function, multiplied.

The weight of token t of a completion is  w_t = prod_f f_t >= 0,  and a step minimises

    normaliser=token      sum_n w_n D_n / sum_n w_n      n over all tokens of the optimiser step
    normaliser=sequence   sum_s v_s (sum_t w_st D_st / sum_t w_st) / sum_s v_s     s over completions with any weight

with v_s the completion's own weight (1, times the filter's and the truncation's). Numerator and denominator are summed
over the whole step before dividing, so any split into microbatches gives the same gradient. Neither the bound's factor
nor the importance ratio is part of a denominator: if every token is held down, the step becomes smaller and is not
scaled back up.

An environment's tokens weigh 0. The policy's are weighed as if they stood alone: places, shares and skipped tokens are counted
among them.

T = tokens of one completion
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from opsd_core.config import CampaignConfig
from opsd_core.config.selection import TokenWeightConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.selection.leaks import copied_positions


@dataclass(frozen=True)
class WeightInputs:
    """What the factors look at: one completion, both prompts, and what is known along it."""

    completion_ids: Sequence[int]
    prompt_ids: Sequence[int] = ()
    teacher_prompt_ids: Sequence[int] = ()
    answer_ids: Sequence[Sequence[int]] = ()
    """Encodings of the reference answer; repeating it is not a leak."""
    special_ids: frozenset[int] = frozenset()
    """Special tokens without those that end a sequence."""
    truncated: bool = False
    student_entropy_T: np.ndarray | None = None
    """Nats, of the policy that sampled."""
    teacher_entropy_T: np.ndarray | None = None
    """Nats, of the recorded target."""
    sample_weight: float = 1.0
    """Of the whole completion, from the filters."""
    sampled_T: np.ndarray | None = None
    """bool: whether the policy wrote this token, or an environment; None = the policy all of them."""

    @property
    def own(self) -> "WeightInputs":
        """What is known along the policy's tokens alone."""
        if self.sampled_T is None:
            return self
        ids = np.asarray(self.completion_ids)[self.sampled_T].tolist()
        entropies = (self.student_entropy_T, self.teacher_entropy_T)
        student_T, teacher_T = (None if values_T is None else np.asarray(values_T)[self.sampled_T] for values_T in entropies)
        return replace(self, completion_ids=ids, student_entropy_T=student_T, teacher_entropy_T=teacher_T, sampled_T=None)


Factor = Callable[[WeightInputs, CampaignConfig], np.ndarray]


def after_first(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """0 for the first `distillation.skip_first_tokens` tokens, 1 after them. Source: SDFT, arXiv:2601.19897."""
    return (np.arange(len(inputs.completion_ids)) >= config.distillation.skip_first_tokens).astype(np.float64)


def not_special(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """0 for special tokens; end-of-sequence counts, or the policy forgets to stop."""
    masked = inputs.special_ids if config.token_weights.mask_special_tokens else frozenset()
    return np.array([token not in masked for token in inputs.completion_ids], np.float64)


def whole_sample(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """The completion's own weight, times `truncated_weight` when the length limit cut it."""
    return np.full(len(inputs.completion_ids), _own_weight(inputs, config))


def _own_weight(inputs: WeightInputs, config: CampaignConfig) -> float:
    return inputs.sample_weight * (config.token_weights.truncated_weight if inputs.truncated else 1.0)


def position(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """w = floor + (1 - floor) sigmoid(+-(x - centre) / width),  x = t / (T - 1);  + for late, - for early.

    Source: PW-OPSD, arXiv:2605.21606 (late: floor .25, centre .30, width .10); IW-OPD, arXiv:2606.22600, finds the opposite.
    """
    weights, num_tokens = config.token_weights, len(inputs.completion_ids)
    x_T = (np.arange(num_tokens) / max(num_tokens - 1, 1) - weights.position_centre) / weights.position_width
    return POSITIONS[weights.position](x_T, weights.position_floor)


POSITIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "uniform": lambda x_T, floor: np.ones(len(x_T)),
    "late": lambda x_T, floor: floor + (1 - floor) / (1 + np.exp(-x_T)),
    "early": lambda x_T, floor: floor + (1 - floor) / (1 + np.exp(x_T)),
}
"""Weights (T,) by place: of x above, and the floor."""


def entropy(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """down exp(-beta H);  up 1 - exp(-beta H);  top: 1 for the ceil(fraction T) largest H of the completion, else 0.

    random: 1 for as many tokens of the completion, drawn; what top gains over it is owed to the choice, not to the number.

    Source: down SRPO and EGRSD (arXiv:2605.13255); top TIP (arXiv:2604.14084). The literature disagrees on the direction.
    """
    weights = config.token_weights
    if weights.entropy == "uniform":
        return np.ones(len(inputs.completion_ids))
    entropy_T = inputs.teacher_entropy_T if weights.entropy_of == "teacher" else inputs.student_entropy_T
    if entropy_T is None:
        raise DataError(
            f"token_weights.entropy={weights.entropy} needs the {weights.entropy_of}'s entropy, and this completion has none. "
            "Use distillation.targets=recorded, or token_weights.entropy_of=student."
        )
    return ENTROPIES[weights.entropy](np.asarray(entropy_T), weights)


def _largest(entropy_T: np.ndarray, weights: TokenWeightConfig) -> np.ndarray:
    kept = np.argsort(-entropy_T, kind="stable")[: math.ceil(weights.entropy_fraction * len(entropy_T))]
    return np.isin(np.arange(len(entropy_T)), kept).astype(np.float64)


def _drawn(entropy_T: np.ndarray, weights: TokenWeightConfig) -> np.ndarray:
    """As many as `_largest`; the same ones whenever the completion is looked at."""
    seed = derive_seed("random tokens", entropy_T.astype("<f4").tobytes().hex())
    return _largest(np.random.default_rng(seed % 2**63).random(len(entropy_T)), weights)


def _down(entropy_T: np.ndarray, weights: TokenWeightConfig) -> np.ndarray:
    return np.exp(-weights.entropy_beta * entropy_T.astype(np.float64))


ENTROPIES: dict[str, Callable[[np.ndarray, TokenWeightConfig], np.ndarray]] = {
    "down": _down,
    "up": lambda entropy_T, weights: 1.0 - _down(entropy_T, weights),
    "top": _largest,
    "random": _drawn,
}
"""Weights (T,) by the entropy of every token, in nats; `uniform` looks at none."""


def not_leaked(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """0 inside a run of `leak_span` tokens copied from the teacher's prompt that neither student's prompt nor answer has."""
    span = config.token_weights.leak_span
    if not span:
        return np.ones(len(inputs.completion_ids))
    public = [inputs.prompt_ids, *inputs.answer_ids, *_of_environment(inputs)]
    return 1.0 - copied_positions(inputs.completion_ids, inputs.teacher_prompt_ids, public, span)


def _of_environment(inputs: WeightInputs) -> list[list[int]]:
    """What an environment wrote, message by message: the policy has read it."""
    if inputs.sampled_T is None:
        return []
    ids, starts = np.asarray(inputs.completion_ids), np.flatnonzero(np.diff(inputs.sampled_T.astype(np.int8)))
    masks = np.split(inputs.sampled_T, starts + 1)
    return [part.tolist() for part, own in zip(np.split(ids, starts + 1), masks, strict=True) if not own[0]]


FACTORS: tuple[Factor, ...] = (after_first, not_special, whole_sample, position, entropy)
"""Each looks at the policy's tokens alone; `not_leaked` at the whole conversation."""


def token_weights(inputs: WeightInputs, config: CampaignConfig) -> np.ndarray:
    """Weights (T,) of one completion, float32; with normaliser=sequence they sum to the completion's own weight (or 0).

    DataError when an entropy weight finds no entropy.
    """
    own = inputs.own
    own_T = np.ones(len(own.completion_ids))
    for factor in FACTORS:
        own_T = own_T * factor(own, config)
    weights_T = own_T
    if inputs.sampled_T is not None:
        weights_T = np.zeros(len(inputs.completion_ids))
        weights_T[inputs.sampled_T] = own_T
    weights_T = weights_T * not_leaked(inputs, config)
    total = weights_T.sum()
    if config.token_weights.normaliser == "sequence" and total > 0:
        weights_T = weights_T * (_own_weight(inputs, config) / total)
    return weights_T.astype(np.float32)
