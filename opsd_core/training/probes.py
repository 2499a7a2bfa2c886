"""Checks before the first optimiser step: is there a signal, is it a useful one, are the rows aligned?

teacher/divergence       mean divergence teacher vs. student on the first batch; 0 means nothing to learn
teacher/privilege_gain   mean of log T - log S on the reference answer's tokens; <= 0 means the context does not help;
                         judged for contexts that hold the item's own reference, reported for the others
teacher/accuracy_with_context   share of reference answers of which each token is the teacher's most likely one
policy/privilege_gain    the same gain of the policy's own weights: does it still use the context? (privilege retention)
drift/kl_to_init         mean of log S - log S_0 on the policy's own completions, S_0 the first policy: estimates KL(S || S_0) for
                         sampling at temperature 1; only where the first policy is at hand as the teacher
alignment/mean_abs_diff  the batched rows with an empty context vs. the whole sequence alone, per token; large = shifted rows
alignment/max_abs_diff   the same of the token that differs most: in bfloat16 rounding alone moves a few tokens far
"""

from collections.abc import Sequence

import numpy as np
import torch

from opsd_core.config import CampaignConfig
from opsd_core.errors import ModelError, TrainingError
from opsd_core.models.forward import check_head
from opsd_core.models.policy import Policy
from opsd_core.records.views import view
from opsd_core.rollout.recorded import rounding_of
from opsd_core.teacher.scoring import answer_logprobs
from opsd_core.teacher.teachers import LiveTeacher, TeacherWeights
from opsd_core.training.trainer import Metrics, TrainingItem, objective

_MIN_DIVERGENCE = 1e-7
"""Mean divergence, in nats, under which float32 rounding is all there is."""
_ALIGNMENT_ITEMS = 4
_MAX_HEAD_DIFFERENCE = 5e-2
"""Largest difference of a logit; the head is multiplied as the model does it."""


@torch.inference_mode()
def answer_logprob(
    scorer: TeacherWeights, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Log-probability of each answer token after its prompt, flattened (N,); neither temperature nor truncation."""
    logprobs_NV = answer_logprobs(scorer, prompts, answers)
    tokens_N1 = torch.tensor([token for answer in answers for token in answer], device=logprobs_NV.device)[:, None]
    return logprobs_NV.gather(1, tokens_N1).squeeze(1)


def _full_sequence_logprob(policy: Policy, item: TrainingItem) -> torch.Tensor:
    """The same numbers the long way: the whole sequence alone, all logits, shifted by one."""
    ids_T = torch.tensor(item.prompt_ids + item.completion_ids, device=policy.device)
    with torch.inference_mode():
        logprobs_TV = torch.log_softmax(policy.causal_lm(input_ids=ids_T[None], use_cache=False).logits[0].float(), -1)
    return logprobs_TV[:-1].gather(1, ids_T[1:, None]).squeeze(1)[len(item.prompt_ids) - 1 :]


def run_probes(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    answers: Sequence[Sequence[int]],
    config: CampaignConfig,
    *,
    trained_before: bool = False,
) -> Metrics:
    """The probes on one batch; `answers` are the reference answers' token ids, empty without labels.

    Without a teacher only the alignment is measured.
    TrainingError when there is no divergence, no privilege gain, or rows are shifted. A control arm only reports signal
    and gain, and so does a student that has been trained before: catching up with its teacher is not a fault.
    """
    if (difference := check_head(student)) > _MAX_HEAD_DIFFERENCE:
        raise ModelError(
            f"this model's logits differ from hidden @ head.weight by up to {difference:.3g}: it scales or transforms "
            "them in a way the objective does not know. Use a model whose output head is a plain projection."
        )
    metrics: Metrics = {}
    prompts, completions = [item.prompt_ids for item in batch], [item.completion_ids for item in batch]
    own = answer_logprob(LiveTeacher(student), prompts, completions)
    alone = torch.cat([_full_sequence_logprob(student, item) for item in batch[:_ALIGNMENT_ITEMS]])
    difference_N = (own[: len(alone)] - alone).abs()
    metrics["alignment/mean_abs_diff"] = float(difference_N.mean())
    metrics["alignment/max_abs_diff"] = float(difference_N.max())
    _judge_alignment(metrics, student.causal_lm.dtype)
    if config.distillation.teacher_free:
        return metrics
    with torch.no_grad():
        result = objective(student, teacher, batch, config)
    num_counted = sum(int((item.weights_T > 0).sum()) for item in batch)
    metrics["teacher/divergence"] = float(result.divergence_N.abs().sum()) / max(num_counted, 1)
    sampled_N = ~np.isnan(np.concatenate([item.rollout_logprobs_T for item in batch]))
    if config.teacher.weights_kind.is_initial and sampled_N.any():
        drift_N = own - answer_logprob(teacher, prompts, completions)
        metrics["drift/kl_to_init"] = float(drift_N[torch.from_numpy(sampled_N).to(drift_N.device)].mean())
    if answers and config.teacher.informed:
        metrics |= privilege(student, teacher, batch, answers, config)
    if not (config.control or trained_before):
        _judge_signal(metrics, config)
    return metrics


@torch.inference_mode()
def privilege(
    student: Policy,
    teacher: TeacherWeights,
    batch: Sequence[TrainingItem],
    answers: Sequence[Sequence[int]],
    config: CampaignConfig,
) -> Metrics:
    """What the context is worth to the teacher, and still to the policy: iterated self-distillation may lose it (2609.39306)."""
    prompts, told = [item.prompt_ids for item in batch], [item.teacher_prompt_ids for item in batch]
    informed = next(number for number, seen in enumerate(config.teacher.views) if seen.context != "none")
    shown = [view(ids, informed) for ids in told]
    own = LiveTeacher(student)
    teachers_NV = answer_logprobs(teacher, told, answers)
    tokens_N1 = torch.tensor([token for answer in answers for token in answer], device=teachers_NV.device)[:, None]
    right_N = (teachers_NV.argmax(-1, keepdim=True) == tokens_N1)[:, 0]
    right = [bool(part.all()) for part in right_N.split([len(answer) for answer in answers])]
    without_N = answer_logprob(own, prompts, answers)
    return {
        "teacher/privilege_gain": float((teachers_NV.gather(1, tokens_N1)[:, 0] - without_N).mean()),
        "teacher/accuracy_with_context": sum(right) / len(right),
        "policy/privilege_gain": float((answer_logprob(own, shown, answers) - without_N).mean()),
    }


def _judge_alignment(metrics: Metrics, dtype: torch.dtype) -> None:
    found, limit = metrics["alignment/mean_abs_diff"], rounding_of(dtype)
    if not found <= limit:
        raise TrainingError(
            f"alignment probe: a completion scored alone and in a batch differs by {found:.3g} nats per token, where rounding in "
            f"{str(dtype).removeprefix('torch.')} explains {limit:g}. Rows of prompt and completion are shifted, or the model is "
            "not causal. Report the model; with a bfloat16 base set model.lora.base_dtype=float32 to see which it is."
        )


def _judge_signal(metrics: Metrics, config: CampaignConfig) -> None:
    if metrics["teacher/divergence"] < _MIN_DIVERGENCE:
        raise TrainingError(
            f"teacher probe: mean divergence between teacher and student is {metrics['teacher/divergence']:.3g} nats, so there "
            f"is nothing to learn. Check teacher.context={config.teacher.context} and that teacher.template shows it."
        )
    gain = metrics.get("teacher/privilege_gain")
    judged = config.teacher.require_privilege_gain and config.teacher.kind.own_reference
    if gain is not None and gain <= 0.0 and judged:
        raise TrainingError(
            f"privilege probe: with its context the teacher gives the reference answers {gain:.3g} nats per token more than "
            "the student does; it must be above 0, else it teaches away from the answer. Change teacher.template or the "
            "context, or set teacher.require_privilege_gain=false."
        )
