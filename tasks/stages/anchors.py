"""Extra loss terms that keep the student close to the initial policy, to references and to rehearsed completions."""

from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.models.policy import Policy
from opsd_core.prompts.references import reference_template
from opsd_core.teacher.teachers import AdapterOffTeacher, FixedTeacher, TeacherWeights
from opsd_core.training.anchors import (
    Anchors,
    gold_batch_size,
    gold_item,
    held_gold,
    held_rehearsal,
    rehearsed_batch_size,
    rehearsed_item,
)
from opsd_core.training.trainer import batch_order
from tasks.loaded import prompt_builder, rollouts_of, shared_policy, stored_examples
from tasks.refs import Iteration


def anchors_identity(iteration: Iteration) -> dict[str, Any]:
    """What decides references and rehearsal besides the settings of the method; nothing without any."""
    config, campaign, identity = iteration.config, iteration.campaign, {}
    if config.distillation.gold_share:
        builder = prompt_builder(campaign.initial, config)
        identity["gold"] = [campaign.data.identity, reference_template(config), builder.student_digest]
    if campaign.rehearsal:
        identity["rehearsal"] = campaign.rehearsal.content
        identity["held"] = config.rehearsal.model_dump(include={"share", "coefficient"})
    return identity


def load_anchors(iteration: Iteration, student: Policy, initial: bool = True) -> Anchors:
    """The anchors of an iteration: references and rehearsed completions in seeded passes, as many as its steps need.

    The initial policy is among them where distillation.initial_kl asks for it, unless `initial` is False.
    """
    config, campaign, by_step = iteration.config, iteration.campaign, []
    if config.distillation.gold_share:
        train, builder = stored_examples(campaign.data, "train"), prompt_builder(campaign.initial, config)
        passes = _passes(len(train), gold_batch_size(config), config, "gold", iteration.number)
        by_step.append(
            [held_gold([gold_item(train[row], builder, student, config) for row in rows], config) for rows in passes]
        )
    if campaign.rehearsal:
        items = [rehearsed_item(rollout) for rollout in rollouts_of(campaign.rehearsal)]
        passes = _passes(len(items), rehearsed_batch_size(config), config, "rehearsal", iteration.number)
        by_step.append([held_rehearsal([items[row] for row in rows], config) for rows in passes])
    first = _initial(iteration, student) if config.distillation.initial_kl and initial else None
    return Anchors(first, tuple(zip(*by_step, strict=True)))


def _passes(available: int, size: int, config: CampaignConfig, name: str, iteration: int) -> list[list[int]]:
    return batch_order(available, size, config.optimizer.num_steps, derive_seed(name, config.seed, iteration))


def _initial(iteration: Iteration, student: Policy) -> TeacherWeights:
    """Under LoRA the student without its adapters, which is the initial policy without a second copy."""
    if iteration.config.model.lora.rank:
        return AdapterOffTeacher(student)
    return FixedTeacher(shared_policy(iteration.campaign.initial, iteration.config.model))
