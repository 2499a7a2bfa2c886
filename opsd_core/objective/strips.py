"""One strip of logits: value, what is logged, and the gradient with respect to the student's logits, in place.

With slopes d_v = dl_v / ds_v and C = sum_v d_v the gradient of a token's divergence is

    full vocabulary          g_v = d_v - S_v C
    kept entry v             g_v = d_v - S_v C
    outside the kept ones    g_v = Q_v (d_tail - S_tail C),   Q_v = S_v / S_tail

With distillation.tail=sampled there is no d_tail, and d_y of the sampled token stands at y, where it is not kept.

then times weight, bound factor, 1 / temperature and the derivative of the soft cap. Where end tokens are merged
(`opsd_core.objective.merging`) their columns hold events, whose gradient is shared out before the cap's derivative.

R = tokens of the strip, V = vocabulary, W = width of a tile, K = kept entries, E = compared entries
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_core.config.method import DistillationConfig
from opsd_core.objective.bounds import BOUNDS, bounded_entries
from opsd_core.objective.divergences import configured
from opsd_core.objective.merging import StudentEnds, floor_leftover
from opsd_core.objective.plain import entropy
from opsd_core.objective.rows import (
    Slopes,
    Tiles,
    cap_of,
    dense_gradients,
    dense_values,
    logsumexp,
    normalise,
    tail_gradients,
)
from opsd_core.objective.supports import EMPTY_TAIL, Kept, bucket, choose_entries, with_sampled
from opsd_core.objective.types import LOG_ZERO, TAIL_FLOOR, TopKTargets


class StripResult(NamedTuple):
    """The columns of ObjectiveResult for one strip."""

    divergence_R: Tensor
    bounded_R: Tensor
    student_entropy_R: Tensor
    teacher_entropy_R: Tensor | None
    logprobs_R: Tensor
    teacher_logprobs_R: Tensor | None
    event_logprobs_R: Tensor | None = None


def dense_strip(
    student_RV: Tensor,
    teacher_RV: Tensor,
    token_ids_R: Tensor,
    weights_R: Tensor,
    config: DistillationConfig,
    softcap: float | None,
    tiles: Tiles,
    gradients: bool,
    ends: StudentEnds | None = None,
) -> StripResult:
    """Full vocabulary: normalise both sides, then values and slopes, then gradients; logits in, gradients out.

    `ends`: the student's end tokens, which are merged in both sides' logits already, as in `token_ids_R`.
    """
    event_logits_R = student_RV.gather(1, token_ids_R[:, None])[:, 0] if ends else None
    cap = cap_of(config, softcap)
    student_normaliser_R, student_entropy_R = normalise(student_RV, tiles)
    _, teacher_entropy_R = normalise(teacher_RV, tiles)
    floored_R = floor_leftover(student_RV, ends.stops) if ends else None
    if ends:
        floor_leftover(teacher_RV, ends.stops)
    logprobs_R, teacher_logprobs_R = (side.gather(1, token_ids_R[:, None])[:, 0] for side in (student_RV, teacher_RV))
    floored = (ends.stops.leftover, floored_R) if floored_R is not None else None
    total_R, bounded_R, slope_sum_R = dense_values(student_RV, teacher_RV, teacher_entropy_R, config, tiles, floored)
    value_R, factor_R = _bound_tokens(bounded_R, weights_R, config)
    if gradients:
        events_RE = None
        if ends:
            events_RE = teacher_RV[:, ends.stops.events] - student_RV[:, ends.stops.events].exp() * slope_sum_R[:, None]
        slopes = Slopes(teacher_RV, slope_sum_R, factor_R)
        dense_gradients(student_RV, slopes, student_normaliser_R, tiles, cap)
        if ends:
            ends.spread(student_RV, events_RE * factor_R[:, None], cap)
    result = StripResult(total_R, value_R, student_entropy_R, teacher_entropy_R, logprobs_R, teacher_logprobs_R)
    return _of_tokens(result, ends, event_logits_R)


def bucketed_strip(
    student_RV: Tensor,
    teacher: TopKTargets | Tensor,
    token_ids_R: Tensor,
    weights_R: Tensor,
    config: DistillationConfig,
    softcap: float | None,
    tiles: Tiles,
    gradients: bool,
    ends: StudentEnds | None = None,
) -> StripResult:
    """Kept entries and tail (recorded or chosen from the teacher's logits), or the sampled token alone; `ends` as above."""
    sampled, single, cap = config.kind.sampled_only, config.samples_tail, cap_of(config, softcap)
    kept, teacher_RE, teacher_entropy_R, teacher_logprobs_R = (
        _recorded(teacher, student_RV.dtype, token_ids_R, config)
        if isinstance(teacher, TopKTargets)
        else _online(teacher, student_RV, token_ids_R, config, tiles, ends)
    )
    events_RE = student_RV[:, ends.stops.events] if ends else None
    token_logits_R = student_RV.gather(1, token_ids_R[:, None])[:, 0]
    kept_logits_RK = student_RV.gather(1, kept.ids_NK)
    if kept.repeated_NK is not None:
        kept_logits_RK = kept_logits_RK.masked_fill(kept.repeated_NK, LOG_ZERO)
    student_RV.scatter_(1, kept.ids_NK, LOG_ZERO)
    tail_R = logsumexp(student_RV, tiles).clamp(min=EMPTY_TAIL)
    normaliser_R = torch.logaddexp(tail_R, torch.logsumexp(kept_logits_RK, dim=1))
    kept_logprobs_RK = (kept_logits_RK - normaliser_R[:, None]).clamp(min=LOG_ZERO)
    floored_RK = None if ends is None else _floored(kept, kept_logprobs_RK, ends)
    if floored_RK is not None:
        kept_logprobs_RK = kept_logprobs_RK.masked_fill(floored_RK, TAIL_FLOOR)
    tail_logprob_R = tail_R - normaliser_R
    logprobs_R = token_logits_R - normaliser_R
    student_RE = kept_logprobs_RK if sampled else bucket(kept_logprobs_RK, tail_logprob_R)
    if single:
        student_RE = with_sampled(kept_logprobs_RK, logprobs_R, kept.holds(token_ids_R))
    terms_RE, entries = bounded_entries(
        configured(config, teacher_entropy_R), student_RE, teacher_RE, config.bound, config.bound_threshold
    )
    value_R, factor_R = _bound_tokens(entries.terms_NE.sum(dim=1), weights_R, config)
    slopes_RE = entries.slopes_NE
    kept_slopes_RK = slopes_RE[:, : kept_logits_RK.shape[1]]
    if floored_RK is not None:
        kept_slopes_RK = kept_slopes_RK.masked_fill(floored_RK, 0.0)
    tail_slope_R = torch.zeros_like(factor_R) if sampled or single else slopes_RE[:, -1] * (tail_logprob_R >= TAIL_FLOOR)
    slope_sum_R = kept_slopes_RK.sum(dim=1) + (slopes_RE[:, -1] if single else tail_slope_R)
    outside_R = (tail_slope_R - tail_logprob_R.exp() * slope_sum_R) * factor_R
    mean_log_q_R = tail_gradients(student_RV, tail_R, outside_R if gradients else None, tiles, cap)
    if gradients:
        kept_RK = (kept_slopes_RK - kept_logprobs_RK.exp() * slope_sum_R[:, None]) * factor_R[:, None]
        if ends:
            events_RE = _event_gradients(kept, kept_RK, (events_RE - tail_R[:, None]).exp() * outside_R[:, None], ends)
        columns = [(kept.ids_NK, kept_logits_RK, kept_RK)]
        if single:
            columns.append((token_ids_R[:, None], token_logits_R[:, None], (slopes_RE[:, -1] * factor_R)[:, None]))
        _add_columns(student_RV, columns, cap)
        if ends:
            ends.spread(student_RV, events_RE, cap)
    student_entropy_R = entropy(kept_logprobs_RK) - tail_logprob_R.exp() * (mean_log_q_R + tail_logprob_R)
    result = StripResult(terms_RE.sum(dim=1), value_R, student_entropy_R, teacher_entropy_R, logprobs_R, teacher_logprobs_R)
    return _of_tokens(result, ends, token_logits_R)


def _add_columns(
    gradients_RV: Tensor, columns: list[tuple[Tensor, Tensor, Tensor]], cap: Callable[[Tensor], Tensor] | None
) -> None:
    """Add gradients to single entries, in place: (ids, scaled logits, gradients without the soft cap)."""
    for ids_RK, logits_RK, columns_RK in columns:
        gradients_RV.scatter_add_(1, ids_RK, columns_RK * cap(logits_RK) if cap else columns_RK)


def _floored(kept: Kept, kept_logprobs_RK: Tensor, ends: StudentEnds) -> Tensor | None:
    """Where the student's leftover is below the floor; None without a leftover."""
    if ends.stops.leftover < 0:
        return None
    floored_RK = (kept.ids_NK == ends.stops.leftover) & (kept_logprobs_RK < TAIL_FLOOR)
    return floored_RK if kept.repeated_NK is None else floored_RK & ~kept.repeated_NK


def _event_gradients(kept: Kept, kept_RK: Tensor, outside_RE: Tensor, ends: StudentEnds) -> Tensor:
    """Of each event: its kept entry's gradient, or `outside_RE` in rows where it belongs to the tail."""
    columns = []
    for index, event in enumerate(ends.stops.events):
        mine_RK = kept.ids_NK == event
        columns.append(torch.where(mine_RK.any(dim=1), (kept_RK * mine_RK).sum(dim=1), outside_RE[:, index]))
    return torch.stack(columns, dim=1)


def _of_tokens(result: StripResult, ends: StudentEnds | None, event_logits_R: Tensor | None) -> StripResult:
    """The result with log S of the tokens themselves beside that of their events."""
    if ends is None:
        return result
    return result._replace(
        logprobs_R=ends.token_logprobs(result.logprobs_R, event_logits_R), event_logprobs_R=result.logprobs_R
    )


def _recorded(
    targets: TopKTargets, dtype: torch.dtype, token_ids_R: Tensor, config: DistillationConfig
) -> tuple[Kept, Tensor, Tensor, Tensor | None]:
    kept, teacher_RE = Kept(targets.ids_NK), bucket(targets.logprobs_NK.to(dtype), targets.tail_logprob_N.to(dtype))
    sampled_R = targets.sampled_logprob_N
    entropy_R = entropy(teacher_RE)
    if config.kind.sampled_only:
        return Kept(token_ids_R[:, None]), sampled_R.to(dtype)[:, None], entropy_R, sampled_R
    if config.samples_tail:
        teacher_RE = with_sampled(targets.logprobs_NK.to(dtype), sampled_R.to(dtype), kept.holds(token_ids_R))
    return kept, teacher_RE, entropy_R, sampled_R


def _online(
    teacher_RV: Tensor,
    student_RV: Tensor,
    token_ids_R: Tensor,
    config: DistillationConfig,
    tiles: Tiles,
    ends: StudentEnds | None,
) -> tuple[Kept, Tensor, Tensor, Tensor]:
    """Choose the entries and read the teacher's log-probabilities; overwrites the teacher's logits."""
    _, entropy_R = normalise(teacher_RV, tiles)
    if ends:
        floor_leftover(teacher_RV, ends.stops)
    sampled_R1 = teacher_RV.gather(1, token_ids_R[:, None])
    if config.kind.sampled_only:
        return Kept(token_ids_R[:, None], None), sampled_R1, entropy_R, sampled_R1[:, 0]
    always = ends.stops.events if ends else ()
    kept = choose_entries(student_RV, teacher_RV, config.top_k, config.top_k_of, always)
    logprobs_RK = teacher_RV.gather(1, kept.ids_NK)
    if config.samples_tail:
        teacher_RE = with_sampled(logprobs_RK, sampled_R1[:, 0], kept.holds(token_ids_R), kept.repeated_NK)
        return kept, teacher_RE, entropy_R, sampled_R1[:, 0]
    teacher_RV.scatter_(1, kept.ids_NK, LOG_ZERO)
    tail_R = logsumexp(teacher_RV, tiles).clamp(min=EMPTY_TAIL)
    return kept, bucket(logprobs_RK, tail_R, kept.repeated_NK), entropy_R, sampled_R1[:, 0]


def _bound_tokens(bounded_R: Tensor, weights_R: Tensor, config: DistillationConfig) -> tuple[Tensor, Tensor]:
    """Value per token, and what a token's slopes are multiplied with to become gradients of undivided logits."""
    token = BOUNDS[config.bound].of_token(bounded_R, config.bound_threshold)
    scale = config.value_scale
    return token.value_N * scale, weights_R * token.gradient_factor_N * (scale / config.temperature)
