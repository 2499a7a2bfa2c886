"""References as rollouts: the data set's own text in place of the policy's sample."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.models.policy import Policy
from opsd_core.prompts.references import end_token, reference_ids, reference_text
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets
from opsd_core.teacher.teachers import FixedTeacher


def off_policy(example_id: str, iteration: int, config: CampaignConfig) -> bool:
    """True for prompts whose completion is the reference: u >= lambda, u uniform in (0, 1) by (seed, iteration, prompt)."""
    uniform = (derive_seed("on-policy", config.seed, iteration, example_id) + 0.5) / 2**63
    return uniform >= config.rollout.on_policy_fraction


def reference_rollouts(
    policy: Policy, examples: Sequence[Example], prompts: Sequence[Sequence[int]], config: CampaignConfig
) -> list[Rollout]:
    """References as rollouts, with the policy's own distribution along them from one forward pass.

    `sampling_logprobs_T` is nan: nobody drew these tokens, so no importance ratio exists for them.
    """
    if not examples:
        return []
    eos_id, rollouts = end_token(policy), []
    for example, prompt in zip(examples, prompts, strict=True):
        ids = reference_ids(example, config, policy.tokenizer, eos_id)
        if (length := len(prompt) + len(ids)) > policy.max_positions:
            raise DataError(
                f"item {example.id}: prompt and reference completion have {length} tokens, the model's context "
                f"{policy.max_positions}. Lower rollout.max_completion_length with prompts.overflow=drop."
            )
        rollouts.append(_unscored(example.id, list(prompt), ids, reference_text(example, config)))
    scored = score_targets(
        FixedTeacher(policy),
        rollouts,
        [rollout.prompt_ids for rollout in rollouts],
        config.rollout.record_top_k,
        Transform(),
        config.execution.microbatch_tokens,
    )
    return [
        replace(
            rollout,
            logprobs_T=view.sampled_logprob_T,
            topk_ids_TK=view.topk_ids_TK,
            topk_logprobs_TK=view.topk_logprobs_TK,
            tail_mass_T=np.exp(view.tail_logprob_T),
            entropy_T=view.entropy_T,
        )
        for rollout, view in zip(rollouts, scored, strict=True)
    ]


def _unscored(example_id: str, prompt_ids: list[int], completion_ids: list[int], text: str) -> Rollout:
    absent_T = np.full(len(completion_ids), np.nan, np.float32)
    none_TK = np.zeros((len(completion_ids), 0), np.float32)
    return Rollout(
        example_id, 0, 0, prompt_ids, completion_ids, text, "eos", absent_T, absent_T, none_TK, none_TK, absent_T, absent_T,
        source="reference",
    )  # fmt: skip
