"""What holds the student beside its objective, from the store: initial policy, references, rehearsed completions."""

from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.models.policy import Policy
from opsd_core.prompts.references import reference_template
from opsd_core.records.rollouts import read_rollouts
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
from tasks.context import load_shared, local, stored_examples
from tasks.refs import Campaign
from tasks.stages.teacher import prompt_builder


def anchors_identity(campaign: Campaign) -> dict[str, Any]:
    """What decides references and rehearsal beside the settings of the method; nothing without any."""
    config, identity = campaign.config, {}
    if config.distillation.gold_share:
        data = campaign.data_uri.rsplit("/", 2)[-2]
        identity["gold"] = [data, reference_template(config), prompt_builder(campaign).student_digest]
    if campaign.rehearsal:
        identity["rehearsal"] = campaign.rehearsal.rsplit("/", 1)[-1]
        identity["held"] = config.rehearsal.model_dump(include={"share", "coefficient"})
    return identity


def load_anchors(campaign: Campaign, student: Policy, iteration: int) -> Anchors:
    """The anchors of an iteration: references and rehearsed completions in seeded passes, as many as its steps need."""
    config, by_step = campaign.config, []
    if config.distillation.gold_share:
        train, builder = stored_examples(campaign.data_uri, "train"), prompt_builder(campaign)
        passes = _passes(len(train), gold_batch_size(config), config, "gold", iteration)
        by_step.append(
            [held_gold([gold_item(train[row], builder, student, config) for row in rows], config) for rows in passes]
        )
    if campaign.rehearsal:
        items = [rehearsed_item(rollout) for rollout in read_rollouts(local(campaign.rehearsal) / "rollouts.parquet")]
        passes = _passes(len(items), rehearsed_batch_size(config), config, "rehearsal", iteration)
        by_step.append([held_rehearsal([items[row] for row in rows], config) for rows in passes])
    initial = _initial(campaign, student) if config.distillation.initial_kl else None
    return Anchors(initial, tuple(zip(*by_step, strict=True)))


def _passes(available: int, size: int, config: CampaignConfig, name: str, iteration: int) -> list[list[int]]:
    return batch_order(available, size, config.optimizer.num_steps, derive_seed(name, config.seed, iteration))


def _initial(campaign: Campaign, student: Policy) -> TeacherWeights:
    """Under LoRA the student without its adapters, which is the initial policy without a second copy."""
    if campaign.config.model.lora.rank:
        return AdapterOffTeacher(student)
    return FixedTeacher(load_shared(campaign.initial.uri, campaign.config.model.model_dump_json()))
